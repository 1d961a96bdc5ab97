"""Convolution in small groups, of one channel each or a few: vectors of neighbouring results.

    for each image and each group
      copy its planes                      with padding, and in the order that strides take them
      for each few outputs, and rows of results
        for each vector of neighbours in them
          for each channel of the group
            sums[output, row, lanes] += plane[row + tap, lanes + tap] * kernel[output, tap]

Windows overlap: each element of a plane is read from the nearest cache as often as the window has
taps, and once from memory.
"""

from __future__ import annotations

from math import prod

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.convolutions.gathering import Plane
from weft.backends.tvm.convolutions.places import even_part, pair
from weft.backends.tvm.convolutions.results import Results, Tile
from weft.backends.tvm.nests import PARALLEL_WORK
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution

TAPS = 50  # of a window, at most: they are written out one after another
ROWS = 8  # of results that are summed up together, at most: they share what is loaded
FEW = 8  # outputs of a group: with more of them, unfolding pays
TASKS = 64  # that a convolution is cut into, at most


def is_fit(conv: Convolution) -> bool:
    """Whether groups are small, and the window too."""
    few = conv.shape[1] // conv.groups <= FEW
    return conv.groups > 1 and few and prod(conv.kernel.shape[2:]) <= TAPS


class Depthwise:
    """A group of an image at a time."""

    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.conv, self.buffers = conv, buffers
        self.dtype = conv.ports[conv.x.port].dtype
        self.name = tir.stored(self.dtype)
        self.images, outputs, self.height, self.width = conv.shape
        self.outputs = outputs // conv.groups  # of a group
        self.channels = conv.kernel.shape[1]
        self.window = conv.kernel.shape[2:]
        self.lanes = vectors.lanes_for(self.dtype, self.width)
        reach = (
            (self.window[0] - 1) * conv.rhs_dilation[0],
            (self.window[1] - 1) * conv.rhs_dilation[1],
        )
        neighbours = self.height, max(self.width, self.lanes)
        self.plane = Plane(conv, conv.strides, neighbours, reach)
        self.rows, self.together = self._block_size()
        self.each = even_part(conv.groups, max(1, conv.groups * self.images // TASKS))

    def _block_size(self) -> tuple[int, int]:
        """Rows and outputs that need the fewest loads for each product, and fit in registers."""
        sizes = [
            (rows, outputs)
            for rows in range(1, min(self.height, ROWS) + 1)
            for outputs in range(1, self.outputs + 1)
            if self.height % rows == self.outputs % outputs == 0
            and rows * outputs <= vectors.registers()
        ]
        return min(sizes, key=lambda size: 1 / size[0] + 1 / size[1])

    def statements(self) -> list[Stmt]:
        flops = 2 * prod(self.conv.shape) * self.channels * prod(self.window)
        shares = self.conv.groups // self.each
        count = self.images * shares

        def task(flat: Expr) -> list[Stmt]:
            image, share = pair(flat, shares)
            return self._task(image, share * tir.number(self.each))

        kind = "parallel" if count > 1 and flops > 8 * PARALLEL_WORK else "serial"
        return [tir.loop(count, task, kind, "task")]

    def _task(self, image: Expr, first: Expr) -> list[Stmt]:
        """Some groups of an image."""
        each = tir.number(self.outputs)
        outputs = (first * each, self.each * self.outputs)
        tile = Tile((image, 1, 1), outputs, (tir.number(0), self.height, self.height))
        results = Results(self.conv, self.buffers, tile, self.dtype)
        planes, make = tir.local("planes", self.name, self.channels * self.plane.size, "global")
        source = self.buffers[self.conv.x.port]

        def group(number: Expr) -> list[Stmt]:
            channels = (first + number) * tir.number(self.channels)

            def channel(c: Expr) -> list[Stmt]:
                to = c * tir.number(self.plane.size)
                return self.plane.filled(planes, to, source, image, channels + c)

            def some(o: Expr) -> list[Stmt]:
                output = number * each + o * tir.number(self.together)
                to = [
                    results.place(tir.number(0), output + tir.number(i))
                    for i in range(self.together)
                ]
                return [self._sums(planes, outputs[0] + output, results.buffer, to)]

            return [
                tir.loop(self.channels, channel, name="channel"),
                tir.loop(self.outputs // self.together, some, name="outputs"),
            ]

        groups = tir.loop(self.each, group, name="group")
        return [*results.makes, make, groups, *results.epilogue(tir.number(0))]

    def _sums(self, planes: Buffer, output: Expr, out: Buffer, to: list[Expr]) -> Stmt:
        """All results of a few outputs."""
        full, rest = divmod(self.width, self.lanes)

        def row(number: Expr) -> list[Stmt]:
            first = number * tir.number(self.rows)

            def vector(v: Expr) -> list[Stmt]:
                return self._block(planes, output, (out, to), first, v * tir.number(self.lanes))

            found = [tir.loop(full, vector, name="vector")] if full else []
            if rest and full:  # the last vector begins where it ends with the row
                last = tir.number(self.width - self.lanes)
                found += self._block(planes, output, (out, to), first, last)
            elif rest:
                found += self._block(planes, output, (out, to), first, tir.number(0))
            return found

        return tir.loop(self.height // self.rows, row, name="row")

    def _block(
        self, planes: Buffer, output: Expr, out: tuple[Buffer, list[Expr]], row: Expr, column: Expr
    ) -> list[Stmt]:
        """A vector of neighbours in each of a few rows, of a few outputs."""
        conv, lanes = self.conv, self.lanes
        registers = vectors.Registers(self.name, lanes)
        sums = [[registers.new() for _ in range(self.rows)] for _ in range(self.together)]
        value, factor = registers.new(), registers.new()
        o, c, y, x = conv.kernel.strides
        weights = self.buffers[conv.kernel.port]
        start = row * tir.number(self.plane.line) + column

        def tap(channel: Expr, v: int, u: int) -> list[Stmt]:
            made = []
            for r in range(self.rows):
                place = self.plane.place(v * conv.rhs_dilation[0], u * conv.rhs_dilation[1])
                at = start + channel * tir.number(self.plane.size)
                at = at + tir.number(place + r * self.plane.line)
                made.append(value.set(vectors.load(planes, at, lanes)))
                for i, line_of_sums in enumerate(sums):
                    at = (output + tir.number(i)) * tir.number(o) + channel * tir.number(c)
                    weight = tir.load(weights, at + tir.number(v * y + u * x))
                    made.append(factor.set(vectors.spread(weight, lanes)))
                    made.append(line_of_sums[r].add_product(factor.value, value.value))
            return made

        def channel(number: Expr) -> list[Stmt]:
            taps = [(v, u) for v in range(self.window[0]) for u in range(self.window[1])]
            return [part for v, u in taps for part in tap(number, v, u)]

        begin = [sum_.set(registers.zero()) for line in sums for sum_ in line]
        count = min(lanes, self.width)
        end = [
            vectors.store_first(
                out[0],
                to + (row + tir.number(r)) * tir.number(self.width) + column,
                sum_.value,
                lanes,
                count,
            )
            for to, line in zip(out[1], sums, strict=True)
            for r, sum_ in enumerate(line)
        ]
        channels = tir.loop(self.channels, channel, name="channel")
        return [*registers.made, *begin, channels, *end]
