"""Convolution outright: sums of some results and a vector of output channels stay in registers.

    pack the kernel                      [block of outputs, channel, tap, lanes]
    for each tile of the results         some images, or some rows of one; some of the outputs
      for each block of channels         whose part of the kernel a core's cache holds
        copy that part of the images     with their padding, if they have any
        for each block of outputs, and of neighbouring results
          sums[result, lanes] += image[result + tap] * kernel[channel, tap, lanes]
      turn the tile round                [result, output] to [output, result], and the epilogue

Spread images are taken phase by phase, see `places`. Tiles depend on the sizes alone. What would be
multiplied by zeros of the padding is left out where it is known when code is made, or is much.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.convolutions.images import Images
from weft.backends.tvm.convolutions.places import Phase, even_part, line, pair
from weft.backends.tvm.convolutions.results import Results, Tile
from weft.backends.tvm.convolutions.weights import Weights
from weft.backends.tvm.lines import fused
from weft.backends.tvm.nests import PARALLEL_WORK
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution

RESULTS = 512  # of an output in a tile
DEPTH = 288  # channels times taps of a block
TASKS = 16  # that a convolution is cut into, if it is large enough
UNROLLED = 50  # taps that are written out one after another
PADDING = 0.1  # share of the rows that taps read, from which on those in the padding are left out


def is_fit(conv: Convolution) -> bool:
    """Whether enough of each vector is used."""
    outputs = conv.shape[1]
    lanes = vectors.lanes_for(conv.ports[conv.x.port].dtype, outputs)
    filled = outputs / (lanes * -(-outputs // lanes))
    return conv.groups == 1 and filled > 0.7


class Direct:
    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.conv, self.buffers = conv, buffers
        self.dtype = conv.ports[conv.x.port].dtype
        self.name = tir.stored(self.dtype)
        self.lanes = vectors.lanes_for(self.dtype, conv.shape[1])
        self.images, self.outputs, self.height, self.width = conv.shape
        self.channels = conv.kernel.shape[1]
        self.window = conv.kernel.shape[2:]
        self.taps = prod(self.window)
        self.y, self.x = line(conv, 0), line(conv, 1)
        count = -(-self.outputs // self.lanes)
        self.wide = 2 if count % 2 == 0 else 3 if count % 3 == 0 else 1  # vectors of a block
        self.blocks = count // self.wide
        self.block = self.wide * self.lanes
        self.depth = min(self.channels, max(1, DEPTH // self.taps))
        self._cut()

    def _cut(self) -> None:
        """The tiles: rows of one image, or whole images; and how many share the outputs."""
        area = self.height * self.width
        self.rows, self.together = self.y.count, 1
        if area > RESULTS and self.x.count >= vectors.registers() // self.wide:
            self.rows = max(1, RESULTS // (self.width * self.y.spread))
            self.rows = -(-self.y.count // -(-self.y.count // self.rows))
        else:
            self.together = min(self.images, max(1, RESULTS // area))
        self.bands = -(-self.y.count // self.rows)
        self.parts = -(-self.images // self.together)
        wanted = -(-TASKS // (self.bands * self.parts))
        self.shares = max(n for n in range(1, min(wanted, self.blocks) + 1) if self.blocks % n == 0)
        self.each = self.blocks // self.shares  # blocks of outputs in a tile
        self.band = min(self.height, self.rows * self.y.spread)  # rows of results
        self.size = self.band * self.width  # results of an image and an output in a tile

    def statements(self) -> list[Stmt]:
        flops = 2 * prod(self.conv.shape) * self.channels * self.taps
        parallel = "parallel" if flops > 8 * PARALLEL_WORK else "serial"
        weights, make = tir.local(
            "weights", self.name, self.blocks * self.channels * self.taps * self.block, "global"
        )
        count = self.parts * self.bands * self.shares

        def tile(flat: Expr) -> list[Stmt]:
            share = tirx.truncmod(flat, tir.number(self.shares))
            rest = tirx.truncdiv(flat, tir.number(self.shares))
            band = tirx.truncmod(rest, tir.number(self.bands))
            part = tirx.truncdiv(rest, tir.number(self.bands))
            return self._tile(weights, part, band, share)

        return [
            make,
            self._pack(weights, parallel),
            tir.loop(count, tile, parallel if count > 1 else "serial", "tile"),
        ]

    def _pack(self, packed: Buffer, kind: str) -> Stmt:
        """[block of outputs, channel, tap, lanes]."""
        kernel = Weights(self.conv, self.buffers)

        def channel(block: Expr, channel: Expr, vector: Expr) -> list[Stmt]:
            """One channel's taps for a vector of outputs."""
            at = block * tir.number(self.channels) + channel
            into = at * tir.number(self.taps * self.block) + vector * tir.number(self.lanes)
            first = block * tir.number(self.block) + vector * tir.number(self.lanes)

            def tap(number: Expr) -> list[Stmt]:
                to = into + number * tir.number(self.block)
                values = kernel.numbers(number, first, channel)
                return [tir.store(packed, to + tir.number(r), v) for r, v in enumerate(values)]

            if not kernel.is_lined:
                return [tir.loop(self.taps, tap, name="tap")]
            found = []
            for begin in range(0, self.taps, self.lanes):
                registers = vectors.Registers(self.name, self.lanes)
                count = min(self.lanes, self.taps - begin)
                moves, columns = kernel.vectors(registers, first, channel, begin, count)
                found += [*registers.made, *moves]
                for number, value in columns.items():
                    to = into + tir.number(number * self.block)
                    found.append(vectors.store(packed, to, value, self.lanes))
            return found

        def vector(flat: Expr) -> list[Stmt]:
            block, number = pair(flat, self.wide)
            return [tir.loop(self.channels, lambda c: channel(block, c, number), name="channel")]

        count = self.blocks * self.wide
        return tir.loop(count, vector, kind if count > 1 else "serial", "pack")

    def _tile(self, weights: Buffer, part: Expr, band: Expr, share: Expr) -> list[Stmt]:
        first_image = part * tir.number(self.together)
        first_row = band * tir.number(self.rows)
        images: int | Expr = self.together
        if self.images % self.together:
            images = tirx.min(tir.number(self.together), tir.number(self.images) - first_image)
        sums, make = tir.local(
            "sums", self.name, self.together * self.each * self.block * self.size, "global"
        )
        found = [make]
        single = self.depth >= self.channels
        if not single or any(not p.taps for axis in (self.y, self.x) for p in axis.phases):
            found.append(
                tir.loop(
                    self.together * self.each * self.wide * self.size,
                    lambda i: [
                        vectors.store(
                            sums,
                            i * tir.number(self.lanes),
                            vectors.spread(tirx.const(0.0, self.name), self.lanes),
                            self.lanes,
                        )
                    ],
                    name="zero",
                )
            )
        source = Images(
            self.conv,
            self.buffers,
            (self.y, self.x),
            sizes=(self.together, self.depth, min(self.rows, self.y.count)),
            start=(first_image, first_row),
        )
        found += source.makes

        def block(number: Expr) -> list[Stmt]:
            start = number * tir.number(self.depth)
            channels: int | Expr = self.depth
            if self.channels % self.depth:
                channels = tirx.min(tir.number(self.depth), tir.number(self.channels) - start)
            made = source.filled(images, start, channels)

            def output(b: Expr) -> list[Stmt]:
                at = share * tir.number(self.each) + b
                from_weights = (at * tir.number(self.channels) + start) * tir.number(
                    self.taps * self.block
                )

                def image(g: Expr) -> list[Stmt]:
                    to = (b * tir.number(self.together) + g) * tir.number(self.size * self.block)
                    where = source.start(g, start)
                    return [
                        part
                        for phase_y in self.y.phases
                        for phase_x in self.x.phases
                        if phase_y.taps and phase_x.taps
                        for part in self._phase(
                            _Place(phase_y, phase_x, source, where, channels),
                            (weights, from_weights),
                            (sums, to),
                            first_row,
                            single,
                        )
                    ]

                return [tir.loop(images, image, name="image")]

            return [*made, tir.loop(self.each, output, name="outputs")]

        found.append(tir.loop(-(-self.channels // self.depth), block, name="channels"))
        tile = Tile(
            images=(first_image, images, self.together),
            outputs=(share * tir.number(self.each * self.block), self.each * self.block),
            rows=(first_row * tir.number(self.y.spread), self._rows_here(band), self.band),
        )
        return [*found, *self._finish(sums, tile)]

    def _rows_here(self, band: Expr) -> int | Expr:
        if self.bands * self.band == self.height:
            return self.band
        rest = tir.number(self.height) - band * tir.number(self.band)
        return tirx.min(tir.number(self.band), rest)

    def _phase(
        self,
        place: _Place,
        weights: tuple[Buffer, Expr],
        sums: tuple[Buffer, Expr],
        first_row: Expr,
        single: bool,
    ) -> list[Stmt]:
        """All results of a phase in the tile, some neighbours at a time."""
        limit = vectors.registers() // self.wide
        width = even_part(place.x.count, limit)
        if width < limit // 2 and place.x.count > limit:
            width = limit
        height = 1
        if place.x.count == width and self.bands == 1:
            height = max(1, even_part(place.y.count, max(1, limit // width)))
        rows: int | Expr = min(self.rows, place.y.count)
        if self.bands * self.rows != place.y.count:
            rows = tirx.min(tir.number(self.rows), tir.number(place.y.count) - first_row)
        full, rest = divmod(place.x.count, width)

        def row(i: Expr) -> list[Stmt]:
            def column(j: Expr, size: int) -> list[Stmt]:
                return self._block(
                    place,
                    weights,
                    sums,
                    _Corner(
                        i * tir.number(height),
                        j,
                        first_row if self.bands > 1 else None,
                        is_top=height == place.y.count,
                        is_left=size == place.x.count,
                    ),
                    height,
                    size,
                    single,
                )

            made = [tir.loop(full, lambda j: column(j * tir.number(width), width), name="column")]
            if rest:
                made += column(tir.number(full * width), rest)
            return made

        if height > 1:
            return [tir.loop(place.y.count // height, row, name="row")]
        return [tir.loop(rows, row, name="row")]

    def _block(
        self,
        place: _Place,
        weights: tuple[Buffer, Expr],
        sums: tuple[Buffer, Expr],
        corner: _Corner,
        height: int,
        width: int,
        single: bool,
    ) -> list[Stmt]:
        """Sums of `height * width` results of a phase."""
        i, j = corner.row, corner.column
        registers = vectors.Registers(self.name, self.lanes)
        _, step_y, step_x = place.source.strides
        across, down = self.x.step * step_x, self.y.step * step_y
        start = place.start + i * tir.number(down) + j * tir.number(across)
        to = sums[1] + tir.number(self.block) * (
            (i * tir.number(self.y.spread) + tir.number(place.y.first)) * tir.number(self.width)
            + (j * tir.number(self.x.spread) + tir.number(place.x.first))
        )
        at = [(p, q) for p in range(height) for q in range(width)]
        held, begin, end = [], [], []
        for p, q in at:
            result = (p * self.y.spread * self.width + q * self.x.spread) * self.block
            for k in range(self.wide):
                register = registers.new()
                memory = to + tir.number(result + k * self.lanes)
                value = registers.zero() if single else vectors.load(sums[0], memory, self.lanes)
                begin.append(register.set(value))
                end.append(vectors.store(sums[0], memory, register.value, self.lanes))
                held.append(register)
        factors = [registers.new() for _ in range(self.wide)]
        one = registers.new()

        def taps(channel: Expr, v: Expr, place_y: Expr, rows: Collection[int]) -> list[Stmt]:
            made = []
            line_start = start + channel + place_y
            for u, place_x in place.x.taps:
                reads = [
                    (number, p * down + q * across + place_x * step_x)
                    for number, (p, q) in enumerate(at)
                    if p in rows and (not corner.is_left or self.x.has(q, place_x))
                ]
                if not reads:
                    continue
                tap = weights[1] + v + tir.number(u * self.block)
                for k, factor in enumerate(factors):
                    load = vectors.load(weights[0], tap + tir.number(k * self.lanes), self.lanes)
                    made.append(factor.set(load))
                for number, where in reads:
                    value = tir.load(place.source.buffer, line_start + tir.number(where))
                    made.append(one.set(vectors.spread(value, self.lanes)))
                    for k, factor in enumerate(factors):
                        sum_ = held[number * self.wide + k]
                        made.append(sum_.set(fused(one.value, factor.value, sum_.value)))
            return made

        def line_of_taps(channel: Expr, tap: Expr, place_y: int) -> list[Stmt]:
            """Those that are known to read padding, or found to, left out."""
            rows = [p for p in range(height) if not corner.is_top or self.y.has(p, place_y)]
            made = taps(channel, tap, tir.number(place_y * step_y), rows)
            if corner.is_top or height > 1 or self.y.outside < PADDING or not made:
                return made
            row = i if corner.first_row is None else corner.first_row + i
            element = row * tir.number(self.y.step) + tir.number(self.y.shift + place_y)
            inside = tirx.all(element >= tir.number(0), element < tir.number(self.y.size))
            return [tir.when(inside, tir.sequence(made))]

        def channel(c: Expr) -> list[Stmt]:
            offset = c * tir.number(place.source.strides[0])
            packed = c * tir.number(self.taps * self.block)
            line_size = self.window[1] * self.block
            if len(place.y.taps) * len(place.x.taps) <= UNROLLED or len(place.y.taps) == 1:
                return [
                    statement
                    for v, place_y in place.y.taps
                    for statement in line_of_taps(
                        offset, packed + tir.number(v * line_size), place_y
                    )
                ]
            first, from_ = place.y.taps[0]
            step, to_place = place.y.step

            def line(n: Expr) -> list[Stmt]:
                tap = packed + (tir.number(first) + n * tir.number(step)) * tir.number(line_size)
                at = (tir.number(from_) + n * tir.number(to_place)) * tir.number(step_y)
                return taps(offset, tap, at, range(height))

            return [tir.loop(len(place.y.taps), line, name="v")]

        body = tir.loop(place.channels, channel, name="channel")
        return [*registers.made, *begin, body, *end]

    def _finish(self, sums: Buffer, tile: Tile) -> list[Stmt]:
        """The tile with its results in rows, where they belong, and the epilogue."""
        out = Results(self.conv, self.buffers, tile, self.dtype)
        rows = tile.rows[1]
        size = rows * self.width if isinstance(rows, int) else rows * tir.number(self.width)

        def image(g: Expr) -> list[Stmt]:
            def output(b: Expr) -> list[Stmt]:
                start = (b * tir.number(self.together) + g) * tir.number(self.size * self.block)
                return [
                    tir.loop(
                        self.wide,
                        lambda k: out.turned(
                            sums,
                            start + k * tir.number(self.lanes),
                            self.block,
                            g,
                            b * tir.number(self.block) + k * tir.number(self.lanes),
                            size,
                        ),
                        name="vector",
                    )
                ]

            return [tir.loop(self.each, output, name="outputs"), *out.epilogue(g)]

        return [*out.makes, tir.loop(tile.images[1], image, name="image")]


@dataclass(frozen=True)
class _Corner:
    """The first result of a block: its row in a band and its column, in a phase.

    `first_row` is that of the band, if there are several. A block that `is_top` has all rows of
    the phase, and one that `is_left` all columns.
    """

    row: Expr
    column: Expr
    first_row: Expr | None
    is_top: bool
    is_left: bool


class _Place:
    """A phase of rows and of columns, and where their image begins."""

    def __init__(
        self, y: Phase, x: Phase, source: Images, start: Expr, channels: int | Expr
    ) -> None:
        self.y, self.x, self.source, self.start, self.channels = y, x, source, start, channels
