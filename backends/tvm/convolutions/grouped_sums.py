"""Sums over large windows in groups, such as the gradient of a depthwise kernel: see `sums`.

    for each group, and some images
      for each channel of the group
        copy the windows of its outputs    their rows as far apart as those of the plane
        for each image
          copy its plane                   with padding, and in the order that gaps take it
          for each few outputs
            sums[output, result, lanes] += plane[result + place, lanes] * window[place, lanes]
    add the lanes up, and the epilogue

Windows and planes are run through from end to end, whatever row they are in, so that vectors are
full however short the rows are. Between its rows a window has zeros: a number of the plane that is
no number, or infinite, makes NaN of results that do not read it.
"""

from __future__ import annotations

from math import prod

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.convolutions.gathering import Gathered, Plane
from weft.backends.tvm.convolutions.places import even_part, pair
from weft.backends.tvm.convolutions.results import Results, Tile
from weft.backends.tvm.lines import fused
from weft.backends.tvm.nests import PARALLEL_WORK
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution

TASKS = 16  # that a convolution is cut into, if it has so many images and groups


class GroupedSums:
    """A group and some images at a time."""

    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.conv, self.buffers = conv, buffers
        self.dtype = conv.ports[conv.x.port].dtype
        self.name = tir.stored(self.dtype)
        self.images, outputs, self.height, self.width = conv.shape
        self.outputs = outputs // conv.groups
        self.channels = conv.kernel.shape[1]
        self.window = conv.kernel.shape[2:]
        self.results = self.height * self.width
        reach = (self.height - 1) * conv.strides[0], (self.width - 1) * conv.strides[1]
        neighbours = self.window[0], self.window[1]
        self.plane = Plane(conv, conv.rhs_dilation, neighbours, reach)
        extent = (self.window[0] - 1) * self.plane.line + self.window[1]
        self.lanes = vectors.lanes_for(self.dtype, extent)
        self.vectors = -(-extent // self.lanes)  # of a window
        self.each = even_part(self.images, max(1, self.images * conv.groups // TASKS))
        self.together = even_part(self.outputs, max(1, vectors.registers() // self.results))

    def statements(self) -> list[Stmt]:
        flops = 2 * prod(self.conv.shape) * self.channels * prod(self.window)
        kind = "parallel" if flops > 8 * PARALLEL_WORK else "serial"
        shares = self.images // self.each

        def task(flat: Expr) -> list[Stmt]:
            group, share = pair(flat, shares)
            return self._task(group, share * tir.number(self.each))

        return [tir.loop(self.conv.groups * shares, task, kind, "task")]

    def _task(self, group: Expr, first_image: Expr) -> list[Stmt]:
        """All results of a group and some images."""
        first = group * tir.number(self.outputs)
        vector = self.vectors * self.lanes
        row = self.results * self.lanes  # partial sums of an image and an output
        sizes = {
            "sums": self.each * self.outputs * row,
            "windows": self.outputs * vector,
            "plane": self.plane.size + self.lanes,  # what the last vector reads behind it
        }
        made = {name: tir.local(name, self.name, n, "global") for name, n in sizes.items()}
        sums, windows, plane = (buffer for buffer, _ in made.values())
        zero = tirx.const(0.0, self.name)
        begin = [make for _, make in made.values()] + [
            tir.loop(sizes[name], lambda i, b=buffer: [tir.store(b, i, zero)], name="clear")  # type: ignore[misc]
            for name, (buffer, _) in made.items()
        ]

        def channel(number: Expr) -> list[Stmt]:
            at = group * tir.number(self.channels) + number

            def image(i: Expr) -> list[Stmt]:
                def some(number: Expr) -> list[Stmt]:
                    output = number * tir.number(self.together)
                    to = (i * tir.number(self.outputs) + output) * tir.number(row)
                    return self._some(plane, (windows, output * tir.number(vector)), (sums, to))

                count = self.outputs // self.together
                source = self.buffers[self.conv.x.port]
                return [
                    *self.plane.filled(plane, tir.number(0), source, first_image + i, at),
                    tir.loop(count, some, name="outputs"),
                ]

            def output(o: Expr) -> list[Stmt]:
                return [self._window(windows, o * tir.number(vector), first + o, number)]

            return [
                tir.loop(self.outputs, output, name="output"),
                tir.loop(self.each, image, name="image"),
            ]

        channels = tir.loop(self.channels, channel, name="channel")

        def finished(i: Expr) -> list[Stmt]:
            return self._finish(sums, i * tir.number(self.outputs * row), first_image + i, first)

        return [*begin, channels, tir.loop(self.each, finished, name="image")]

    def _window(self, out: Buffer, into: Expr, output: Expr, channel: Expr) -> Stmt:
        """The copy of a window."""
        o, c, y, x = self.conv.kernel.strides
        source = self.buffers[self.conv.kernel.port]
        start = output * tir.number(o) + channel * tir.number(c)
        columns = Gathered(self.window[1], 0, 1, self.window[1], 1, x)

        def row(i: Expr) -> list[Stmt]:
            to = into + i * tir.number(self.plane.line)
            return [columns.copied(out, to, source, start + i * tir.number(y))[0]]

        return tir.loop(self.window[0], row, name="row")

    def _some(
        self, plane: Buffer, windows: tuple[Buffer, Expr], sums: tuple[Buffer, Expr]
    ) -> list[Stmt]:
        """A plane's part of some outputs' sums, as many results at a time as registers hold."""
        limit = vectors.registers() // self.together
        columns = min(self.width, limit)
        rows = max(1, limit // columns)
        return [
            part
            for v in range(0, self.height, rows)
            for u in range(0, self.width, columns)
            for part in self._block(
                plane,
                windows,
                sums,
                [
                    (p, q)
                    for p in range(v, min(v + rows, self.height))
                    for q in range(u, min(u + columns, self.width))
                ],
            )
        ]

    def _block(
        self,
        plane: Buffer,
        windows: tuple[Buffer, Expr],
        sums: tuple[Buffer, Expr],
        results: list[tuple[int, int]],
    ) -> list[Stmt]:
        lanes, strides = self.lanes, self.conv.strides
        registers = vectors.Registers(self.name, lanes)
        factors = [registers.new() for _ in range(self.together)]
        value = registers.new()
        held = [[registers.new() for _ in results] for _ in factors]
        memory = [
            (
                sums[1] + tir.number((n * self.results + p * self.width + q) * lanes),
                held[n][number],
            )
            for n in range(self.together)
            for number, (p, q) in enumerate(results)
        ]
        begin = [sum_.set(vectors.load(sums[0], at, lanes)) for at, sum_ in memory]
        end = [vectors.store(sums[0], at, sum_.value, lanes) for at, sum_ in memory]

        def vector(number: Expr) -> list[Stmt]:
            at = number * tir.number(lanes)
            made = []
            for n, factor in enumerate(factors):
                place = windows[1] + tir.number(n * self.vectors * lanes) + at
                made.append(factor.set(vectors.load(windows[0], place, lanes)))
            for number, (p, q) in enumerate(results):
                place = tir.number(self.plane.place(p * strides[0], q * strides[1])) + at
                made.append(value.set(vectors.load(plane, place, lanes)))
                made += [
                    line[number].add_product(factor.value, value.value)
                    for line, factor in zip(held, factors, strict=True)
                ]
            return made

        return [*registers.made, *begin, tir.loop(self.vectors, vector, name="vector"), *end]

    def _finish(self, sums: Buffer, begin: Expr, image: Expr, first: Expr) -> list[Stmt]:
        """An image's partial sums added up in order, and the epilogue."""
        whole = (tir.number(0), self.height, self.height)
        tile = Tile((image, 1, 1), (first, self.outputs), whole)
        results = Results(self.conv, self.buffers, tile, self.dtype)

        def output(o: Expr) -> list[Stmt]:
            to = results.place(tir.number(0), o)

            def result(r: Expr) -> list[Stmt]:
                number = o * tir.number(self.results) + r
                start = begin + number * tir.number(self.lanes)
                return self._added(vectors.load(sums, start, self.lanes), results.buffer, to + r)

            return [tir.loop(self.results, result, name="result")]

        outputs = tir.loop(self.outputs, output, name="output")
        return [*results.makes, outputs, *results.epilogue(tir.number(0))]

    def _added(self, value: Expr, out: Buffer, to: Expr) -> list[Stmt]:
        """The lanes of a vector added up: the upper half to the lower one, until one is left."""
        made, lanes = [], self.lanes
        while lanes > 1:
            lanes //= 2
            lower, upper = (
                tirx.Shuffle([value], [tir.number(first + n) for n in range(lanes)])
                for first in (0, lanes)
            )
            registers = vectors.Registers(self.name, lanes)
            half = registers.new()
            one = vectors.spread(tirx.const(1.0, self.name), lanes)
            made += [*registers.made, half.set(fused(upper, one, lower))]
            value = half.value
        return [*made, tir.store(out, to, value)]
