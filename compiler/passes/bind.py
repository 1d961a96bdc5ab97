"""Symbolic dimensions become numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.compiler.composites import bodies
from weft.compiler.errors import CompileError
from weft.compiler.graph import Graph, Node, full, make, transform
from weft.compiler.passes.same import unless_same
from weft.compiler.types import Dim, SymDim, TensorType, bind_dim

_PLAIN = frozenset({int, float, bool, str})


def bind(graph: Graph, sizes: Mapping[str, Dim]) -> Graph:
    """The graph with symbols replaced by sizes, in types, attributes and bodies of calls.

    Requires a verified graph; sizes of symbols that do not occur are ignored. Ensures that the
    named symbols are gone and that a `dim_size` which thereby is known is a constant; names stay.
    Raises CompileError where a size does not fit, such as a window that is larger than the image.
    """
    known: dict[Graph | SymDim, Graph | Dim] = {}  # what bodies and sizes have become

    def replace(node: Node, operands: tuple[Node, ...]) -> Node | None:
        old = node.attributes
        if not old and node.type is node.inputs[0].type:  # elementwise: no size can be wrong
            if operands == node.inputs:
                return node
            return Node(node.op, operands, old, operands[0].type, node.span)
        attributes = {k: _bind(v, sizes, known) for k, v in old.items()}
        # Nodes are equal where they are the same.
        if operands == node.inputs and all(v is old[k] for k, v in attributes.items()):
            return node
        if node.op.name == "dim_size" and isinstance(attributes["dim"], int):
            return full(node.type, attributes["dim"], node.span)
        try:
            return make(node.op.name, *operands, span=node.span, **attributes)
        except ValueError as error:
            given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
            raise CompileError(f"`{node.op.name}` can't have {given}: {error}", node.span) from None

    for body in bodies(graph):
        known[body] = unless_same(body, transform(body, replace))
    return unless_same(graph, transform(graph, replace))


def _bind(value: Any, sizes: Mapping[str, Dim], known: dict[Graph | SymDim, Graph | Dim]) -> Any:
    """The value with symbols replaced; the very same object where there are none."""
    kind = type(value)
    if kind is SymDim:
        if value not in known:
            known[value] = bind_dim(value, sizes)
        result: Any = known[value]
    elif kind is tuple:
        if _PLAIN.issuperset(map(type, value)):
            return value
        result = tuple([_bind(item, sizes, known) for item in value])
        if all(a is b for a, b in zip(result, value, strict=True)):
            return value
    elif kind is TensorType:
        result = TensorType(value.dtype, _bind(value.shape, sizes, known))
    elif isinstance(value, Graph):
        return known[value]
    else:
        return value
    return value if result == value else result
