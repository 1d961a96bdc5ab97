"""The products of attention: those that give a value of queries by keys, and those that sum one.

s = q k^T    an inner product, over the size of a head
o = p v      an outer product, over keys; in gradients over queries too
"""

from __future__ import annotations

from dataclasses import dataclass

from weft.compiler.graph import Node
from weft.compiler.passes.elements import shape_of


@dataclass(frozen=True)
class InnerProduct:
    """A product that gives such values: `s[b, t, j] = sum over d of left[b, t, d] right[b, j, d]`.

    Batch axes, the axis that stays and the one that is summed over, of each operand.
    """

    node: Node
    batch: tuple[tuple[int, ...], tuple[int, ...]]
    free: tuple[int, int]
    over: tuple[int, int]


def inner_product(node: Node) -> InnerProduct | None:
    """The node as such a product, if it is one."""
    if node.op.name != "dot_general":
        return None
    contract, batch = node.attributes["contract"], node.attributes["batch"]
    rank = len(batch[0]) + 2
    if len(contract[0]) != 1 or any(operand.type.rank != rank for operand in node.inputs):
        return None
    free = [
        next(i for i in range(rank) if i not in (*contract[side], *batch[side])) for side in (0, 1)
    ]
    return InnerProduct(node, batch, (free[0], free[1]), (contract[0][0], contract[1][0]))


@dataclass(frozen=True)
class OuterProduct:
    """A sum over queries or keys: `o[b, t, n] = sum over j of pair[b, t, j] factor[b, j, n]`.

    `slot` is the operand that `pair` is, `over` its axis that is summed over; then the axes of the
    factor.
    """

    node: Node
    slot: int
    over: int
    batch: tuple[int, ...]
    along: int
    free: int

    @property
    def pair(self) -> Node:
        return self.node.inputs[self.slot]

    @property
    def factor(self) -> Node:
        return self.node.inputs[1 - self.slot]

    @property
    def width(self) -> int:
        return shape_of(self.factor)[self.free]


def outer_product(node: Node, pair: Node) -> OuterProduct | None:
    """The node as such a sum of a value of queries by keys, if it is one."""
    found = inner_product(node)
    if found is None or (node.inputs[0] is pair) == (node.inputs[1] is pair):
        return None
    slot = 0 if node.inputs[0] is pair else 1
    if found.batch[slot] != tuple(range(pair.type.rank - 2)):
        return None
    other = 1 - slot
    return OuterProduct(
        node, slot, found.over[slot], found.batch[other], found.over[other], found.free[other]
    )
