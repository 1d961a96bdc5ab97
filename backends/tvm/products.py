"""Matrix products: tiles of the result in a parallel loop, epilogue and all; see `blocks`.

The tiles depend on the sizes alone, never on how many threads there are.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import prod

from tvm import tirx

from weft.backends.tvm import grids, tir
from weft.backends.tvm.blocks import Operand, multiplied
from weft.backends.tvm.nests import Context, points
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Axis, along
from weft.compiler.kernel import Matrix, Product, Stage, Store, resolved, walk
from weft.compiler.scalar import Apply, Load, Result, Rewriter, Scalar

TILE_FLOPS = 500_000  # below this a product is one tile
MOST_TILES = 8
ROWS, COLUMNS, DEPTH = 64, 64, 256  # of a tile, at least, unless there is nothing else to cut
FEW_ROWS = 32
PARTIAL = 1 << 17  # elements of a result that may be summed up from parts


def print_product(product: Product, buffers: list[Buffer]) -> list[Stmt]:
    """The tiles of a product and, while each is in cache, what becomes of its elements."""
    return _Printer(product, buffers).run()


@dataclass(frozen=True)
class _Tiling:
    """Into how many parts rows, columns and the contracted axis are cut."""

    rows: int
    columns: int
    depth: int

    @staticmethod
    def of(product: Product) -> _Tiling:
        """Long rows first: each tile reads the right matrix once. Few rows come last."""
        m, n, k = product.sizes
        flops = 2 * prod(product.sums) * m * n * k
        wanted = min(MOST_TILES, flops * prod(product.batch) // TILE_FLOPS)
        wanted = max(1, wanted // prod(product.batch))
        rows = columns = depth = 1
        while 2 * rows <= wanted and m // (2 * rows) >= ROWS:
            rows *= 2
        while 2 * rows * columns <= wanted and n // (2 * columns) >= COLUMNS:
            columns *= 2
        can_sum = not product.batch and not product.sums and m * n <= PARTIAL
        while can_sum and 2 * rows * columns * depth <= wanted and k // (2 * depth) >= DEPTH:
            depth *= 2
        while 2 * rows * columns * depth <= wanted and m // (2 * rows) >= FEW_ROWS:
            rows *= 2
        return _Tiling(rows, columns, depth)


@dataclass(frozen=True)
class _Cut:
    """An axis in parts of one size, the last one perhaps smaller."""

    size: int
    part: int

    @staticmethod
    def into(size: int, parts: int) -> _Cut:
        part = -(-size // parts)
        return _Cut(size, part if parts == 1 else -(-part // 8) * 8)

    @property
    def count(self) -> int:
        return -(-self.size // self.part)

    @property
    def last(self) -> int:
        return self.size - (self.count - 1) * self.part


@dataclass(frozen=True)
class _Tile:
    """Where a tile is: matrices of the batch, first row, column and step along the depth."""

    batch: list[Expr]
    row: Expr
    column: Expr
    depth: Expr
    sizes: tuple[int, int, int]
    number: Expr  # of the part of the depth


class _Printer:
    def __init__(self, product: Product, buffers: list[Buffer]) -> None:
        self.product, self.buffers = product, buffers
        self.dtype = product.ports[product.lhs.port].dtype
        tiling = _Tiling.of(product)
        m, n, k = product.sizes
        self.cuts = (
            _Cut.into(m, tiling.rows),
            _Cut.into(n, tiling.columns),
            _Cut.into(k, tiling.depth),
        )
        self.partial: Buffer | None = None

    def run(self) -> list[Stmt]:
        sizes = (*self.product.batch, *(cut.count for cut in self.cuts))
        found: list[Stmt] = []
        m, n, _ = self.product.sizes
        if self.cuts[2].count > 1:
            self.partial, make = tir.local(
                "partial", tir.stored(self.dtype), self.cuts[2].count * m * n, "global"
            )
            found.append(make)
        work = 2 * prod(self.product.sizes) * prod(self.product.sums)
        found.append(grids.grid(sizes, self.tiles, work))
        return found + self.together() if self.partial is not None else found

    def tiles(self, place: list[Expr]) -> list[Stmt]:
        """The tile at a place of the grid: one text for all but those at the edges."""
        *batch, down, across, along_depth = place
        at = (down, across, along_depth)
        row, column, depth = (
            i * tir.number(cut.part) for i, cut in zip(at, self.cuts, strict=True)
        )
        edges = [i for i, cut in enumerate(self.cuts) if cut.last != cut.part]
        found: list[Stmt] = []
        for flags in itertools.product((False, True), repeat=len(edges)):
            sizes = [cut.part for cut in self.cuts]
            test = None
            for i, is_last in zip(edges, flags, strict=True):
                here = at[i].equal(tir.number(self.cuts[i].count - 1))
                here = here if is_last else tirx.Not(here)
                test = here if test is None else tirx.all(test, here)
                if is_last:
                    sizes[i] = self.cuts[i].last
            m, n, k = sizes
            body = self.tile(_Tile(batch, row, column, depth, (m, n, k), along_depth))
            found += body if test is None else [tir.when(test, tir.sequence(body))]
        return found

    def tile(self, tile: _Tile) -> list[Stmt]:
        m, n, _ = tile.sizes
        width = self.product.sizes[1]
        if self.partial is not None:
            start = tile.number * tir.number(self.product.sizes[0] * width)
            start = start + tile.row * tir.number(width) + tile.column
            return self.sums(tile, Operand(self.partial, start, width, 1))
        target, stage = _target(self.product)
        *outer, axis_m, axis_n = self.product.epilogue.axes
        env = dict(zip(outer, tile.batch, strict=True))
        found: list[Stmt] = []
        if target is None:
            buffer, make = tir.local("tile", tir.stored(self.dtype), m * n, "global")
            found.append(make)
            out = Operand(buffer, tir.number(0), n, 1)
        else:
            emitter = Context(self.buffers, {}).emitter(
                {**env, axis_m: tile.row, axis_n: tile.column}
            )
            stride = max(target.index.factor(axis_m) or 0, n)
            out = Operand(self.buffers[target.port], emitter.index(target.index), stride, 1)
        found += self.sums(tile, out)
        if stage is None:
            return found
        inner_m, inner_n = Axis(m), Axis(n)
        if target is None:
            context = Context([*self.buffers, buffer], {})
            place = along(inner_m) * n + along(inner_n)
            element: Scalar = Load(self.dtype, len(self.buffers), place)
        else:
            context = Context(self.buffers, {})
            element = Load(self.dtype, target.port, target.index)
        local = resolved(stage, {0: element})
        rows, columns = (axis_m, tile.row, inner_m), (axis_n, tile.column, inner_n)
        return found + _epilogue(local, context, env, rows, columns)

    def sums(self, tile: _Tile, out: Operand) -> list[Stmt]:
        """The product, once for all that is summed over."""
        lhs, rhs, sums = self.product.lhs, self.product.rhs, self.product.sums
        left = _start(lhs, tile.batch, tile.row, tile.depth)
        right = _start(rhs, tile.batch, tile.depth, tile.column)

        def one(place: list[Expr]) -> list[Stmt]:
            factors = [
                Operand(
                    self.buffers[matrix.port],
                    start + grids.element(matrix.sums, place),
                    matrix.row,
                    matrix.column,
                )
                for matrix, start in ((lhs, left), (rhs, right))
            ]
            nth = grids.element([prod(sums[i + 1 :]) for i in range(len(sums))], place)
            add = nth > tir.number(0) if sums else False
            return multiplied(self.dtype, tile.sizes, factors[0], factors[1], out, add)

        return [grids.grid(sums, one)] if sums else one([])

    def together(self) -> list[Stmt]:
        """The parts of the depth added up, and the epilogue on all."""
        stage = self.product.epilogue
        m, n, _ = self.product.sizes
        place = along(stage.axes[-2]) * n + along(stage.axes[-1])
        parts: list[Scalar] = [
            Load(self.dtype, len(self.buffers), place + number * m * n)
            for number in range(self.cuts[2].count)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = Apply(self.dtype, "add", (total, part))
        return points(resolved(stage, {0: total}), Context([*self.buffers, self.partial], {}))


def _epilogue(
    stage: Stage,
    context: Context,
    env: dict[Axis, Expr],
    rows: tuple[Axis, Expr, Axis],
    columns: tuple[Axis, Expr, Axis],
) -> list[Stmt]:
    """The stage over a tile: axes of the whole are the tile's own, and where it starts."""
    axis_m, row, inner_m = rows
    axis_n, column, inner_n = columns
    start_m, start_n = Axis(axis_m.extent), Axis(axis_n.extent)
    rewriter = Rewriter(
        {
            axis_m: along(start_m) + along(inner_m),
            axis_n: along(start_n) + along(inner_n),
        }
    )
    made = stage.over((inner_m, inner_n), rewriter)
    return points(made, context, {**env, start_m: row, start_n: column}, parallel=False)


def _target(product: Product) -> tuple[Store | None, Stage | None]:
    """Where the sums may go, and what is left to do after that.

    They go to a result's own memory if that is laid out in rows and the epilogue reads nothing
    there.
    """
    stage = product.epilogue
    axis_m, axis_n = stage.axes[-2:]
    reads = reads_of(stage)
    dtype = product.ports[product.lhs.port].dtype
    operands = {product.lhs.port, product.rhs.port}
    fit = [
        store
        for store in stage.stores
        if product.ports[store.port].dtype == dtype
        and store.port not in reads | operands
        and (store.index.factor(axis_n) == 1 or axis_n.extent == 1)
        and (store.index.factor(axis_m) or 0) >= (axis_n.extent if axis_m.extent > 1 else 0)
        and all(store.index.factor(axis) is not None for axis in stage.axes)
    ]
    fit.sort(key=lambda store: not isinstance(store.value, Result))
    if not fit:
        return None, stage
    rest = tuple(s for s in stage.stores if s is not fit[0] or not isinstance(s.value, Result))
    return fit[0], Stage(stage.axes, (), rest) if rest else None


def reads_of(stage: Stage) -> set[int]:
    """The ports that a stage reads."""
    found: set[int] = set()

    def visit(scalar: Scalar) -> None:
        if isinstance(scalar, Load):
            found.add(scalar.port)

    walk(stage, visit)
    return found


def _start(matrix: Matrix, batch: list[Expr], row: Expr, column: Expr) -> Expr:
    steps = (*matrix.batch, matrix.row, matrix.column)
    return grids.element(steps, [*batch, row, column])
