"""Constant folding: what depends on no input is computed now, with the op's own NumPy meaning."""

from __future__ import annotations

import numpy as np

from weft.compiler.errors import InternalError
from weft.compiler.graph import Graph, Node, full, make, transform
from weft.compiler.ops import Kind
from weft.compiler.passes.same import unless_same
from weft.compiler.pattern import number_of
from weft.compiler.types import TensorType

# Elements of a folded result, and of an operand that it may take.
RESULT = 64
OPERAND = 4096


def fold(graph: Graph) -> Graph:
    """The graph with constant nodes in place of small computations on constants.

    Requires a verified graph. Ensures the same signature, types and values; results of at most 64
    elements, or of one number everywhere. A tensor of one number is always a scalar constant and a
    broadcast. Random bits and calls stay; `dim_size` of a known dimension becomes a constant.
    """
    with np.errstate(all="ignore"):
        return unless_same(graph, transform(graph, _fold))


def _fold(node: Node, operands: tuple[Node, ...]) -> Node | None:
    op = node.op
    if op.name == "constant":
        return _uniform(node)
    if op.name == "dim_size":
        dim = node.attributes["dim"]
        return full(node.type, dim, node.span) if isinstance(dim, int) else None
    if not operands or op.evaluate is None or op.name in ("random_bits", "broadcast_in_dim"):
        return None
    if op.kind is Kind.ELEMENTWISE:
        numbers = [number_of(operand) for operand in operands]
        if None not in numbers:
            scalars = [
                np.array(number, operand.type.dtype.numpy)
                for number, operand in zip(numbers, operands, strict=True)
            ]
            return _constant(node, np.asarray(op.evaluate(*scalars, **node.attributes)))
    if _elements(node.type) > RESULT:
        return None
    arrays = []
    for operand in operands:
        array = _array(operand)
        if array is None:
            return None
        arrays.append(array)
    return _constant(node, op.evaluate(*arrays, **node.attributes))


def _uniform(node: Node) -> Node | None:
    """A constant with a shape and one number everywhere as a broadcast scalar."""
    value, shape = node.attributes["value"], node.attributes["shape"]
    if not shape:
        return full(node.type, value[0], node.span) if isinstance(value, tuple) else None
    if not isinstance(value, tuple):
        return full(node.type, value, node.span)
    texts = {repr(number) for number in value}
    return full(node.type, value[0], node.span) if len(texts) == 1 else None


def _elements(type: TensorType) -> float:
    size = type.size
    return size if isinstance(size, int) else float("inf")


def _array(node: Node) -> np.ndarray | None:
    """The value of a constant, or of a broadcast one."""
    if node.op.name not in ("constant", "broadcast_in_dim") or _elements(node.type) > OPERAND:
        return None
    operands = [_array(operand) for operand in node.inputs]
    if any(operand is None for operand in operands) or node.op.evaluate is None:
        return None
    return node.op.evaluate(*operands, **node.attributes)


def _constant(node: Node, array: np.ndarray) -> Node:
    """An array, or one number for all elements, as a node of the given node's type and place."""
    dtype = node.type.dtype
    if array.dtype != dtype.numpy:
        raise InternalError(f"{node!r} evaluates to {array.dtype}")
    wide = array.astype(np.float64) if dtype.kind == "float" else array
    values = wide.ravel().tolist()
    if len({repr(value) for value in values}) == 1:
        return full(node.type, values[0], node.span)
    return make("constant", value=tuple(values), dtype=dtype, shape=node.type.shape, span=node.span)
