"""One node for all turns of a loop: an op over operands that have an axis of turns in front.

    out[t] = op(x[t], y)     for every t, as one op over x[t, ...] and y

A row gets the node, its operands, which of them are stacked (have the axis), and the number of
turns. It gives None where one op can't say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from weft.compiler import builder as b
from weft.compiler.graph import Node, make
from weft.compiler.ops import Kind
from weft.compiler.types import Dim

Operands = Sequence[Node]
Flags = Sequence[bool]
Row = Callable[[Node, Operands, Flags, Dim], Node | None]


def can_vectorise(node: Node) -> bool:
    """Whether an op has a row. It may still give None for what a row can't say."""
    return node.op.kind is Kind.ELEMENTWISE or node.op.name in ROWS


def vectorise(node: Node, operands: Operands, stacked: Flags, length: Dim) -> Node | None:
    """The node over all turns at once; some operand is stacked."""
    if node.op.kind is Kind.ELEMENTWISE:
        return make(node.op.name, *_spread(operands, stacked, length), **node.attributes)
    row = ROWS.get(node.op.name)
    return None if row is None else row(node, operands, stacked, length)


def repeat(x: Node, length: Dim) -> Node:
    """The same value in every turn."""
    return b.broadcast(x, (length, *x.type.shape), range(1, x.type.rank + 1))


def _spread(operands: Operands, stacked: Flags, length: Dim) -> list[Node]:
    pairs = zip(operands, stacked, strict=True)
    return [x if flag else repeat(x, length) for x, flag in pairs]


def _up(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + 1 for a in axes)


def _axes(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    return make(node.op.name, x[0], axes=_up(node.attributes["axes"]))


def _axis(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    attributes = {**node.attributes, "axis": node.attributes["axis"] + 1}
    return make(node.op.name, *_spread(x, stacked, length), **attributes)


def _reshape(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    return b.reshape(x[0], (length, *node.type.shape))


def _transpose(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    return b.transpose(x[0], (0, *_up(node.attributes["permutation"])))


def _broadcast(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    return b.broadcast(x[0], (length, *node.type.shape), (0, *_up(node.attributes["dims"])))


def _slice(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    a = node.attributes
    return b.slice_(x[0], (0, *a["start"]), (length, *a["limit"]), (1, *a["strides"]))


def _pad(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    a = node.attributes
    return b.pad(x[0], (0, *a["low"]), (0, *a["high"]), (0, *a["interior"]), a["value"])


def _dot_general(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    """Turns are a batch axis where both operands have them, else a free axis of the one."""
    contract, batch = node.attributes["contract"], node.attributes["batch"]
    factors = node.attributes.get("factors")
    up = [_up if flag else tuple for flag in stacked]
    pairs = tuple(f(a) for f, a in zip(up, contract, strict=True))
    outer = tuple(f(a) for f, a in zip(up, batch, strict=True))
    if all(stacked):
        outer = ((0, *outer[0]), (0, *outer[1]))
        return b.dot_general(x[0], x[1], (pairs[0], pairs[1]), (outer[0], outer[1]), factors)
    made = b.dot_general(x[0], x[1], (pairs[0], pairs[1]), (outer[0], outer[1]), factors)
    place = len(outer[0])
    if not stacked[0]:
        place += node.inputs[0].type.rank - len(contract[0]) - len(batch[0])
    rest = [i for i in range(made.type.rank) if i != place]
    return b.transpose(made, (place, *rest))


def _conv(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node | None:
    """Turns and examples are one batch, under a kernel that stays."""
    if stacked[1]:
        return None
    shape = x[0].type.shape
    merged = b.reshape(x[0], (shape[0] * shape[1], *shape[2:]))
    made = make("conv", merged, x[1], **node.attributes)
    return b.reshape(made, (length, *node.type.shape))


def _gather(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    dims = node.attributes["batch_dims"]
    if not stacked[0] and not dims:
        return b.gather(x[0], x[1])
    table, places = _spread(x, stacked, length)
    return b.gather(table, places, dims + 1)


def _scatter_add(node: Node, x: Operands, stacked: Flags, length: Dim) -> Node:
    table, places, updates = _spread(x, stacked, length)
    return b.scatter_add(table, places, updates, node.attributes["batch_dims"] + 1)


ROWS: Mapping[str, Row] = {
    **dict.fromkeys(("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"), _axes),
    **dict.fromkeys(("reduce_and", "reduce_or", "reverse"), _axes),
    **dict.fromkeys(("arg_max", "arg_min", "sort", "arg_sort", "cumsum", "concat"), _axis),
    "broadcast_in_dim": _broadcast,
    "conv": _conv,
    "dot_general": _dot_general,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "scatter_add": _scatter_add,
    "slice": _slice,
    "transpose": _transpose,
}
