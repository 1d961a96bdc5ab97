"""Exponentials, logarithms, trigonometry and the error function as expressions that vectorise.

Everything is straight-line arithmetic on one element: no tables, no branches, no calls, so a
vectorised loop of TVM turns it into vector instructions. f32 and f64 share one text; they differ
in a `Format`. All functions give denormal results and take denormal operands, as NumPy does. Sums
of products may or may not be fused (`llvm.fmuladd`); the bounds hold both ways, last bits differ
between machines.

Errors are in units in the last place of the result (ulp), measured against float64 or long double
over dense samples of every exponent; `tests/tvm_backend/test_scalar.py` holds the functions to
them.

Coefficients are weighted minimax fits, made at 60 digits and rounded one by one to the format
with a new fit of the rest after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import numpy as np
from tvm import tirx as T

from weft.backends.tvm.lines import (
    Lines,
    fused,
    is_equal,
    is_nan,
    minus,
    nearest_integer,
    negated,
    plus,
    special,
    times,
    type_name,
    with_sign,
)
from weft.backends.tvm.tir import Expr


@dataclass(frozen=True)
class Format:
    """A floating type: its layout in bits, and the constants of its functions."""

    name: str
    word: str  # the unsigned integer of its size
    mantissa: int  # bits after the point
    bias: int
    log2e: float
    ln2: tuple[float, float]  # ln 2 = high + low; the high part times an exponent is exact
    exp: tuple[float, ...]  # (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2
    exp_range: tuple[float, float]  # beyond these exp gives 0 and infinity
    expm1_low: float  # below it expm1 gives -1
    log: tuple[float, ...]  # (log(1 + f) - f + f^2 / 2) / f^3 for sqrt(1/2) <= 1 + f <= sqrt(2)
    tanh_end: float  # from it on tanh gives 1
    erf_near: tuple[float, ...]  # erf(x) / x - 1 in x^2, for x <= 1
    erf_far: tuple[float, ...]  # log(1 - erf(x)) for 1 <= x <= erf_end
    erf_end: float  # from it on erf gives 1

    @property
    def epsilon(self) -> float:
        """Half of the distance from 1 to the next number: what 1 + x does not see."""
        return float(2.0 ** -(self.mantissa + 1))

    @property
    def smallest(self) -> float:
        """The smallest number that is not denormal."""
        return float(2.0 ** (1 - self.bias))

    def number(self, value: float) -> Expr:
        return T.const(value, self.name)

    def bits(self, value: int) -> Expr:
        return T.const(value, self.word)

    def special(self, value: float) -> Expr:
        """A number that TVM would otherwise fold wrongly (0, -0) or can't write (infinity, NaN)."""
        return special(value, self.name)

    def as_bits(self, x: Expr) -> Expr:
        return T.reinterpret(self.word, x)

    def as_number(self, bits: Expr) -> Expr:
        return T.reinterpret(self.name, bits)


_EXP_32 = (0.49999997, 0.16666543, 0.0416675, 0.008366568, 0.001386498)
_EXP_64 = (
    0.5, 0.16666666666666677, 0.041666666666666685, 0.008333333333321404, 0.001388888888887286,
    0.0001984126988674126, 2.480158735071633e-05, 2.7557243550292096e-06, 2.755725008983838e-07,
    2.5109280068468578e-08, 2.0922406041249475e-09,
)  # fmt: skip
_LOG_32 = (
    0.3333331, -0.24999987, 0.20002222, -0.16669242, 0.14218757, -0.12384645, 0.118725374,
    -0.117875025, 0.069133155,
)  # fmt: skip
_LOG_64 = (
    0.3333333333333334, -0.250000000000004, 0.19999999999995485, -0.1666666666653964,
    0.14285714286347545, -0.12500000015286583, 0.11111111075154864, -0.09999999047548759,
    0.09090909792742073, -0.08333367894514077, 0.07692322356305509, -0.07142095511676312,
    0.0666563110457001, -0.06260048086510242, 0.05904924297084374, -0.0548416971855465,
    0.0501704318618781, -0.051569617484448244, 0.06061829393121705, -0.054966256846438175,
    0.02314869011920526,
)  # fmt: skip
_ERF_NEAR_32 = (
    0.12837917, -0.3761263, 0.11283619, -0.026855174, 0.0051908446, -0.0008031836, 7.9241305e-05,
)  # fmt: skip
_ERF_NEAR_64 = (
    0.12837916709551256, -0.37612638903183476, 0.11283791670943442, -0.02686617064305995,
    0.005223977605985073, -0.0008548325931185012, 0.00012055293791085027, -1.4924718451297095e-05,
    1.6447224733066905e-06, -1.6207120009549855e-07, 1.3714751485189807e-08, -7.786882286412215e-10,
)  # fmt: skip
_ERF_FAR_32 = (
    0.0001880735, -1.1295786, -0.63321954, -0.10841899, 0.025208551, -0.0042046867, 0.00044136556,
    -2.1689737e-05,
)  # fmt: skip
_ERF_FAR_64 = (
    -1.8471440847969585e-07, -1.1283772791525861, -0.6366287186242073, -0.10274660031147603,
    0.019076872172046917, 0.00028234883920534034, -0.0017710576155507308, 0.0006429468329595255,
    -4.603231457393516e-05, -6.970947962537305e-05, 4.475241201104408e-05, -1.641553368586566e-05,
    4.300184315613456e-06, -8.44859563153696e-07, 1.2477783137151763e-07, -1.3516034192140405e-08,
    1.0165468008439606e-09, -4.749212202223065e-11, 1.0384721603263943e-12,
)  # fmt: skip

FORMATS = {
    "float32": Format(
        name="float32",
        word="uint32",
        mantissa=23,
        bias=127,
        log2e=1.4426950408889634,
        ln2=(0.693115234375, 3.1946184945309415e-05),
        exp=_EXP_32,
        exp_range=(-104.0, 89.0),
        expm1_low=-18.0,
        log=_LOG_32,
        tanh_end=10.0,
        erf_near=_ERF_NEAR_32,
        erf_far=_ERF_FAR_32,
        erf_end=4.1,
    ),
    "float64": Format(
        name="float64",
        word="uint64",
        mantissa=52,
        bias=1023,
        log2e=1.4426950408889634,
        ln2=(0.6931471803691238, 1.9082149292705877e-10),
        exp=_EXP_64,
        exp_range=(-746.0, 710.0),
        expm1_low=-38.0,
        log=_LOG_64,
        tanh_end=20.0,
        erf_near=_ERF_NEAR_64,
        erf_far=_ERF_FAR_64,
        erf_end=6.0,
    ),
}

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

# For |r| <= pi / 4, in f32: (sin(r) - r) / r^3 and (cos(r) - 1 + r^2 / 2) / r^4, in r^2.
_SIN = (-0.16666667, 0.008333373, -0.00019850292, 2.8043057e-06)
_COS = (0.041666668, -0.0013888974, 2.4819747e-05, -2.8663283e-07)

# The first 224 bits of 2 / pi after the point.
_TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163AB
_TWO_OVER_PI_BITS = 224


# -- parts ----------------------------------------------------------------------------------------


def polynomial(f: Format, x: Expr, coefficients: Sequence[float]) -> Expr:
    """The constant term comes first."""
    result = f.number(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = fused(result, x, f.number(c))
    return result


def _format(x: Expr) -> Format:
    return FORMATS[type_name(x)]


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
    power = lines.let(fused(x, f.number(f.log2e), round_off))
    n = minus(power, round_off)
    n = lines.let(n)
    r = fused(n, f.number(-f.ln2[0]), x)
    r = lines.let(fused(n, f.number(-f.ln2[1]), r))
    square = times(r, r)
    rest = lines.let(fused(square, polynomial(f, r, coefficients), r))
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
    inner = fused(fraction, polynomial(f, fraction, coefficients), f.number(-0.5))
    small = fused(exponent, f.number(f.ln2[1]), times(square, inner))
    return lines.let(fused(exponent, f.number(f.ln2[0]), plus(fraction, small)))


# -- functions ------------------------------------------------------------------------------------


def exp(lines: Lines, x: Expr) -> Expr:
    """At most 1 ulp."""
    f = _format(x)
    low, high = f.exp_range
    x = _at_least(lines, _at_most(lines, lines.let(x), f.number(high)), f.number(low))
    return _scaled(lines, f, _exponential(lines, f, x, f.exp))


def expm1(lines: Lines, x: Expr) -> Expr:
    """At most 2 ulp."""
    f = _format(x)
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
    f = _format(x)
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
    f = _format(x)
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
    f = _format(x)
    x = lines.let(x)
    size = _at_most(lines, lines.let(T.abs(x)), f.number(f.tanh_end))
    e = expm1(lines, times(size, f.number(2)))
    return lines.let(with_sign(e / plus(e, f.number(2)), x))


def logistic(lines: Lines, x: Expr) -> Expr:
    """`1 / (1 + exp(-x))`, at most 3 ulp; written so that `exp` never overflows."""
    f = _format(x)
    x = lines.let(x)
    small = exp(lines, with_sign(x, f.number(-1)))
    top = lines.select(x >= f.special(0.0), f.number(1), small)
    return lines.let(top / plus(small, f.number(1)))


def erf(lines: Lines, x: Expr) -> Expr:
    """At most 2 ulp."""
    f = _format(x)
    x = lines.let(x)
    square = lines.let(times(x, x))
    near = lines.let(fused(x, polynomial(f, square, f.erf_near), x))
    size = _at_most(lines, lines.let(T.abs(x)), f.number(f.erf_end))
    exponent = lines.let(polynomial(f, size, f.erf_far))
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


def sin(lines: Lines, x: Expr) -> Expr:
    """In f32 at most 2 ulp for every number; in f64 the C library's, an element at a time."""
    if type_name(x) == "float64":
        return lines.let(T.sin(x))
    f = FORMATS["float32"]
    x = lines.let(x)
    result = _wave(lines, x, 0)
    return lines.select(T.abs(x) < f.number(2.0**-12), x, result)


def cos(lines: Lines, x: Expr) -> Expr:
    """In f32 at most 2 ulp for every number; in f64 the C library's, an element at a time."""
    if type_name(x) == "float64":
        return lines.let(T.cos(x))
    return _wave(lines, lines.let(x), 1)


def _wave(lines: Lines, x: Expr, shift: int) -> Expr:
    """The sine of `x` plus `shift` quarter turns, in f32."""
    f = FORMATS["float32"]
    quarter, r = _quarter_turns(lines, x)
    square = lines.let(times(r, r))
    sine = fused(times(square, r), polynomial(f, square, _SIN), r)
    inner = fused(square, polynomial(f, square, _COS), f.number(-0.5))
    cosine = fused(square, inner, f.number(1))
    quarter = lines.let(quarter + f.bits(shift))
    size = lines.select((quarter & f.bits(1)) > f.bits(0), cosine, sine)
    sign = (quarter & f.bits(2)) << f.bits(30)
    return lines.let(f.as_number(f.as_bits(size) ^ sign))


def _quarter_turns(lines: Lines, x: Expr) -> tuple[Expr, Expr]:
    """`n` from 0 to 3 and `|r| <= pi / 4` with `x = (4 k + n) pi / 2 + r`, for f32 in f64.

    `x 2 / pi` modulo 4, to 2^-57 for every `x`, with those bits of 2 / pi that matter to numbers
    of this size: higher ones give multiples of 4, lower ones nothing (Payne and Hanek, "Radian
    reduction for trigonometric functions", SIGNUM 1983). The bits come in four pieces whose
    products with `x` are exact.
    """
    f = FORMATS["float64"]
    wide = lines.let(T.Cast(f.name, x))
    size = lines.let(T.abs(wide))
    products = []
    for piece in range(4):
        factor = f.number(_piece(1, piece))
        for first, start in ((26, 2.0**50), (52, 2.0**76), (78, 2.0**102)):
            factor = lines.select(size >= f.number(start), f.number(_piece(first, piece)), factor)
        products.append(lines.let(times(wide, factor)))
    for piece in range(2):
        product = products[piece]
        fours = nearest_integer(times(product, f.number(0.25)))
        products[piece] = lines.let(fused(fours, f.number(-4), product))
    total = plus(plus(products[0], products[1]), products[2])
    n = lines.let(nearest_integer(total))
    rest = minus(products[0], n)
    for product in products[1:]:
        rest = plus(rest, product)
    r = lines.let(T.Cast("float32", times(rest, f.number(pi / 2))))
    low = f.as_bits(plus(n, f.number(1.5 * 2.0**f.mantissa))) & f.bits(3)
    return lines.let(T.Cast("uint32", low)), r


def _piece(first: int, piece: int, width: int = 29) -> float:
    """Bits of 2 / pi as a number: `width` of them, from bit `first + piece width` on."""
    last = first + (piece + 1) * width - 1
    bits = (_TWO_OVER_PI >> (_TWO_OVER_PI_BITS - last)) & ((1 << width) - 1)
    return float(bits * 2.0**-last)
