"""Lines of images as windows meet them: every few elements of one that is spread out, with padding.

Places are counted along the image as it is with zeros between its elements, `spread` apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from weft.backends.tvm import tir
from weft.backends.tvm.tir import Buffer, Expr, Stmt


@dataclass(frozen=True)
class Gathered:
    """`count` places of a line, from `first` on, `stride` apart.

    The line has `size` elements, `step` apart in memory.
    """

    count: int
    first: int
    stride: int
    size: int
    spread: int
    step: int

    def copied(self, out: Buffer, into: Expr, source: Buffer, start: Expr) -> tuple[Stmt, Stmt]:
        """Their copy, from element `start` of the source on; and as many zeros."""
        zeros = tir.sequence(cleared(out, into, self.count))
        places = [self.first + j * self.stride for j in range(self.count)]
        inside = [
            j
            for j, place in enumerate(places)
            if 0 <= place <= (self.size - 1) * self.spread and place % self.spread == 0
        ]
        if not inside:
            return zeros, zeros
        begin, end = inside[0], inside[-1] + 1
        gap = inside[1] - begin if len(inside) > 1 else 1
        jump = gap * self.stride // self.spread * self.step
        origin = start + tir.number(places[begin] // self.spread * self.step)

        def element(j: Expr) -> list[Stmt]:
            value = tir.load(source, origin + j * tir.number(jump))
            return [tir.store(out, into + tir.number(begin) + j * tir.number(gap), value)]

        if gap > 1:
            around = [zeros]
        else:
            around = [
                *cleared(out, into, begin),
                *cleared(out, into + tir.number(end), self.count - end),
            ]
        dense = gap == 1 and jump == 1 and len(inside) > 1
        copy = tir.loop(len(inside), element, "vectorized" if dense else "serial", "j")
        return tir.sequence([*around, copy]), zeros


def cleared(out: Buffer, into: Expr, count: int) -> list[Stmt]:
    """So many zeros."""
    zero = tirx.const(0.0, out.dtype)
    kind = "vectorized" if count > 1 else "serial"
    return [tir.loop(count, lambda j: [tir.store(out, into + j, zero)], kind)] if count > 0 else []


def element_at(place: Expr, size: int, spread: int) -> tuple[Expr, Expr]:
    """Whether there is an element at a place, and which."""
    inside = tirx.all(place >= tir.number(0), place < tir.number((size - 1) * spread + 1))
    if spread == 1:
        return inside, place
    steps = tir.number(spread)
    fits = tirx.truncmod(place, steps).equal(tir.number(0))
    return tirx.all(inside, fits), tirx.truncdiv(place, steps)
