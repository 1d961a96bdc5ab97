"""What each elementwise op does to one element, as an expression for a vectorised loop of TVM.

The meaning is NumPy's, to the bit for everything but the functions of `mathematics.py` and
`trigonometry.py`. Types:

    f32, f64, i8 to u64   TVM's type of that name
    bool                  `uint8`, 0 or 1, in memory and under names: a named vector of truth values
                          breaks TVM's vectoriser, and LLVM sees through the bytes

TVM simplifies signed integers, and tells LLVM about all integers of 32 bits and more, as if they
never overflowed: arithmetic that wraps is done at twice the width, which LLVM takes back. Division
by 0 is undefined for it: divisors are replaced before. For floats see `lines.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx as T

from weft.backends.tvm import lines as l
from weft.backends.tvm import mathematics as m
from weft.backends.tvm import trigonometry
from weft.backends.tvm.lines import Lines
from weft.backends.tvm.tir import Expr, stored
from weft.compiler.errors import RunError
from weft.compiler.types import BOOL, DType

Rule = Callable[[Lines, Sequence[Expr], DType, DType], Expr]
"""From the operands, by name, the type of the result and the type of the last operand."""

Operator = Callable[[Expr, Expr], Expr]


def literal(value: float, dtype: DType) -> Expr:
    """A number of this type; it wraps or rounds as in `meaning.constant`."""
    name = tvm_type(dtype)
    if dtype.kind != "float":
        return T.const(int(np.full((), value, dtype.numpy)), name)
    number = float(np.full((), value, dtype.numpy))
    plain = np.isfinite(number) and number != 0
    return T.const(number, name) if plain else l.special(number, name)


def apply(
    lines: Lines,
    op: str,
    operands: Sequence[Expr],
    dtype: DType,
    operand_dtypes: Sequence[DType],
) -> Expr:
    """The named result of an elementwise op, of type `dtype`; lines are added as needed."""
    for used in (dtype, *operand_dtypes):
        tvm_type(used)
    named = [lines.let(operand) for operand in operands]
    return lines.let(TABLE[op](lines, named, dtype, operand_dtypes[-1]))


def tvm_type(dtype: DType) -> str:
    """TVM's name for elements of this type; a RunError for those that the backend lacks."""
    if dtype.is_narrow:
        raise RunError(
            "the tvm backend computes in f32 and f64",
            found=f"`{dtype}`",
            hint="train with `precision = f32`",
        )
    return stored(dtype)


# -- truth ----------------------------------------------------------------------------------------


def truth(value: Expr) -> Expr:
    """A value of type bool as a condition."""
    return value != _byte(0)


def flag(condition: Expr) -> Expr:
    """A condition as a value of type bool."""
    return T.Select(condition, _byte(1), _byte(0))


def _byte(value: int) -> Expr:
    return T.const(value, "uint8")


def _compare(test: Operator) -> Rule:
    return lambda lines, xs, dtype, given: flag(test(*xs))


def _equal(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    return flag(l.is_equal(*xs) if given.kind == "float" else T.EQ(*xs))


def _not_equal(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    return flag(l.negated(l.is_equal(*xs)) if given.kind == "float" else T.NE(*xs))


def _is_finite(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    return flag(T.abs(xs[0]) < l.special(np.inf, tvm_type(given)))


def _select(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    return lines.select(truth(xs[0]), xs[1], xs[2])


# -- arithmetic -----------------------------------------------------------------------------------


def _wrapping(lines: Lines, operate: Operator, x: Expr, y: Expr, dtype: DType) -> Expr:
    """Integer arithmetic modulo 2^bits, in twice the bits where LLVM is told it won't overflow."""
    if dtype.bits < 32:
        return operate(x, y)
    signed = dtype.kind == "int" or operate is _minus
    wide = f"{'int' if signed else 'uint'}{2 * dtype.bits}"
    result = lines.let(operate(T.Cast(wide, x), T.Cast(wide, y)))
    return T.Cast(tvm_type(dtype), result)


def _plus(x: Expr, y: Expr) -> Expr:
    return x + y


def _minus(x: Expr, y: Expr) -> Expr:
    return x - y


def _times(x: Expr, y: Expr) -> Expr:
    return x * y


def _arithmetic(operate: Operator, floating: Operator) -> Rule:
    def rule(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
        if dtype.kind == "float":
            return floating(*xs)
        x, y = xs
        return _wrapping(lines, operate, x, y, dtype)

    return rule


def _negate(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    if dtype.kind == "float":
        return l.negative(xs[0])
    return _wrapping(lines, _minus, literal(0, dtype), xs[0], dtype)


def _abs(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    if dtype.kind == "float":
        return T.abs(xs[0])
    negative = lines.let(_negate(lines, xs, dtype, given))
    return lines.select(xs[0] < literal(0, dtype), negative, xs[0])


def _sign(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    x, zero = xs[0], literal(0, dtype)
    middle = lines.select(l.is_nan(x), x, zero) if dtype.kind == "float" else zero
    middle = lines.select(x < zero, literal(-1, dtype), middle)
    return lines.select(x > zero, literal(1, dtype), middle)


def _extreme(first: Operator) -> Rule:
    """`maximum` and `minimum`: the first operand where the test holds; NaN wins."""

    def rule(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
        x, y = xs
        chosen = lines.select(first(x, y), x, y)  # the second, where one is NaN
        return lines.select(l.is_nan(x), x, chosen) if dtype.kind == "float" else chosen

    return rule


def _divide(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    return xs[0] / xs[1]


def _floor_divide(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    return _division(lines, xs, dtype)[0]


def _remainder(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    if dtype.kind != "float":
        return _division(lines, xs, dtype)[1]
    # Python's: the sign is that of the divisor. The C library's `fmod`, an element at a time.
    x, y = xs
    zero = literal(0.0, dtype)
    rest = lines.let(T.Mod(x, y))
    differ = T.bitwise_xor(y < zero, rest < zero)
    some = lines.select(differ, l.plus(rest, y), rest)
    return lines.select(l.is_equal(rest, zero), l.with_sign(zero, y), some)


def _division(lines: Lines, xs: Sequence[Expr], dtype: DType) -> tuple[Expr, Expr]:
    """Quotient, rounded down, and remainder of integers; both are 0 for the divisor 0.

    Up to 32 bits by way of f64, in which a rounded quotient is never wrong by reaching a whole
    number; processors have no vector division of integers.
    """
    (x, y), name, zero = xs, tvm_type(dtype), literal(0, dtype)
    by_zero = T.EQ(y, zero)
    if dtype.bits <= 32:
        divisor = lines.let(T.Cast("float64", lines.select(by_zero, literal(1, dtype), y)))
        exact = lines.let(T.Cast("float64", x) / divisor)
        quotient = lines.let(T.Cast(name, lines.let(T.Cast("int64", T.floor(exact)))))
        product = lines.let(_wrapping(lines, _times, quotient, y, dtype))
        rest = lines.let(_wrapping(lines, _minus, x, product, dtype))
    elif dtype.kind == "uint":
        divisor = lines.select(by_zero, literal(1, dtype), y)
        quotient, rest = lines.let(T.truncdiv(x, divisor)), lines.let(T.truncmod(x, divisor))
    else:
        # The smallest number divided by -1 overflows, which LLVM does not define.
        minus_one = T.EQ(y, literal(-1, dtype))
        odd = T.bitwise_or(by_zero, minus_one)
        divisor = lines.select(odd, literal(1, dtype), y)
        quotient, rest = lines.let(T.truncdiv(x, divisor)), lines.let(T.truncmod(x, divisor))
        quotient = lines.select(minus_one, _negate(lines, xs[:1], dtype, dtype), quotient)
        down = T.bitwise_and(T.NE(rest, zero), (rest ^ divisor) < zero)
        lower = _wrapping(lines, _minus, quotient, literal(1, dtype), dtype)
        quotient = lines.select(down, lower, quotient)
        rest = lines.select(down, _wrapping(lines, _plus, rest, divisor, dtype), rest)
    return lines.select(by_zero, zero, quotient), lines.select(by_zero, zero, rest)


# -- bits and types -------------------------------------------------------------------------------


def _bits(operate: Operator) -> Rule:
    return lambda lines, xs, dtype, given: operate(*xs)


def _not(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    return xs[0] ^ _byte(1) if dtype is BOOL else T.bitwise_not(xs[0])


def _shift(operate: Operator) -> Rule:
    """Zeros come in from either side; by the width or more, or by less than 0, gives 0."""

    def rule(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
        word = f"uint{dtype.bits}"
        x, by = (lines.let(T.reinterpret(word, x)) for x in xs)
        shifted = operate(x, by & T.const(dtype.bits - 1, word))
        result = lines.select(by < T.const(dtype.bits, word), shifted, T.const(0, word))
        return T.reinterpret(tvm_type(dtype), lines.let(result))

    return rule


def _cast(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    """Floats out of an integer's range give what NumPy gives on x86: see `_float_to_integer`."""
    x, name = xs[0], tvm_type(dtype)
    if dtype is BOOL:
        return _not_equal(lines, (x, literal(0, given)), BOOL, given) if given is not BOOL else x
    if given.kind == "float" and dtype.kind != "float":
        return _float_to_integer(lines, x, dtype, given)
    return x if dtype is given else T.Cast(name, x)


def _float_to_integer(lines: Lines, x: Expr, dtype: DType, given: DType) -> Expr:
    """Truncates. Out of range i32 and i64 give the smallest number; shorter types take the low bits
    of what i32 gives, u32 those of i64, and u64 starts i64 again at 2^63.
    """
    if dtype.bits < 32:
        return T.Cast(tvm_type(dtype), lines.let(_signed(lines, x, given, 32)))
    if dtype.kind == "int":
        return _signed(lines, x, given, dtype.bits)
    low = lines.let(_signed(lines, x, given, 64))
    if dtype.bits == 32:
        return T.Cast("uint32", low)
    half = T.const(2.0**63, tvm_type(given))
    high = lines.let(_signed(lines, lines.let(l.minus(x, half)), given, 64))
    high = T.reinterpret("uint64", high) ^ T.const(1 << 63, "uint64")
    return lines.select(x >= half, high, T.reinterpret("uint64", low))


def _signed(lines: Lines, x: Expr, given: DType, bits: int) -> Expr:
    end, name = 2.0 ** (bits - 1), tvm_type(given)
    # f64 has numbers between the smallest integer and the next one below it.
    below = x > T.const(-end - 1, name) if given.bits > bits else x >= T.const(-end, name)
    inside = T.bitwise_and(below, x < T.const(end, name))
    return lines.select(inside, T.Cast(f"int{bits}", x), T.min_value(f"int{bits}"))


# -- the table ------------------------------------------------------------------------------------


def _function(build: Callable[[Lines, Expr], Expr]) -> Rule:
    return lambda lines, xs, dtype, given: build(lines, xs[0])


def _plain(build: Callable[[Expr], Expr]) -> Rule:
    return lambda lines, xs, dtype, given: build(xs[0])


def _rsqrt(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    return literal(1, dtype) / lines.let(T.sqrt(xs[0]))


def _power(lines: Lines, xs: Sequence[Expr], dtype: DType, given: DType) -> Expr:
    return m.power(lines, *xs)


TABLE: dict[str, Rule] = {
    "negate": _negate,
    "abs": _abs,
    "sign": _sign,
    "floor": _plain(T.floor),
    "ceil": _plain(T.ceil),
    "round": _plain(l.nearest_integer),
    "exp": _function(m.exp),
    "expm1": _function(m.expm1),
    "log": _function(m.log),
    "log1p": _function(m.log1p),
    "sqrt": _plain(T.sqrt),
    "rsqrt": _rsqrt,
    "sin": _function(trigonometry.sin),
    "cos": _function(trigonometry.cos),
    "tanh": _function(m.tanh),
    "logistic": _function(m.logistic),
    "erf": _function(m.erf),
    "not": _not,
    "is_finite": _is_finite,
    "stop_gradient": _plain(lambda x: x),
    "cast": _cast,
    "add": _arithmetic(_plus, l.plus),
    "subtract": _arithmetic(_minus, l.minus),
    "multiply": _arithmetic(_times, l.times),
    "divide": _divide,
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "power": _power,
    "maximum": _extreme(lambda x, y: x > y),
    "minimum": _extreme(lambda x, y: x < y),
    "and": _bits(T.bitwise_and),
    "or": _bits(T.bitwise_or),
    "xor": _bits(T.bitwise_xor),
    "shift_left": _shift(lambda x, by: x << by),
    "shift_right": _shift(lambda x, by: x >> by),
    "equal": _equal,
    "not_equal": _not_equal,
    "less": _compare(lambda x, y: x < y),
    "less_equal": _compare(lambda x, y: x <= y),
    "greater": _compare(lambda x, y: x > y),
    "greater_equal": _compare(lambda x, y: x >= y),
    "select": _select,
}
