"""Gradients of 3 x 3 kernels through short convolutions of few products, see `toom`.

    for each few of the channels to sum over
      transform their images                [place of 36, tile, image]
      transform their windows               [place, block of outputs, tile, lanes]
      for each place, block of outputs      sums[image, lanes] += image[tile] * window[tile, lanes]
    transform the sums back, turn them round, and the epilogue

Names are those of `sums`: what is called images here are the input channels of the kernel, and the
channels to sum over are the examples. All sums are made in one order.
"""

from __future__ import annotations

from math import prod

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.convolutions.patches import Patches, transformed
from weft.backends.tvm.convolutions.places import pair, some
from weft.backends.tvm.convolutions.planes import Planes
from weft.backends.tvm.convolutions.results import Results, Tile
from weft.backends.tvm.convolutions.toom import SIZE, toom
from weft.backends.tvm.lines import fused
from weft.backends.tvm.nests import PARALLEL_WORK
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution

STEP = SIZE - 2  # of tiles, and the size of a window's tile
PLACES = SIZE * SIZE
KEPT = 1_000_000  # transformed elements at a time
TILES = 32  # of all channels, at least


def is_fit(conv: Convolution) -> bool:
    """For 3 x 3 results at every place, with work enough to be worth the transformations."""
    height, width = conv.kernel.shape[2:]
    settings = (conv.strides, conv.lhs_dilation, conv.rhs_dilation)
    return (
        conv.ports[conv.x.port].dtype.name == "f32"
        and conv.shape[2:] == (3, 3)
        and all(setting == (1, 1) for setting in settings)
        and height % STEP == 0
        and width % STEP == 0
        and conv.shape[0] >= 16
        and conv.kernel.shape[1] * height * width >= TILES * STEP**2
        and conv.x.strides[3] == conv.kernel.strides[3] == 1
    )


class WinogradSums:
    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.conv, self.buffers = conv, buffers
        self.dtype = conv.ports[conv.x.port].dtype
        self.name = tir.stored(self.dtype)
        self.lanes = vectors.lanes_for(self.dtype, conv.shape[1])
        self.images, self.outputs = conv.shape[:2]
        self.channels = conv.kernel.shape[1]
        self.height, self.width = conv.kernel.shape[2:]
        self.kept = -(-self.images // self.lanes) * self.lanes
        count = -(-self.outputs // self.lanes)
        self.wide = 2 if count % 2 == 0 else 3 if count % 3 == 0 else 1
        self.blocks = count // self.wide
        self.block = self.wide * self.lanes
        self.grid = self.height // STEP, self.width // STEP
        self.tiles = prod(self.grid)  # of a channel
        size = PLACES * self.tiles * (self.kept + self.blocks * self.block)
        self.depth = max(1, min(self.channels, KEPT // size))
        self.depth = -(-self.channels // -(-self.channels // self.depth))
        limit = min(16, vectors.registers() // self.wide)
        self.some = max(n for n in range(1, limit + 1) if self.kept % n == 0)  # images of a block

    def statements(self) -> list[Stmt]:
        flops = 2 * prod(self.conv.shape) * self.channels * self.height * self.width
        self.kind = "parallel" if flops > 8 * PARALLEL_WORK else "serial"
        tiles = self.depth * self.tiles
        padded = self.blocks * self.block
        images, make_images = tir.local("images", self.name, PLACES * tiles * self.kept, "global")
        windows, make_windows = tir.local("windows", self.name, PLACES * tiles * padded, "global")
        sums, make_sums = tir.local("sums", self.name, PLACES * self.kept * padded, "global")

        def channels(number: Expr) -> list[Stmt]:
            first = number * tir.number(self.depth)
            count = some(self.depth, self.channels, first)
            return [
                self._transformed(images, windows, first, count),
                self._summed(sums, images, windows, number, count),
            ]

        count = -(-self.channels // self.depth)
        return [
            make_images,
            make_windows,
            make_sums,
            tir.loop(count, channels, name="channels"),
            self._finished(sums),
        ]

    def _transformed(self, images: Buffer, windows: Buffer, first: Expr, count: int | Expr) -> Stmt:
        """Images and windows of some channels, a vector of them at a time."""
        x, kernel, (pad_y, pad_x) = self.conv.x, self.conv.kernel, self.conv.padding
        tiles, of_images = self.depth * self.tiles, self.kept // self.lanes
        total = of_images + self.blocks * self.wide

        size = (x.shape[2], x.shape[3])
        from_images = Patches(
            Planes(self.buffers[x.port], self.images, x.strides[0], x.strides[2], size, self.lanes),
            toom(STEP).image,
            STEP,
            self.grid,
        )
        size = (self.height, self.width)
        o, _, y, _ = kernel.strides
        from_windows = Patches(
            Planes(self.buffers[kernel.port], self.outputs, o, y, size, self.lanes),
            toom(STEP).weights,
            STEP,
            self.grid,
        )

        def task(flat: Expr) -> list[Stmt]:
            channel, vector = pair(flat, total)
            copy, make = tir.local(
                "copy", self.name, max(from_images.size, from_windows.size), "global"
            )
            at = channel * tir.number(self.tiles)
            lane = vector * tir.number(self.lanes)
            image = from_images.transformed(
                copy,
                (first + channel) * tir.number(x.strides[1]),
                lane,
                (tir.number(-pad_y[0]), -pad_x[0]),
                (images, at * tir.number(self.kept) + lane, self.kept, tiles * self.kept),
            )
            number = vector - tir.number(of_images)
            block, k = pair(number, self.wide)
            to = (block * tir.number(tiles) + at) * tir.number(self.block)
            window = from_windows.transformed(
                copy,
                (first + channel) * tir.number(kernel.strides[1]),
                number * tir.number(self.lanes),
                (tir.number(0), 0),
                (
                    windows,
                    to + k * tir.number(self.lanes),
                    self.block,
                    self.blocks * tiles * self.block,
                ),
            )
            is_image = vector < tir.number(of_images)
            return [make, tir.either(is_image, tir.sequence(image), tir.sequence(window))]

        tasks = count * total if isinstance(count, int) else count * tir.number(total)
        return tir.loop(tasks, task, self.kind, "task")

    def _summed(
        self, sums: Buffer, images: Buffer, windows: Buffer, number: Expr, count: int | Expr
    ) -> Stmt:
        """Products of some channels, onto the sums from the second time on."""
        tiles = self.depth * self.tiles
        there = count * self.tiles if isinstance(count, int) else count * tir.number(self.tiles)

        def task(flat: Expr) -> list[Stmt]:
            place, _ = pair(flat, self.blocks)

            def some_images(i: Expr) -> list[Stmt]:
                registers = vectors.Registers(self.name, self.lanes)
                at = (flat * tir.number(self.kept) + i * tir.number(self.some)) * (
                    tir.number(self.block)
                )
                held, load, clear, end = [], [], [], []
                for r in range(self.some):
                    for k in range(self.wide):
                        register = registers.new()
                        memory = at + tir.number(r * self.block + k * self.lanes)
                        held.append(register)
                        load.append(register.set(vectors.load(sums, memory, self.lanes)))
                        clear.append(register.set(registers.zero()))
                        end.append(vectors.store(sums, memory, register.value, self.lanes))
                factors = [registers.new() for _ in range(self.wide)]
                one = registers.new()

                def tile(t: Expr) -> list[Stmt]:
                    made = []
                    window = (flat * tir.number(tiles) + t) * tir.number(self.block)
                    for k, factor in enumerate(factors):
                        where = window + tir.number(k * self.lanes)
                        made.append(factor.set(vectors.load(windows, where, self.lanes)))
                    image = (place * tir.number(tiles) + t) * tir.number(self.kept)
                    image = image + i * tir.number(self.some)
                    for r in range(self.some):
                        value = tir.load(images, image + tir.number(r))
                        made.append(one.set(vectors.spread(value, self.lanes)))
                        for k, factor in enumerate(factors):
                            sum_ = held[r * self.wide + k]
                            made.append(sum_.set(fused(one.value, factor.value, sum_.value)))
                    return made

                begin = tir.either(
                    number.equal(tir.number(0)), tir.sequence(clear), tir.sequence(load)
                )
                return [*registers.made, begin, tir.loop(there, tile, name="tile"), *end]

            return [tir.loop(self.kept // self.some, some_images, name="images")]

        return tir.loop(PLACES * self.blocks, task, self.kind, "place")

    def _finished(self, sums: Buffer) -> Stmt:
        """For each image the sums transformed back, where they belong, and the epilogue."""
        step = self.blocks * self.kept * self.block  # from place to place
        zero = tir.number(0)

        def image(i: Expr) -> list[Stmt]:
            tile = Tile((i, 1, 1), (zero, self.blocks * self.block), (zero, 3, 3))
            out = Results(self.conv, self.buffers, tile, self.dtype)
            back, make = tir.local("back", self.name, 9 * self.lanes, "global")

            def vector(flat: Expr) -> list[Stmt]:
                block, k = pair(flat, self.wide)
                at = (block * tir.number(self.kept) + i) * tir.number(self.block)
                source = (sums, at + k * tir.number(self.lanes), SIZE * step, step)
                results = (back, zero, 3 * self.lanes, self.lanes)
                return [
                    *transformed(toom(STEP).results, source, results, self.lanes),
                    *out.turned(back, zero, self.lanes, zero, flat * tir.number(self.lanes), 9),
                ]

            turned = tir.loop(self.blocks * self.wide, vector, name="vector")
            return [*out.makes, make, turned, *out.epilogue(zero)]

        return tir.loop(self.images, image, self.kind if self.images > 1 else "serial", "image")
