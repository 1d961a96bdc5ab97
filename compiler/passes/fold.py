"""Constant folding: what depends on no input is computed now, with the op's own NumPy meaning."""

from __future__ import annotations

import numpy as np

from weft.compiler.errors import InternalError
from weft.compiler.graph import Graph, Node, full, make
from weft.compiler.ops import OPS, Kind
from weft.compiler.pattern import Rule, Rules, number_of, op, rewrite
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
    return rewrite(graph, FOLDING)


def _folded(root: Node) -> Node | None:
    """The value of a node whose operands are known."""
    with np.errstate(all="ignore"):
        return _of_numbers(root) or _of_arrays(root)


def _of_numbers(node: Node) -> Node | None:
    """An elementwise node of tensors that each hold one number everywhere."""
    numbers = [number_of(operand) for operand in node.inputs]
    if node.op.kind is not Kind.ELEMENTWISE or None in numbers:
        return None
    scalars = [
        np.array(number, operand.type.dtype.numpy)
        for number, operand in zip(numbers, node.inputs, strict=True)
    ]
    return _constant(node, np.asarray(_evaluated(node, scalars)))


def _of_arrays(node: Node) -> Node | None:
    """A node with a small result."""
    if _elements(node.type) > RESULT:
        return None
    arrays = []
    for operand in node.inputs:
        array = _array(operand)
        if array is None:
            return None
        arrays.append(array)
    return _constant(node, _evaluated(node, arrays))


def _evaluated(node: Node, arrays: list[np.ndarray]) -> np.ndarray:
    assert node.op.evaluate is not None
    return node.op.evaluate(*arrays, **node.attributes)


def _known_size(root: Node) -> Node | None:
    dim = root.attributes["dim"]
    return full(root.type, dim, root.span) if isinstance(dim, int) else None


def _uniform(root: Node) -> Node | None:
    """A constant with a shape and one number everywhere as a broadcast scalar."""
    value, shape = root.attributes["value"], root.attributes["shape"]
    if not shape:
        return full(root.type, value[0], root.span) if isinstance(value, tuple) else None
    if not isinstance(value, tuple):
        return full(root.type, value, root.span)
    texts = {repr(number) for number in value}
    return full(root.type, value[0], root.span) if len(texts) == 1 else None


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


# What `number_of` and `_array` see through: an operand that may be known.
_KNOWN = op(("constant", "broadcast_in_dim"))
# A broadcast is how a tensor of one number is written, and bits are drawn when the graph runs.
_KEPT = frozenset({"broadcast_in_dim", "random_bits"})

FOLDING = Rules(
    Rule(op("constant", name="root"), _uniform),
    Rule(op("dim_size", name="root"), _known_size),
    *(
        Rule(op(row.name, *[_KNOWN] * (row.arity or 0), name="root"), _folded)
        for row in OPS.values()
        if row.evaluate is not None and row.arity != 0 and row.name not in _KEPT
    ),
)
