"""Sums over large windows, such as the gradient of a kernel: few results, each of many products.

    for each task                          some of the channels to sum over, and some images
      for each few of the channels
        turn their windows round           [window, outputs]
        for each few of the images         copied with their padding, if they have any
          for each block of results, and of outputs
            sums[result, lanes] += image[result + place] * window[place, lanes]
    add the tasks' sums up in order, turn them round, and the epilogue

In the gradient of a kernel what is called images here are its input channels, the window is the
cotangent of an example, and the channels to sum over are the examples. Tasks depend on the sizes
alone, and so does the order of all sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.convolutions.images import Images
from weft.backends.tvm.convolutions.places import Phase, line, pair, parts, some
from weft.backends.tvm.convolutions.results import Results, Tile
from weft.backends.tvm.lines import fused
from weft.backends.tvm.nests import PARALLEL_WORK
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution

TASKS = 16
PARTIAL = 1 << 20  # elements of all sums before they are added up, at most, if they are several
WINDOWS = 1 << 16  # elements of windows that are turned round together
PADDED = 1 << 15  # elements of images that are copied together


@dataclass(frozen=True)
class _Block:
    """Results that are summed up together: of some images, at some places of a phase."""

    images: int
    rows: range
    columns: range
    y: Phase
    x: Phase


class Sums:
    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.conv, self.buffers = conv, buffers
        self.dtype = conv.ports[conv.x.port].dtype
        self.name = tir.stored(self.dtype)
        self.lanes = vectors.lanes_for(self.dtype, conv.shape[1])
        self.images, self.outputs, self.height, self.width = conv.shape
        self.results = self.height * self.width
        self.channels = conv.kernel.shape[1]
        self.window = conv.kernel.shape[2:]
        self.area = prod(self.window)
        self.y, self.x = line(conv, 0), line(conv, 1)
        count = -(-self.outputs // self.lanes)
        self.wide = 2 if count % 2 == 0 else 3 if count % 3 == 0 else 1
        self.blocks = count // self.wide
        self.block = self.wide * self.lanes
        self.padded = self.blocks * self.block
        self.row = self.results * self.padded  # sums of an image
        self._cut()

    def _cut(self) -> None:
        """The tasks: groups of channels, each with its own sums, and shares of the images."""
        size = self.images * self.row
        self.groups = 1
        while 2 * self.groups <= min(self.channels, TASKS) and 2 * self.groups * size <= PARTIAL:
            self.groups *= 2
        self.each = -(-self.channels // self.groups)  # channels of a group
        self.groups = -(-self.channels // self.each)
        self.share = -(-self.images // -(-TASKS // self.groups))  # images of a task
        self.shares = -(-self.images // self.share)
        self.depth = min(self.each, max(1, WINDOWS // (self.area * self.padded)))
        limit = vectors.registers() // self.wide
        found = []
        for y in self.y.phases:
            for x in self.x.phases:
                if y.taps and x.taps:
                    found += _blocks(
                        y, x, min(self.share, max(1, limit // (y.count * x.count))), limit
                    )
        self.parts = found
        missing = any(not phase.taps for axis in (self.y, self.x) for phase in axis.phases)
        self.single = self.each <= self.depth and not missing  # every sum is made in one go
        plane = self.y.places(self.y.count) * self.x.places(self.x.count) * self.depth
        most = max((part.images for part in found), default=1)
        self.together = min(self.share, max(1, PADDED // (plane * most)) * most)

    def statements(self) -> list[Stmt]:
        flops = 2 * prod(self.conv.shape) * self.channels * self.area
        kind = "parallel" if flops > 8 * PARALLEL_WORK else "serial"
        count = self.groups * self.shares
        together, make = tir.local(
            "together", self.name, self.groups * self.images * self.row, "global"
        )

        def task(flat: Expr) -> list[Stmt]:
            group, share = pair(flat, self.shares)
            first = share * tir.number(self.share)
            images = some(self.share, self.images, first)
            if self.groups > 1:
                begin = (group * tir.number(self.images) + first) * tir.number(self.row)
                return self._task((together, begin), group, first, images)
            sums, make = tir.local("sums", self.name, self.share * self.row, "global")

            def image(i: Expr) -> list[Stmt]:
                return self._finish(sums, i * tir.number(self.row), first + i)

            return [
                make,
                *self._task((sums, tir.number(0)), group, first, images),
                tir.loop(images, image, name="image"),
            ]

        tasks = tir.loop(count, task, kind if count > 1 else "serial", "task")
        if self.groups == 1:
            return [tasks]

        def image(i: Expr) -> list[Stmt]:
            begin = i * tir.number(self.row)
            return [self._added(together, begin), *self._finish(together, begin, i)]

        kind = kind if self.images > 1 else "serial"
        return [make, tasks, tir.loop(self.images, image, kind, "image")]

    def _task(
        self, sums: tuple[Buffer, Expr], group: Expr, first_image: Expr, images: int | Expr
    ) -> list[Stmt]:
        """All sums of some images over a group of the channels."""
        first = group * tir.number(self.each)
        channels = some(self.each, self.channels, first)
        windows, make = tir.local(
            "windows", self.name, self.depth * self.area * self.padded, "global"
        )
        found = [make]
        if not self.single:

            def clear(i: Expr) -> list[Stmt]:
                zero = vectors.spread(tirx.const(0.0, self.name), self.lanes)
                at = sums[1] + i * tir.number(self.lanes)
                return [vectors.store(sums[0], at, zero, self.lanes)]

            found.append(tir.loop(images * tir.number(self.row // self.lanes), clear, name="zero"))
        source = Images(
            self.conv,
            self.buffers,
            (self.y, self.x),
            sizes=(self.together, self.depth, self.y.count),
            start=(first_image, tir.number(0)),
        )
        found += source.makes

        def some_channels(number: Expr) -> list[Stmt]:
            start = number * tir.number(self.depth)
            count = some(self.depth, channels, start)

            def some_images(number: Expr) -> list[Stmt]:
                at = number * tir.number(self.together)
                here = some(self.together, images, at)
                source.image = first_image + at
                to = sums[1] + at * tir.number(self.row)
                return [
                    *source.filled(here, first + start, count),
                    *(
                        statement
                        for part in self.parts
                        for statement in self._part(
                            part, source, (windows, count, first + start), (sums[0], to), here
                        )
                    ),
                ]

            return [
                self._turn(windows, first + start, count),
                tir.loop(parts(images, self.share, self.together), some_images, name="images"),
            ]

        count = parts(channels, self.each, self.depth)
        return [*found, tir.loop(count, some_channels, name="channels")]

    def _turn(self, windows: Buffer, first: Expr, count: int | Expr) -> Stmt:
        """Windows of some channels, as [block of outputs, channel, place, lanes]."""
        view = self.conv.kernel
        source = self.buffers[view.port]
        o, c, y, x = view.strides
        lanes = self.lanes
        lined = (x == 1 or self.window[1] == 1) and (y == self.window[1] or self.window[0] == 1)

        def channel(n: Expr) -> list[Stmt]:
            def vector(number: Expr) -> list[Stmt]:
                block, k = pair(number, self.wide)
                into = (block * tir.number(self.depth) + n) * tir.number(self.area * self.block)
                into = into + k * tir.number(lanes)
                start = (first + n) * tir.number(c)
                output = number * tir.number(lanes)

                def place(r: int) -> Expr:
                    at = output + tir.number(r)
                    if self.outputs % lanes:
                        at = tirx.min(at, tir.number(self.outputs - 1))
                    return start + at * tir.number(o)

                def square(at: Expr, count: int) -> list[Stmt]:
                    registers = vectors.Registers(self.name, lanes)
                    rows = [(source, place(r) + at) for r in range(lanes)]
                    moves, columns = vectors.turned(registers, rows, count)
                    stores = [
                        vectors.store(
                            windows,
                            into + (at + tir.number(r)) * tir.number(self.block),
                            column.value,
                            lanes,
                        )
                        for r, column in enumerate(columns)
                    ]
                    return [*registers.made, *moves, *stores]

                if lined:
                    full, rest = divmod(self.area, lanes)
                    made = tir.loop(full, lambda b: square(b * tir.number(lanes), lanes), name="b")
                    last = square(tir.number(full * lanes), rest) if rest else []
                    return [*([made] if full else []), *last]

                def single(p: Expr) -> list[Stmt]:
                    line_y, line_x = pair(p, self.window[1])
                    where = line_y * tir.number(y) + line_x * tir.number(x)
                    return [
                        tir.store(
                            windows,
                            into + p * tir.number(self.block) + tir.number(r),
                            tir.load(source, place(r) + where),
                        )
                        for r in range(lanes)
                    ]

                return [tir.loop(self.area, single, name="place")]

            return [tir.loop(self.blocks * self.wide, vector, name="vector")]

        return tir.loop(count, channel, name="channel")

    def _part(
        self,
        part: _Block,
        source: Images,
        windows: tuple[Buffer, int | Expr, Expr],
        sums: tuple[Buffer, Expr],
        images: int | Expr,
    ) -> list[Stmt]:
        """A block of results for all images and outputs."""

        def output(b: Expr) -> list[Stmt]:
            def image(i: Expr, count: int) -> list[Stmt]:
                return self._sum(part, source, windows, sums, b, i, count)

            def block(i: Expr) -> list[Stmt]:
                return image(i * tir.number(part.images), part.images)

            if isinstance(images, int):
                full, rest = divmod(images, part.images)
                last = image(tir.number(full * part.images), rest) if rest else []
                return [tir.loop(full, block, name="image"), *last]
            full = tirx.truncdiv(images, tir.number(part.images))
            begin = full * tir.number(part.images)
            last = tir.loop(images - begin, lambda i: image(begin + i, 1), name="image")
            return [tir.loop(full, block, name="image"), last]

        return [tir.loop(self.blocks, output, name="outputs")]

    def _sum(
        self,
        part: _Block,
        source: Images,
        windows: tuple[Buffer, int | Expr, Expr],
        sums: tuple[Buffer, Expr],
        block: Expr,
        image: Expr,
        images: int,
    ) -> list[Stmt]:
        registers = vectors.Registers(self.name, self.lanes)
        step_c, step_y, step_x = source.strides
        held, offsets, begin, end = [], [], [], []
        to = sums[1] + image * tir.number(self.row) + block * tir.number(self.block)
        for i in range(images):
            for p in part.rows:
                for q in part.columns:
                    y, x = part.y.first + p * self.y.spread, part.x.first + q * self.x.spread
                    result = (i * self.results + y * self.width + x) * self.padded
                    offsets.append(
                        i * source.apart + p * self.y.step * step_y + q * self.x.step * step_x
                    )
                    for k in range(self.wide):
                        register = registers.new()
                        memory = to + tir.number(result + k * self.lanes)
                        value = vectors.load(sums[0], memory, self.lanes)
                        begin.append(register.set(registers.zero() if self.single else value))
                        end.append(vectors.store(sums[0], memory, register.value, self.lanes))
                        held.append(register)
        factors = [registers.new() for _ in range(self.wide)]
        one = registers.new()
        (first_y, from_y), (first_x, from_x) = part.y.taps[0], part.x.taps[0]
        tap_y, place_y = part.y.step
        tap_x, place_x = part.x.step
        start = source.start(image, windows[2]) + tir.number(from_y * step_y + from_x * step_x)
        reading = [
            number
            for number, (_, place) in enumerate(part.y.taps)
            if any(self.y.has(p, place) for p in part.rows)
        ]
        lines = range(reading[0], reading[-1] + 1) if reading else range(0)  # others read padding
        slab = block * tir.number(self.depth * self.area * self.block)

        def channel(n: Expr) -> list[Stmt]:
            def row(i: Expr) -> list[Stmt]:
                at = start + n * tir.number(step_c) + i * tir.number(place_y * step_y)
                line_start = (
                    n * tir.number(self.area)
                    + (tir.number(first_y) + i * tir.number(tap_y)) * tir.number(self.window[1])
                    + tir.number(first_x)
                )

                def place(j: Expr) -> list[Stmt]:
                    made = []
                    where = slab + (line_start + j * tir.number(tap_x)) * tir.number(self.block)
                    for k, factor in enumerate(factors):
                        value = vectors.load(
                            windows[0], where + tir.number(k * self.lanes), self.lanes
                        )
                        made.append(factor.set(value))
                    here = at + j * tir.number(place_x * step_x)
                    for number, offset in enumerate(offsets):
                        value = tir.load(source.buffer, here + tir.number(offset))
                        made.append(one.set(vectors.spread(value, self.lanes)))
                        for k, factor in enumerate(factors):
                            sum_ = held[number * self.wide + k]
                            made.append(sum_.set(fused(one.value, factor.value, sum_.value)))
                    return made

                return [tir.loop(len(part.x.taps), place, name="x")]

            first = tir.number(lines.start)
            return [tir.loop(len(lines), lambda i: row(first + i), name="y")]

        if not lines:
            return [*registers.made, *begin, *end]
        return [*registers.made, *begin, tir.loop(windows[1], channel, name="channel"), *end]

    def _added(self, sums: Buffer, begin: Expr) -> Stmt:
        """The groups' sums of an image, in order."""

        def add(i: Expr) -> list[Stmt]:
            at = begin + i * tir.number(self.lanes)
            registers = vectors.Registers(self.name, self.lanes)
            total = registers.new()
            one = vectors.spread(tirx.const(1.0, self.name), self.lanes)

            def group(g: Expr) -> list[Stmt]:
                where = at + (g + tir.number(1)) * tir.number(self.images * self.row)
                value = vectors.load(sums, where, self.lanes)
                return [total.set(fused(value, one, total.value))]

            return [
                *registers.made,
                total.set(vectors.load(sums, at, self.lanes)),
                tir.loop(self.groups - 1, group, name="group"),
                vectors.store(sums, at, total.value, self.lanes),
            ]

        return tir.loop(self.row // self.lanes, add, name="add")

    def _finish(self, sums: Buffer, begin: Expr, image: Expr) -> list[Stmt]:
        """The sums of an image turned round, where they belong, and the epilogue."""
        zero = tir.number(0)
        tile = Tile((image, 1, 1), (zero, self.padded), (zero, self.height, self.height))
        out = Results(self.conv, self.buffers, tile, self.dtype)

        def turn(k: Expr) -> list[Stmt]:
            at = k * tir.number(self.lanes)
            return out.turned(sums, begin + at, self.padded, zero, at, self.results)

        turned = tir.loop(self.blocks * self.wide, turn, name="turn")
        return [*out.makes, turned, *out.epilogue(zero)]


def _blocks(y: Phase, x: Phase, images: int, limit: int) -> list[_Block]:
    """A phase's results in blocks of at most `limit`: whole ones of images, or some of its rows."""
    columns = min(x.count, limit)
    rows = min(y.count, max(1, limit // columns))
    rows = -(-y.count // -(-y.count // rows))
    return [
        _Block(images, range(p, min(p + rows, y.count)), range(q, min(q + columns, x.count)), y, x)
        for p in range(0, y.count, rows)
        for q in range(0, x.count, columns)
    ]
