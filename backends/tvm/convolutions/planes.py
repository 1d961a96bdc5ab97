"""Planes of images side by side: a vector of what they have at each place."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.tir import Buffer, Expr, Stmt


@dataclass(frozen=True)
class Planes:
    """`count` planes, `step` elements apart, of `size` rows and columns; rows are `row` apart."""

    source: Buffer
    count: int
    step: int
    row: int
    size: tuple[int, int]
    lanes: int

    def beside(
        self,
        out: Buffer,
        start: Expr,
        first: Expr,
        corner: tuple[Expr, int],
        shape: tuple[int, int],
    ) -> Stmt:
        """A vector of planes from the one called `first` on, [row, column, lanes], with padding.

        The first plane of all starts at `start`. `corner` is the row and column of a plane that
        is copied first; outside of a plane are zeros. Lanes behind the last plane repeat it.
        """
        lanes = self.lanes
        name = out.dtype
        height, width = self.size
        top, left = corner
        rows, columns = shape
        low, high = max(0, left), min(width, left + columns)
        zero = vectors.spread(tirx.const(0.0, name), lanes)

        def clear(line: Expr, begin: int, end: int) -> list[Stmt]:
            if begin >= end:
                return []

            def at(j: Expr) -> list[Stmt]:
                place = (line + tir.number(begin) + j) * tir.number(lanes)
                return [vectors.store(out, place, zero, lanes)]

            return [tir.loop(end - begin, at, name="zero")]

        def square(line: Expr, where: Expr, at: Expr, count: int) -> list[Stmt]:
            registers = vectors.Registers(name, lanes)
            sources = []
            for lane in range(lanes):
                plane = first + tir.number(lane)
                if self.count % lanes:
                    plane = tirx.min(plane, tir.number(self.count - 1))
                place = where + plane * tir.number(self.step) + at + tir.number(low)
                sources.append((self.source, place))
            moves, found = vectors.turned(registers, sources, count)
            to = (line + tir.number(low - left) + at) * tir.number(lanes)
            stores = [
                vectors.store(out, to + tir.number(j * lanes), column.value, lanes)
                for j, column in enumerate(found)
            ]
            return [*registers.made, *moves, *stores]

        def row(r: Expr) -> list[Stmt]:
            line = r * tir.number(columns)
            at = top + r
            where = start + at * tir.number(self.row)
            full, rest = divmod(max(0, high - low), lanes)
            copy = clear(line, 0, min(columns, max(0, low - left)))
            if full:

                def some(b: Expr) -> list[Stmt]:
                    return square(line, where, b * tir.number(lanes), lanes)

                copy.append(tir.loop(full, some, name="square"))
            if rest:
                copy += square(line, where, tir.number(full * lanes), rest)
            copy += clear(line, max(0, high - left), columns)
            inside = tirx.all(at >= tir.number(0), at < tir.number(height))
            zeros = clear(line, 0, columns)
            return [tir.either(inside, tir.sequence(copy), tir.sequence(zeros))]

        return tir.loop(rows, row, name="row")
