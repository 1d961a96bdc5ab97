"""Squares of images under the transformations of `toom`, a vector of planes at a time."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.convolutions.planes import Planes
from weft.backends.tvm.convolutions.toom import Matrix, applied
from weft.backends.tvm.tir import Buffer, Expr, Stmt


@dataclass(frozen=True)
class Patches:
    """A grid of squares, `step` apart, which may overlap."""

    planes: Planes
    matrix: Matrix
    step: int
    grid: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that the squares cover."""
        more = len(self.matrix[0]) - self.step
        return self.grid[0] * self.step + more, self.grid[1] * self.step + more

    @property
    def size(self) -> int:
        """Elements of the copy that `transformed` needs."""
        return prod(self.shape) * self.planes.lanes

    def transformed(
        self,
        copy: Buffer,
        start: Expr,
        first: Expr,
        corner: tuple[Expr, int],
        out: tuple[Buffer, Expr, int, int],
    ) -> list[Stmt]:
        """The squares of some planes, see `Planes.beside`.

        `out` is where the first number of the first square goes, and how far it is to the next
        square and to the next number.
        """
        lanes = self.planes.lanes
        height, width = self.shape
        buffer, at, to_square, to_number = out

        def row(i: Expr) -> list[Stmt]:
            def square(j: Expr) -> list[Stmt]:
                place = (i * tir.number(width) + j) * tir.number(self.step * lanes)
                number = i * tir.number(self.grid[1]) + j
                to = at + number * tir.number(to_square)
                results = (buffer, to, len(self.matrix) * to_number, to_number)
                return transformed(self.matrix, (copy, place, width * lanes, lanes), results, lanes)

            return [tir.loop(self.grid[1], square, name="square")]

        beside = self.planes.beside(copy, start, first, corner, (height, width))
        return [beside, tir.loop(self.grid[0], row, name="row")]


Grid = tuple[Buffer, Expr, int, int]  # from an element on; steps to the next row and column


def transformed(matrix: Matrix, source: Grid, out: Grid, lanes: int) -> list[Stmt]:
    """`M X M^T` of a square of vectors in memory."""
    registers = vectors.Registers(source[0].dtype, lanes)
    loads, square = [], []
    for i in range(len(matrix[0])):
        row = []
        for j in range(len(matrix[0])):
            register = registers.new()
            at = source[1] + tir.number(i * source[2] + j * source[3])
            loads.append(register.set(vectors.load(source[0], at, lanes)))
            row.append(register.value)
        square.append(row)
    steps, result = applied(matrix, square, registers)
    stores = [
        vectors.store(out[0], out[1] + tir.number(i * out[2] + j * out[3]), value, lanes)
        for i, row in enumerate(result)
        for j, value in enumerate(row)
    ]
    return [*registers.made, *loads, *steps, *stores]
