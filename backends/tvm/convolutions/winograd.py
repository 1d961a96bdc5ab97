"""Convolution with 3 x 3 kernels through short convolutions of few products, see `toom`.

    transform the kernel                     [place of 36, block of outputs, channel, lanes]
    for each task                            some images, or some rows of one
      put channels side by side, transform   [place, tile, channel]
      for each block of outputs
        for each place: a product            [tile, channel] [channel, lanes]
        transform back                       4 x 4 results of each tile
        turn them round, where they belong
      the epilogue

A result is off by a few units of rounding of the largest sums of products in its tile, about what
a sum in order is off by; but where all that a result reads is zero, it may be off by that much too.
"""

from __future__ import annotations

from math import prod

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.convolutions.patches import Patches, transformed
from weft.backends.tvm.convolutions.places import even_part, pair, some
from weft.backends.tvm.convolutions.planes import Planes
from weft.backends.tvm.convolutions.results import Results, Tile
from weft.backends.tvm.convolutions.toom import SIZE, applied, toom
from weft.backends.tvm.convolutions.weights import Weights
from weft.backends.tvm.lines import fused
from weft.backends.tvm.nests import PARALLEL_WORK
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution

STEP = SIZE - 2  # results of a tile in each dimension
PLACES = SIZE * SIZE
KEPT = 200_000  # elements of a task's transformed images
TASKS = 16


def is_fit(conv: Convolution) -> bool:
    """For 3 x 3 kernels at every place, with work enough to be worth the transformations."""
    images, _, height, width = conv.shape
    settings = (conv.strides, conv.lhs_dilation, conv.rhs_dilation)
    return (
        conv.ports[conv.x.port].dtype.name == "f32"
        and conv.kernel.shape[2:] == (3, 3)
        and all(setting == (1, 1) for setting in settings)
        and height % STEP == 0
        and width % STEP == 0
        and conv.kernel.shape[1] >= 16
        and images * height * width // STEP**2 >= 128
        and conv.x.strides[3] == 1
    )


class Winograd:
    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.conv, self.buffers = conv, buffers
        self.dtype = conv.ports[conv.x.port].dtype
        self.name = tir.stored(self.dtype)
        self.lanes = vectors.lanes_for(self.dtype, conv.shape[1])
        self.images, self.outputs, self.height, self.width = conv.shape
        self.channels = conv.kernel.shape[1]
        self.kept = -(-self.channels // self.lanes) * self.lanes
        count = -(-self.outputs // self.lanes)
        self.wide = 2 if count % 2 == 0 else 3 if count % 3 == 0 else 1
        self.blocks = count // self.wide
        self.block = self.wide * self.lanes
        self.across = self.width // STEP
        self._cut()

    def _cut(self) -> None:
        """The tasks: rows of tiles of one image, or some images."""
        down = self.height // STEP
        tiles = self.images * down * self.across
        limit = max(16, min(KEPT // (PLACES * self.kept), tiles // TASKS))
        self.rows = even_part(down, max(1, limit // self.across))
        self.together = 1
        if self.rows == down:
            self.together = max(1, min(self.images, limit // (down * self.across)))
        self.bands = down // self.rows
        self.groups = -(-self.images // self.together)
        self.tiles = self.rows * self.across  # of an image
        count, limit = self.together * self.tiles, min(16, vectors.registers() // self.wide)
        self.some = even_part(count, limit)
        if 2 * self.some < limit:
            self.some = limit
        self.count = -(-count // self.some) * self.some
        self.size = self.tiles * STEP**2  # results of an image and an output in a task

    def statements(self) -> list[Stmt]:
        flops = 2 * prod(self.conv.shape) * self.channels * 9
        kind = "parallel" if flops > 8 * PARALLEL_WORK else "serial"
        size = PLACES * self.channels * self.blocks * self.block
        weights, make = tir.local("weights", self.name, size, "global")
        count = self.groups * self.bands

        def task(flat: Expr) -> list[Stmt]:
            return self._task(weights, *pair(flat, self.bands))

        tasks = tir.loop(count, task, kind if count > 1 else "serial", "task")
        return [make, self._weights(weights, kind), tasks]

    def _weights(self, out: Buffer, kind: str) -> Stmt:
        kernel = Weights(self.conv, self.buffers)
        matrix = toom(3).weights
        place_size = self.blocks * self.channels * self.block

        def channel(block: Expr, channel: Expr, vector: Expr) -> list[Stmt]:
            registers = vectors.Registers(self.name, self.lanes)
            first = block * tir.number(self.block) + vector * tir.number(self.lanes)
            moves, taps = kernel.vectors(registers, first, channel, 0, 9)
            square = [[taps[3 * v + u] for u in range(3)] for v in range(3)]
            steps, result = applied(matrix, square, registers)
            at = (block * tir.number(self.channels) + channel) * tir.number(self.block)
            at = at + vector * tir.number(self.lanes)
            stores = [
                vectors.store(out, at + tir.number((i * SIZE + j) * place_size), value, self.lanes)
                for i, row in enumerate(result)
                for j, value in enumerate(row)
            ]
            return [*registers.made, *moves, *steps, *stores]

        def vector(flat: Expr) -> list[Stmt]:
            block, number = pair(flat, self.wide)
            return [tir.loop(self.channels, lambda c: channel(block, c, number), name="channel")]

        count = self.blocks * self.wide
        return tir.loop(count, vector, kind if count > 1 else "serial", "weights")

    def _task(self, weights: Buffer, group: Expr, band: Expr) -> list[Stmt]:
        first = group * tir.number(self.together)
        images = some(self.together, self.images, first)
        tile = Tile(
            images=(first, images, self.together),
            outputs=(tir.number(0), self.blocks * self.block),
            rows=(band * tir.number(self.rows * STEP), self.rows * STEP, self.rows * STEP),
        )
        out = Results(self.conv, self.buffers, tile, self.dtype)
        kept = PLACES * self.count
        image, make_image = tir.local("image", self.name, kept * self.kept, "global")
        products, make_products = tir.local("products", self.name, kept * self.block, "global")
        size = self.together * self.size * self.block
        sums, make_sums = tir.local("sums", self.name, size, "global")

        def block(b: Expr) -> list[Stmt]:
            return [
                self._products(products, image, weights, b, images),
                tir.loop(images, lambda g: self._back(sums, products, g), name="image"),
                tir.loop(
                    images,
                    lambda g: [
                        tir.loop(self.wide, lambda k: self._turned(out, sums, b, g, k), name="k")
                    ],
                    name="image",
                ),
            ]

        return [
            *out.makes,
            make_image,
            make_products,
            make_sums,
            *self._image(image, first, band, images),
            tir.loop(self.blocks, block, name="outputs"),
            *([tir.loop(images, out.epilogue, name="image")] if out.stage is not None else []),
        ]

    def _image(self, out: Buffer, first: Expr, band: Expr, images: int | Expr) -> list[Stmt]:
        """Images of a task, transformed."""
        view, (pad_y, pad_x) = self.conv.x, self.conv.padding
        n, c, y, _ = view.strides
        size = (view.shape[2], view.shape[3])
        planes = Planes(self.buffers[view.port], self.channels, c, y, size, self.lanes)
        patches = Patches(planes, toom(3).image, STEP, (self.rows, self.across))
        padded, make = tir.local("padded", self.name, patches.size, "global")
        top = band * tir.number(self.rows * STEP) - tir.number(pad_y[0])

        def image(g: Expr) -> list[Stmt]:
            start = (first + g) * tir.number(n)

            def vector(v: Expr) -> list[Stmt]:
                channel = v * tir.number(self.lanes)
                at = g * tir.number(self.tiles * self.kept) + channel
                to = (out, at, self.kept, self.count * self.kept)
                return patches.transformed(padded, start, channel, (top, -pad_x[0]), to)

            return [tir.loop(self.kept // self.lanes, vector, name="vector")]

        return [make, tir.loop(images, image, name="image")]

    def _products(
        self, out: Buffer, image: Buffer, weights: Buffer, block: Expr, images: int | Expr
    ) -> Stmt:
        """At each place the product of tiles and weights, for a block of outputs."""
        full = tir.number(self.count // self.some)
        if not isinstance(images, int):
            needed = images * tir.number(self.tiles) + tir.number(self.some - 1)
            full = tirx.truncdiv(needed, tir.number(self.some))

        def place(p: Expr) -> list[Stmt]:
            from_weights = (p * tir.number(self.blocks) + block) * tir.number(
                self.channels * self.block
            )

            def tiles(t: Expr) -> list[Stmt]:
                registers = vectors.Registers(self.name, self.lanes)
                number = p * tir.number(self.count) + t * tir.number(self.some)
                begin, end, held = [], [], []
                for i in range(self.some):
                    for k in range(self.wide):
                        register = registers.new()
                        held.append(register)
                        begin.append(register.set(registers.zero()))
                        at = (number + tir.number(i)) * tir.number(self.block)
                        at = at + tir.number(k * self.lanes)
                        end.append(vectors.store(out, at, register.value, self.lanes))
                factors = [registers.new() for _ in range(self.wide)]
                one = registers.new()

                def channel(c: Expr) -> list[Stmt]:
                    made = []
                    at = from_weights + c * tir.number(self.block)
                    for k, factor in enumerate(factors):
                        value = vectors.load(weights, at + tir.number(k * self.lanes), self.lanes)
                        made.append(factor.set(value))
                    where = number * tir.number(self.kept) + c
                    for i in range(self.some):
                        value = tir.load(image, where + tir.number(i * self.kept))
                        made.append(one.set(vectors.spread(value, self.lanes)))
                        for k, factor in enumerate(factors):
                            sum_ = held[i * self.wide + k]
                            made.append(sum_.set(fused(one.value, factor.value, sum_.value)))
                    return made

                body = tir.loop(self.channels, channel, name="channel")
                return [*registers.made, *begin, body, *end]

            return [tir.loop(full, tiles, name="tiles")]

        return tir.loop(PLACES, place, name="place")

    def _back(self, sums: Buffer, products: Buffer, image: Expr) -> list[Stmt]:
        """The results of an image's tiles, [result, lanes] for a block of outputs."""

        def row(i: Expr) -> list[Stmt]:
            def tile(j: Expr) -> list[Stmt]:
                number = image * tir.number(self.tiles) + i * tir.number(self.across) + j
                at = image * tir.number(self.size) + (i * tir.number(self.width) + j) * (
                    tir.number(STEP)
                )

                def vector(k: Expr) -> list[Stmt]:
                    lane = k * tir.number(self.lanes)
                    step = self.count * self.block
                    return transformed(
                        toom(3).results,
                        (products, number * tir.number(self.block) + lane, SIZE * step, step),
                        (
                            sums,
                            at * tir.number(self.block) + lane,
                            self.width * self.block,
                            self.block,
                        ),
                        self.lanes,
                    )

                return [tir.loop(self.wide, vector, name="vector")]

            return [tir.loop(self.across, tile, name="tile")]

        return [tir.loop(self.rows, row, name="row")]

    def _turned(self, out: Results, sums: Buffer, block: Expr, image: Expr, k: Expr) -> list[Stmt]:
        lane = k * tir.number(self.lanes)
        return out.turned(
            sums,
            image * tir.number(self.size * self.block) + lane,
            self.block,
            image,
            block * tir.number(self.block) + lane,
            self.size,
        )
