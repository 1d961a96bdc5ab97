"""Where the positions along an axis come from: the axes of earlier values that it continues."""

from __future__ import annotations

from weft.compiler.graph import Node
from weft.compiler.ops import Kind

Place = tuple[Node, int]
"""An axis of a value."""


def origins(node: Node, axis: int) -> set[Place]:
    """This axis, and each axis of an earlier value with the same positions in the same order."""
    found: set[Place] = set()
    todo = [(node, axis)]
    while todo:
        place = todo.pop()
        if place not in found:
            found.add(place)
            todo += _before(*place)
    return found


def _before(node: Node, axis: int) -> list[Place]:
    """The axes of the operands that an axis continues; none where positions are new or mixed."""
    a = node.attributes
    match node.op.kind, node.op.name:
        case Kind.ELEMENTWISE, _:
            return [(operand, axis) for operand in node.inputs]
        case Kind.REDUCTION, _:
            gone = a["axes"] if "axes" in a else (a["axis"],)
            kept = [i for i in range(node.inputs[0].type.rank) if i not in gone]
            return [(node.inputs[0], kept[axis])]
        case _, "transpose":
            return [(node.inputs[0], a["permutation"][axis])]
        case _, "broadcast_in_dim":
            return [(node.inputs[0], a["dims"].index(axis))] if axis in a["dims"] else []
        case _, "slice":
            whole = node.type.shape[axis] == node.inputs[0].type.shape[axis]
            return [(node.inputs[0], axis)] if whole else []
        case _, "reshape":
            return _reshaped(node, axis)
        case _, "call":
            body = a["body"]
            operands = dict(zip(body.inputs, node.inputs, strict=True))
            inside = origins(body.outputs[0], axis)
            return [(operands[n], i) for n, i in inside if n in operands]
    return []


def _reshaped(node: Node, axis: int) -> list[Place]:
    """Through a reshape that only adds or drops axes of size 1."""
    before, after = (
        [i for i, d in enumerate(n.type.shape) if d != 1] for n in (node.inputs[0], node)
    )
    sizes = [
        [n.type.shape[i] for i in axes] for n, axes in ((node.inputs[0], before), (node, after))
    ]
    if sizes[0] != sizes[1] or axis not in after:
        return []
    return [(node.inputs[0], before[after.index(axis)])]
