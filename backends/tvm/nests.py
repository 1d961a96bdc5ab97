"""Loops over the points of a nest: vectors along an axis, outer axes or blocks in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from tvm import tirx

from weft.backends.tvm import tir
from weft.backends.tvm.emit import Emitter
from weft.backends.tvm.lines import Lines
from weft.backends.tvm.stages import is_vector, lanes_of, work
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Axis
from weft.compiler.kernel import Stage

PARALLEL_WORK = 131_072  # operations below which threads cost more than they save
BLOCK = 4_096  # elements of one long axis that a thread takes at a time
PARTS = 32  # into which one long fold is cut

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


def points(
    stage: Stage, context: Context, env: Env | None = None, parallel: bool = True
) -> list[Stmt]:
    """A stage without folds."""
    env = env or {}
    if not stage.axes:
        return stores_of(stage, context.emitter(env))
    *outer, last = stage.axes
    size = prod(a.extent for a in stage.axes)
    parallel = parallel and work(stage) * size > PARALLEL_WORK
    lanes = lanes_of(stage) if is_vector(stage, last) else 1
    if outer or not parallel:
        return [
            spread(outer, env, parallel, lambda inner: _chunks(stage, context, inner, last, lanes))
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
            return stores_of(stage, emitter)

        return [tir.loop(size, lane, "vectorized", "lane")]

    return in_vectors(start, count, lanes, body)


def in_vectors(
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


def stores_of(stage: Stage, emitter: Emitter) -> list[Stmt]:
    """All values first, for a store may overwrite what another value is made from."""
    values = [emitter.value(store.value) for store in stage.stores]
    stores = [
        tir.store(emitter.buffers[store.port], emitter.index(store.index), value)
        for store, value in zip(stage.stores, values, strict=True)
    ]
    return [*emitter.lines.statements, *stores]


def spread(axes: Sequence[Axis], env: Env, parallel: bool, body: Body) -> Stmt:
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
