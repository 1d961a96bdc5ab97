"""Nests as scheduled loops: which loop is a vector, which is shared out among threads.

    elementwise            the last axis in vectors, outer axes or blocks of it in parallel
    fold, rows contiguous  a vector of partial results along the row, joined at its end
    fold, columns          a vector of rows at a time, each lane with its own result
    anything else          one element after another

Nothing here depends on how many threads there are: what is cut into parts is cut by its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from tvm import tirx

from weft.backends.tvm import scalar, tir
from weft.backends.tvm.emit import Emitter
from weft.backends.tvm.lines import Lines
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Axis
from weft.compiler.kernel import (
    Apply,
    Bits,
    Fold,
    Guard,
    Literal,
    Nest,
    Scalar,
    Stage,
    walk,
)
from weft.compiler.passes.collapse import collapsed
from weft.compiler.passes.kernels import identity
from weft.compiler.types import BOOL

PARALLEL_WORK = 32_768  # operations below which threads cost more than they save
BLOCK = 4_096  # elements of one long axis that a thread takes at a time
PARTS = 32  # into which one long fold is cut
REGISTER = 64  # bytes
MAX_LANES = 64  # of columns that are folded together

_SLOW = frozenset({
    "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "logistic", "erf", "power", "divide",
    "sqrt", "rsqrt", "remainder", "floor_divide",
})  # fmt: skip
_JOIN = {"sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum"}

Env = dict[Axis, Expr]
Body = Callable[[Env], list[Stmt]]


@dataclass(frozen=True)
class Context:
    """What a piece of code sees: the ports' buffers, and results of folds by number."""

    buffers: list[Buffer]
    results: dict[int, Expr]

    def emitter(self, env: Env, lane: Expr | None = None, lanes: int = 1) -> Emitter:
        """For a place in the code; in a vectorised loop, with its counter and length."""
        return Emitter(self.buffers, env, self.results, Lines(lane, lanes))


def print_nest(nest: Nest, buffers: list[Buffer]) -> list[Stmt]:
    """The statements of a nest over its ports' buffers."""
    nest = collapsed(nest)
    context = Context(buffers, {})
    if not nest.rows and len(nest.stages) == 1 and not nest.stages[0].folds:
        return points(nest.stages[0], context)
    if any(fold.how.startswith("arg_") for stage in nest.stages for fold in stage.folds):
        return _rows(nest, context, _one_by_one)
    first = nest.stages[0]
    if first.axes and _vector(first, first.axes[-1]):
        if _is_long(nest):
            return _in_parts(nest, context)
        return _rows(nest, context, _row)
    if nest.rows and all(_vector(stage, nest.rows[-1]) for stage in nest.stages):
        return _columns(nest, context)
    return _rows(nest, context, _one_by_one)


# -- elementwise ----------------------------------------------------------------------------------


def points(
    stage: Stage, context: Context, env: Env | None = None, parallel: bool = True
) -> list[Stmt]:
    """A stage without folds."""
    env = env or {}
    if not stage.axes:
        return _stores(stage, context.emitter(env))
    *outer, last = stage.axes
    size = prod(a.extent for a in stage.axes)
    parallel = parallel and work(stage) * size > PARALLEL_WORK
    lanes = lanes_of(stage) if _vector(stage, last) else 1
    if outer or not parallel:
        return [
            _spread(outer, env, parallel, lambda inner: _chunks(stage, context, inner, last, lanes))
        ]
    blocks, rest = divmod(last.extent, BLOCK)
    found = [
        tir.loop(
            blocks,
            lambda block: _run(stage, context, env, last, block * tir.number(BLOCK), BLOCK, lanes),
            "parallel",
            "block",
        )
    ]
    if rest:
        found += _run(stage, context, env, last, tir.number(blocks * BLOCK), rest, lanes)
    return found


def _chunks(stage: Stage, context: Context, env: Env, axis: Axis, lanes: int) -> list[Stmt]:
    return _run(stage, context, env, axis, tir.number(0), axis.extent, lanes)


def _run(
    stage: Stage, context: Context, env: Env, axis: Axis, start: Expr, count: int, lanes: int
) -> list[Stmt]:
    """The stores for `count` values of the axis from `start` on."""

    def body(at: Expr, size: int) -> list[Stmt]:
        def lane(number: Expr) -> list[Stmt]:
            emitter = context.emitter({**env, axis: at + number}, number, size)
            return _stores(stage, emitter)

        return [tir.loop(size, lane, "vectorized", "lane")]

    return _in_vectors(start, count, lanes, body)


def _in_vectors(
    start: Expr, count: int, lanes: int, body: Callable[[Expr, int], list[Stmt]]
) -> list[Stmt]:
    """`body` for whole vectors, and for what is left."""
    if lanes == 1:
        return [tir.loop(count, lambda i: body(start + i, 1), name="i")]
    full, rest = divmod(count, lanes)
    found = []
    if full:
        found.append(
            tir.loop(full, lambda i: body(start + i * tir.number(lanes), lanes), name="vector")
        )
    if rest:
        found += body(start + tir.number(full * lanes), rest)
    return found


def _stores(stage: Stage, emitter: Emitter) -> list[Stmt]:
    """All values first, for a store may overwrite what another value is made from."""
    values = [emitter.value(store.value) for store in stage.stores]
    stores = [
        tir.store(emitter.buffers[store.port], emitter.index(store.index), value)
        for store, value in zip(stage.stores, values, strict=True)
    ]
    return [*emitter.lines.statements, *stores]


def _spread(axes: Sequence[Axis], env: Env, parallel: bool, body: Body) -> Stmt:
    """Loops over the axes; the first few are one parallel loop where that pays."""
    head = 0
    if parallel:
        while head < len(axes) and prod(a.extent for a in axes[:head]) < 2 * PARTS:
            head += 1

    def nested(rest: Sequence[Axis], env: Env) -> list[Stmt]:
        if not rest:
            return body(env)
        return [tir.loop(rest[0].extent, lambda i: nested(rest[1:], {**env, rest[0]: i}), name="r")]

    if not head:
        return tir.sequence(nested(axes, env))

    def split(flat: Expr) -> list[Stmt]:
        found, step = dict(env), 1
        for number, axis in enumerate(reversed(axes[:head])):
            place = tirx.truncdiv(flat, tir.number(step)) if step > 1 else flat
            if number < head - 1:
                place = tirx.truncmod(place, tir.number(axis.extent))
            found[axis] = place
            step *= axis.extent
        return nested(axes[head:], found)

    return tir.loop(prod(a.extent for a in axes[:head]), split, "parallel", "task")


# -- folds ----------------------------------------------------------------------------------------

RowPrinter = Callable[[Stage, Context, Env], list[Stmt]]


def _rows(nest: Nest, context: Context, row: RowPrinter) -> list[Stmt]:
    """Every row by itself: its stages in order."""
    total = sum(work(s) * prod(a.extent for a in s.axes) for s in nest.stages)
    parallel = total * prod(a.extent for a in nest.rows) > PARALLEL_WORK

    def body(env: Env) -> list[Stmt]:
        found: list[Stmt] = []
        inner = Context(context.buffers, dict(context.results))
        for stage in nest.stages:
            if stage.folds:
                found += row(stage, inner, env)
            elif stage.axes:
                last = stage.axes[-1]
                lanes = lanes_of(stage) if _vector(stage, last) else 1
                found.append(
                    _spread(
                        stage.axes[:-1],
                        env,
                        False,
                        lambda e, s=stage, a=last, w=lanes: _chunks(s, inner, e, a, w),  # type: ignore[misc]
                    )
                )
            else:
                found += _stores(stage, inner.emitter(env))
        return found

    return [_spread(nest.rows, {}, parallel, body)]


@dataclass(frozen=True)
class Part:
    """A run of values of one axis: `size` of them from `start` on."""

    axis: Axis
    start: Expr
    size: int


def _row(stage: Stage, context: Context, env: Env, part: Part | None = None) -> list[Stmt]:
    """Folds along contiguous memory: partial results in the lanes of a vector.

    With a part, the folds are over that part of one axis.
    """
    *outer, last = stage.axes
    start, count, loops = tir.number(0), last.extent, list(outer)
    if part is not None and part.axis is last:
        start, count = part.start, part.size
    elif part is not None:
        loops[outer.index(part.axis)] = Axis(part.size)
    lanes = min(lanes_of(stage), 1 << (count.bit_length() - 1))
    makes, partial = _accumulators(stage.folds, lanes)

    def over(env: Env) -> list[Stmt]:
        inner = dict(env)
        for axis, counter in zip(outer, loops, strict=True):
            if axis is not counter:
                assert part is not None
                inner[axis] = part.start + env[counter]
        return _in_vectors(
            start,
            count,
            lanes,
            lambda at, size: _fold_vector(stage, context, inner, last, at, size, partial),
        )

    found = [*makes, _spread(loops, env, False, over)]
    for fold, accumulator in zip(stage.folds, partial, strict=True):
        found += _halve(fold, accumulator, lanes)
        name, binding = tir.bind(f"fold{fold.number}", tir.load(accumulator, tir.number(0)))
        found.append(binding)
        context.results[fold.number] = name
    return found


def _halve(fold: Fold, buffer: Buffer, lanes: int) -> list[Stmt]:
    """The upper half of a vector onto the lower one, until one lane is left."""
    found = []
    while lanes > 1:
        lanes //= 2

        def onto(i: Expr, width: int = lanes) -> list[Stmt]:
            lines = Lines(i, width)
            upper = tir.load(buffer, i + tir.number(width))
            joined = join(lines, fold, tir.load(buffer, i), upper)
            return [*lines.statements, tir.store(buffer, i, joined)]

        found.append(tir.loop(lanes, onto, "vectorized"))
    return found


def _fold_vector(
    stage: Stage,
    context: Context,
    env: Env,
    axis: Axis,
    at: Expr,
    size: int,
    partial: Sequence[Buffer],
) -> list[Stmt]:
    """One vector of elements onto the partial results, and the stage's stores for them."""

    def lane(number: Expr) -> list[Stmt]:
        emitter = context.emitter({**env, axis: at + number}, number, size)
        stores = _values_to_stores(stage, context, emitter)
        updates = [
            tir.store(
                a, number, join(emitter.lines, f, tir.load(a, number), emitter.value(f.value))
            )
            for f, a in zip(stage.folds, partial, strict=True)
        ]
        return [*emitter.lines.statements, *updates, *stores]

    return [tir.loop(size, lane, "vectorized", "lane")]


def _values_to_stores(stage: Stage, context: Context, emitter: Emitter) -> list[Stmt]:
    return [
        tir.store(
            context.buffers[store.port], emitter.index(store.index), emitter.value(store.value)
        )
        for store in stage.stores
    ]


def _columns(nest: Nest, context: Context) -> list[Stmt]:
    """Folds across rows: each lane of a vector holds the result of one row of the nest."""
    *outer, last = nest.rows
    lanes = min(lanes_of(nest.stages[0]), last.extent)
    while lanes < MAX_LANES and lanes * 4 <= last.extent and len(nest.stages[0].folds) < 3:
        lanes *= 2
    total = sum(work(s) * prod(a.extent for a in s.axes) for s in nest.stages)
    parallel = total * prod(a.extent for a in nest.rows) > PARALLEL_WORK

    def piece(env: Env, at: Expr, size: int) -> list[Stmt]:
        found: list[Stmt] = []
        inner = Context(context.buffers, {})
        held: dict[int, Buffer] = {}
        for stage in nest.stages:
            makes, partial = _accumulators(stage.folds, size)
            found += makes

            def lane(e: Env, s: Stage = stage, p: Sequence[Buffer] = partial) -> list[Stmt]:
                def one(number: Expr) -> list[Stmt]:
                    results = {k: tir.load(b, number) for k, b in held.items()}
                    lines = Lines(number, size)
                    emitter = Emitter(inner.buffers, {**e, last: at + number}, results, lines)
                    stores = _values_to_stores(s, inner, emitter)
                    updates = [
                        tir.store(
                            a,
                            number,
                            join(emitter.lines, f, tir.load(a, number), emitter.value(f.value)),
                        )
                        for f, a in zip(s.folds, p, strict=True)
                    ]
                    return [*emitter.lines.statements, *updates, *stores]

                return [tir.loop(size, one, "vectorized", "lane")]

            found.append(_spread(stage.axes, env, False, lane))
            held.update({f.number: b for f, b in zip(stage.folds, partial, strict=True)})
        return found

    full, rest = divmod(last.extent, lanes)
    chunk = Axis(full)
    found = [
        _spread(
            (*outer, chunk),
            {},
            parallel,
            lambda env: piece(env, env[chunk] * tir.number(lanes), lanes),
        )
    ]
    if rest:
        found.append(
            _spread(outer, {}, parallel, lambda env: piece(env, tir.number(full * lanes), rest))
        )
    return found


def _one_by_one(stage: Stage, context: Context, env: Env) -> list[Stmt]:
    """Folds element by element, those for positions too."""
    makes, partial = _accumulators(stage.folds, 1)
    places = {}
    for fold in stage.folds:
        if fold.place is not None:
            buffer, make = tir.local(f"place{fold.number}", "int64", 1)
            places[fold.number] = buffer
            makes += [make, tir.store(buffer, tir.number(0), tirx.const(-1, "int64"))]
    zero = tir.number(0)

    def body(inner: Env) -> list[Stmt]:
        emitter = context.emitter(inner)
        updates: list[Stmt] = []
        for fold, best in zip(stage.folds, partial, strict=True):
            value = emitter.value(fold.value)
            if fold.place is None:
                joined = join(emitter.lines, fold, tir.load(best, zero), value)
                updates.append(tir.store(best, zero, joined))
                continue
            place, here = emitter.value(fold.place), places[fold.number]
            better = _beats(
                emitter.lines, fold, value, tir.load(best, zero), place, tir.load(here, zero)
            )
            updates.append(
                tir.when(
                    better, tir.sequence(tir.store(best, zero, value), tir.store(here, zero, place))
                )
            )
        stores = _values_to_stores(stage, context, emitter)
        return [*emitter.lines.statements, *updates, *stores]

    found = [*makes, _spread(stage.axes, env, False, body)]
    for fold, best in zip(stage.folds, partial, strict=True):
        source = places.get(fold.number, best)
        name, binding = tir.bind(f"fold{fold.number}", tir.load(source, zero))
        found.append(binding)
        context.results[fold.number] = name
    return found


def _beats(
    lines: Lines, fold: Fold, value: Expr, best: Expr, place: Expr, best_place: Expr
) -> Expr:
    """Whether a value is the new extreme: the first, larger, or the first that is no number."""
    none = tirx.const(0, "int64")
    best = lines.let(best)

    def test(op: str, left: Expr, right: Expr) -> Expr:
        made = scalar.apply(lines, op, [left, right], BOOL, [fold.dtype] * 2)
        return scalar.truth(made)

    better = test("greater" if fold.how == "arg_max" else "less", value, best)
    if fold.dtype.kind == "float":
        odd = tirx.all(test("not_equal", value, value), test("equal", best, best))
        better = tirx.any(better, odd)
    return tirx.all(place >= none, tirx.any(best_place < none, better))


def _accumulators(folds: Sequence[Fold], lanes: int) -> tuple[list[Stmt], list[Buffer]]:
    """Partial results at their beginning."""
    statements, buffers = [], []
    for fold in folds:
        buffer, make = tir.local(f"partial{fold.number}", tir.stored(fold.dtype), lanes)
        start = identity(fold.how.removeprefix("arg_"), fold.dtype)
        first = scalar.literal(start.value, fold.dtype)
        statements += [
            make,
            tir.loop(
                lanes,
                lambda i, b=buffer, v=first: tir.store(b, i, v),  # type: ignore[misc]
                "vectorized" if lanes > 1 else "serial",
            ),
        ]
        buffers.append(buffer)
    return statements, buffers


def join(lines: Lines, fold: Fold, left: Expr, right: Expr) -> Expr:
    """The fold's operation on two partial results."""
    op = _JOIN.get(fold.how, fold.how)
    return scalar.apply(lines, op, [left, right], fold.dtype, [fold.dtype] * 2)


# -- one long fold --------------------------------------------------------------------------------


def _is_long(nest: Nest) -> bool:
    """Whether there are too few rows to share out, and enough work to want that."""
    rows = prod(a.extent for a in nest.rows)
    first = nest.stages[0]
    size = prod(a.extent for a in first.axes)
    simple = len(nest.stages) <= 2 and not (len(nest.stages) == 2 and nest.stages[1].axes)
    return rows < 4 and simple and rows * size * work(first) > 4 * PARALLEL_WORK


def _in_parts(nest: Nest, context: Context) -> list[Stmt]:
    """Folds of parts of the first axis in parallel, then of what they came to."""
    first = nest.stages[0]
    head = first.axes[0]
    step = -(-head.extent // PARTS)
    step = -(-step // 256) * 256 if len(first.axes) == 1 else step
    parts = head.extent // step
    rest = head.extent - parts * step
    rows = prod(a.extent for a in nest.rows)
    found: list[Stmt] = []
    kept: list[Buffer] = []
    for fold in first.folds:
        buffer, make = tir.local(
            f"parts{fold.number}", tir.stored(fold.dtype), (parts + 1) * rows, "global"
        )
        found.append(make)
        kept.append(buffer)

    def part(number: Expr, size: int) -> list[Stmt]:
        def row(env: Env) -> list[Stmt]:
            local = Context(context.buffers, {})
            made = _row(first, local, env, Part(head, number * tir.number(step), size))
            place = number * tir.number(rows) + _row_number(nest.rows, env)
            for fold, buffer in zip(first.folds, kept, strict=True):
                made.append(tir.store(buffer, place, local.results[fold.number]))
            return made

        return [_spread(nest.rows, {}, False, row)]

    found.append(tir.loop(parts, lambda n: part(n, step), "parallel", "part"))
    if rest:
        found += part(tir.number(parts), rest)
    count = parts + (1 if rest else 0)

    def finish(env: Env) -> list[Stmt]:
        local = Context(context.buffers, {})
        makes, totals = _accumulators(first.folds, 1)
        zero = tir.number(0)

        def more(number: Expr) -> list[Stmt]:
            place = number * tir.number(rows) + _row_number(nest.rows, env)
            lines = Lines()
            joined = [
                join(lines, f, tir.load(t, zero), tir.load(b, place))
                for f, t, b in zip(first.folds, totals, kept, strict=True)
            ]
            stores = [tir.store(t, zero, j) for t, j in zip(totals, joined, strict=True)]
            return [*lines.statements, *stores]

        made = [*makes, tir.loop(count, more, name="part")]
        for fold, total in zip(first.folds, totals, strict=True):
            name, binding = tir.bind(f"fold{fold.number}", tir.load(total, zero))
            made.append(binding)
            local.results[fold.number] = name
        for stage in nest.stages[1:]:
            made += _stores(stage, local.emitter(env))
        return made

    found.append(_spread(nest.rows, {}, False, finish))
    return found


def _row_number(rows: Sequence[Axis], env: Env) -> Expr:
    total, step = tir.number(0), 1
    for axis in reversed(rows):
        total = total + env[axis] * tir.number(step)
        step *= axis.extent
    return total


# -- what a stage is like -------------------------------------------------------------------------


def _vector(stage: Stage, axis: Axis) -> bool:
    """Whether neighbours along the axis are neighbours in memory, so that vectors pay."""
    if axis.extent < 2:
        return False
    if any(store.index.factor(axis) != 1 for store in stage.stores):
        return False
    fit = True

    def visit(scalar_: Scalar) -> None:
        nonlocal fit
        if isinstance(scalar_, Guard) and any(axis in i.axes for i in scalar_.tests):
            fit = False
        for index in scalar_.indices:
            if not isinstance(scalar_, Guard) and index.factor(axis) not in (0, 1):
                fit = False

    walk(stage, visit)
    return fit


def lanes_of(stage: Stage) -> int:
    """Elements in a vector: of the widest type one register, or two where there is little to do."""
    widest, heavy = 4, work(stage) > 12

    def visit(scalar_: Scalar) -> None:
        nonlocal widest
        if not isinstance(scalar_, Literal):
            widest = max(widest, scalar_.dtype.bytes)

    walk(stage, visit)
    return REGISTER // widest * (1 if heavy else 2)


def work(stage: Stage) -> int:
    """Operations for one point, roughly."""
    total = len(stage.folds) + len(stage.stores)

    def visit(scalar_: Scalar) -> None:
        nonlocal total
        if isinstance(scalar_, Apply):
            total += 10 if scalar_.op in _SLOW else 1
        elif isinstance(scalar_, Bits):
            total += 40

    walk(stage, visit)
    return total
