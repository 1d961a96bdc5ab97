"""Sums of products in tiles: what matrix products and convolutions have in common.

Each block makes a tile of the result and puts it through the epilogue. With few tiles and many
factors, a block sums only a part of them, and a second function folds the parts in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weft.backends.cupy import scalar
from weft.backends.cupy.code import Launch, launch, scratch
from weft.backends.cupy.emit import Emitter, Namer
from weft.backends.cupy.nests import print_nest
from weft.compiler.index import Axis, Index, along
from weft.compiler.kernel import Fold, Nest, Port, Stage
from weft.compiler.scalar import Load
from weft.compiler.types import DType

ENOUGH_TILES = 128  # with fewer, smaller tiles or parts of the sum
PART = 128  # factors that make a part of a sum worth while


@dataclass(frozen=True)
class Tiling:
    """Results along a side of a tile, factors at a time, results along a thread's side."""

    side: int
    depth: int
    per_thread: int

    @property
    def threads(self) -> int:
        return (self.side // self.per_thread) ** 2


LARGE, MIDDLE, SMALL = Tiling(128, 8, 8), Tiling(64, 16, 4), Tiling(32, 16, 2)


@dataclass(frozen=True)
class Sum:
    """`out[matrix, m, n] = sum over k of left(m, k) * right(k, n)`, then an epilogue.

    `left` and `right` are the lines of C++ functions; they may use `matrix`, and those on the right
    what `column`, lines for one n, has worked out. `left_along` says that
    neighbours along k are neighbours in memory, `right_along` the same of n. `at` gives the
    epilogue's axes in `matrix`, `m` and `n`; `place` gives `(matrix, m, n)` as one number in them.
    """

    ports: tuple[Port, ...]
    dtype: DType
    count: int
    sizes: tuple[int, int, int]
    left: Sequence[str]
    column: Sequence[str]
    right: Sequence[str]
    left_along: bool
    right_along: bool
    epilogue: Stage
    at: Sequence[tuple[Axis, str]]
    place: Index
    index_type: str


def tiling_for(count: int, sizes: tuple[int, int, int]) -> tuple[Tiling, int]:
    """The largest tiles that are well filled and enough, and parts of the sum if they are few."""
    m, n, k = sizes

    def tiles(tiling: Tiling) -> int:
        return count * -(-m // tiling.side) * -(-n // tiling.side)

    for tiling in (LARGE, MIDDLE):
        if 2 * min(m, n) > tiling.side and tiles(tiling) >= ENOUGH_TILES:
            return tiling, 1
    tiling = MIDDLE if min(m, n) >= MIDDLE.side and k >= 16 * PART else SMALL
    return tiling, max(1, min(k // PART, 2 * ENOUGH_TILES // tiles(tiling)))


def print_tiles(sum: Sum, stem: str) -> list[Launch]:
    """The functions of a sum of products."""
    m, n, k = sum.sizes
    tiling, parts = tiling_for(sum.count, sum.sizes)
    type, index = scalar.type_name(sum.dtype), sum.index_type
    side = tiling.side
    across, down = -(-n // side), -(-m // side)
    body = Emitter({}, Namer(), index)
    shape = (side, side, tiling.depth, tiling.per_thread, tiling.per_thread)
    body.line(f"using Tile = tile::Tile<{type}, {', '.join(map(str, shape))}>;")
    body.line(f"alignas(16) __shared__ {type} memory[Tile::elements];")
    body.line(f"const {index} matrix = blockIdx.x / {across * down};")
    body.line(f"const int number = blockIdx.x % {across * down};")
    body.line(f"const int first_m = number / {across} * {side};")
    body.line(f"const int first_n = number % {across} * {side};")
    step = -(-k // parts)
    body.line(f"const int from = blockIdx.y * {step};")
    body.line(f"const int to = from + {step} < {k} ? from + {step} : {k};")
    with body.block(f"const auto left = [&](int m, int k) -> {type}", "};"):
        body.say(sum.left)
    with body.block("const auto right = [&](int n)", "};"):
        body.say(sum.column)
        with body.block(f"return [=](int k) -> {type}", "};"):
            body.say(sum.right)
    kept = scratch("parts", sum.dtype, parts * sum.count * m * n)
    with body.block(f"const auto finish = [&](int m, int n, {type} product)", "};"):
        if parts == 1:
            for axis, place in sum.at:
                body.axes[axis] = body.let(index, place, "i")
            body.results = {0: "product"}
            body.stores(sum.epilogue.stores)
        else:
            place = f"((size_t)blockIdx.y * {sum.count} + matrix) * {m * n} + (size_t)m * {n} + n"
            body.line(f"p{len(sum.ports)}[{place}] = product;")
    sides = f"{str(sum.left_along).lower()}, {str(sum.right_along).lower()}"
    body.line(f"Tile::product<{sides}>(")
    body.line(f"    first_m, first_n, {m}, {n}, from, to, left, right, finish, memory);")
    grid = (sum.count * across * down, parts, 1)
    if parts == 1:
        return [launch(stem, sum.ports, body.lines, grid, tiling.threads)]
    first = launch(stem, (*sum.ports, kept), body.lines, grid, tiling.threads)
    return [first, *_folded(sum, kept, parts)]


def _folded(sum: Sum, kept: Port, parts: int) -> list[Launch]:
    """The parts of each element's sum, and the epilogue."""
    m, n, _ = sum.sizes
    part = Axis(parts)
    value = Load(sum.dtype, len(sum.ports), sum.place + along(part) * (sum.count * m * n))
    fold = Stage((part,), (Fold(0, "sum", value, sum.dtype),), ())
    last = replace(sum.epilogue, axes=())
    nest = Nest((*sum.ports, kept), sum.epilogue.axes, (fold, last), ())
    return print_nest(nest, frozenset(), in_parts=False)
