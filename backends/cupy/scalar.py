"""Elementwise ops and numbers as CUDA C++: an expression of a name for each operand.

Ops are functions of `prelude.cuh`; the few that C++ has as operators with the same meaning are
printed so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weft.compiler.passes.elements import wide
from weft.compiler.types import F32, DType

TYPES = {
    "bool": "bool",
    "i8": "signed char",
    "u8": "unsigned char",
    "i32": "int",
    "u32": "unsigned",
    "i64": "long long",
    "u64": "unsigned long long",
    "f16": "f16",
    "bf16": "bf16",
    "f32": "float",
    "f64": "double",
}

_FUNCTIONS = (
    "abs", "add", "ceil", "cos", "divide", "erf", "exp", "expm1", "floor", "floor_divide",
    "is_finite", "log", "log1p", "logistic", "maximum", "minimum", "multiply", "negate", "power",
    "remainder", "round", "rsqrt", "shift_left", "shift_right", "sign", "sin", "sqrt", "subtract",
    "tanh",
)  # fmt: skip

_EXPRESSIONS = {
    "and": "op::both({}, {})",
    "or": "op::either({}, {})",
    "xor": "op::differ({}, {})",
    "not": "op::invert({})",
    "equal": "{} == {}",
    "not_equal": "{} != {}",
    "less": "{} < {}",
    "less_equal": "{} <= {}",
    "greater": "{} > {}",
    "greater_equal": "{} >= {}",
    "select": "{} ? {} : {}",
    "stop_gradient": "{}",
    "cast": "op::cast<TYPE>({})",
}

OPS = frozenset((*_FUNCTIONS, *_EXPRESSIONS))

_SIGNS = {"add": "{} + {}", "subtract": "{} - {}", "multiply": "{} * {}", "divide": "{} / {}"}


def apply(op: str, operands: Sequence[str], dtype: DType) -> str:
    """The expression of an elementwise op whose result has this type."""
    if dtype.kind == "float" and op in _SIGNS:
        return _SIGNS[op].format(*operands)
    if op in _FUNCTIONS:
        return f"op::{op}({', '.join(operands)})"
    return _EXPRESSIONS[op].replace("TYPE", type_name(dtype)).format(*operands)


def type_name(dtype: DType) -> str:
    """The C++ type of an element in memory."""
    return TYPES[dtype.name]


def computed_name(dtype: DType) -> str:
    """The C++ type in which elements are computed."""
    return type_name(wide(dtype))


def literal(value: float, dtype: DType) -> str:
    """A number of this type; it wraps or rounds as in `meaning.constant`."""
    name = type_name(dtype)
    with np.errstate(over="ignore"):
        number = np.full((), value, dtype.numpy)[()]
    if dtype.kind == "bool":
        return "true" if number else "false"
    if dtype.is_narrow:
        return f"{name}({literal(float(number), F32)})"
    if dtype.kind == "float":
        if np.isnan(number):
            return f"op::not_a_number<{name}>()"
        if np.isinf(number):
            return f"{'-' if number < 0 else ''}op::infinity<{name}>()"
        return str(number) + ("f" if dtype.bits == 32 else "")
    if dtype.bits < 32:
        return f"({name})({number})"
    suffix = {"i32": "", "u32": "u", "i64": "LL", "u64": "ULL"}[dtype.name]
    lowest = dtype.kind == "int" and number == np.iinfo(dtype.numpy).min
    return f"({number + 1}{suffix} - 1)" if lowest else f"{number}{suffix}"
