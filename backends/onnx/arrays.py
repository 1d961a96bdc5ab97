"""Sources, reductions, movement, indexing and order in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weft.backends.onnx.elementwise import Rule
from weft.backends.onnx.writer import Value, Writer
from weft.compiler.graph import Node
from weft.compiler.pattern import number_of
from weft.compiler.types import BF16, BOOL, F16, F32, I32, I64, U8, U32, U64, Dim

_LINE = 1024  # the longest `iota` that is stored instead of computed
_AXES_AS_OPERAND = 18  # the opset since which all reductions take their axes as an operand
_BOOL_EXTREMES = 20

# -- sources --------------------------------------------------------------------------------------


def _constant(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    number = number_of(node)
    if number is not None:
        return w.scalar(number, node.type.dtype)
    shape = tuple(d for d in node.type.shape if isinstance(d, int))
    return w.constant(np.array(node.attributes["value"], node.type.dtype.numpy).reshape(shape))


def _iota(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    """A line along its axis, which broadcasts to the rest."""
    axis, dtype = node.attributes["axis"], node.type.dtype
    size = node.type.shape[axis]
    if isinstance(size, int) and size <= _LINE:
        line = w.constant(np.arange(size).astype(dtype.numpy))
    else:
        start, step = w.scalar(0, I64), w.scalar(1, I64)
        line = w.cast(w.op("Range", start, w.size(size), step, shape=(size,)), dtype)
    return w.reshape(line, (size, *(1,) * (node.type.rank - axis - 1)))


def _dim_size(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    dim = node.attributes["dim"]
    if isinstance(dim, int):
        return w.scalar(dim, node.type.dtype)
    return w.cast(w.size(dim), node.type.dtype)


# -- reductions -----------------------------------------------------------------------------------


def reduce(w: Writer, op_type: str, x: Value, axes: Sequence[int]) -> Value:
    """A reduction that drops its axes."""
    shape = [d for i, d in enumerate(x.shape) if i not in axes]
    if w.opset < _AXES_AS_OPERAND and op_type != "ReduceSum":
        return w.op(op_type, x, shape=shape, axes=list(axes), keepdims=0)
    return w.op(op_type, x, w.integers(*axes), shape=shape, keepdims=0)


def _reduction(op_type: str) -> Rule:
    def rule(w: Writer, node: Node, x: Sequence[Value]) -> Value:
        axes = node.attributes["axes"]
        if not axes:
            return x[0]
        whole, dtype = w.full(x[0], node.inputs[0].type.shape), x[0].dtype
        if dtype in (U32, I64, U64) and op_type in ("ReduceMax", "ReduceMin"):
            return _extreme(w, whole, axes, op_type == "ReduceMax")
        short = dtype == BOOL and w.opset < _BOOL_EXTREMES
        wide = U8 if short else F32 if dtype in (F16, BF16) else dtype
        return w.cast(reduce(w, op_type, w.cast(whole, wide), axes), dtype)

    return rule


def _extreme(w: Writer, x: Value, axes: Sequence[int], largest: bool) -> Value:
    """As the first in order along one axis after the other: see `Writer.extreme`."""
    for axis in sorted(axes, reverse=True):
        first, _ = _sorted(w, x, axis, 1, largest)
        x = w.reshape(first, (*x.shape[:axis], *x.shape[axis + 1 :]))
    return x


def _ordered(w: Writer, x: Value) -> Value:
    """u64 as i64 in the same order; other types as they are."""
    if x.dtype != U64:
        return x
    return w.cast(w.elementwise("BitwiseXor", x, w.scalar(2**63, U64)), I64)


def _unordered(w: Writer, x: Value) -> Value:
    return w.elementwise("BitwiseXor", w.cast(x, U64), w.scalar(2**63, U64))


def _position(op_type: str) -> Rule:
    def rule(w: Writer, node: Node, x: Sequence[Value]) -> Value:
        whole = _ordered(w, w.full(x[0], node.inputs[0].type.shape))
        axis = node.attributes["axis"]
        return w.op(op_type, whole, dtype=I64, shape=node.type.shape, axis=axis, keepdims=0)

    return rule


# -- movement -------------------------------------------------------------------------------------


def _reshape(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    return w.reshape(w.full(x[0], node.inputs[0].type.shape), node.type.shape)


def _transpose(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    return w.transpose(w.full(x[0], node.inputs[0].type.shape), node.attributes["permutation"])


def _broadcast_in_dim(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    """Axes of length 1 where the operand has none, as far as it reaches; nothing is repeated."""
    skip = node.inputs[0].type.rank - x[0].rank
    aligned: list[Dim] = [1] * node.type.rank
    for i, axis in enumerate(node.attributes["dims"]):
        if i >= skip:
            aligned[axis] = x[0].shape[i - skip]
    while len(aligned) > x[0].rank and aligned[0] == 1:
        del aligned[0]
    return w.reshape(x[0], aligned)


def _slice(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    a = node.attributes
    whole = w.full(x[0], node.inputs[0].type.shape)
    return w.slice(whole, a["start"], a["limit"], a["strides"])


def _pad(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    a, fill = node.attributes, w.scalar(node.attributes["value"], node.type.dtype)
    whole = w.full(x[0], node.inputs[0].type.shape)
    return padded(w, whole, a["low"], a["high"], a["interior"], fill)


def padded(
    w: Writer,
    x: Value,
    low: Sequence[Dim],
    high: Sequence[Dim],
    interior: Sequence[int],
    fill: Value,
) -> Value:
    """`interior` elements between neighbours, then `low` and `high` around; negative ones cut.

    Neighbours part by padding a new axis behind theirs; what this puts behind the last is cut.
    """
    after = list(high)
    for axis, between in enumerate(interior):
        size = x.shape[axis]
        if not between or size == 0:
            continue
        place = axis + 1
        column = w.expand_at(x, place)
        none = [0] * column.rank
        column = w.pad(
            column, none, [between if i == place else 0 for i in range(x.rank + 1)], fill
        )
        shape = (*x.shape[:axis], size * (between + 1), *x.shape[axis + 1 :])
        x = w.reshape(column, shape)
        after[axis] = after[axis] - between
    return w.pad(x, low, after, fill)


def _concat(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    parts = [w.full(v, i.type.shape) for v, i in zip(x, node.inputs, strict=True)]
    if len(parts) == 1:
        return parts[0]
    return w.op("Concat", *parts, shape=node.type.shape, axis=node.attributes["axis"])


def _reverse(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    return reversed_(w, w.full(x[0], node.inputs[0].type.shape), node.attributes["axes"])


def reversed_(w: Writer, x: Value, axes: Sequence[int]) -> Value:
    """A slice from the last element to before the first, backwards."""
    if not axes:
        return x
    ends = w.integers(*(np.iinfo(np.int64).min,) * len(axes))
    minus = w.integers(*(-1,) * len(axes))
    return w.op("Slice", x, minus, ends, w.integers(*axes), minus)


# -- indexing -------------------------------------------------------------------------------------


def _clamped(w: Writer, indices: Value, size: Dim) -> Value:
    """Indices moved into 0 to `size` - 1, as i32 or i64."""
    last = w.size(size - 1)
    if indices.dtype == U64:
        indices = w.elementwise("Min", indices, w.cast(last, U64))
    if indices.dtype not in (I32, I64):
        indices = w.cast(indices, I64)
    return w.op("Clip", indices, w.scalar(0, indices.dtype), w.cast(last, indices.dtype))


def _gather(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    batch, shape = node.attributes["batch_dims"], node.type.shape
    table = w.full(x[0], node.inputs[0].type.shape)
    places = _clamped(w, w.full(x[1], node.inputs[1].type.shape), table.shape[batch])
    if not batch:
        return w.op("Gather", table, places, shape=shape, axis=0)
    # GatherND takes i64 and one more axis, over the coordinates: here there is one.
    columns = w.expand_at(w.cast(places, I64), places.rank)
    return w.op("GatherND", table, columns, shape=shape, batch_dims=batch)


def _scatter_add(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    """ScatterElements: onnxruntime adds one update after the other, with ScatterND at once.

    Its indices have the shape of the updates: one index axis, repeated over the axes behind it.
    """
    batch, dtype = node.attributes["batch_dims"], x[0].dtype
    table, places, updates = (w.full(v, i.type.shape) for v, i in zip(x, node.inputs, strict=True))
    places = _clamped(w, places, table.shape[batch])
    count: Dim = 1
    for dim in places.shape[batch:]:
        count = dim * count
    lead, trailing = table.shape[:batch], table.shape[batch + 1 :]
    flat = (*lead, count, *trailing)
    column = w.reshape(places, (*lead, count, *(1,) * len(trailing)))
    wide = F32 if dtype in (F16, BF16) else dtype
    result = w.op(
        "ScatterElements",
        w.cast(table, wide),
        w.full(column, flat),
        w.cast(w.reshape(updates, flat), wide),
        axis=batch,
        reduction="add",
    )
    return w.cast(result, dtype)


# -- order ----------------------------------------------------------------------------------------


def _sorted(w: Writer, x: Value, axis: int, count: Dim, largest: bool) -> tuple[Value, Value]:
    """The first `count` in order, and their positions; equal elements keep their order."""
    ordered = _ordered(w, x)
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    values, places = w.several(
        "TopK",
        [ordered, w.dims([count])],
        [(ordered.dtype, shape), (I64, shape)],
        axis=axis,
        largest=int(largest),
    )
    return (_unordered(w, values) if x.dtype == U64 else values), places


def _sort(part: int) -> Rule:
    def rule(w: Writer, node: Node, x: Sequence[Value]) -> Value:
        whole, axis = w.full(x[0], node.inputs[0].type.shape), node.attributes["axis"]
        descending = node.attributes["descending"]
        return _sorted(w, whole, axis, whole.shape[axis], descending)[part]

    return rule


def _top_k(part: int) -> Rule:
    def rule(w: Writer, node: Node, x: Sequence[Value]) -> Value:
        whole = w.full(x[0], node.inputs[0].type.shape)
        return _sorted(w, whole, whole.rank - 1, node.attributes["k"], True)[part]

    return rule


def _cumsum(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    whole, dtype = w.full(x[0], node.inputs[0].type.shape), x[0].dtype
    wide = F32 if dtype in (F16, BF16) else dtype
    axis, reverse = w.scalar(node.attributes["axis"], I64), int(node.attributes["reverse"])
    return w.cast(w.op("CumSum", w.cast(whole, wide), axis, reverse=reverse), dtype)


RULES: dict[str, Rule] = {
    "arg_max": _position("ArgMax"),
    "arg_min": _position("ArgMin"),
    "arg_sort": _sort(1),
    "arg_top_k": _top_k(1),
    "broadcast_in_dim": _broadcast_in_dim,
    "concat": _concat,
    "constant": _constant,
    "cumsum": _cumsum,
    "dim_size": _dim_size,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "reduce_and": _reduction("ReduceMin"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_or": _reduction("ReduceMax"),
    "reduce_prod": _reduction("ReduceProd"),
    "reduce_sum": _reduction("ReduceSum"),
    "reshape": _reshape,
    "reverse": _reverse,
    "scatter_add": _scatter_add,
    "slice": _slice,
    "sort": _sort(0),
    "top_k": _top_k(0),
    "transpose": _transpose,
}
