"""Which loops a nest gets: what is a vector in it, and what is shared out among threads.

    elementwise            the last axis in vectors, outer axes or blocks of it in parallel
    fold, rows contiguous  a vector of partial results along the row, joined at its end
    fold, columns          a vector of rows at a time, each lane with its own result
    anything else          one element after another

Nothing here depends on how many threads there are: what is cut into parts is cut by its size.
"""

from __future__ import annotations

from weft.backends.tvm.folds import columns, one_by_one, row, rows
from weft.backends.tvm.long_folds import in_parts, is_long
from weft.backends.tvm.nests import Context, points
from weft.backends.tvm.stages import is_vector
from weft.backends.tvm.tir import Buffer, Stmt
from weft.compiler.kernel import Nest
from weft.compiler.passes.collapse import collapsed


def print_nest(nest: Nest, buffers: list[Buffer]) -> list[Stmt]:
    """The statements of a nest over its ports' buffers."""
    nest = collapsed(nest)
    context = Context(buffers, {})
    if not nest.rows and len(nest.stages) == 1 and not nest.stages[0].folds:
        return points(nest.stages[0], context)
    if any(fold.how.startswith("arg_") for stage in nest.stages for fold in stage.folds):
        return rows(nest, context, one_by_one)
    first = nest.stages[0]
    if first.axes and is_vector(first, first.axes[-1]):
        if is_long(nest):
            return in_parts(nest, context)
        return rows(nest, context, row)
    if nest.rows and all(is_vector(stage, nest.rows[-1]) for stage in nest.stages):
        return columns(nest, context)
    return rows(nest, context, one_by_one)
