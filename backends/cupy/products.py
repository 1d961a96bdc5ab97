"""Matrix products: small ones in tiles of our own, large ones by the vendor's library.

The library writes into the result where the epilogue is just that; else into work space, from
where a second function takes the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from weft.backends.cupy.code import Call, Gemm, scratch
from weft.backends.cupy.emit import Emitter, Namer
from weft.backends.cupy.points import index_type, print_points, spread
from weft.backends.cupy.tiling import Side, Sum, factors, print_tiles, run_of
from weft.compiler.index import Axis, along, flat
from weft.compiler.kernel import Matrix, Port, Product, resolved
from weft.compiler.passes.elements import wide
from weft.compiler.passes.views import contiguous
from weft.compiler.scalar import Apply, Load, Result, Scalar

LIBRARY_WORK = 1 << 24  # multiplications from which the library is called


def print_product(product: Product, aligned: frozenset[int]) -> Sequence[Call]:
    m, n, k = product.sizes
    if not product.sums and prod(product.batch) * m * n * k >= LIBRARY_WORK:
        found = _by_library(product, aligned)
        if found:
            return found
    return print_tiles(_sum(product, aligned), "product")


# -- in tiles -------------------------------------------------------------------------------------


def _sum(product: Product, aligned: frozenset[int]) -> Sum:
    *outer, rows, columns = product.epilogue.axes
    shape = tuple(a.extent for a in product.epilogue.axes)
    m, n, k = product.sizes
    type = index_type([product.epilogue], _reach(product))
    at = [(axis, _number(outer, i)) for i, axis in enumerate(outer)]
    return Sum(
        product.ports,
        product.ports[product.lhs.port].dtype,
        product.tf32,
        prod(product.batch),
        (m, n, prod(product.sums) * k),
        _side(product, product.lhs, "m", type, aligned),
        _side(product, product.rhs, "n", type, aligned),
        product.epilogue,
        [*at, (rows, "m"), (columns, "n")],
        flat([along(a) for a in product.epilogue.axes], contiguous(shape).strides),
        type,
    )


def _side(product: Product, matrix: Matrix, name: str, type: str, aligned: frozenset[int]) -> Side:
    """The elements of a matrix; `k` numbers all that is summed."""
    code, outer = Emitter({}, Namer(), type, depth=0), product.epilogue.axes[:-2]
    spread(code, "matrix", outer)
    line, code.lines = code.lines, []
    batch, inner = [code.axes[axis] for axis in outer], "k"
    summed: list[str] = []
    if product.sums:
        *sums, last = (Axis(size) for size in (*product.sums, product.sizes[2]))
        spread(code, "k", (*sums, last))
        summed, inner = [code.axes[axis] for axis in sums], code.axes[last]
    steps = zip((*matrix.batch, *matrix.sums), (*batch, *summed), strict=True)
    parts = [f"{step} * {name}" for step, name in steps if step]
    across, along = matrix.row, matrix.column
    if name == "n":
        across, along = along, across
    wide = "" if type == "int" else f"({type})"
    for step, number in ((across, name), (along, inner)):
        parts.append(f"{wide}{step} * {number}" if step != 1 else f"{wide}{number}")
    start = code.let("auto*", f"p{matrix.port} + {' + '.join(parts)}", "from")
    run = run_of(factors(product.ports[matrix.port].dtype, product.tf32))
    others = (product.sizes[2], across, *matrix.batch, *matrix.sums)
    packed = run > 1 and along == 1 and matrix.port in aligned
    packed = packed and all(step % run == 0 for step in others)
    factor = f"{start}[{wide}{along} * i]"
    return Side(line, code.lines, factor, along == 1, run if packed else 1, packed)


def _number(axes: Sequence[Axis], i: int) -> str:
    """The value of an axis for a number of all of their points."""
    step = prod(a.extent for a in axes[i + 1 :])
    return f"matrix / {step} % {axes[i].extent}"


def _reach(product: Product) -> int:
    """An index that no element of the operands is beyond."""
    m, n, k = product.sizes
    found = 0
    for matrix, rows, columns in ((product.lhs, m, k), (product.rhs, k, n)):
        steps = (*matrix.batch, *matrix.sums, matrix.row, matrix.column)
        sizes = (*product.batch, *product.sums, rows, columns)
        found = max(found, sum(abs(t) * size for t, size in zip(steps, sizes, strict=True)))
    return found


# -- by the library -------------------------------------------------------------------------------


def _by_library(product: Product, aligned: frozenset[int]) -> list[Call]:
    """The library's call and the epilogue; nothing where the batch is no run of matrices."""
    (m, n, _), dtype = product.sizes, wide(product.ports[product.lhs.port].dtype)
    batches = [_one(product.batch, matrix.batch) for matrix in (product.lhs, product.rhs)]
    if None in batches:
        return []
    lhs, rhs = (int(batch or 0) for batch in batches)
    count = prod(product.batch)
    first, second = ((matrix.row, matrix.column) for matrix in (product.lhs, product.rhs))
    left, right = (product.ports[matrix.port] for matrix in (product.lhs, product.rhs))
    direct = _direct(product)
    if direct is not None:
        out, batch, step = direct
        ports, jumps = (left, right, out), (lhs, rhs, batch)
        steps = (first, second, step)
        return [Gemm(ports, count, product.sizes, jumps, steps, product.tf32)]
    kept = scratch("product", dtype, count * m * n)
    jumps, steps = (lhs, rhs, m * n), (first, second, (n, 1))
    gemm = Gemm((left, right, kept), count, product.sizes, jumps, steps, product.tf32)
    axes = product.epilogue.axes
    shape = tuple(a.extent for a in axes)
    port = len(product.ports)
    load = Load(dtype, port, flat([along(a) for a in axes], contiguous(shape).strides))
    stage = resolved(product.epilogue, {0: load})
    return [gemm, print_points((*product.ports, kept), stage, aligned | {port}, "finish")]


def _direct(product: Product) -> tuple[Port, int, tuple[int, int]] | None:
    """Port, batch step and steps of the result, where the epilogue only puts it there."""
    *outer, rows, columns = product.epilogue.axes
    if len(product.epilogue.stores) != 1:
        return None
    (store,) = product.epilogue.stores
    factors = [store.index.factor(axis) for axis in product.epilogue.axes]
    if not _is_product(store.value) or None in factors or store.index.constant:
        return None
    known = [int(factor or 0) for factor in factors]
    used = sum(1 for axis in product.epilogue.axes if store.index.factor(axis))
    batch = _one(tuple(a.extent for a in outer), tuple(known[:-2]))
    row, column = known[-2:]
    row, column = row if rows.extent > 1 else 1, column if columns.extent > 1 else 1
    by_row = column == 1 and row >= columns.extent
    by_column = row == 1 and column >= rows.extent
    if used != len(store.index.terms) or batch is None or not (by_row or by_column):
        return None
    return product.ports[store.port], batch, (row, column)


def _is_product(value: Scalar) -> bool:
    """The product's element as it is, or rounded, which the library does too."""
    if isinstance(value, Apply) and value.op == "cast" and value.dtype.is_narrow:
        (value,) = value.parts
    return isinstance(value, Result)


def _one(shape: tuple[int, ...], strides: tuple[int, ...]) -> int | None:
    """The step between neighbours of all these axes taken as one, if there is such a step."""
    size, stride = 1, 0
    for extent, step in zip(reversed(shape), reversed(strides), strict=True):
        if extent == 1:
            continue
        if size == 1:
            stride = step
        elif step != size * stride:
            return None
        size *= extent
    return stride
