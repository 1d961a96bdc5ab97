"""Common subexpressions become one node.

Dead code needs no pass: a graph holds what its outputs reach, so that what a rewrite leaves unread
is gone with it.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import Any

from weft.compiler.graph import Graph, Node, rebuild, transform
from weft.compiler.passes.same import unless_same
from weft.compiler.text import graph_hash

# Bit for bit the same in either order; maximum and minimum differ in the sign of a zero.
_EITHER_ORDER = frozenset({"add", "multiply", "and", "or", "xor", "equal", "not_equal"})

_PLAIN = frozenset({int, str})  # what equals nothing that it isn't


def cse(graph: Graph) -> Graph:
    """The graph with one node for all that have the same op, operands and attributes.

    Requires a verified graph. Ensures the same signature, types and values to the bit. Attributes
    are compared with their types, so that `0`, `0.0`, `-0.0` and `False` differ and NaN equals
    itself; bodies of calls are compared by their text. The first of equal nodes stays.
    """
    known: dict[Hashable, Node] = {}
    hashes: dict[Graph, str] = {}

    def replace(node: Node, operands: tuple[Node, ...]) -> Node:
        if node.op.name == "input":
            return node
        # All nodes so named stay alive in `known`, so that their ids are theirs alone.
        names = [id(operand) for operand in operands]
        if node.op.name in _EITHER_ORDER:
            names.sort()
        attributes = [_key(value, hashes) for value in node.attributes.values()]
        key = (node.op.name, *names, *attributes)
        found = known.get(key)
        if found is None:
            found = known[key] = rebuild(node, operands)
        return found

    return unless_same(graph, transform(graph, replace))


def _key(value: Any, hashes: dict[Graph, str]) -> Hashable:
    """A value that equals another exactly when the attributes are the same."""
    kind = type(value)
    if kind is tuple:
        if _PLAIN.issuperset(map(type, value)):
            return value  # type: ignore[no-any-return]
        return tuple([_key(item, hashes) for item in value])
    if kind in _PLAIN:
        return value  # type: ignore[no-any-return]
    if kind is float:
        return ("float", struct.pack("<d", value))
    if isinstance(value, Graph):
        if value not in hashes:
            hashes[value] = graph_hash(value)
        return ("graph", hashes[value])
    return (kind.__name__, value)
