"""Sums over large windows as products of unfolded images, see `unfolded`.

A tile is some images; [images * positions, window] of one channel after another is multiplied into
its sums.
"""

from __future__ import annotations

from math import prod

from tvm import tirx

from weft.backends.tvm import tir
from weft.backends.tvm.blocks import Operand, multiplied
from weft.backends.tvm.convolutions.gathering import Gathered, element_at
from weft.backends.tvm.convolutions.unfolded import UNFOLDED, Unfolded, copied
from weft.backends.tvm.nests import PARALLEL_WORK, Context, points
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Axis, along
from weft.compiler.kernel import resolved
from weft.compiler.scalar import Load, Rewriter

TILES = 16


class UnfoldedSums(Unfolded):
    """Sums over large windows: every tile goes through all channels in order."""

    def statements(self) -> list[Stmt]:
        positions = self.height * self.width
        window = prod(self.window)
        flops = 2 * prod(self.conv.shape) * self.depth
        parallel = flops > 8 * PARALLEL_WORK
        tile = self.images
        least = max(1, UNFOLDED // max(1, positions * window))
        while tile > least or (parallel and tile > 1 and self.images // tile < TILES):
            tile = -(-tile // 2)
            if tile == 1:
                break
        blocks = -(-self.images // tile)
        rest = self.images - (blocks - 1) * tile
        found: list[Stmt] = []
        weights = self._channels_first(found)

        def one(block: Expr) -> list[Stmt]:
            if rest == tile:
                return self._sum(weights, block * tir.number(tile), tile)
            last = block.equal(tir.number(blocks - 1))
            start = block * tir.number(tile)
            return [
                tir.when(tirx.Not(last), tir.sequence(self._sum(weights, start, tile))),
                tir.when(last, tir.sequence(self._sum(weights, start, rest))),
            ]

        kind = "parallel" if parallel and blocks > 1 else "serial"
        return [*found, tir.loop(blocks, one, kind, "tile")]

    def _channels_first(self, found: list[Stmt]) -> tuple[Buffer, int, int, bool]:
        """For each channel the kernel [output, window]: buffer, steps, and whether transposed."""
        view = self.conv.kernel
        o, c, y, x = view.strides
        kh, kw = self.window
        window = kh * kw
        lined = (y == kw * x or kh == 1) and (x >= 1)
        if lined and (x == 1 or kw == 1) and (o >= window or self.outputs == 1):
            return self.buffers[view.port], c, max(o, window), False
        order = (1, 0, 2, 3)
        buffer, make = tir.local("weights", tir.stored(self.dtype), prod(view.shape), "global")
        found.append(make)
        shape = tuple(view.shape[i] for i in order)
        strides = tuple(view.strides[i] for i in order)
        found.append(copied(buffer, self.buffers[view.port], shape, strides))
        return buffer, self.outputs * window, window, False

    def _sum(self, weights: tuple[Buffer, int, int, bool], first: Expr, images: int) -> list[Stmt]:
        conv = self.conv
        positions, window = self.height * self.width, prod(self.window)
        size = images * positions
        name = tir.stored(self.dtype)
        sums, make = tir.local("sums", name, self.outputs * size, "global")
        unfolded, make_unfolded = tir.local("unfolded", name, size * window, "global")
        found: list[Stmt] = [make, make_unfolded]
        zero = tirx.const(0.0, name)
        found.append(_filled(sums, self.outputs * size, zero))
        n, c, _, _ = conv.x.strides

        def channel(number: Expr) -> list[Stmt]:
            def image(i: Expr) -> list[Stmt]:
                base = (first + i) * tir.number(n) + number * tir.number(c)
                return [self._gather(unfolded, i * tir.number(positions), base)]

            buffer, step, lead, _ = weights
            return [
                tir.loop(images, image, name="image"),
                *multiplied(
                    self.dtype,
                    (self.outputs, size, window),
                    Operand(buffer, number * tir.number(step), lead, 1),
                    Operand(unfolded, tir.number(0), 1, window),
                    Operand(sums, tir.number(0), size, 1),
                    add=True,
                ),
            ]

        found.append(tir.loop(self.channels, channel, name="channel"))
        inner_n, inner_c = Axis(images), Axis(self.outputs)
        inner_y, inner_x = Axis(self.height), Axis(self.width)
        place = (
            along(inner_c) * size
            + along(inner_n) * positions
            + along(inner_y) * self.width
            + along(inner_x)
        )
        element = Load(self.dtype, len(self.buffers), place)
        axis_n, axis_c, axis_y, axis_x = conv.epilogue.axes
        start = Axis(self.images)
        rewriter = Rewriter(
            {
                axis_n: along(start) + along(inner_n),
                axis_c: along(inner_c),
                axis_y: along(inner_y),
                axis_x: along(inner_x),
            }
        )
        stage = resolved(conv.epilogue, {0: element}).over(
            (inner_n, inner_c, inner_y, inner_x), rewriter
        )
        context = Context([*self.buffers, sums], {})
        return found + points(stage, context, {start: first}, parallel=False)

    def _gather(self, out: Buffer, first: Expr, base: Expr) -> Stmt:
        """For each position the elements of its window, one line of the window after another."""
        conv = self.conv
        kh, kw = self.window
        _, _, y, x = conv.x.strides
        _, _, in_height, in_width = conv.x.shape
        source = self.buffers[conv.x.port]

        def position(p_y: Expr, p_x: int) -> list[Stmt]:
            row = first + p_y * tir.number(self.width) + tir.number(p_x)
            across = Gathered(
                count=kw,
                first=p_x * conv.strides[1] - conv.padding[1][0],
                stride=conv.rhs_dilation[1],
                size=in_width,
                spread=conv.lhs_dilation[1],
                step=x,
            )

            def line(v: Expr) -> list[Stmt]:
                into = row * tir.number(kh * kw) + v * tir.number(kw)
                place = (
                    p_y * tir.number(conv.strides[0])
                    + v * tir.number(conv.rhs_dilation[0])
                    - tir.number(conv.padding[0][0])
                )
                inside, element = element_at(place, in_height, conv.lhs_dilation[0])
                start = base + element * tir.number(y)
                return [tir.either(inside, *across.copied(out, into, source, start))]

            return [tir.loop(kh, line, name="v")]

        return tir.loop(
            self.height,
            lambda p_y: [part for p_x in range(self.width) for part in position(p_y, p_x)],
            name="y",
        )


def _filled(out: Buffer, size: int, value: Expr) -> Stmt:
    lanes = 16
    full, rest = divmod(size, lanes)
    parts: list[Stmt] = []
    if full:
        parts.append(
            tir.loop(
                full,
                lambda i: [
                    tir.loop(
                        lanes,
                        lambda j: [tir.store(out, i * tir.number(lanes) + j, value)],
                        "vectorized",
                    )
                ],
            )
        )
    if rest:
        parts.append(
            tir.loop(rest, lambda j: [tir.store(out, tir.number(full * lanes) + j, value)])
        )
    return tir.sequence(parts)
