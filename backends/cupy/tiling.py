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
from weft.compiler.passes.elements import wide
from weft.compiler.scalar import Load
from weft.compiler.types import DType

ENOUGH_TILES = 128  # with fewer, smaller tiles or parts of the sum
PART = 128  # factors that make a part of a sum worth while
WHOLE = 8  # parts begin at multiples of what is read at once


@dataclass(frozen=True)
class Tiling:
    """The rows and columns of a tile. `depth` factors at a time, and results of a thread down and
    along, are for CUDA cores; tensor cores have as many threads, in `warps` rows of warps.
    """

    rows: int
    columns: int
    depth: int
    down: int
    along: int
    warps: int = 1

    @property
    def lanes(self) -> int:
        """Threads that have the same rows, on CUDA cores."""
        return self.columns // self.along

    @property
    def threads(self) -> int:
        return self.rows // self.down * self.lanes

    def tile(self, factors: str) -> str:
        """The C++ type of a tile of such factors."""
        sizes = (self.rows, self.columns, self.depth, self.down, self.along, self.warps)
        return f"tile::Tile<{factors}, {', '.join(map(str, sizes))}>"


Tilings = tuple[Tiling, Tiling, Tiling]
"""For large sums, for middle ones, and for small ones."""

ON_CUDA_CORES: Tilings = (
    Tiling(128, 128, 8, 8, 8),
    Tiling(64, 64, 16, 4, 4),
    Tiling(32, 32, 16, 2, 2),
)
ON_TENSOR_CORES: Tilings = (
    Tiling(128, 128, 8, 8, 8, warps=2),  # 2 x 4 warps of 64 x 32
    Tiling(64, 64, 16, 8, 4, warps=2),  # 2 x 2 warps of 32 x 32
    Tiling(32, 32, 16, 4, 2, warps=2),  # 2 x 2 warps of 16 x 16
)


@dataclass(frozen=True)
class Side:
    """The factors on one side: what the lines of C++ functions within one another work out.

    `line` is for each row `m` or column `n`, `start` for each `k`, and `factor` gives that at
    `k + i`; all may use `matrix`. `along`, `run` and `packed` are as in `tile::Reading`.
    """

    line: Sequence[str]
    start: Sequence[str]
    factor: str
    along: bool
    run: int = 1
    packed: bool = False

    @property
    def reading(self) -> str:
        return reading(self.along, self.run, self.packed)


@dataclass(frozen=True)
class Sum:
    """`out[matrix, m, n] = sum over k of left(m, k) * right(k, n)`, then an epilogue.

    Factors have the type `dtype`, and may be rounded to TF32 if `tf32`. `at` gives the epilogue's
    axes in `matrix`, `m` and `n`; `place` gives `(matrix, m, n)` as one number in them.
    """

    ports: tuple[Port, ...]
    dtype: DType
    tf32: bool
    count: int
    sizes: tuple[int, int, int]
    left: Side
    right: Side
    epilogue: Stage
    at: Sequence[tuple[Axis, str]]
    place: Index
    index_type: str


def reading(along: bool, run: int, packed: bool) -> str:
    """The C++ type that says how factors are read."""
    return f"tile::Reading<{str(along).lower()}, {run}, {str(packed).lower()}>"


def run_of(factors: str) -> int:
    """How many factors tensor cores have in 16 bytes; others are read one by one."""
    return {"f16": 8, "bf16": 8, "tf32": 4}.get(factors, 1)


def factors(dtype: DType, tf32: bool) -> str:
    """The C++ type of factors: another than that of their sums where tensor cores have it."""
    return "tf32" if tf32 else scalar.type_name(dtype)


def tiling_for(
    count: int, sizes: tuple[int, int, int], tilings: Tilings = ON_CUDA_CORES
) -> tuple[Tiling, int]:
    """The largest tiles that are well filled and enough, and parts of the sum if they are few."""
    m, n, k = sizes
    large, middle, small = tilings

    def tiles(tiling: Tiling) -> int:
        return count * -(-m // tiling.rows) * -(-n // tiling.columns)

    for tiling in (large, middle):
        if 2 * min(m, n) > tiling.rows and tiles(tiling) >= ENOUGH_TILES:
            return tiling, 1
    tiling = middle if min(m, n) >= middle.rows and k >= 16 * PART else small
    return tiling, max(1, min(k // PART, 2 * ENOUGH_TILES // tiles(tiling)))


def print_tiles(sum: Sum, stem: str) -> list[Launch]:
    """The functions of a sum of products."""
    m, n, k = sum.sizes
    name = factors(sum.dtype, sum.tf32)
    tilings = ON_CUDA_CORES if name == scalar.computed_name(sum.dtype) else ON_TENSOR_CORES
    tiling, parts = tiling_for(sum.count, sum.sizes, tilings)
    summed = wide(sum.dtype)
    type, index = scalar.type_name(summed), sum.index_type
    across, down = -(-n // tiling.columns), -(-m // tiling.rows)
    body = Emitter({}, Namer(), index)
    body.line(f"using Tile = {tiling.tile(name)};")
    body.line("alignas(16) __shared__ Tile::Shared memory[Tile::elements];")
    body.line(f"const {index} matrix = blockIdx.x / {across * down};")
    body.line(f"const int number = blockIdx.x % {across * down};")
    body.line(f"const int first_m = number / {across} * {tiling.rows};")
    body.line(f"const int first_n = number % {across} * {tiling.columns};")
    step = -(-k // parts // WHOLE) * WHOLE
    body.line(f"const int from = blockIdx.y * {step};")
    body.line(f"const int to = from + {step} < {k} ? from + {step} : {k};")
    for word, line, factor in (("left", "m", sum.left), ("right", "n", sum.right)):
        with body.block(f"const auto {word} = [&](int {line})", "};"):
            body.say(factor.line)
            with body.block("return [=](int k)", "};"):
                body.say(factor.start)
                element = scalar.type_name(sum.dtype)
                kind = f"const {element}&" if factor.packed else element
                body.line(f"return [=](int i) -> {kind} {{ return {factor.factor}; }};")
    kept = scratch("parts", summed, parts * sum.count * m * n)
    with body.block(f"const auto finish = [&](int m, int n, {type} product)", "};"):
        if parts == 1:
            for axis, place in sum.at:
                body.axes[axis] = body.let(index, place, "i")
            body.results = {0: "product"}
            body.stores(sum.epilogue.stores)
        else:
            place = f"((size_t)blockIdx.y * {sum.count} + matrix) * {m * n} + (size_t)m * {n} + n"
            body.line(f"p{len(sum.ports)}[{place}] = product;")
    body.line(f"Tile::product<{sum.left.reading}, {sum.right.reading}>(")
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
    dtype = wide(sum.dtype)
    value = Load(dtype, len(sum.ports), sum.place + along(part) * (sum.count * m * n))
    fold = Stage((part,), (Fold(0, "sum", value, dtype),), ())
    last = replace(sum.epilogue, axes=())
    nest = Nest((*sum.ports, kept), sum.epilogue.axes, (fold, last), ())
    return print_nest(nest, frozenset(), in_parts=False)
