"""What each attribute of a primitive may hold; the parser and the verifier both ask here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from weft.compiler.graph import Graph
from weft.compiler.ops import Op
from weft.compiler.types import DType, SymDim, TensorType

Test = Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_dim(value: Any) -> bool:
    return type(value) is int or type(value) is SymDim


def _is_number(value: Any) -> bool:
    return type(value) in (int, float, bool)


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _tuple_of(test: Test) -> Test:
    return lambda value: type(value) is tuple and all(map(test, value))


def _pair(test: Test) -> Test:
    return lambda value: type(value) is tuple and len(value) == 2 and all(map(test, value))


def _is_static(value: Any) -> bool:
    """Whatever the text can say, but no graph: the static arguments of a composite."""
    if type(value) is tuple:
        return all(map(_is_static, value))
    return value is None or type(value) in _STATIC


_STATIC = frozenset({int, float, bool, str, SymDim, DType, TensorType})
_INTS = _tuple_of(_is_int)
_DIMS = _tuple_of(_is_dim)

# Attribute names mean the same for every op that has them.
_INT = ("an integer", _is_int)
_SEVERAL = ("a tuple of integers", _INTS)
_SIZES = ("a tuple of dimensions", _DIMS)
_TEXT = ("a string", _is_text)
_FLAG = ("true or false", _is_flag)
_AXIS_PAIR = ("two tuples of axes", _pair(_INTS))
_GRAPH = ("a graph", lambda value: isinstance(value, Graph))

KINDS: Mapping[str, tuple[str, Test]] = {
    "axes": _SEVERAL,
    "axis": _INT,
    "batch": _AXIS_PAIR,
    "batch_dims": _INT,
    "body": _GRAPH,
    "carried": _INT,
    "config": ("a tuple of numbers, strings, types and tuples", _tuple_of(_is_static)),
    "contract": _AXIS_PAIR,
    "descending": _FLAG,
    "dilation": _SEVERAL,
    "dim": ("a dimension", _is_dim),
    "dims": _SEVERAL,
    "dtype": ("an element type", lambda value: type(value) is DType),
    "factors": ('"tf32"', lambda value: value == "tf32"),
    "gradient": ("a graph or none", lambda value: value is None or isinstance(value, Graph)),
    "groups": _INT,
    "high": _SIZES,
    "interior": _SEVERAL,
    "k": _INT,
    "length": ("a dimension", _is_dim),
    "lhs_dilation": _SEVERAL,
    "limit": _SIZES,
    "low": _SIZES,
    "name": _TEXT,
    "padding": ("a tuple of pairs of dimensions", _tuple_of(_pair(_is_dim))),
    "permutation": _SEVERAL,
    "reducer": _TEXT,
    "result": _INT,
    "reverse": _FLAG,
    "rhs_dilation": _SEVERAL,
    "shape": _SIZES,
    "start": _SIZES,
    "stepped": _INT,
    "stream": _TEXT,
    "strides": _SEVERAL,
    "type": ("a tensor type", lambda value: type(value) is TensorType),
    "value": (
        "a number, or for a constant a tuple of numbers",
        lambda value: _is_number(value) or (type(value) is tuple and all(map(_is_number, value))),
    ),
    "window": _SEVERAL,
}


def attribute_fault(op: Op, attributes: Mapping[str, Any]) -> str | None:
    """What is wrong with the kinds of an op's attributes, as a sentence; None when all is well."""
    known = (*op.attributes, *(name for name in op.optional if name in attributes))
    if tuple(attributes) != known:
        if missing := [name for name in op.attributes if name not in attributes]:
            return f"`{op.name}` needs attribute `{missing[0]}`"
        if unknown := [name for name in attributes if name not in known]:
            return f"`{op.name}` has no attribute `{unknown[0]}`"
        return f"the attributes of `{op.name}` are out of order"
    for name, value in attributes.items():
        description, test = KINDS[name]
        if not test(value):
            return f"attribute `{name}` of `{op.name}` must be {description}"
    if op.name == "constant":
        return _constant_fault(attributes["value"], attributes["dtype"])
    if op.name == "pad" and type(attributes["value"]) is tuple:
        return "attribute `value` of `pad` must be one number"
    return None


def _constant_fault(value: Any, dtype: DType) -> str | None:
    """A constant's numbers have the Python type of its element type, and fit into it."""
    wanted = {"float": float, "bool": bool}.get(dtype.kind, int)
    for number in value if type(value) is tuple else (value,):
        if type(number) is not wanted:
            return f"a constant of {dtype} must hold {wanted.__name__}s"
        if isinstance(number, int) and wanted is int and not fits(number, dtype):
            return f"{number} is outside the range of {dtype}"
    return None


def fits(number: int, dtype: DType) -> bool:
    """Whether an integer is in the range of an integer type."""
    if dtype.kind == "uint":
        return 0 <= number < 1 << dtype.bits
    return -(1 << dtype.bits - 1) <= number < 1 << dtype.bits - 1
