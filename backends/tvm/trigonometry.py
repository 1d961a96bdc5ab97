"""Sine and cosine of f32 as expressions that vectorise; `mathematics.py` has the principle."""

from __future__ import annotations

from math import pi

from tvm import tirx as T

from weft.backends.tvm.formats import FORMATS
from weft.backends.tvm.lines import Lines, fused, minus, nearest_integer, plus, times, type_name
from weft.backends.tvm.tir import Expr

# For |r| <= pi / 4, in f32: (sin(r) - r) / r^3 and (cos(r) - 1 + r^2 / 2) / r^4, in r^2.
_SIN = (-0.16666667, 0.008333373, -0.00019850292, 2.8043057e-06)
_COS = (0.041666668, -0.0013888974, 2.4819747e-05, -2.8663283e-07)

# The first 224 bits of 2 / pi after the point.
_TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163AB
_TWO_OVER_PI_BITS = 224


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
    sine = fused(times(square, r), f.polynomial(square, _SIN), r)
    inner = fused(square, f.polynomial(square, _COS), f.number(-0.5))
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
