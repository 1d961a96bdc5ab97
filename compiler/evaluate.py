"""The reference: a graph's value, node by node, by what each primitive means in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from weft.compiler.errors import RunError
from weft.compiler.graph import Graph, Node, inline, transform
from weft.compiler.types import SymDim, bind_dim


def evaluate(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    sizes: Mapping[str, int] | None = None,
    observe: Callable[[Node, np.ndarray], None] | None = None,
) -> dict[str, np.ndarray]:
    """The outputs of a graph by name, for an array per input.

    `sizes` gives the symbolic dimensions; those that are a whole axis of an input are read off it.
    `observe` sees every value as it is made; its nodes are the graph's where there are no calls.
    Raises RunError when an input is missing, or not of the type that the graph states.
    """
    while any(node.op.name == "call" for node in graph.nodes):
        graph = transform(graph, _open_call)
    bound = _input_sizes(graph, inputs, sizes or {})
    left = {node: len(users) for node, users in graph.users.items()}
    for output in graph.outputs:
        left[output] += 1
    values: dict[Node, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            if node.op.name == "input":
                values[node] = _input(node, inputs, bound)
            else:
                values[node] = evaluate_node(node, [values[i] for i in node.inputs], bound)
            if observe is not None:
                observe(node, values[node])
            for operand in node.inputs:
                left[operand] -= 1
                if not left[operand]:
                    values.pop(operand, None)
    return {name: values[node] for name, node in graph.named_outputs.items()}


def evaluate_node(
    node: Node, operands: list[np.ndarray], sizes: Mapping[str, int] | None = None
) -> np.ndarray:
    """One primitive applied to arrays; its symbolic attributes are bound to `sizes`."""
    assert node.op.evaluate is not None, node
    attributes = {k: _bound(v, sizes or {}) for k, v in node.attributes.items()}
    return np.asarray(node.op.evaluate(*operands, **attributes))


def _open_call(node: Node, operands: tuple[Node, ...]) -> Node | None:
    return inline(node, operands) if node.op.name == "call" else None


def _bound(value: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(value, SymDim):
        return bind_dim(value, sizes)
    if isinstance(value, tuple):
        return tuple(_bound(item, sizes) for item in value)
    return value


def _input(node: Node, inputs: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
    array, shape = np.asarray(inputs[node.name]), _bound(node.type.shape, sizes)
    if array.shape != shape or array.dtype != node.type.dtype.numpy:
        raise RunError(
            f"input `{node.name}` has another type",
            node.span,
            expected=f"`{node.type.with_shape(shape)}`",
            found=f"{array.dtype} of shape {array.shape}",
        )
    return array


def _input_sizes(
    graph: Graph, inputs: Mapping[str, np.ndarray], sizes: Mapping[str, int]
) -> dict[str, int]:
    """`sizes` and what the shapes of the inputs tell of the other symbols."""
    found = dict(sizes)
    for node in graph.inputs:
        if node.name not in inputs:
            raise RunError(f"input `{node.name}` is missing", node.span)
        for dim, size in zip(node.type.shape, np.shape(inputs[node.name]), strict=False):
            if isinstance(dim, SymDim) and str(dim) in dim.symbols:
                found.setdefault(str(dim), size)
    return found
