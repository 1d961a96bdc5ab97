"""Convolution of planes by themselves, as with one channel in each group: vectors of neighbours.

    for each image and each output
      copy its plane                       with padding; columns in the order that strides take them
      for each few rows of results
        for each vector of neighbours in them
          sums[row, lanes] += plane[row + tap, lanes + tap] * kernel[tap]

There is nothing to share between outputs, and windows overlap: each element of the plane is read
from the nearest cache as often as the window has taps, and once from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.convolutions.gathering import Gathered, cleared, element_at
from weft.backends.tvm.convolutions.places import even_part, pair
from weft.backends.tvm.convolutions.results import Results, Tile
from weft.backends.tvm.nests import PARALLEL_WORK
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution

TAPS = 50  # of a window, at most: they are written out one after another
ROWS = 4  # of results that are summed up together, at most: they share what is loaded
TASKS = 64  # that a convolution is cut into, at most


def is_fit(conv: Convolution) -> bool:
    """Whether each group has one channel, and a window that is small."""
    return conv.groups > 1 and conv.kernel.shape[1] == 1 and prod(conv.kernel.shape[2:]) <= TAPS


class Depthwise:
    """A plane of results at a time."""

    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.conv, self.buffers = conv, buffers
        self.dtype = conv.ports[conv.x.port].dtype
        self.name = tir.stored(self.dtype)
        self.images, self.outputs, self.height, self.width = conv.shape
        self.window = conv.kernel.shape[2:]
        self.lanes = vectors.lanes_for(self.dtype, self.width)
        reach = (self.window[1] - 1) * conv.rhs_dilation[1]
        self.plane = Plane(conv, conv.strides[1], max(self.width, self.lanes), reach)
        self.rows = even_part(self.height, ROWS)
        self.each = even_part(self.outputs, max(1, self.outputs * self.images // TASKS))

    def statements(self) -> list[Stmt]:
        flops = 2 * prod(self.conv.shape) * prod(self.window)
        shares = self.outputs // self.each
        count = self.images * shares

        def task(flat: Expr) -> list[Stmt]:
            image, share = pair(flat, shares)
            return self._task(image, share * tir.number(self.each))

        kind = "parallel" if count > 1 and flops > 8 * PARALLEL_WORK else "serial"
        return [tir.loop(count, task, kind, "task")]

    def _task(self, image: Expr, first: Expr) -> list[Stmt]:
        """Some outputs of an image."""
        tile = Tile((image, 1, 1), (first, self.each), (tir.number(0), self.height, self.height))
        results = Results(self.conv, self.buffers, tile, self.dtype)
        plane, make = tir.local("plane", self.name, self.plane.size, "global")
        group = self.outputs // self.conv.groups

        def output(number: Expr) -> list[Stmt]:
            channel, _ = pair(first + number, group)
            source = self.buffers[self.conv.x.port]
            to = results.place(tir.number(0), number)
            return [
                self.plane.filled(plane, source, image, channel),
                self._sums(plane, first + number, results.buffer, to),
            ]

        outputs = tir.loop(self.each, output, name="output")
        return [*results.makes, make, outputs, *results.epilogue(tir.number(0))]

    def _sums(self, plane: Buffer, output: Expr, out: Buffer, to: Expr) -> Stmt:
        """All results of an output."""
        full, rest = divmod(self.width, self.lanes)

        def row(number: Expr) -> list[Stmt]:
            first = number * tir.number(self.rows)

            def vector(v: Expr) -> list[Stmt]:
                return self._block(plane, output, (out, to), first, v * tir.number(self.lanes))

            found = [tir.loop(full, vector, name="vector")] if full else []
            if rest and full:  # the last vector begins where it ends with the row
                last = tir.number(self.width - self.lanes)
                found += self._block(plane, output, (out, to), first, last)
            elif rest:
                found += self._block(plane, output, (out, to), first, tir.number(0))
            return found

        return tir.loop(self.height // self.rows, row, name="row")

    def _block(
        self, plane: Buffer, output: Expr, out: tuple[Buffer, Expr], first: Expr, column: Expr
    ) -> list[Stmt]:
        """A vector of neighbours in each of a few rows."""
        conv, lanes = self.conv, self.lanes
        registers = vectors.Registers(self.name, lanes)
        sums = [registers.new() for _ in range(self.rows)]
        o, _, y, x = conv.kernel.strides
        weights = self.buffers[conv.kernel.port]
        factor = registers.new()
        made = [sum_.set(registers.zero()) for sum_ in sums]
        for v in range(self.window[0]):
            for u in range(self.window[1]):
                at = output * tir.number(o) + tir.number(v * y + u * x)
                made.append(factor.set(vectors.spread(tir.load(weights, at), lanes)))
                for r, sum_ in enumerate(sums):
                    row = first * tir.number(conv.strides[0])
                    row = row + tir.number(r * conv.strides[0] + v * conv.rhs_dilation[0])
                    place = self.plane.place(row, u * conv.rhs_dilation[1]) + column
                    made.append(sum_.add_product(factor.value, vectors.load(plane, place, lanes)))
        count = min(lanes, self.width)
        for r, sum_ in enumerate(sums):
            place = out[1] + (first + tir.number(r)) * tir.number(self.width) + column
            made.append(vectors.store_first(out[0], place, sum_.value, lanes, count))
        return [*registers.made, *made]


@dataclass(frozen=True)
class Plane:
    """A copy of one channel of an image, with padding, as wide as results and windows need it.

    Every `step`-th column lies beside the one before, so that neighbours in memory are what
    neighbouring results read, or neighbours of a window with gaps. `neighbours` is how many of
    them are read from a column on, `reach` the last such column.
    """

    conv: Convolution
    step: int
    neighbours: int
    reach: int

    @property
    def height(self) -> int:
        """Rows that all results read."""
        conv = self.conv
        results = (conv.shape[2] - 1) * conv.strides[0]
        return results + (conv.kernel.shape[2] - 1) * conv.rhs_dilation[0] + 1

    @property
    def line(self) -> int:
        """Elements of the columns that lie side by side."""
        return self.neighbours + self.reach // self.step

    @property
    def size(self) -> int:
        return self.height * self.step * self.line

    def place(self, row: Expr, column: int) -> Expr:
        """Where a column lies in a row."""
        row_start = row * tir.number(self.step * self.line)
        return row_start + tir.number(column % self.step * self.line + column // self.step)

    def filled(self, out: Buffer, source: Buffer, image: Expr, channel: Expr) -> Stmt:
        """The copy."""
        conv = self.conv
        n, c, y, x = conv.x.strides
        start = image * tir.number(n) + channel * tir.number(c)

        def row(number: Expr) -> list[Stmt]:
            place = number - tir.number(conv.padding[0][0])
            inside, element = element_at(place, conv.x.shape[2], conv.lhs_dilation[0])
            into = self.place(number, 0)
            copies = []
            for residue in range(self.step):
                columns = Gathered(
                    count=self.line,
                    first=residue - conv.padding[1][0],
                    stride=self.step,
                    size=conv.x.shape[3],
                    spread=conv.lhs_dilation[1],
                    step=x,
                )
                to = into + tir.number(residue * self.line)
                copies.append(columns.copied(out, to, source, start + element * tir.number(y))[0])
            zeros = cleared(out, into, self.step * self.line)
            return [tir.either(inside, tir.sequence(copies), tir.sequence(zeros))]

        return tir.loop(self.height, row, name="row")
