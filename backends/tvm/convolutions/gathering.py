"""Lines and planes of images as windows meet them: spread out, padded, every few of the elements.

Places are counted along the image as it is with zeros between its elements, `spread` apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution

PAIRS = 8  # elements that are copied at once, each with a zero behind it


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

        to = into + tir.number(begin)
        pairs: list[Stmt] = []
        paired = 0
        if (gap, jump) == (2, 1) and len(inside) > PAIRS:
            paired = (len(inside) - 1) // PAIRS * PAIRS  # the last place may have none behind it
            pairs = [tir.loop(paired // PAIRS, _with_zeros(out, to, source, origin), name="pairs")]

        def element(j: Expr) -> list[Stmt]:
            number = j + tir.number(paired)
            value = tir.load(source, origin + number * tir.number(jump))
            return [tir.store(out, to + number * tir.number(gap), value)]

        if gap > 1:
            around = [zeros]
        else:
            around = [
                *cleared(out, into, begin),
                *cleared(out, into + tir.number(end), self.count - end),
            ]
        dense = gap == 1 and jump == 1 and len(inside) > 1
        kind = "vectorized" if dense else "serial"
        copy = tir.loop(len(inside) - paired, element, kind, "j")
        return tir.sequence([*around, *pairs, copy]), zeros


def _with_zeros(out: Buffer, to: Expr, source: Buffer, start: Expr) -> Callable[[Expr], Stmt]:
    """Neighbours, each with a zero behind it, in one store."""

    def block(number: Expr) -> Stmt:
        value = vectors.load(source, start + number * tir.number(PAIRS), PAIRS)
        zeros = vectors.spread(tirx.const(0.0, out.dtype), PAIRS)
        order = [tir.number(n // 2 + n % 2 * PAIRS) for n in range(2 * PAIRS)]
        value = tirx.Shuffle([value, zeros], order)
        return vectors.store(out, to + number * tir.number(2 * PAIRS), value, 2 * PAIRS)

    return block


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


@dataclass(frozen=True)
class Plane:
    """A copy of one channel of an image, with padding, in phases: every few rows and columns of it.

    `steps` is how far rows and columns of a phase are apart in the image; in the copy they are
    neighbours. From any row and column up to `reach` on, so many `neighbours` are there.
    """

    conv: Convolution
    steps: tuple[int, int]
    neighbours: tuple[int, int]
    reach: tuple[int, int]

    @property
    def rows(self) -> int:
        """Of a phase."""
        return self.neighbours[0] + self.reach[0] // self.steps[0]

    @property
    def line(self) -> int:
        """Elements of a row of a phase, and from one row to the next."""
        return self.neighbours[1] + self.reach[1] // self.steps[1]

    @property
    def size(self) -> int:
        """Elements of all phases."""
        return self.steps[0] * self.steps[1] * self.rows * self.line

    def place(self, row: int, column: int) -> int:
        """Where an element of the padded image lies."""
        (down, first), (across, left) = divmod(row, self.steps[0]), divmod(column, self.steps[1])
        return ((first * self.steps[1] + left) * self.rows + down) * self.line + across

    def filled(
        self, out: Buffer, into: Expr, source: Buffer, image: Expr, channel: Expr
    ) -> list[Stmt]:
        """The copy."""
        conv = self.conv
        n, c, y, x = conv.x.strides
        start = image * tir.number(n) + channel * tir.number(c)

        def phase(first: int, left: int) -> Stmt:
            columns = Gathered(
                count=self.line,
                first=left - conv.padding[1][0],
                stride=self.steps[1],
                size=conv.x.shape[3],
                spread=conv.lhs_dilation[1],
                step=x,
            )

            def row(number: Expr) -> list[Stmt]:
                place = number * tir.number(self.steps[0])
                place = place + tir.number(first - conv.padding[0][0])
                inside, element = element_at(place, conv.x.shape[2], conv.lhs_dilation[0])
                to = into + tir.number(self.place(first, left)) + number * tir.number(self.line)
                origin = start + element * tir.number(y)
                return [tir.either(inside, *columns.copied(out, to, source, origin))]

            return tir.loop(self.rows, row, name="row")

        return [phase(y, x) for y in range(self.steps[0]) for x in range(self.steps[1])]
