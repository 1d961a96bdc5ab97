"""The reference: a graph's value, node by node, by what each primitive means in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from weft.compiler.errors import RunError
from weft.compiler.graph import Graph, Node, inline, transform
from weft.compiler.loops import Loop, loop_key
from weft.compiler.types import SymDim, bind_dim, static_shape

Compute = Callable[[Node, list[np.ndarray], Mapping[str, int]], np.ndarray]
"""A primitive's value from its operands' values, and the symbolic dimensions."""


def evaluate(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    sizes: Mapping[str, int] | None = None,
    observe: Callable[[Node, np.ndarray], None] | None = None,
    compute: Compute | None = None,
) -> dict[str, np.ndarray]:
    """The outputs of a graph by name, for an array per input.

    `sizes` gives the symbolic dimensions; those that are a whole axis of an input are read off it.
    `observe` sees every value as it is made; its nodes are the graph's where there are no calls.
    `compute` takes the place of `evaluate_node`, in the bodies of loops too.
    Raises RunError when an input is missing, or not of the type that the graph states.
    """
    bound = _input_sizes(graph, inputs, sizes or {})
    graph = _opened(graph)
    arrays = {node: _input(node, inputs, bound) for node in graph.inputs}
    with np.errstate(all="ignore"):
        values = _values(graph, arrays, bound, observe, compute or evaluate_node)
    return dict(zip(graph.output_names, values, strict=True))


def _values(
    graph: Graph,
    arrays: Mapping[Node, np.ndarray],
    sizes: Mapping[str, int],
    observe: Callable[[Node, np.ndarray], None] | None,
    compute: Compute,
) -> list[np.ndarray]:
    """The outputs of a graph without calls; a value is forgotten after its last reader."""
    left = {node: len(users) for node, users in graph.users.items()}
    for output in graph.outputs:
        left[output] += 1
    values: dict[Node, np.ndarray] = {}
    loops: dict[Hashable, list[np.ndarray]] = {}
    for node in graph.nodes:
        if node.op.name == "input":
            values[node] = arrays[node]
        elif node.op.name == "scan":
            key = loop_key(node)
            if key not in loops:
                operands = [values[i] for i in node.inputs]
                loops[key] = _loop(Loop.of(node), operands, sizes, compute)
            values[node] = loops[key][node.attributes["result"]]
        else:
            values[node] = compute(node, [values[i] for i in node.inputs], sizes)
        if observe is not None:
            observe(node, values[node])
        for operand in node.inputs:
            left[operand] -= 1
            if not left[operand]:
                values.pop(operand, None)
    return [values[node] for node in graph.outputs]


def _loop(
    loop: Loop, operands: Sequence[np.ndarray], sizes: Mapping[str, int], compute: Compute
) -> list[np.ndarray]:
    """All results of a loop, turn by turn."""
    body, (length,) = _opened(loop.body), static_shape((bind_dim(loop.length, sizes),))
    first, rest = len(loop.start), len(loop.start) + len(loop.steps)
    carried, stacks, fixed = list(operands[:first]), operands[first:rest], operands[rest:]
    shapes = [static_shape(_bound((loop.length, *n.type.shape), sizes)) for n in loop.stacked]
    stacked = [
        np.empty(shape, node.type.dtype.numpy)
        for shape, node in zip(shapes, loop.stacked, strict=True)
    ]
    for turn in reversed(range(length)) if loop.reverse else range(length):
        now = [*carried, *(stack[turn] for stack in stacks), *fixed]
        arrays = dict(zip(body.inputs, map(np.asarray, now), strict=True))
        results = _values(body, arrays, sizes, None, compute)
        carried = results[:first]
        for stack, value in zip(stacked, results[first:], strict=True):
            stack[turn] = value
    return [*map(np.array, carried), *stacked]


def evaluate_node(
    node: Node, operands: list[np.ndarray], sizes: Mapping[str, int] | None = None
) -> np.ndarray:
    """One primitive applied to arrays; its symbolic attributes are bound to `sizes`."""
    assert node.op.evaluate is not None, node
    attributes = node.attributes
    if sizes:
        attributes = {k: _bound(v, sizes) for k, v in attributes.items()}
    return np.asarray(node.op.evaluate(*operands, **attributes))


def _opened(graph: Graph) -> Graph:
    while any(node.op.name == "call" for node in graph.nodes):
        graph = transform(graph, _open_call)
    return graph


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
