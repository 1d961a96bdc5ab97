"""Elementwise primitives in ONNX. Operands broadcast, so a scalar or a bias is never copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from weft.backends.onnx.writer import Value, Writer
from weft.compiler.graph import Node
from weft.compiler.pattern import number_of
from weft.compiler.types import BF16, BOOL, F16, F32, I8, I32, I64, U8, U32, U64, DType

Rule = Callable[[Writer, Node, Sequence[Value]], Value]

_DIRECT = {
    "negate": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "sin": "Sin",
    "cos": "Cos",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "erf": "Erf",
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "select": "Where",
}
_TESTS = {
    "equal": "Equal",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
}
_BITS = {"and": "And", "or": "Or", "xor": "Xor"}
_UNSIGNED: dict[DType, DType] = {I8: U8, I32: U32, I64: U64}
_SHORT = (F16, BF16)


def _direct(op_type: str, dtype: DType | None = None) -> Rule:
    return lambda w, node, x: w.elementwise(op_type, *x, dtype=dtype)


def _same(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    return x[0]


def _cast(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    return w.cast(x[0], node.type.dtype)


def _in_f32(rule: Rule) -> Rule:
    """16-bit floats computed in f32 and rounded once."""

    def wrapped(w: Writer, node: Node, x: Sequence[Value]) -> Value:
        dtype = x[0].dtype
        if dtype not in _SHORT:
            return rule(w, node, x)
        return w.cast(rule(w, node, [w.cast(v, F32) for v in x]), dtype)

    return wrapped


def _rsqrt(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    return w.op("Reciprocal", w.op("Sqrt", x[0]))


def _expm1(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    """`(exp(x) + 1) tanh(x / 2)`, which loses no digits near 0."""
    dtype = x[0].dtype
    half = w.elementwise("Mul", x[0], w.scalar(0.5, dtype))
    sum_ = w.elementwise("Add", w.op("Exp", x[0]), w.scalar(1, dtype))
    return w.elementwise("Mul", sum_, w.op("Tanh", half))


def _log1p(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    """`log(1 + x) x / ((1 + x) - 1)`, Kahan's correction of what the sum rounded away.

    The factor, which is 1 for large `x`, is taken of a bounded `x`: infinity over itself is NaN.
    """
    dtype = x[0].dtype
    one = w.scalar(1, dtype)
    bounded = w.elementwise("Min", x[0], w.scalar(2.0**64, dtype))
    kept = w.elementwise("Sub", w.elementwise("Add", bounded, one), one)
    log = w.op("Log", w.elementwise("Add", x[0], one))
    corrected = w.elementwise("Mul", log, w.elementwise("Div", bounded, kept))
    tiny = w.elementwise("Equal", kept, w.scalar(0, dtype), dtype=BOOL)
    return w.elementwise("Where", tiny, x[0], corrected)


def _is_finite(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    infinity = w.scalar(np.inf, x[0].dtype)
    return w.elementwise("Less", w.op("Abs", x[0]), infinity, dtype=BOOL)


def _not(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    return w.logical_not(x[0]) if x[0].dtype == BOOL else w.op("BitwiseNot", x[0])


def _not_equal(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    return w.logical_not(w.elementwise("Equal", *x, dtype=BOOL))


def _bits(op_type: str) -> Rule:
    return lambda w, node, x: w.elementwise(
        op_type if x[0].dtype == BOOL else f"Bitwise{op_type}", *x
    )


# -- integers -------------------------------------------------------------------------------------


def _guarded(divide: Rule) -> Rule:
    """An integer division by zero gives 0, where ONNX leaves it open and kernels may trap."""

    def rule(w: Writer, node: Node, x: Sequence[Value]) -> Value:
        if number_of(node.inputs[1]):
            return divide(w, node, x)
        zero, one = (w.scalar(n, x[0].dtype) for n in (0, 1))
        bad = w.elementwise("Equal", x[1], zero, dtype=BOOL)
        result = divide(w, node, [x[0], w.elementwise("Where", bad, one, x[1])])
        return w.elementwise("Where", bad, zero, result)

    return rule


def _floor_quotient(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    """ONNX rounds a quotient toward zero, but gives the remainder of the floor."""
    if x[0].dtype.kind == "uint":
        return w.elementwise("Div", *x)
    rest = w.elementwise("Mod", *x)
    return w.elementwise("Div", w.elementwise("Sub", x[0], rest), x[1])


def _modulo(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    return w.elementwise("Mod", *x)


def _remainder(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    """With the sign of the divisor; of floats, C's remainder has that of the dividend."""
    if x[0].dtype.kind != "float":
        return _guarded(_modulo)(w, node, x)
    zero = w.scalar(0, x[0].dtype)
    rest = w.elementwise("Mod", *x, fmod=1)
    signs = [w.elementwise("Less", v, zero, dtype=BOOL) for v in (rest, x[1])]
    some = w.logical_not(w.elementwise("Equal", rest, zero, dtype=BOOL))
    wrong = w.elementwise("And", some, w.elementwise("Xor", *signs))
    return w.elementwise("Where", wrong, w.elementwise("Add", rest, x[1]), rest)


def _shift(direction: str) -> Rule:
    """Bits as unsigned numbers; ONNX leaves shifts by the width or more open."""

    def rule(w: Writer, node: Node, x: Sequence[Value]) -> Value:
        dtype = x[0].dtype
        bits = _UNSIGNED.get(dtype, dtype)
        value, amount = (w.cast(v, bits) for v in x)
        shifted = w.elementwise("BitShift", value, amount, direction=direction)
        by = number_of(node.inputs[1])
        if by is None or not 0 <= by < dtype.bits:
            inside = w.elementwise("Less", amount, w.scalar(dtype.bits, bits), dtype=BOOL)
            shifted = w.elementwise("Where", inside, shifted, w.scalar(0, bits))
        return w.cast(shifted, dtype)

    return rule


RULES: dict[str, Rule] = {
    **{name: _direct(op_type) for name, op_type in _DIRECT.items()},
    **{name: _direct(op_type, BOOL) for name, op_type in _TESTS.items()},
    **{name: _bits(op_type) for name, op_type in _BITS.items()},
    "cast": _cast,
    "expm1": _in_f32(_expm1),
    "floor_divide": _guarded(_floor_quotient),
    "is_finite": _is_finite,
    "log1p": _in_f32(_log1p),
    "maximum": lambda w, node, x: w.extreme("Max", x[0], x[1]),
    "minimum": lambda w, node, x: w.extreme("Min", x[0], x[1]),
    "not": _not,
    "not_equal": _not_equal,
    "remainder": _in_f32(_remainder),
    "rsqrt": _in_f32(_rsqrt),
    "shift_left": _shift("LEFT"),
    "shift_right": _shift("RIGHT"),
    "stop_gradient": _same,
}
