"""Matrix products: single-threaded BLAS on tiles inside of TVM's parallel loop, epilogue and all.

The tiles depend on the sizes alone, never on how many threads there are.
"""

from __future__ import annotations

from math import prod

from tvm import tirx

from weft.backends.tvm import tir
from weft.backends.tvm.nests import PARALLEL_WORK, Context, points
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Axis, along
from weft.compiler.kernel import Load, Matrix, Product, Result, Rewriter, Scalar, Stage, Store, walk
from weft.compiler.types import DType

_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112
_ROUTINE = {"f32": "scipy_cblas_sgemm", "f64": "scipy_cblas_dgemm"}
TILE_FLOPS = 2_000_000  # a tile is at least this much work


def print_product(product: Product, buffers: list[Buffer]) -> list[Stmt]:
    """The tiles of a product and, while each is in cache, what becomes of its elements."""
    m, n, k = product.sizes
    flops = 2 * prod(product.batch) * m * n * k
    parallel = flops > 16 * PARALLEL_WORK
    tile_m, tile_n = _tile(m, n, k) if parallel else (m, n)
    context = Context(buffers, {})
    tiles = [Axis(size) for size in product.batch]
    down, across = Axis(-(-m // tile_m)), Axis(-(-n // tile_n))
    count = prod(product.batch) * down.extent * across.extent

    def tile(flat: Expr) -> list[Stmt]:
        env: dict[Axis, Expr] = {}
        step = 1
        for axis in reversed((*tiles, down, across)):
            env[axis] = tirx.truncmod(
                tirx.truncdiv(flat, tir.number(step)), tir.number(axis.extent)
            )
            step *= axis.extent
        row, column = env[down] * tir.number(tile_m), env[across] * tir.number(tile_n)
        batch = [env[axis] for axis in tiles]
        return _edges(product, context, batch, row, column, tile_m, tile_n, env[down], env[across])

    return [tir.loop(count, tile, "parallel" if parallel and count > 1 else "serial", "tile")]


def _tile(m: int, n: int, k: int) -> tuple[int, int]:
    """Rows and columns of a tile: wide ones, enough of them to share out."""
    rows = m
    while rows > 64 and (rows // 2) * n * k * 2 >= TILE_FLOPS:
        rows = -(-rows // 2)
    columns = n
    while m <= 2 * rows and columns > 128 and (columns // 2) * rows * k * 2 >= TILE_FLOPS:
        columns = -(-columns // 2)
    return rows, columns


def _edges(
    product: Product,
    context: Context,
    batch: list[Expr],
    row: Expr,
    column: Expr,
    tile_m: int,
    tile_n: int,
    down: Expr,
    across: Expr,
) -> list[Stmt]:
    """A tile, smaller at the lower and right edges of the result."""
    m, n, _ = product.sizes
    rest_m, rest_n = m % tile_m or tile_m, n % tile_n or tile_n
    last_m, last_n = m // tile_m, n // tile_n
    found: list[Stmt] = []
    if rest_m == tile_m and rest_n == tile_n:
        return _one(product, context, batch, row, column, tile_m, tile_n)
    at_m, at_n = down.equal(tir.number(last_m)), across.equal(tir.number(last_n))
    for edge_m in (False, True) if rest_m != tile_m else (False,):
        for edge_n in (False, True) if rest_n != tile_n else (False,):
            test = tirx.const(True, "bool")
            if rest_m != tile_m:
                test = tirx.all(test, at_m if edge_m else tirx.Not(at_m))
            if rest_n != tile_n:
                test = tirx.all(test, at_n if edge_n else tirx.Not(at_n))
            size_m, size_n = rest_m if edge_m else tile_m, rest_n if edge_n else tile_n
            body = _one(product, context, batch, row, column, size_m, size_n)
            found.append(tir.when(test, tir.sequence(body)))
    return found


def _one(
    product: Product,
    context: Context,
    batch: list[Expr],
    row: Expr,
    column: Expr,
    m: int,
    n: int,
) -> list[Stmt]:
    k, buffers = product.sizes[2], context.buffers
    dtype = product.ports[product.lhs.port].dtype
    left = _start(product.lhs, batch, row, None)
    right = _start(product.rhs, batch, None, column)
    target, stage = _target(product)
    found: list[Stmt] = []
    *outer, axis_m, axis_n = product.epilogue.axes
    env = dict(zip(outer, batch, strict=True))
    if target is None:
        buffer, make = tir.local("tile", tir.stored(dtype), m * n, "global")
        found.append(make)
        out = buffer, tir.number(0), n
    else:
        emitter = context.emitter({**env, axis_m: row, axis_n: column})
        stride = max(target.index.factor(axis_m) or 0, n)
        out = context.buffers[target.port], emitter.index(target.index), stride
    found.append(
        gemm(
            dtype,
            (m, n, k),
            (buffers[product.lhs.port], left, *_lead(product.lhs)),
            (buffers[product.rhs.port], right, *_lead(product.rhs)),
            out,
        )
    )
    if stage is None:
        return found
    inner_m, inner_n = Axis(m), Axis(n)
    if target is None:
        element: Scalar = Load(dtype, len(context.buffers), along(inner_m) * n + along(inner_n))
        context = Context([*context.buffers, buffer], {})
    else:
        element = Load(dtype, target.port, target.index)
    local = with_result(stage, element)
    return found + _epilogue(local, context, env, (axis_m, row, inner_m), (axis_n, column, inner_n))


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
    made = rewriter.stage(stage, (inner_m, inner_n))
    return points(made, context, {**env, start_m: row, start_n: column}, parallel=False)


def _target(product: Product) -> tuple[Store | None, Stage | None]:
    """Where BLAS may write, and what is left to do after it.

    It writes to a result's own memory if that is laid out in rows and the epilogue reads nothing
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


def with_result(stage: Stage, element: Scalar) -> Stage:
    """The stage with the product's element in place of `Result(0)`."""
    done: dict[int, tuple[Scalar, Scalar]] = {}

    def put(scalar: Scalar) -> Scalar:
        if isinstance(scalar, Result):
            return element
        if id(scalar) not in done:
            made = scalar.rebuilt(tuple(put(part) for part in scalar.operands), scalar.indices)
            done[id(scalar)] = scalar, made
        return done[id(scalar)][1]

    return Stage(stage.axes, (), tuple(Store(s.port, s.index, put(s.value)) for s in stage.stores))


def _start(matrix: Matrix, batch: list[Expr], row: Expr | None, column: Expr | None) -> Expr:
    place = tir.number(0)
    for number, stride in zip(batch, matrix.batch, strict=True):
        place = place + number * tir.number(stride)
    if row is not None:
        place = place + row * tir.number(matrix.row)
    if column is not None:
        place = place + column * tir.number(matrix.column)
    return place


Operand = tuple[Buffer, Expr, int, bool]  # from an element on; leading dimension; transposed


def gemm(
    dtype: DType,
    sizes: tuple[int, int, int],
    left: Operand,
    right: Operand,
    out: tuple[Buffer, Expr, int],
    add: bool = False,
) -> Stmt:
    """`out = left @ right`, or `+=`, for [m, k] and [k, n]; all in rows unless transposed."""
    m, n, k = sizes
    name = tir.stored(dtype)
    return tir.external(
        _ROUTINE[dtype.name],
        tir.number(_ROW_MAJOR),
        tir.number(_TRANSPOSED if left[3] else _PLAIN),
        tir.number(_TRANSPOSED if right[3] else _PLAIN),
        *(tir.number(x) for x in (m, n, k)),
        tirx.const(1.0, name),
        tir.address(left[0], left[1]),
        tir.number(max(left[2], m if left[3] else k)),
        tir.address(right[0], right[1]),
        tir.number(max(right[2], k if right[3] else n)),
        tirx.const(1.0 if add else 0.0, name),
        tir.address(out[0], out[1]),
        tir.number(out[2]),
    )


def _lead(matrix: Matrix) -> tuple[int, bool]:
    """The leading dimension, and whether the matrix is transposed in memory."""
    return (matrix.row, False) if matrix.column == 1 else (matrix.column, True)
