"""Exponentials, logarithms, powers and the error function as expressions that vectorise.

Everything is straight-line arithmetic on one element: no tables, no branches, no calls, so a
vectorised loop of TVM turns it into vector instructions. f32 and f64 share one text; they differ
in a `Format`. All functions give denormal results and take denormal operands, as NumPy does. Sums
of products may or may not be fused (`llvm.fmuladd`); the bounds hold both ways, last bits differ
between machines.

Errors are in units in the last place of the result (ulp), measured against float64 or long double
over dense samples of every exponent; `tests/tvm_backend/test_scalar.py` holds the functions to
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx as T

from weft.backends.tvm.formats import FORMATS, Format, format_of
from weft.backends.tvm.lines import (
    Lines,
    fused,
    is_equal,
    is_nan,
    minus,
    negated,
    plus,
    times,
    type_name,
    with_sign,
)
from weft.backends.tvm.tir import Expr

_LOG2_E = 1.4426950408889634

# For functions of f32 that are computed in f64: as above, to 2^-37 and 2^-40.
_EXP_SHORT = (
    0.49999999999731976, 0.16666666755506881, 0.041666666960218667, 0.008333288628488143,
    0.0013888808432315192, 0.00019905194762917769, 2.4882910010016164e-05,
)  # fmt: skip
_LOG_SHORT = (
    0.33333333317276076, -0.2500000016432201, 0.20000003476427017, -0.16666648611764492,
    0.14285467986712028, -0.12500604892294379, 0.11119140581134644, -0.09994423871632223,
    0.08959910747686939, -0.0826357751215103, 0.08688819343649569, -0.08633601223087706,
    0.045187851969071505,
)  # fmt: skip


# -- parts ----------------------------------------------------------------------------------------


def _at_most(lines: Lines, x: Expr, high: Expr) -> Expr:
    """NaN stays NaN."""
    return lines.select(x > high, high, x)


def _at_least(lines: Lines, x: Expr, low: Expr) -> Expr:
    return lines.select(x < low, low, x)


@dataclass(frozen=True)
class _Exponential:
    """`exp(x) = 2^n (1 + rest)`; the lowest bits of `power` hold `n + 2 bias`."""

    power: Expr
    rest: Expr


def _exponential(lines: Lines, f: Format, x: Expr, coefficients: Sequence[float]) -> _Exponential:
    # Adding this number leaves no room for a fraction: the sum is rounded to an integer, which
    # then stands in its lowest bits.
    round_off = f.number(1.5 * 2.0**f.mantissa + 2 * f.bias)
    power = lines.let(fused(x, f.number(_LOG2_E), round_off))
    n = minus(power, round_off)
    n = lines.let(n)
    r = fused(n, f.number(-f.ln2[0]), x)
    r = lines.let(fused(n, f.number(-f.ln2[1]), r))
    square = times(r, r)
    rest = lines.let(fused(square, f.polynomial(r, coefficients), r))
    return _Exponential(lines.let(f.as_bits(power)), rest)


def _scaled(lines: Lines, f: Format, e: _Exponential) -> Expr:
    """`2^n (1 + rest)`, in two steps: 2^n alone may be out of range."""
    half = lines.let(e.power >> f.bits(1))
    first = f.as_number(half << f.bits(f.mantissa))
    second = f.as_number((e.power - half) << f.bits(f.mantissa))
    return lines.let(times(times(plus(e.rest, f.number(1)), first), second))


@dataclass(frozen=True)
class _Parts:
    """`x = 2^exponent (1 + fraction)` with `sqrt(1/2) <= 1 + fraction < sqrt(2)`."""

    biased: Expr
    exponent: Expr
    fraction: Expr


def _parts(lines: Lines, f: Format, x: Expr) -> _Parts:
    """Of a positive number that is not denormal."""
    kind = np.dtype(f.name).type
    one, root = (int(kind(v).view(f.word)) for v in (1, 0.5**0.5))
    bits = lines.let(f.as_bits(x) + f.bits(one - root))
    biased = lines.let(bits >> f.bits(f.mantissa))
    # The integer in the lowest bits of a large number: taking that number away leaves it.
    large = 2.0**f.mantissa
    exponent = f.as_number(biased | f.bits(int(kind(large).view(f.word))))
    exponent = lines.let(minus(exponent, f.number(large + f.bias)))
    mantissa = f.as_number((bits & f.bits((1 << f.mantissa) - 1)) + f.bits(root))
    return _Parts(biased, exponent, lines.let(minus(mantissa, f.number(1))))


def _log_of_parts(
    lines: Lines, f: Format, exponent: Expr, fraction: Expr, coefficients: Sequence[float]
) -> Expr:
    """`exponent ln(2) + log(1 + fraction)`."""
    square = times(fraction, fraction)
    inner = fused(fraction, f.polynomial(fraction, coefficients), f.number(-0.5))
    small = fused(exponent, f.number(f.ln2[1]), times(square, inner))
    return lines.let(fused(exponent, f.number(f.ln2[0]), plus(fraction, small)))


# -- functions ------------------------------------------------------------------------------------


def exp(lines: Lines, x: Expr) -> Expr:
    """At most 1 ulp."""
    f = format_of(x)
    low, high = f.exp_range
    x = _at_least(lines, _at_most(lines, lines.let(x), f.number(high)), f.number(low))
    return _scaled(lines, f, _exponential(lines, f, x, f.exp))


def expm1(lines: Lines, x: Expr) -> Expr:
    """At most 2 ulp."""
    f = format_of(x)
    x = lines.let(x)
    bounded = _at_most(lines, x, f.number(f.exp_range[1]))
    bounded = _at_least(lines, bounded, f.number(f.expm1_low))
    e = _exponential(lines, f, bounded, f.exp)
    # 2 (2^(n-1) rest + 2^(n-1) - 1/2): 2^n itself may be out of range.
    scale = lines.let(f.as_number((e.power - f.bits(f.bias + 1)) << f.bits(f.mantissa)))
    half = fused(e.rest, scale, minus(scale, f.number(0.5)))
    return lines.select(T.abs(x) < f.number(f.epsilon), x, times(half, f.number(2)))


def log(lines: Lines, x: Expr) -> Expr:
    """At most 2 ulp."""
    f = format_of(x)
    x = lines.let(x)
    denormal = x < f.number(f.smallest)
    normal = lines.select(denormal, times(x, f.number(2.0**f.mantissa)), x)
    parts = _parts(lines, f, normal)
    lower = minus(parts.exponent, f.number(f.mantissa))
    exponent = lines.select(denormal, lower, parts.exponent)
    result = _log_of_parts(lines, f, exponent, parts.fraction, f.log)
    return _logarithm_at_ends(lines, f, x, f.special(0.0), result)


def log1p(lines: Lines, x: Expr) -> Expr:
    """At most 2 ulp."""
    f = format_of(x)
    x, one = lines.let(x), f.number(1)
    y = lines.let(plus(x, one))
    # What the sum lost: y + lost = 1 + x exactly (Knuth's two-sum).
    back = lines.let(minus(y, one))
    lost = plus(minus(x, back), minus(one, minus(y, back)))
    parts = _parts(lines, f, y)
    # 2^-exponent; where it would be denormal what was lost does not matter.
    power = T.min(parts.biased, f.bits(2 * f.bias - 1))
    scale = f.as_number((f.bits(2 * f.bias) - power) << f.bits(f.mantissa))
    fraction = lines.let(fused(lost, scale, parts.fraction))
    result = _log_of_parts(lines, f, parts.exponent, fraction, f.log)
    result = lines.select(T.abs(x) < f.number(f.epsilon), x, result)
    return _logarithm_at_ends(lines, f, x, f.number(-1), result)


def _logarithm_at_ends(lines: Lines, f: Format, x: Expr, start: Expr, inside: Expr) -> Expr:
    """-infinity at `start`, NaN below it, infinity at infinity; NaN stays NaN."""
    infinity = f.special(np.inf)
    outside = lines.select(x < start, f.special(np.nan), x)
    outside = lines.select(is_equal(x, start), f.special(-np.inf), outside)
    return lines.select(T.bitwise_and(x > start, x < infinity), inside, outside)


def tanh(lines: Lines, x: Expr) -> Expr:
    """`expm1(2 |x|) / (expm1(2 |x|) + 2)`, at most 3 ulp."""
    f = format_of(x)
    x = lines.let(x)
    size = _at_most(lines, lines.let(T.abs(x)), f.number(f.tanh_end))
    e = expm1(lines, times(size, f.number(2)))
    return lines.let(with_sign(e / plus(e, f.number(2)), x))


def logistic(lines: Lines, x: Expr) -> Expr:
    """`1 / (1 + exp(-x))`, at most 3 ulp; written so that `exp` never overflows."""
    f = format_of(x)
    x = lines.let(x)
    small = exp(lines, with_sign(x, f.number(-1)))
    top = lines.select(x >= f.special(0.0), f.number(1), small)
    return lines.let(top / plus(small, f.number(1)))


def erf(lines: Lines, x: Expr) -> Expr:
    """At most 2 ulp."""
    f = format_of(x)
    x = lines.let(x)
    square = lines.let(times(x, x))
    near = lines.let(fused(x, f.polynomial(square, f.erf_near), x))
    size = _at_most(lines, lines.let(T.abs(x)), f.number(f.erf_end))
    exponent = lines.let(f.polynomial(size, f.erf_far))
    rest = _scaled(lines, f, _exponential(lines, f, exponent, f.exp))
    far = with_sign(minus(f.number(1), rest), x)
    return lines.select(size < f.number(1), near, far)


def power(lines: Lines, x: Expr, y: Expr) -> Expr:
    """`x^y`; in f32 at most 1 ulp by way of f64, in f64 the C library's, an element at a time."""
    if type_name(x) == "float64":
        return lines.let(T.pow(x, y))
    x, y = lines.let(x), lines.let(y)
    narrow, f = FORMATS["float32"], FORMATS["float64"]
    zero, infinity = narrow.special(0.0), narrow.special(np.inf)
    size = lines.let(T.abs(x))
    wide = lines.let(T.Cast(f.name, size))
    parts = _parts(lines, f, wide)
    log = _log_of_parts(lines, f, parts.exponent, parts.fraction, _LOG_SHORT)
    # Numbers so large that any y but 0 brings them out of range stand for infinities.
    log = lines.select(size < infinity, log, f.number(1e300))
    log = lines.select(size > zero, log, f.number(-1e300))
    product = times(log, T.Cast(f.name, y))
    product = lines.select(is_equal(size, narrow.number(1)), f.special(0.0), product)
    product = _at_least(lines, _at_most(lines, product, f.number(200)), f.number(-200))
    e = _exponential(lines, f, product, _EXP_SHORT)
    scale = f.as_number((e.power - f.bits(f.bias)) << f.bits(f.mantissa))
    result = T.Cast(narrow.name, times(plus(e.rest, f.number(1)), scale))
    # A negative base: an odd power is negative, one that is not whole is undefined.
    half = lines.let(times(y, narrow.number(0.5)))
    odd = T.bitwise_and(is_equal(T.floor(y), y), negated(is_equal(T.floor(half), half)))
    sign = narrow.as_bits(x) & narrow.bits(1 << 31)
    sign = lines.select(odd, sign, narrow.bits(0))
    result = lines.let(narrow.as_number(narrow.as_bits(result) ^ sign))
    negative = T.bitwise_and(x < zero, x > narrow.special(-np.inf))
    undefined = T.bitwise_and(negative, negated(is_equal(T.floor(y), y)))
    undefined = T.bitwise_or(undefined, T.bitwise_or(is_nan(x), is_nan(y)))
    result = lines.select(undefined, narrow.special(np.nan), result)
    one = T.bitwise_or(is_equal(y, zero), is_equal(x, narrow.number(1)))
    return lines.select(one, narrow.number(1), result)
