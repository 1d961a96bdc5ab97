"""The same computation in double precision: the arithmetic of a graph, less its rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from weft.compiler.composites import bodies
from weft.compiler.graph import Graph, Node, make, transform
from weft.compiler.types import F64, DType, TensorType


def widen(graph: Graph) -> Graph:
    """The graph with f64 in place of every other floating type, in bodies too.

    Requires a verified graph. Ensures the same names, shapes and operations, whose factors are not
    rounded; a constant keeps the value that it has in its own type, so that both graphs compute
    with the same numbers.
    """
    wide: dict[Graph, Graph] = {}

    def replace(node: Node, operands: tuple[Node, ...]) -> Node | None:
        if node.op.name == "constant" and node.type.dtype.kind == "float":
            return _constant(node)
        kept = {k: v for k, v in node.attributes.items() if k != "factors"}
        attributes = {k: _widened(v, wide) for k, v in kept.items()}
        return make(node.op.name, *operands, span=node.span, **attributes)

    for body in bodies(graph):
        wide[body] = transform(body, replace)
    return transform(graph, replace)


def _constant(node: Node) -> Node:
    value, dtype = node.attributes["value"], node.type.dtype.numpy
    rounded = np.array(value, np.float64).astype(dtype).astype(np.float64).tolist()
    if isinstance(rounded, list):
        rounded = tuple(rounded)
    attributes = {**node.attributes, "value": rounded, "dtype": F64}
    return make("constant", span=node.span, **attributes)


def _widened(value: Any, wide: Mapping[Graph, Graph]) -> Any:
    if isinstance(value, DType):
        return F64 if value.kind == "float" else value
    if isinstance(value, TensorType):
        return value.with_dtype(_widened(value.dtype, wide))
    return wide[value] if isinstance(value, Graph) else value
