"""Convolution as products of unfolded images, a tile at a time, inside of TVM's parallel loop.

A tile is some rows of one image; its windows are unfolded to [channels * taps, positions], which
stays in cache, and the kernel [outputs, channels * taps] is multiplied in. Tiles depend on the
sizes alone. This is for what has too few outputs in a group to fill vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import tirx

from weft.backends.tvm import tir
from weft.backends.tvm.blocks import Operand, multiplied
from weft.backends.tvm.convolutions.gathering import Gathered, element_at
from weft.backends.tvm.convolutions.results import target
from weft.backends.tvm.nests import PARALLEL_WORK, Context, points
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Axis, along
from weft.compiler.kernel import Convolution, resolved
from weft.compiler.scalar import Load, Rewriter

UNFOLDED = 1 << 16  # elements of a tile's unfolded matrix: what a core's cache holds


class Unfolded:
    """One image's rows at a time."""

    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.conv, self.buffers = conv, buffers
        self.images, self.outputs, self.height, self.width = conv.shape
        self.channels = conv.kernel.shape[1]  # of a group
        self.window = conv.kernel.shape[2:]
        self.depth = self.channels * prod(self.window)
        self.dtype = conv.ports[conv.x.port].dtype
        rows = max(1, UNFOLDED // max(1, self.depth * self.width))
        blocks = -(-self.height // min(rows, self.height))
        self.rows = -(-self.height // blocks)
        self.blocks = -(-self.height // self.rows)

    @property
    def is_plain(self) -> bool:
        """Whether an image is its own unfolded matrix."""
        conv = self.conv
        _, c, y, x = conv.x.strides
        return (
            prod(self.window) == 1
            and conv.strides == (1, 1)
            and conv.lhs_dilation == (1, 1)
            and not any(map(any, conv.padding))
            and (x == 1 or self.width == 1)
            and (y == self.width or self.height == 1)
            and (c >= self.height * self.width or self.channels == 1)
        )

    def statements(self) -> list[Stmt]:
        flops = 2 * prod(self.conv.shape) * self.depth
        parallel = flops > 8 * PARALLEL_WORK
        found: list[Stmt] = []
        weights = self._weights(found)
        rest = self.height - (self.blocks - 1) * self.rows

        def tile(flat: Expr) -> list[Stmt]:
            blocks = tir.number(self.blocks)
            image, block = tirx.truncdiv(flat, blocks), tirx.truncmod(flat, blocks)
            if rest == self.rows:
                return self._tile(weights, image, block, self.rows)
            last = block.equal(tir.number(self.blocks - 1))
            return [
                tir.when(
                    tirx.Not(last), tir.sequence(self._tile(weights, image, block, self.rows))
                ),
                tir.when(last, tir.sequence(self._tile(weights, image, block, rest))),
            ]

        count = self.images * self.blocks
        kind = "parallel" if parallel and count > 1 else "serial"
        return [*found, tir.loop(count, tile, kind, "tile")]

    def _weights(self, found: list[Stmt]) -> tuple[Buffer, int]:
        """The kernel as a contiguous matrix: as it is, or as a copy."""
        view = self.conv.kernel
        o, c, y, x = view.strides
        kh, kw = self.window
        sizes = (
            (o, self.depth, self.outputs),
            (c, kh * kw, self.channels),
            (y, kw, kh),
            (x, 1, kw),
        )
        if all(stride == wanted or size == 1 for stride, wanted, size in sizes):
            return self.buffers[view.port], self.depth
        buffer, make = tir.local("weights", tir.stored(self.dtype), prod(view.shape), "global")
        found.append(make)
        found.append(copied(buffer, self.buffers[view.port], view.shape, view.strides))
        return buffer, self.depth

    def _tile(self, weights: tuple[Buffer, int], image: Expr, block: Expr, rows: int) -> list[Stmt]:
        conv, size = self.conv, rows * self.width
        found: list[Stmt] = []
        row = block * tir.number(self.rows)
        per_group = self.outputs // conv.groups
        written, stage = target(conv)
        *_, axis_y, axis_x = conv.epilogue.axes
        env = dict(zip(conv.epilogue.axes, (image, tir.number(0), row, tir.number(0)), strict=True))
        context = Context(self.buffers, {})
        if written is None:
            out, make = tir.local("tile", tir.stored(self.dtype), self.outputs * size, "global")
            found.append(make)
            start, stride = tir.number(0), size
        else:
            out = self.buffers[written.port]
            start = context.emitter(env).index(written.index)
            stride = max(written.index.factor(conv.epilogue.axes[1]) or 0, size)
        if not self.is_plain:
            unfolded, make = tir.local(
                "unfolded", tir.stored(self.dtype), self.depth * size, "global"
            )
            found.append(make)
        for_group = []

        def group(number: Expr) -> list[Stmt]:
            made: list[Stmt] = []
            n, c, _, _ = conv.x.strides
            base = image * tir.number(n) + number * tir.number(self.channels * c)
            if self.is_plain:
                source, place, lead = (
                    self.buffers[conv.x.port],
                    base + row * tir.number(self.width),
                    c,
                )
            else:
                made.append(self._unfold(unfolded, base, row, rows))
                source, place, lead = unfolded, tir.number(0), size
            first = number * tir.number(per_group)
            return made + multiplied(
                self.dtype,
                (per_group, size, self.depth),
                Operand(weights[0], first * tir.number(self.depth), weights[1], 1),
                Operand(source, place, max(lead, size), 1),
                Operand(out, start + first * tir.number(stride), stride, 1),
            )

        for_group.append(tir.loop(conv.groups, group, name="group"))
        found += for_group
        if stage is None:
            return found
        inner_c, inner_y, inner_x = Axis(self.outputs), Axis(rows), Axis(self.width)
        axis_n, axis_c = conv.epilogue.axes[:2]
        if written is None:
            place = along(inner_c) * size + along(inner_y) * self.width + along(inner_x)
            element = Load(self.dtype, len(self.buffers), place)
            context = Context([*self.buffers, out], {})
        else:
            element = Load(self.dtype, written.port, written.index)
        first = Axis(self.height)
        rewriter = Rewriter(
            {
                axis_c: along(inner_c),
                axis_y: along(first) + along(inner_y),
                axis_x: along(inner_x),
            }
        )
        local = resolved(stage, {0: element}).over((inner_c, inner_y, inner_x), rewriter)
        return found + points(local, context, {axis_n: image, first: row}, parallel=False)

    def _unfold(self, out: Buffer, base: Expr, row: Expr, rows: int) -> Stmt:
        """[channel, window y, window x, row, column] of the windows of some rows."""
        conv = self.conv
        kh, kw = self.window
        _, c, y, x = conv.x.strides
        _, _, in_height, in_width = conv.x.shape
        size = rows * self.width

        def line(channel: Expr, v: Expr, u: int, r: Expr) -> list[Stmt]:
            """One row of results for one place of the window."""
            into = (
                channel * tir.number(kh * kw) + v * tir.number(kw) + tir.number(u)
            ) * tir.number(size) + r * tir.number(self.width)
            place = (
                (row + r) * tir.number(conv.strides[0])
                + v * tir.number(conv.rhs_dilation[0])
                - tir.number(conv.padding[0][0])
            )
            inside, element = element_at(place, in_height, conv.lhs_dilation[0])
            across = Gathered(
                count=self.width,
                first=u * conv.rhs_dilation[1] - conv.padding[1][0],
                stride=conv.strides[1],
                size=in_width,
                spread=conv.lhs_dilation[1],
                step=x,
            )
            start = base + channel * tir.number(c) + element * tir.number(y)
            copy, zeros = across.copied(out, into, self.buffers[conv.x.port], start)
            whole = conv.padding[0] == (0, 0) and conv.lhs_dilation[0] == 1
            return [copy] if whole else [tir.either(inside, copy, zeros)]

        def place(channel: Expr) -> list[Stmt]:
            def vertical(v: Expr) -> list[Stmt]:
                return [
                    tir.loop(rows, lambda r, u=u: line(channel, v, u, r), name="row")  # type: ignore[misc]
                    for u in range(kw)
                ]

            return [tir.loop(kh, vertical, name="v")]

        return tir.loop(self.channels, place, name="channel")


def copied(out: Buffer, source: Buffer, shape: tuple[int, ...], strides: tuple[int, ...]) -> Stmt:
    """Elements in row-major order of their shape."""

    def nested(axis: int) -> Callable[[Expr, Expr], list[Stmt]]:
        def body(into: Expr, start: Expr) -> list[Stmt]:
            if axis == len(shape):
                return [tir.store(out, into, tir.load(source, start))]
            return [
                tir.loop(
                    shape[axis],
                    lambda i: nested(axis + 1)(
                        into + i * tir.number(prod(shape[axis + 1 :])),
                        start + i * tir.number(strides[axis]),
                    ),
                )
            ]

        return body

    return tir.sequence(nested(0)(tir.number(0), tir.number(0)))
