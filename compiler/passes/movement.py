"""Rewrite rules of movement: index maps compose, cancel, and step aside for arithmetic.

Elementwise work on broadcast operands is done before the broadcast, where there is less of it.
All rules but one keep every bit; the sum over an axis that a broadcast made becomes a product
with the axis' size, which rounds once instead of once an element.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weft.compiler.attributes import fits
from weft.compiler.builder import (
    broadcast,
    reduce,
    reshape,
    reverse,
    size_of,
    transpose,
)
from weft.compiler.graph import Node, full, make
from weft.compiler.passes.parts import PARTS
from weft.compiler.pattern import ELEMENTWISE, Rule, Rules, number_of, op
from weft.compiler.types import Dim, TensorType

# -- layout ---------------------------------------------------------------------------------------


def _transpose_twice(x: Node, root: Node) -> Node:
    inner, outer = root.inputs[0].attributes["permutation"], root.attributes["permutation"]
    return transpose(x, [inner[i] for i in outer])


def _transpose_nothing(x: Node, root: Node) -> Node | None:
    """The identity vanishes; moving axes of size 1 alone is a reshape."""
    permutation = root.attributes["permutation"]
    moved = [i for i in permutation if x.type.shape[i] != 1]
    return reshape(x, root.type.shape) if moved == sorted(moved) else None


def _number_of_type(x: Node, root: Node) -> Node | None:
    """Whatever only moves a tensor that holds one number gives that number."""
    number = number_of(x)
    return None if number is None else full(root.type, number)


LAYOUT = Rules(
    Rule(op(("reshape", "transpose", "slice", "reverse"), "x", name="root"), _number_of_type),
    Rule(op("transpose", "x", name="root"), _transpose_nothing),
    Rule(op("transpose", op("transpose", "x"), name="root"), _transpose_twice),
    Rule(
        op("reshape", "x", name="root"),
        lambda x, root: x if x.type == root.type else None,
    ),
    Rule(
        op("reshape", op("reshape", "x"), name="root"),
        lambda x, root: reshape(x, root.type.shape),
    ),
    Rule(
        op("reshape", op("broadcast_in_dim", "x", dims=()), name="root"),
        lambda x, root: broadcast(x, root.type.shape, ()),
    ),
)


def _reverse_less(x: Node, root: Node) -> Node | None:
    """Axes of size 1 have no direction."""
    axes = root.attributes["axes"]
    kept = [a for a in axes if x.type.shape[a] != 1]
    return reverse(x, kept) if len(kept) < len(axes) or not axes else None


def _reverse_twice(x: Node, root: Node) -> Node:
    return reverse(x, set(root.attributes["axes"]) ^ set(root.inputs[0].attributes["axes"]))


REVERSALS = Rules(
    Rule(op("reverse", "x", name="root"), _reverse_less),
    Rule(op("reverse", op("reverse", "x"), name="root"), _reverse_twice),
)

# -- broadcasts -----------------------------------------------------------------------------------


def _broadcast_twice(x: Node, root: Node) -> Node:
    inner, outer = root.inputs[0].attributes["dims"], root.attributes["dims"]
    return broadcast(x, root.type.shape, [outer[i] for i in inner])


def _transpose_of_broadcast(x: Node, root: Node) -> Node | None:
    """Where the operand's axes keep their order, only the broadcast's axes move."""
    permutation = root.attributes["permutation"]
    dims = [permutation.index(axis) for axis in root.inputs[0].attributes["dims"]]
    return broadcast(x, root.type.shape, dims) if dims == sorted(dims) else None


def _slice_of_broadcast(x: Node, root: Node) -> Node | None:
    """A slice of the axes that the broadcast made only makes them shorter."""
    dims = root.inputs[0].attributes["dims"]
    if any(root.type.shape[axis] != root.inputs[0].type.shape[axis] for axis in dims):
        return None
    return broadcast(x, root.type.shape, dims)


def _reverse_of_broadcast(x: Node, root: Node) -> Node | None:
    dims = root.inputs[0].attributes["dims"]
    axes = root.attributes["axes"]
    kept = [axis for axis in axes if axis in dims]
    if len(kept) == len(axes):
        return None
    return broadcast(reverse(x, [dims.index(a) for a in kept]), root.type.shape, dims)


def _before_broadcast(root: Node) -> Node | None:
    """`f(broadcast(x), broadcast(y)) -> broadcast(f(x, y))`, over the axes that any of them has."""
    used: set[int] = set()
    for operand in root.inputs:
        if operand.op.name != "broadcast_in_dim":
            return None
        used.update(operand.attributes["dims"])
    if len(used) == root.type.rank:
        return None
    dims = sorted(used)
    shape = tuple(root.type.shape[axis] for axis in dims)
    operands = [
        broadcast(o.inputs[0], shape, [dims.index(axis) for axis in o.attributes["dims"]])
        for o in root.inputs
    ]
    return broadcast(make(root.op.name, *operands, **root.attributes), root.type.shape, dims)


BROADCASTS = Rules(
    Rule(
        op("broadcast_in_dim", "x", name="root"),
        lambda x, root: x if x.type == root.type else None,
    ),
    Rule(op("broadcast_in_dim", op("broadcast_in_dim", "x"), name="root"), _broadcast_twice),
    Rule(op("transpose", op("broadcast_in_dim", "x"), name="root"), _transpose_of_broadcast),
    Rule(op("slice", op("broadcast_in_dim", "x"), name="root"), _slice_of_broadcast),
    Rule(op("reverse", op("broadcast_in_dim", "x"), name="root"), _reverse_of_broadcast),
    Rule(op(ELEMENTWISE, name="root"), _before_broadcast),
)

# -- reductions -----------------------------------------------------------------------------------

_REDUCTIONS = tuple(f"reduce_{what}" for what in ("sum", "prod", "max", "min", "and", "or"))
_EXACT = tuple(f"reduce_{what}" for what in ("max", "min", "and", "or"))


def _reduce_nothing(x: Node, root: Node) -> Node | None:
    if any(x.type.shape[axis] != 1 for axis in root.attributes["axes"]):
        return None
    return reshape(x, root.type.shape)


def _reduce_twice(x: Node, root: Node) -> Node:
    inner = root.inputs[0].attributes["axes"]
    left = [i for i in range(x.type.rank) if i not in inner]
    return make(
        root.op.name, x, axes=tuple(sorted((*inner, *(left[i] for i in root.attributes["axes"]))))
    )


def _same_reductions(root: Node) -> Node | None:
    inner = root.inputs[0]
    return _reduce_twice(inner.inputs[0], root) if inner.op is root.op else None


def _reduce_transposed(x: Node, root: Node) -> Node | None:
    """Where the remaining axes keep their order."""
    permutation = root.inputs[0].attributes["permutation"]
    axes = root.attributes["axes"]
    left = [p for i, p in enumerate(permutation) if i not in axes]
    if left != sorted(left):
        return None
    return make(root.op.name, x, axes=tuple(sorted(permutation[i] for i in axes)))


def _reduce_broadcast(x: Node, root: Node) -> Node | None:
    """Reduce before broadcasting; an axis that the broadcast made only counts in a sum."""
    inner = root.inputs[0]
    dims, axes = inner.attributes["dims"], root.attributes["axes"]
    made = [inner.type.shape[axis] for axis in axes if axis not in dims]
    if 0 in made:
        return None
    result = reduce(root.op.name[7:], x, [i for i, axis in enumerate(dims) if axis in axes])
    if root.op.name == "reduce_sum" and made:
        count = _count(made, result.type)
        if count is None:
            return None
        result = result * count
    left = [axis for axis in range(inner.type.rank) if axis not in axes]
    return broadcast(result, root.type.shape, [left.index(a) for a in dims if a in left])


def _count(dims: Sequence[Dim], type: TensorType) -> Node | None:
    """The number of elements in a tensor type, unless it is no number of that element type."""
    count: Dim = TensorType(type.dtype, tuple(dims)).size
    if not isinstance(count, int):
        return (
            broadcast(size_of(dims, type.dtype), type.shape, ()) if type.dtype.bits > 16 else None
        )
    if type.dtype.kind == "float":
        exact = float(np.array(count, np.float64).astype(type.dtype.numpy)) == count
    else:
        exact = fits(count, type.dtype)
    return full(type, count) if exact else None


REDUCTIONS = Rules(
    Rule(op(_REDUCTIONS, "x", name="root"), _reduce_nothing),
    Rule(op(_EXACT, op(_EXACT), name="root"), _same_reductions),
    Rule(op(_EXACT, op("transpose", "x"), name="root"), _reduce_transposed),
    Rule(op(("reduce_sum", *_EXACT), op("broadcast_in_dim", "x"), name="root"), _reduce_broadcast),
)

# -- products -------------------------------------------------------------------------------------


def _free(rank: int, contract: Sequence[int], batch: Sequence[int]) -> list[int]:
    return [i for i in range(rank) if i not in contract and i not in batch]


def _absorb_transposes(root: Node) -> Node | None:
    """A product reads its axes by number, so that it can read through a transpose.

    Only where the result's free axes keep their order.
    """
    operands = list(root.inputs)
    contract, batch = list(root.attributes["contract"]), list(root.attributes["batch"])
    changed = False
    for side, operand in enumerate(operands):
        if operand.op.name != "transpose":
            continue
        permutation = operand.attributes["permutation"]
        free = [permutation[i] for i in _free(operand.type.rank, contract[side], batch[side])]
        if free == sorted(free):
            operands[side], changed = operand.inputs[0], True
            contract[side] = tuple(permutation[i] for i in contract[side])
            batch[side] = tuple(permutation[i] for i in batch[side])
    if not changed:
        return None
    attributes = {**root.attributes, "contract": tuple(contract), "batch": tuple(batch)}
    return make("dot_general", *operands, **attributes)


def _swap_operands(dot: Node, root: Node) -> Node | None:
    """A transpose that only exchanges the two blocks of free axes exchanges the operands."""
    left, right = dot.inputs
    contract, batch = dot.attributes["contract"], dot.attributes["batch"]
    shared = len(batch[0])
    first = len(_free(left.type.rank, contract[0], batch[0]))
    rank = dot.type.rank
    wanted = (*range(shared), *range(shared + first, rank), *range(shared, shared + first))
    if root.attributes["permutation"] != wanted:
        return None
    attributes = {**dot.attributes, "contract": contract[::-1], "batch": batch[::-1]}
    return make("dot_general", right, left, **attributes)


CONTRACTIONS = Rules(
    Rule(op("dot_general", name="root"), _absorb_transposes),
    Rule(
        op("transpose", op("dot_general", name="dot", used_once=True), name="root"), _swap_operands
    ),
)

MOVEMENT = LAYOUT + REVERSALS + BROADCASTS + REDUCTIONS + PARTS + CONTRACTIONS
