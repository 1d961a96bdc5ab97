"""Attention as one function: a block has a tile of rows and goes through tiles of columns.

    tile of scores    products along the head, in registers      rows x columns
    its values        masks, softmax, gradients: elementwise      to shared memory
    tile of results   values times v (k, q, do), in registers     rows x head

Nothing of rows by columns is in memory. A block alone writes its rows and goes through the columns
in order, so results don't depend on how blocks run. All that is shared fits the 48 KB that every
GPU has, with results of up to 128 columns. On tensor cores a warp has 16 rows, and values stay in
registers: the sums that a thread has are just what it has to have of a factor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from math import prod

from weft.backends.cupy import scalar
from weft.backends.cupy.code import Launch, launch
from weft.backends.cupy.emit import Emitter, Namer
from weft.backends.cupy.points import index_type, spread
from weft.backends.cupy.tiling import ENOUGH_TILES, Tiling, factors, reading, run_of
from weft.compiler.index import Index
from weft.compiler.kernel import Attention, Fold, Hidden, Matrix, Outer, Stage
from weft.compiler.passes.elements import wide

WIDEST = 128  # columns of a result
NARROWEST = 16  # columns of a result on tensor cores

# Rows by columns at a time: for CUDA cores, where tiles are many or few, and for tensor cores.
LARGE, SMALL = Tiling(64, 64, 16, 4, 4), Tiling(32, 32, 16, 2, 4)
OF_16_BITS, OF_TF32 = Tiling(64, 64, 16, 8, 4, warps=4), Tiling(64, 32, 16, 4, 4, warps=4)


def print_attention(attention: Attention, aligned: frozenset[int]) -> Launch:
    return _Attention(attention, aligned).run()


class _Attention:
    """The lines of the function, in the order in which it works."""

    def __init__(self, attention: Attention, aligned: frozenset[int]) -> None:
        self.a, self.aligned = attention, aligned
        self.rows, self.columns = attention.rows.extent, attention.columns.extent
        self.dtype = wide(attention.outer[0].value.dtype)
        self.type = scalar.type_name(self.dtype)
        self.factors, self.tiling = self._tiling()
        self.code = Emitter({}, Namer(), self._index_type())
        self.line = self.code.line

    def _tiling(self) -> tuple[str, Tiling]:
        """The C++ type of factors, and tiles. Where types of factors differ, all are the widest."""
        a = self.a
        matrices = [m for inner in a.inner for m in (inner.left, inner.right)]
        matrices += [outer.factor for outer in a.outer]
        dtypes = {a.ports[matrix.port].dtype for matrix in matrices}
        name = factors(dtypes.pop() if len(dtypes) == 1 else self.dtype, a.tf32)
        if a.tf32:
            return name, OF_TF32
        if name != self.type:
            return name, OF_16_BITS
        count = prod(axis.extent for axis in a.batch) * -(-self.rows // LARGE.rows)
        enough = max(self.rows, self.columns) > SMALL.rows and count >= ENOUGH_TILES
        return name, LARGE if enough and self.dtype.bits <= 32 else SMALL

    def _index_type(self) -> str:
        a = self.a
        values = [outer.value for outer in a.outer]
        values += [] if a.softmax is None else [a.softmax.score]
        values += [] if a.hidden is None else [a.hidden.weight]
        folds = tuple(Fold(i, "sum", value, value.dtype) for i, value in enumerate(values))
        stores = tuple(outer.store for outer in a.outer)
        stages = [Stage((), folds, ()), Stage((), (), stores)]
        sides = [(m, inner.depth) for inner in a.inner for m in (inner.left, inner.right)]
        sides += [(outer.factor, outer.axis.extent) for outer in a.outer]
        longest = max(self.rows, self.columns)
        reach = max(
            sum(
                abs(step) * size
                for step, size in zip(
                    (*m.batch, m.row, m.column),
                    (*(axis.extent for axis in a.batch), longest, across),
                    strict=True,
                )
            )
            for m, across in sides
        )
        return index_type(stages, reach)

    def run(self) -> Launch:
        a, tiles = self.a, -(-self.rows // self.tiling.rows)
        self._begin(tiles)
        self._functions()
        self._before()
        if a.hidden is None:
            with self._columns():
                self._turn()
        else:
            self._all_but(a.hidden)
        self._after()
        blocks = tiles * prod(axis.extent for axis in a.batch)
        return launch("attention", a.ports, self.code.lines, (blocks, 1, 1), self.tiling.threads)

    # -- what there is ----------------------------------------------------------------------------

    def _begin(self, tiles: int) -> None:
        """Tiles, shared memory, and which rows of which matrix are this block's."""
        line, scores = self.line, self.tiling
        line(f"using Scores = {scores.tile(self.factors)};")
        widths = [self._width(outer) for outer in self.a.outer]
        for i, width in enumerate(widths):
            sums = replace(scores, columns=width, along=width // scores.lanes)
            line(f"using Sums{i} = {sums.tile(self.factors)};")
        widest = max(range(len(widths)), key=lambda i: widths[i])
        largest = f"Sums{widest}" if widths[widest] > scores.columns else "Scores"
        size = f"{largest}::elements + Scores::held"
        line(f"alignas(16) __shared__ Scores::Shared memory[{size}];")
        line(f"Scores::Shared* const held = memory + {largest}::elements;")
        line(f"const {self.code.index_type} matrix = blockIdx.x / {tiles};")
        line(f"const int first_m = blockIdx.x % {tiles} * {scores.rows};")
        spread(self.code, "matrix", self.a.batch)
        self.code.vector = None

    def _width(self, outer: Outer) -> int:
        """Columns of the tile of results: a power of two that its threads share evenly."""
        least = max(self.tiling.lanes, NARROWEST if self.tiling.warps > 1 else 1)
        return max(least, 1 << (outer.axis.extent - 1).bit_length())

    def _functions(self) -> None:
        """Functions of the kernel's own: where elements are, and what becomes of them."""
        code, type, index = self.code, self.type, self.code.index_type
        pair = f"{index} row, {index} column"
        code.axes |= {self.a.rows: "row", self.a.columns: "column"}
        for i, inner in enumerate(self.a.inner):
            self._factors(f"left{i}", inner.left)
            self._factors(f"right{i}", inner.right)
        for i, outer in enumerate(self.a.outer):
            self._factors(f"factor{i}", _turned(outer.factor))
        results = {i: f"product{i}" for i in range(len(self.a.inner))}
        products = "".join(f", {type} {name}" for name in results.values())
        softmax = self.a.softmax
        if softmax is not None:
            code.results = results
            with code.block(f"const auto score = [&]({pair}{products}) -> {type}", "};"):
                self.line(f"return {code.one(softmax.score)};")
            results = {softmax.weight: "weight"}
            products = f", {type} weight"
        code.results = results
        found = "".join(f", {type}& value{i}" for i in range(len(self.a.outer)))
        with code.block(f"const auto evaluate = [&]({pair}{products}{found})", "};"):
            for i, outer in enumerate(self.a.outer):
                self.line(f"value{i} = {code.one(outer.value)};")

    def _factors(self, name: str, matrix: Matrix) -> None:
        """The function of a row that gives functions of k, a column, as `tile::Tile` has them."""
        code, port = self.code, f"p{matrix.port}"
        parts = [
            f"{step} * {code.axes[axis]}"
            for step, axis in zip(matrix.batch, self.a.batch, strict=True)
            if step
        ]
        kept = scalar.type_name(self.a.ports[matrix.port].dtype)
        start = code.let(f"{kept}* const", " + ".join([port, *parts]), "start")
        wide = "" if code.index_type == "int" else f"({code.index_type})"
        place = f"{start} + ({wide}{matrix.row} * row + {wide}{matrix.column} * k)"
        with (
            code.block(f"const auto {name} = [&](int row)", "};"),
            code.block("return [=](int k)", "};"),
        ):
            self.line(f"const {kept}* from = {place};")
            step = f"{wide}{matrix.column} * i"
            self.line(f"return [=](int i) -> const {kept}& {{ return from[{step}]; }};")

    def _reading(self, matrix: Matrix, depth: int) -> str:
        """How `depth` columns of each row of a matrix are read."""
        run, near = run_of(self.factors), matrix.column == 1
        packed = run > 1 and near and matrix.port in self.aligned
        packed = packed and all(step % run == 0 for step in (depth, matrix.row, *matrix.batch))
        return reading(near, run if packed else 1, packed)

    # -- what is done -----------------------------------------------------------------------------

    def _before(self) -> None:
        for i in range(len(self.a.outer)):
            self.line(f"Sums{i}::Sums sums{i};")
            self.line(f"Sums{i}::clear(sums{i});")
        if self.a.softmax is not None:
            rows = (f"{name}[Scores::up]" for name in ("maximum", "total", "scale"))
            self.line(f"{self.type} {', '.join(rows)};")
            with self._rows():
                self.line(f"maximum[i] = -op::infinity<{self.type}>();")
                self.line(f"total[i] = {self.type}(0);")

    def _rows(self) -> AbstractContextManager[None]:
        self.line("#pragma unroll")
        return self.code.block("for (int i = 0; i < Scores::up; i++)")

    def _columns(self) -> AbstractContextManager[None]:
        step = f"first_n += {self.tiling.columns}"
        self.line("#pragma unroll 1")
        return self.code.block(f"for (int first_n = 0; first_n < {self.columns}; {step})")

    @contextmanager
    def _pairs(self) -> Iterator[None]:
        """For each pair of the thread: its row and column, and whether it is one."""
        with self._rows():
            self.line("const int row = first_m + Scores::row(Scores::own_up(), i);")
            self.line("#pragma unroll")
            with self.code.block("for (int j = 0; j < Scores::side; j++)"):
                self.line("const int column = first_n + Scores::column(Scores::own_side(), j);")
                inside = f"row < {self.rows} && column < {self.columns}"
                self.line(f"const bool inside = {inside};")
                yield

    def _turn(self) -> None:
        """One tile of columns."""
        line, type, a = self.line, self.type, self.a
        sizes = f"first_m, first_n, {self.rows}, {self.columns}"
        for i, inner in enumerate(a.inner):
            sides = (self._reading(m, inner.depth) for m in (inner.left, inner.right))
            line(f"Scores::Sums products{i};")
            line(f"Scores::clear(products{i});")
            line(f"Scores::accumulate<{', '.join(sides)}>(")
            line(f"    products{i}, {sizes}, 0, {inner.depth}, left{i}, right{i}, memory);")
        given = "".join(f", products{i}[i][j]" for i in range(len(a.inner)))
        if a.softmax is not None:
            with self._pairs():
                lowest = f"-op::infinity<{type}>()"
                line(f"products0[i][j] = inside ? score(row, column{given}) : {lowest};")
            line("attention::weigh<Scores::lanes>(products0, maximum, total, scale);")
            for i in range(len(a.outer)):
                line(f"Sums{i}::scale(sums{i}, scale);")
            given = ", products0[i][j]"
        count = range(len(a.outer))
        names = [f"values{i}" for i in count]
        line(f"Scores::Sums {', '.join(names)};")
        with self._pairs():
            line(" ".join(f"{name}[i][j] = {type}(0);" for name in names))
            into = "".join(f", {name}[i][j]" for name in names)
            line(f"if (inside) evaluate(row, column{given}{into});")
        for i, outer in enumerate(a.outer):
            side = self._reading(_turned(outer.factor), self.columns)
            line(f"Sums{i}::follow<Scores, {side}>(")
            sizes = f"{outer.axis.extent}, first_n, {self.columns}"
            line(f"    sums{i}, values{i}, {sizes}, factor{i}, memory, held);")

    def _all_but(self, hidden: Hidden) -> None:
        """The columns without tiles that are hidden as a whole, where these add nothing."""
        line, code, a = self.line, self.code, self.a
        with code.block("const auto is_hidden = [&](int first_n) -> bool", "};"):
            tile = self.tiling
            for name, side, size in (
                ("m", tile.rows, self.rows),
                ("n", tile.columns, self.columns),
            ):
                end = f"first_{name} + {side - 1}"
                line(f"const int last_{name} = {end} < {size} ? {end} : {size - 1};")
            line(f"return {' || '.join(f'{self._least(gap)} > 0' for gap in hidden.gaps)};")
        by_row = hidden.query is a.rows
        query, given = ("row" if by_row else "column"), ""
        if a.softmax is not None:
            code.results = {a.softmax.maximum: "top"}
            given = f", {self.type} top"
        with code.block(f"const auto counts = [&]({code.index_type} {query}{given})", "};"):
            line(f"return {code.one(hidden.weight)} != {self.type}(0);")
        if by_row and a.softmax is not None:
            line("// What is hidden comes last, and only for rows that have seen nothing else.")
            line("#pragma unroll 1")
            with code.block("for (int late = 0; late < 2; late++)"):
                with code.block("if (late)"):
                    self._any_row(", maximum[i]")
                    line("if (!__syncthreads_or(wanted)) break;")
                with self._columns():
                    line("if (is_hidden(first_n) != (late == 1)) continue;")
                    self._turn()
        elif by_row:
            self._any_row("")
            line("const bool all = __syncthreads_or(wanted);")
            with self._columns():
                line("if (!all && is_hidden(first_n)) continue;")
                self._turn()
        else:
            with self._columns():
                with code.block("if (is_hidden(first_n))"):
                    line("const int column = first_n + threadIdx.x;")
                    inside = f"threadIdx.x < {self.tiling.columns} && column < {self.columns}"
                    line(f"if (!__syncthreads_or({inside} && counts(column))) continue;")
                self._turn()

    def _any_row(self, given: str) -> None:
        """Whether what is hidden counts for a row of the thread."""
        self.line("bool wanted = false;")
        with self._rows():
            self.line("const int row = first_m + Scores::row(Scores::own_up(), i);")
            self.line(f"if (row < {self.rows} && counts(row{given})) wanted = true;")

    def _least(self, gap: Index) -> str:
        """The least value of a gap in a tile."""
        parts = [str(gap.constant)]
        for axis, name in ((self.a.rows, "m"), (self.a.columns, "n")):
            factor = gap.factor(axis) or 0
            if factor:
                parts.append(f"{factor} * {'first' if factor > 0 else 'last'}_{name}")
        return " + ".join(parts)

    def _after(self) -> None:
        """Results to where they are wanted."""
        code, type, softmax = self.code, self.type, self.a.softmax
        results: dict[int, str] = {}
        if softmax is not None:
            results = {softmax.maximum: "maximum[i]", softmax.total: "total[i]"}
            if softmax.stores:
                code.results = results
                with code.block("if (Scores::own_side() == 0)"), self._rows():
                    self.line("const int row = first_m + Scores::row(Scores::own_up(), i);")
                    with code.block(f"if (row < {self.rows})"):
                        code.stores(softmax.stores)
            with self._rows():
                self.line(f"scale[i] = {type}(1) / total[i];")
        for i, outer in enumerate(self.a.outer):
            if softmax is not None:
                self.line(f"Sums{i}::scale(sums{i}, scale);")
            code.axes[outer.axis] = "n"
            code.results = {outer.number: "sum"}
            with code.block(f"const auto finish{i} = [&](int row, int n, {type} sum)", "};"):
                code.stores((outer.store,))
            sizes = f"first_m, 0, {self.rows}, {outer.axis.extent}"
            self.line(f"Sums{i}::put(sums{i}, {sizes}, finish{i}, memory);")


def _turned(matrix: Matrix) -> Matrix:
    """The transpose."""
    return replace(matrix, row=matrix.column, column=matrix.row)
