"""Rewrite rules of slices, pads and concatenations: parts of a tensor, taken and put together."""

from __future__ import annotations

from weft.compiler.builder import broadcast, concat, pad, slice_
from weft.compiler.graph import Node, full
from weft.compiler.pattern import Rule, Rules, const, number_of, op
from weft.compiler.types import Dim


def _slice_nothing(x: Node, root: Node) -> Node | None:
    """A slice as large as its operand is all of it."""
    return x if x.type == root.type else None


def _slice_twice(x: Node, root: Node) -> Node | None:
    inner, outer = root.inputs[0].attributes, root.attributes
    start: list[Dim] = []
    limit: list[Dim] = []
    strides: list[int] = []
    for axis in range(x.type.rank):
        first, step = inner["start"][axis], inner["strides"][axis]
        low, high = outer["start"][axis], outer["limit"][axis]
        if step != 1 and low == high:
            return None
        start.append(first + low * step)
        limit.append(first + (high - 1) * step + 1)
        strides.append(step * outer["strides"][axis])
    return slice_(x, start, limit, strides)


def _slice_of_concat(root: Node) -> Node | None:
    """A slice that falls into one operand is a slice of that one."""
    parts, axis = root.inputs[0].inputs, root.inputs[0].attributes["axis"]
    start, limit = list(root.attributes["start"]), list(root.attributes["limit"])
    offset: Dim = 0
    for part in parts:
        size = part.type.shape[axis]
        low, high = start[axis] - offset, limit[axis] - offset
        if isinstance(low, int) and isinstance(high, int) and isinstance(size, int):
            inside = 0 <= low <= high <= size and low < size
        else:
            inside = low == 0 and high == size
        if inside:
            start[axis], limit[axis] = low, high
            return slice_(part, start, limit, root.attributes["strides"])
        offset = offset + size
    return None


def _pad_nothing(x: Node, root: Node) -> Node | None:
    amounts = (root.attributes[name] for name in ("low", "high", "interior"))
    return None if any(map(any, amounts)) else x


def _pad_number(root: Node) -> Node | None:
    """Zeros padded with zeros."""
    number, value = number_of(root.inputs[0]), root.attributes["value"]
    if number is None or number != value or str(float(number)) != str(float(value)):
        return None
    return full(root.type, number)


def _pad_twice(x: Node, root: Node) -> Node | None:
    inner, outer = root.inputs[0].attributes, root.attributes
    same = repr(float(inner["value"])) == repr(float(outer["value"]))
    amounts = [*inner["low"], *inner["high"], *outer["low"], *outer["high"]]
    if not same or any((*inner["interior"], *outer["interior"])):
        return None
    # What the outer one cuts must not come back as padding of the inner one.
    if not all(isinstance(amount, int) and amount >= 0 for amount in amounts):
        return None
    low = [a + b for a, b in zip(inner["low"], outer["low"], strict=True)]
    high = [a + b for a, b in zip(inner["high"], outer["high"], strict=True)]
    return pad(x, low, high, value=outer["value"])


def _concat_parts(root: Node) -> Node | None:
    """Flatten nested ones, drop empty operands, and join neighbouring slices of one tensor."""
    axis = root.attributes["axis"]
    parts: list[Node] = []
    for operand in root.inputs:
        nested = operand.op.name == "concat" and operand.attributes["axis"] == axis
        for part in operand.inputs if nested else (operand,):
            if part.type.shape[axis] == 0:
                continue
            joined = _join(parts[-1], part, axis) if parts else None
            if joined is None:
                parts.append(part)
            else:
                parts[-1] = joined
    if len(parts) == len(root.inputs) > 1:
        return None
    return concat(parts, axis) if parts else root.inputs[0]


def _join(left: Node, right: Node, axis: int) -> Node | None:
    """One slice for two that lie side by side; one broadcast for two of one number."""
    if left.op is not right.op or left.op.name not in ("slice", "broadcast_in_dim"):
        return None
    if left.inputs[0] is not right.inputs[0]:
        return None
    a, b, size = left.attributes, right.attributes, right.type.shape[axis]
    if left.op.name == "broadcast_in_dim":
        if a["dims"] != b["dims"] or axis in a["dims"]:
            return None
        shape = list(left.type.shape)
        shape[axis] = shape[axis] + size
        return broadcast(left.inputs[0], shape, a["dims"])
    beside = (*a["start"][:axis], *a["start"][axis + 1 :]) == (
        *b["start"][:axis],
        *b["start"][axis + 1 :],
    )
    if not beside or a["strides"] != b["strides"] or a["strides"][axis] != 1:
        return None
    if a["limit"][axis] != b["start"][axis]:
        return None
    limit = list(a["limit"])
    limit[axis] = b["limit"][axis]
    return slice_(left.inputs[0], a["start"], limit, a["strides"])


def _concat_number(root: Node) -> Node | None:
    """One number everywhere."""
    number = number_of(root.inputs[0])
    if number is None:
        return None
    for other in root.inputs[1:]:
        found = number_of(other)
        if found is None or repr(found) != repr(number):
            return None
    return full(root.type, number)


PARTS = Rules(
    Rule(op("slice", "x", name="root"), _slice_nothing),
    Rule(op("slice", op("slice", "x"), name="root"), _slice_twice),
    Rule(op("slice", op("concat"), name="root"), _slice_of_concat),
    Rule(op("pad", "x", name="root"), _pad_nothing),
    Rule(op("pad", const(lambda _: True), name="root"), _pad_number),
    Rule(op("pad", op("pad", "x"), name="root"), _pad_twice),
    Rule(op("concat", name="root"), _concat_number),
    Rule(op("concat", name="root"), _concat_parts),
)
