"""Where a convolution's sums go: the result's own memory or a tile's, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.nests import Context, points
from weft.backends.tvm.products import reads_of
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Axis, along
from weft.compiler.kernel import Convolution, Nest, Stage, Store, resolved
from weft.compiler.passes.collapse import collapsed
from weft.compiler.scalar import Load, Result, Rewriter

if TYPE_CHECKING:
    from weft.compiler.types import DType


@dataclass(frozen=True)
class Tile:
    """Some of the results. Counts are numbers, or expressions with numbers that bound them."""

    images: tuple[Expr, int | Expr, int]  # the first, how many, at most how many
    outputs: tuple[Expr, int]  # the first, how many; some may lie behind the last one
    rows: tuple[Expr, int | Expr, int]


def target(conv: Convolution) -> tuple[Store | None, Stage | None]:
    """Where sums may be written, see `products`: rows of a result that nothing else reads."""
    stage = conv.epilogue
    _, axis_c, axis_y, axis_x = stage.axes
    width, dtype = axis_x.extent, conv.ports[conv.x.port].dtype
    taken = reads_of(stage) | {conv.x.port, conv.kernel.port}
    for store in sorted(stage.stores, key=lambda s: not isinstance(s.value, Result)):
        factors = [store.index.factor(axis) for axis in stage.axes]
        if (
            conv.ports[store.port].dtype == dtype
            and store.port not in taken
            and None not in factors
            and (factors[3] == 1 or width == 1)
            and (factors[2] == width or axis_y.extent == 1)
            and ((factors[1] or 0) >= width * axis_y.extent or axis_c.extent == 1)
        ):
            rest = tuple(
                s for s in stage.stores if s is not store or not isinstance(s.value, Result)
            )
            return store, Stage(stage.axes, (), rest) if rest else None
    return None, stage


class Results:
    """The memory of a tile's sums: rows of results for each image and output."""

    def __init__(self, conv: Convolution, buffers: list[Buffer], tile: Tile, dtype: DType) -> None:
        self.conv, self.tile, self.dtype = conv, tile, dtype
        self.store, self.stage = target(conv)
        self.width = conv.shape[3]
        self.size = tile.rows[2] * self.width
        self.makes: list[Stmt] = []
        self.context = Context(buffers, {})
        if self.store is not None:
            self.buffer = buffers[self.store.port]
            return
        count = tile.images[2] * tile.outputs[1] * self.size
        self.buffer, make = tir.local("tile", tir.stored(dtype), count, "global")
        self.makes.append(make)
        self.context = Context([*buffers, self.buffer], {})

    def place(self, image: Expr, output: Expr) -> Expr:
        """Where the tile's results of an image and an output begin."""
        if self.store is None:
            return (image * tir.number(self.tile.outputs[1]) + output) * tir.number(self.size)
        starts = (
            self.tile.images[0] + image,
            self.tile.outputs[0] + output,
            self.tile.rows[0],
            tir.number(0),
        )
        env = dict(zip(self.conv.epilogue.axes, starts, strict=True))
        return self.context.emitter(env).index(self.store.index)

    def turned(
        self, sums: Buffer, start: Expr, stride: int, image: Expr, output: Expr, size: int | Expr
    ) -> list[Stmt]:
        """Vectors of outputs, one for each result, to rows of results, one for each output."""
        name = tir.stored(self.dtype)
        lanes = vectors.lanes_for(self.dtype, self.conv.shape[1])
        outputs = self.conv.shape[1]
        first = self.tile.outputs[0] + output

        def row(number: Expr | int, body: list[Stmt]) -> list[Stmt]:
            if outputs % lanes == 0:
                return body
            there = first + number < tir.number(outputs)
            return [tir.when(there, tir.sequence(body))]

        def square(at: Expr, count: int) -> list[Stmt]:
            registers = vectors.Registers(name, lanes)
            rows = [
                (sums, start + (at + tir.number(min(r, count - 1))) * tir.number(stride))
                for r in range(lanes)
            ]
            moves, columns = vectors.turned(registers, rows, lanes)
            stores = [
                part
                for r, column in enumerate(columns)
                for part in row(
                    tir.number(r),
                    [
                        vectors.store_first(
                            self.buffer,
                            self.place(image, output + tir.number(r)) + at,
                            column.value,
                            lanes,
                            count,
                        )
                    ],
                )
            ]
            return [*registers.made, *moves, *stores]

        def block(b: Expr) -> list[Stmt]:
            return square(b * tir.number(lanes), lanes)

        def single(p: Expr) -> list[Stmt]:
            return [
                tir.loop(
                    lanes,
                    lambda lane: row(
                        lane,
                        [
                            tir.store(
                                self.buffer,
                                self.place(image, output + lane) + p,
                                tir.load(sums, start + p * tir.number(stride) + lane),
                            )
                        ],
                    ),
                    name="lane",
                )
            ]

        if isinstance(size, int):
            full, rest = divmod(size, lanes)
            found = [tir.loop(full, block, name="block")] if full else []
            return [*found, *(square(tir.number(full * lanes), rest) if rest else [])]
        count = tirx.truncdiv(size, tir.number(lanes))
        begin = count * tir.number(lanes)
        return [
            tir.loop(count, block, name="block"),
            tir.loop(size - begin, lambda p: single(begin + p), name="result"),
        ]

    def epilogue(self, image: Expr) -> list[Stmt]:
        """What becomes of an image's results in the tile."""
        if self.stage is None:
            return []
        outputs, rows = self.tile.outputs[1], self.tile.rows[1]
        there: int | Expr = outputs
        if self.conv.shape[1] % outputs:
            left = tir.number(self.conv.shape[1]) - self.tile.outputs[0]
            there = tirx.min(tir.number(outputs), left)
        whole = isinstance(there, int) and isinstance(rows, int)
        if whole:
            return self._points(image, tir.number(0), tir.number(0), outputs, self.tile.rows[2])
        return [
            tir.loop(
                there,
                lambda o: [tir.loop(rows, lambda r: self._points(image, o, r, 1, 1), name="row")],
                name="output",
            )
        ]

    def _points(self, image: Expr, output: Expr, row: Expr, outputs: int, rows: int) -> list[Stmt]:
        assert self.stage is not None
        axes = inner_c, inner_y, inner_x = Axis(outputs), Axis(rows), Axis(self.width)
        count = self.tile.images[2] * self.tile.outputs[1] * self.size
        starts = start_n, start_c, start_y, begin = [Axis(n) for n in (*self.conv.shape[:3], count)]
        place = along(begin) + along(inner_c) * self.size
        element = Load(
            self.dtype,
            len(self.context.buffers) - 1,
            place + along(inner_y) * self.width + along(inner_x),
        )
        if self.store is not None:
            element = Load(self.dtype, self.store.port, self.store.index)
        moved = (
            along(start_n),
            along(start_c) + along(inner_c),
            along(start_y) + along(inner_y),
            along(inner_x),
        )
        rewriter = Rewriter(dict(zip(self.conv.epilogue.axes, moved, strict=True)))
        stage = resolved(self.stage, {0: element}).over(axes, rewriter)
        (stage,) = collapsed(Nest((), (), (stage,), ())).stages
        at = (
            self.tile.images[0] + image,
            self.tile.outputs[0] + output,
            self.tile.rows[0] + row,
            (image * tir.number(self.tile.outputs[1]) + output) * tir.number(self.size)
            + row * tir.number(self.width),
        )
        return points(stage, self.context, dict(zip(starts, at, strict=True)), parallel=False)
