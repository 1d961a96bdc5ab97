"""Nests with folds: along rows or across them in vectors, or one element after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from tvm import tirx

from weft.backends.tvm import scalar, tir
from weft.backends.tvm.emit import Emitter
from weft.backends.tvm.lines import Lines
from weft.backends.tvm.nests import PARALLEL_WORK, Context, Env, in_vectors, points, spread
from weft.backends.tvm.stages import lanes_of, work
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Axis
from weft.compiler.kernel import Fold, Nest, Stage
from weft.compiler.passes.kernels import identity
from weft.compiler.types import BOOL

MAX_LANES = 128  # of partial results that are folded together: a piece of a row for each of them

_JOIN = {"sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum"}

RowPrinter = Callable[[Stage, Context, Env], list[Stmt]]


# -- along rows -----------------------------------------------------------------------------------


def rows(nest: Nest, context: Context, fold: RowPrinter) -> list[Stmt]:
    """Every row by itself: its stages in order, those with folds as `fold` says."""

    def body(env: Env) -> list[Stmt]:
        found: list[Stmt] = []
        inner = Context(context.buffers, dict(context.results))
        for stage in nest.stages:
            if stage.folds:
                found += fold(stage, inner, env)
            else:
                found += points(stage, inner, env, parallel=False)
        return found

    return [spread(nest.rows, {}, _pays(nest), body)]


def _pays(nest: Nest) -> bool:
    """Whether its rows are work enough to be shared out among threads."""
    one = sum(work(s) * prod(a.extent for a in s.axes) for s in nest.stages)
    return one * prod(a.extent for a in nest.rows) > PARALLEL_WORK


@dataclass(frozen=True)
class Part:
    """A run of values of one axis: `size` of them from `start` on."""

    axis: Axis
    start: Expr
    size: int


def row(stage: Stage, context: Context, env: Env, part: Part | None = None) -> list[Stmt]:
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
    makes, totals = accumulators(stage.folds, lanes)

    def over(env: Env) -> list[Stmt]:
        inner = dict(env)
        for axis, counter in zip(outer, loops, strict=True):
            if axis is not counter:
                assert part is not None
                inner[axis] = part.start + env[counter]
        return in_vectors(
            start,
            count,
            lanes,
            lambda at, n: _fold_vector(stage, context, Part(last, at, n), totals, {}, inner),
        )

    found = [*makes, spread(loops, env, False, over)]
    for fold, total in zip(stage.folds, totals, strict=True):
        found += _halve(fold, total, lanes)
        found.append(named(fold, total, context))
    return found


def _fold_vector(
    stage: Stage,
    context: Context,
    vector: Part,
    totals: Sequence[Buffer],
    held: Mapping[int, Buffer],
    env: Env,
) -> list[Stmt]:
    """One vector of elements onto the partial results, and the stage's stores for them.

    `held` has results of folds before it that differ by lane.
    """

    def lane(number: Expr) -> list[Stmt]:
        results = {fold: tir.load(buffer, number) for fold, buffer in held.items()}
        seen = Context(context.buffers, {**context.results, **results})
        emitter = seen.emitter({**env, vector.axis: vector.start + number}, number, vector.size)
        stores = _values_to_stores(stage, emitter)
        updates = [
            tir.store(
                t, number, join(emitter.lines, f, tir.load(t, number), emitter.value(f.value))
            )
            for f, t in zip(stage.folds, totals, strict=True)
        ]
        return [*emitter.lines.statements, *updates, *stores]

    return [tir.loop(vector.size, lane, "vectorized", "lane")]


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


# -- across rows ----------------------------------------------------------------------------------


def columns(nest: Nest, context: Context) -> list[Stmt]:
    """Folds across rows: each lane of a vector holds the result of one row of the nest."""
    *outer, last = nest.rows
    lanes = min(lanes_of(nest.stages[0]), last.extent)
    while lanes * 2 * len(nest.stages[0].folds) <= MAX_LANES and lanes * 4 <= last.extent:
        lanes *= 2
    parallel = _pays(nest)

    def piece(env: Env, at: Expr, size: int) -> list[Stmt]:
        found: list[Stmt] = []
        held: dict[int, Buffer] = {}
        for stage in nest.stages:
            makes, totals = accumulators(stage.folds, size)
            fold = partial(_fold_vector, stage, context, Part(last, at, size), totals, dict(held))
            found += [*makes, spread(stage.axes, env, False, fold)]
            held.update({f.number: t for f, t in zip(stage.folds, totals, strict=True)})
        return found

    full, rest = divmod(last.extent, lanes)
    chunk = Axis(full)
    found = [
        spread(
            (*outer, chunk),
            {},
            parallel,
            lambda env: piece(env, env[chunk] * tir.number(lanes), lanes),
        )
    ]
    if rest:
        found.append(
            spread(outer, {}, parallel, lambda env: piece(env, tir.number(full * lanes), rest))
        )
    return found


# -- one by one -----------------------------------------------------------------------------------


def one_by_one(stage: Stage, context: Context, env: Env) -> list[Stmt]:
    """Folds element by element, those for positions too."""
    makes, totals = accumulators(stage.folds, 1)
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
        for fold, best in zip(stage.folds, totals, strict=True):
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
        stores = _values_to_stores(stage, emitter)
        return [*emitter.lines.statements, *updates, *stores]

    found = [*makes, spread(stage.axes, env, False, body)]
    for fold, best in zip(stage.folds, totals, strict=True):
        found.append(named(fold, places.get(fold.number, best), context))
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


# -- parts of all ---------------------------------------------------------------------------------


def accumulators(folds: Sequence[Fold], lanes: int) -> tuple[list[Stmt], list[Buffer]]:
    """Partial results at their beginning."""
    statements, buffers = [], []
    for fold in folds:
        buffer, make = tir.local(f"partial{fold.number}", tir.stored(fold.dtype), lanes)
        start = identity(fold.how.removeprefix("arg_"), fold.dtype)
        first = partial(_begin, buffer, scalar.literal(start.value, fold.dtype))
        kind = "vectorized" if lanes > 1 else "serial"
        statements += [make, tir.loop(lanes, first, kind)]
        buffers.append(buffer)
    return statements, buffers


def _begin(buffer: Buffer, value: Expr, lane: Expr) -> Stmt:
    return tir.store(buffer, lane, value)


def join(lines: Lines, fold: Fold, left: Expr, right: Expr) -> Expr:
    """The fold's operation on two partial results."""
    op = _JOIN.get(fold.how, fold.how)
    return scalar.apply(lines, op, [left, right], fold.dtype, [fold.dtype] * 2)


def named(fold: Fold, total: Buffer, context: Context) -> Stmt:
    """A name for the result of a fold, which the code behind it sees."""
    name, binding = tir.bind(f"fold{fold.number}", tir.load(total, tir.number(0)))
    context.results[fold.number] = name
    return binding


def _values_to_stores(stage: Stage, emitter: Emitter) -> list[Stmt]:
    return [
        tir.store(
            emitter.buffers[store.port], emitter.index(store.index), emitter.value(store.value)
        )
        for store in stage.stores
    ]
