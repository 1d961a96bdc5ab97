"""One long fold: parts of it by many threads at once, and then a fold of what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from weft.backends.tvm import tir
from weft.backends.tvm.folds import Part, accumulators, join, named, row
from weft.backends.tvm.lines import Lines
from weft.backends.tvm.nests import PARALLEL_WORK, PARTS, Context, Env, spread, stores_of
from weft.backends.tvm.stages import work
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Axis
from weft.compiler.kernel import Nest


def is_long(nest: Nest) -> bool:
    """Whether there are too few rows to share out, and enough work to want that."""
    rows = prod(a.extent for a in nest.rows)
    first = nest.stages[0]
    size = prod(a.extent for a in first.axes)
    simple = len(nest.stages) <= 2 and not (len(nest.stages) == 2 and nest.stages[1].axes)
    return rows < 4 and simple and rows * size * work(first) > 4 * PARALLEL_WORK


def in_parts(nest: Nest, context: Context) -> list[Stmt]:
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
        def one(env: Env) -> list[Stmt]:
            local = Context(context.buffers, {})
            made = row(first, local, env, Part(head, number * tir.number(step), size))
            place = number * tir.number(rows) + _row_number(nest.rows, env)
            for fold, buffer in zip(first.folds, kept, strict=True):
                made.append(tir.store(buffer, place, local.results[fold.number]))
            return made

        return [spread(nest.rows, {}, False, one)]

    found.append(tir.loop(parts, lambda n: part(n, step), "parallel", "part"))
    if rest:
        found += part(tir.number(parts), rest)
    count = parts + (1 if rest else 0)

    def finish(env: Env) -> list[Stmt]:
        local = Context(context.buffers, {})
        makes, totals = accumulators(first.folds, 1)
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
        made += [named(f, t, local) for f, t in zip(first.folds, totals, strict=True)]
        for stage in nest.stages[1:]:
            made += stores_of(stage, local.emitter(env))
        return made

    found.append(spread(nest.rows, {}, False, finish))
    return found


def _row_number(rows: Sequence[Axis], env: Env) -> Expr:
    total, step = tir.number(0), 1
    for axis in reversed(rows):
        total = total + env[axis] * tir.number(step)
        step *= axis.extent
    return total
