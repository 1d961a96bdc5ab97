"""Sliding windows in ONNX: MaxPool and AveragePool where they fit, else slices combined.

A pool wants two leading axes and padding smaller than its window. The slices are those that hold
the first element of every window, the second, and so on: any type, any number of axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import numpy as np

from weft.backends.onnx.elementwise import Rule
from weft.backends.onnx.writer import Value, Writer
from weft.compiler.errors import RunError
from weft.compiler.graph import Attributes, Node
from weft.compiler.types import BF16, BOOL, F16, F32, I8, I64, U8, Dim, DType, Shape

_AXES = 3  # as many as onnxruntime pools over
_DILATED_AVERAGE = 19  # the opset since which AveragePool has dilations


def fits(attributes: Attributes) -> bool:
    """Whether a pool's pads can say this padding, so that every window holds an element."""
    a = attributes
    for window, dilation, pair in zip(a["window"], a["dilation"], a["padding"], strict=True):
        if not all(isinstance(p, int) and 0 <= p < window for p in pair):
            return False
        if dilation != 1 and any(pair):
            return False
    return len(a["window"]) <= _AXES


def pool_attributes(attributes: Attributes) -> dict[str, Any]:
    a = attributes
    given = {
        "kernel_shape": list(a["window"]),
        "strides": list(a["strides"]),
        "pads": [pair[i] for i in (0, 1) for pair in a["padding"]],
    }
    if any(d != 1 for d in a["dilation"]):
        given["dilations"] = list(a["dilation"])
    return given


def _reduce_window(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    dtype, reducer = node.type.dtype, node.attributes["reducer"]
    whole = w.full(x[0], node.inputs[0].type.shape)
    whole = w.cast(whole, F32) if dtype in (F16, BF16) else whole
    if not fits(node.attributes) or not _pools(w, whole.dtype, node.attributes):
        return w.cast(_combined(w, node, whole), dtype)
    rank = len(node.attributes["window"])
    column = _two_leading(w, whole, rank)
    shape = (*column.shape[:2], *node.type.shape[node.type.rank - rank :])
    given = pool_attributes(node.attributes)
    if reducer == "sum":
        mean = w.op("AveragePool", column, shape=shape, count_include_pad=1, **given)
        count = w.scalar(prod(node.attributes["window"]), whole.dtype)
        result = w.elementwise("Mul", mean, count)
    elif reducer == "max":
        result = w.op("MaxPool", column, shape=shape, **given)
    else:
        result = w.op("Neg", w.op("MaxPool", w.op("Neg", column), shape=shape, **given))
    return w.cast(w.reshape(result, node.type.shape), dtype)


def _pools(w: Writer, dtype: DType, attributes: Attributes) -> bool:
    """Whether there is a pool for the type: averages of f32, extremes of floats."""
    if attributes["reducer"] == "sum":
        dilated = any(d != 1 for d in attributes["dilation"])
        return dtype == F32 and not (dilated and w.opset < _DILATED_AVERAGE)
    return dtype.kind == "float" or (dtype in (I8, U8) and attributes["reducer"] == "max")


def _two_leading(w: Writer, x: Value, rank: int) -> Value:
    """Two axes before the window's: examples and channels, as far as a pool is concerned."""
    lead = x.shape[: x.rank - rank]
    if len(lead) > 2:
        first: Dim = 1
        for dim in lead[:-1]:
            first = dim * first
        return w.reshape(x, (first, lead[-1], *x.shape[x.rank - rank :]))
    return w.reshape(x, (*(1,) * (2 - len(lead)), *x.shape))


# -- slices ---------------------------------------------------------------------------------------


def _identity(reducer: str, dtype: DType) -> float:
    """What adds nothing to a sum, and never is an extreme."""
    if reducer == "sum":
        return 0
    if dtype.kind == "float":
        return -np.inf if reducer == "max" else np.inf
    info = np.iinfo(dtype.numpy)
    return int(info.min if reducer == "max" else info.max)


def _elements(w: Writer, node: Node, x: Value) -> Iterator[Value]:
    """The first element of every window, then the second, ..., padding being the identity."""
    a, rank = node.attributes, len(node.attributes["window"])
    none = (0,) * (x.rank - rank)
    low, high = ((*none, *(pair[i] for pair in a["padding"])) for i in (0, 1))
    x = w.pad(x, low, high, w.scalar(_identity(a["reducer"], x.dtype), x.dtype))
    lead, sizes = x.shape[: x.rank - rank], node.type.shape[node.type.rank - rank :]
    for place in product(*map(range, a["window"])):
        start = [at * d for at, d in zip(place, a["dilation"], strict=True)]
        limit = [
            (size - 1) * s + at + 1 for size, s, at in zip(sizes, a["strides"], start, strict=True)
        ]
        yield w.slice(x, (*none, *start), (*lead, *limit), (*(1 for _ in lead), *a["strides"]))


def _combined(w: Writer, node: Node, x: Value) -> Value:
    parts = list(_elements(w, node, x))
    reducer = node.attributes["reducer"]
    if reducer == "sum":
        return reduce(lambda a, b: w.elementwise("Add", a, b), parts)
    return reduce(lambda a, b: w.extreme("Max" if reducer == "max" else "Min", a, b), parts)


# -- positions ------------------------------------------------------------------------------------


def _arg_reduce_window(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    whole = w.full(x[0], node.inputs[0].type.shape)
    if not fits(node.attributes) or not _pools(w, whole.dtype, node.attributes):
        return _chosen(w, node, whole)
    rank = len(node.attributes["window"])
    column = _two_leading(w, whole, rank)
    if node.attributes["reducer"] == "min":
        column = w.op("Neg", column)
    spatial = column.shape[2:]
    shape = (*column.shape[:2], *node.type.shape[node.type.rank - rank :])
    results: list[tuple[DType, Shape]] = [(column.dtype, shape), (I64, shape)]
    _, places = w.several("MaxPool", [column], results, **pool_attributes(node.attributes))
    # ONNX counts from the start of the whole tensor.
    size: Dim = 1
    for dim in spatial:
        size = dim * size
    places = w.elementwise("Mod", places, w.size(size))
    return w.reshape(places, node.type.shape)


def _chosen(w: Writer, node: Node, x: Value) -> Value:
    """The position of the largest of the slices; tables of the positions are stored."""
    rank = len(node.attributes["window"])
    sizes = x.shape[x.rank - rank :]
    if not all(isinstance(p, int) for pair in node.attributes["padding"] for p in pair) or not all(
        isinstance(n, int) for n in sizes
    ):
        raise RunError(
            "no ONNX rule for `arg_reduce_window` of a size that is not known", node.span
        )
    table = _positions(node, [n for n in sizes if isinstance(n, int)])
    # [..., positions, elements], in which the first extreme element wins.
    slices = [w.expand_at(part, part.rank) for part in _elements(w, node, x)]
    stacked = w.op(
        "Concat", *slices, shape=(*slices[0].shape[:-1], len(slices)), axis=slices[0].rank - 1
    )
    op_type = "ArgMax" if node.attributes["reducer"] == "max" else "ArgMin"
    best = w.op(
        op_type, stacked, dtype=I64, shape=node.type.shape, axis=stacked.rank - 1, keepdims=0
    )
    rows = np.arange(prod(table.shape[:-1]), dtype=np.int64).reshape(table.shape[:-1])
    flat = w.constant(table.reshape(-1))
    entry = w.elementwise("Add", best, w.constant(rows * table.shape[-1]))
    found = w.op("Gather", flat, entry, shape=node.type.shape, axis=0)
    if table.min() >= 0:
        return found
    # Where all elements equal the identity, padding may come first: name an element all the same.
    first = np.take_along_axis(table, np.argmax(table >= 0, -1)[..., None], -1)[..., 0]
    outside = w.elementwise("Less", found, w.scalar(0, I64), dtype=BOOL)
    return w.elementwise("Where", outside, w.constant(first), found)


def _positions(node: Node, sizes: Sequence[int]) -> np.ndarray:
    """`[positions..., elements]`: flat positions within the window axes, -1 for padding."""
    a, rank = node.attributes, len(sizes)
    counts = [n for n in node.type.shape[node.type.rank - rank :] if isinstance(n, int)]
    table = np.zeros((*counts, *a["window"]), np.int64)
    inside = np.ones(table.shape, bool)
    for axis in range(rank):
        steps = np.arange(counts[axis])[:, None] * a["strides"][axis]
        at = steps + np.arange(a["window"][axis]) * a["dilation"][axis] - a["padding"][axis][0]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = at.shape
        at = at.reshape(shape)
        table = table * sizes[axis] + at
        inside &= (at >= 0) & (at < sizes[axis])
    return np.where(inside, table, -1).reshape(*counts, prod(a["window"]))


RULES: dict[str, Rule] = {
    "arg_reduce_window": _arg_reduce_window,
    "reduce_window": _reduce_window,
}
