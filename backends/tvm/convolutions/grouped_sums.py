"""Sums over large windows in groups, such as the gradient of a depthwise kernel: see `sums`.

    for each group
      for each of its channels, and each image
        copy its plane                     with padding; columns in the order that gaps take them
        for each output of the group
          sums[result, lanes] += plane[result + place, lanes] * window[place, lanes]
    add the lanes up, and the epilogue

The lanes are neighbours in a row of the window; what is left of a row goes to shorter vectors.
"""

from __future__ import annotations

from math import prod

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.convolutions.depthwise import Plane
from weft.backends.tvm.convolutions.results import Results, Tile
from weft.backends.tvm.nests import PARALLEL_WORK
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution


class GroupedSums:
    """A group at a time."""

    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.conv, self.buffers = conv, buffers
        self.dtype = conv.ports[conv.x.port].dtype
        self.name = tir.stored(self.dtype)
        self.images, outputs, self.height, self.width = conv.shape
        self.outputs = outputs // conv.groups
        self.channels = conv.kernel.shape[1]
        self.window = conv.kernel.shape[2:]
        self.results = self.height * self.width
        reach = (self.width - 1) * conv.strides[1]
        self.plane = Plane(conv, conv.rhs_dilation[1], self.window[1], reach)
        self.runs = self._runs()
        self.row = sum(lanes for _, _, lanes in self.runs)  # partial sums of a result

    def _runs(self) -> list[tuple[int, int, int]]:
        """A row of the window as vectors: the first column, how many vectors, and their lanes."""
        found, first = [], 0
        lanes = vectors.lanes_for(self.dtype) if self.conv.kernel.strides[3] == 1 else 1
        while first < self.window[1]:
            count = (self.window[1] - first) // lanes
            if count:
                found.append((first, count, lanes))
            first += count * lanes
            lanes //= 2
        return found

    def statements(self) -> list[Stmt]:
        flops = 2 * prod(self.conv.shape) * self.channels * prod(self.window)
        kind = "parallel" if flops > 8 * PARALLEL_WORK else "serial"
        return [tir.loop(self.conv.groups, self._group, kind, "group")]

    def _group(self, group: Expr) -> list[Stmt]:
        """All results of a group."""
        first = group * tir.number(self.outputs)
        count = self.images * self.outputs * self.results
        sums, make_sums = tir.local("sums", self.name, count * self.row, "global")
        plane, make_plane = tir.local("plane", self.name, self.plane.size, "global")
        zero = tirx.const(0.0, self.name)
        clear = tir.loop(count * self.row, lambda i: [tir.store(sums, i, zero)], name="clear")

        def channel(number: Expr) -> list[Stmt]:
            def image(i: Expr) -> list[Stmt]:
                source = self.buffers[self.conv.x.port]
                at = group * tir.number(self.channels) + number

                def output(o: Expr) -> list[Stmt]:
                    to = (i * tir.number(self.outputs) + o) * tir.number(self.results * self.row)
                    return self._output(plane, (first + o, number), (sums, to))

                return [
                    self.plane.filled(plane, source, i, at),
                    tir.loop(self.outputs, output, name="output"),
                ]

            return [tir.loop(self.images, image, name="image")]

        channels = tir.loop(self.channels, channel, name="channel")

        def finished(i: Expr) -> list[Stmt]:
            whole = (tir.number(0), self.height, self.height)
            tile = Tile((i, 1, 1), (first, self.outputs), whole)
            results = Results(self.conv, self.buffers, tile, self.dtype)

            def output(o: Expr) -> list[Stmt]:
                begin = (i * tir.number(self.outputs) + o) * tir.number(self.results)
                to = results.place(tir.number(0), o)
                return [
                    tir.loop(
                        self.results,
                        lambda r: self._added(sums, begin + r, results.buffer, to + r),
                        name="result",
                    )
                ]

            outputs = tir.loop(self.outputs, output, name="output")
            return [*results.makes, outputs, *results.epilogue(tir.number(0))]

        images = tir.loop(self.images, finished, name="image")
        return [make_sums, make_plane, clear, channels, images]

    def _output(
        self, plane: Buffer, window: tuple[Expr, Expr], sums: tuple[Buffer, Expr]
    ) -> list[Stmt]:
        """A plane's part of an output's sums, as many results at a time as registers hold."""
        limit = vectors.registers()
        columns = min(self.width, limit)
        rows = max(1, limit // columns)
        found, before = [], 0
        for run in self.runs:
            for v in range(0, self.height, rows):
                for u in range(0, self.width, columns):
                    results = [
                        (p, q)
                        for p in range(v, min(v + rows, self.height))
                        for q in range(u, min(u + columns, self.width))
                    ]
                    found += self._block(plane, window, sums, results, run, before)
            before += run[2]
        return found

    def _block(
        self,
        plane: Buffer,
        window: tuple[Expr, Expr],
        sums: tuple[Buffer, Expr],
        results: list[tuple[int, int]],
        run: tuple[int, int, int],
        before: int,
    ) -> list[Stmt]:
        """Some results' sums over the columns of a run."""
        conv = self.conv
        first, count, lanes = run
        registers = vectors.Registers(self.name, lanes)
        held = [registers.new() for _ in results]
        memory = [
            sums[1] + tir.number((p * self.width + q) * self.row + before) for p, q in results
        ]
        pairs = list(zip(held, memory, strict=True))
        begin = [sum_.set(vectors.load(sums[0], at, lanes)) for sum_, at in pairs]
        end = [vectors.store(sums[0], at, sum_.value, lanes) for sum_, at in pairs]
        o, c, y, x = conv.kernel.strides
        start = window[0] * tir.number(o) + window[1] * tir.number(c) + tir.number(first * x)
        factor = registers.new()

        def row(i: Expr) -> list[Stmt]:
            def vector(j: Expr) -> list[Stmt]:
                column = j * tir.number(lanes)
                at = start + i * tir.number(y) + column * tir.number(x)
                made = [factor.set(vectors.load(self.buffers[conv.kernel.port], at, lanes))]
                for (p, q), sum_ in zip(results, held, strict=True):
                    line = i * tir.number(conv.rhs_dilation[0]) + tir.number(p * conv.strides[0])
                    place = self.plane.place(line, q * conv.strides[1]) + column
                    value = vectors.load(plane, place + tir.number(first), lanes)
                    made.append(sum_.add_product(factor.value, value))
                return made

            return [tir.loop(count, vector, name="vector")]

        return [*registers.made, *begin, tir.loop(self.window[0], row, name="row"), *end]

    def _added(self, sums: Buffer, result: Expr, out: Buffer, to: Expr) -> list[Stmt]:
        """The partial sums of a result, in order."""
        total, make = tir.local("total", self.name, 1)
        zero, start = tir.number(0), result * tir.number(self.row)

        def add(lane: Expr) -> list[Stmt]:
            value = tir.load(total, zero) + tir.load(sums, start + lane + tir.number(1))
            return [tir.store(total, zero, value)]

        return [
            make,
            tir.store(total, zero, tir.load(sums, start)),
            tir.loop(self.row - 1, add, name="lane"),
            tir.store(out, to, tir.load(total, zero)),
        ]
