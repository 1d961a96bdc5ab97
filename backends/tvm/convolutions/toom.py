"""Short convolutions with few products, after Toom and Cook (1966); by Winograd (1980) in filters.

Three results of six numbers and four weights, or four of six and three, are 36 products in two
dimensions where the definition has 144: a result `A ((G w) * (B x))`, in each dimension, whose
matrices come from the values of polynomials at six points. The points 0, 2/3, -2/3, 3/2, -3/2 and
infinity keep their entries near 1, so that rounding is several times smaller than at 0, 1, -1, 2,
-2 (Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution", 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from tvm import tirx

from weft.backends.tvm import vectors
from weft.backends.tvm.lines import fused
from weft.backends.tvm.tir import Expr, Stmt

POINTS = tuple(Fraction(n, d) for n, d in ((0, 1), (2, 3), (-2, 3), (3, 2), (-3, 2)))
SIZE = len(POINTS) + 1  # of a tile of the image

Matrix = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class Toom:
    """For tiles of `SIZE` numbers: results `A`, weights `G`, image `B`."""

    results: Matrix
    weights: Matrix
    image: Matrix


@cache
def toom(taps: int) -> Toom:
    """For so many weights, and as many results as a tile has then."""
    count = SIZE - taps + 1
    results = [[p**i for p in POINTS] + [Fraction(i == count - 1)] for i in range(count)]
    weights, image = [], []
    for i, point in enumerate(POINTS):
        others = [p for j, p in enumerate(POINTS) if j != i]
        factor = Fraction(1)
        for other in others:
            factor *= point - other
        weights.append([point**j / factor for j in range(taps)])
        image.append([*_with_roots(others), Fraction(0)])
    weights.append([Fraction(j == taps - 1) for j in range(taps)])
    image.append(_with_roots(POINTS))
    return Toom(*(tuple(map(tuple, matrix)) for matrix in (results, weights, image)))


def _with_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the polynomial with these roots, the lowest first."""
    found = [Fraction(1)]
    for root in roots:
        found = [
            (found[i - 1] if i else Fraction(0))
            - (root * found[i] if i < len(found) else Fraction(0))
            for i in range(len(found) + 1)
        ]
    return found


def applied(
    matrix: Matrix, square: Sequence[Sequence[Expr]], registers: vectors.Registers
) -> tuple[list[Stmt], list[list[Expr]]]:
    """`M X M^T` of vectors: each column of X, then each row of what that gives."""
    found: list[Stmt] = []
    columns = []
    for j in range(len(square[0])):
        statements, column = _product(matrix, [row[j] for row in square], registers)
        found += statements
        columns.append(column)
    rows = []
    for i in range(len(matrix)):
        statements, row = _product(matrix, [column[i] for column in columns], registers)
        found += statements
        rows.append(row)
    return found, rows


def _product(
    matrix: Matrix, values: Sequence[Expr], registers: vectors.Registers
) -> tuple[list[Stmt], list[Expr]]:
    """`M x`. Points of both signs share work: sums and differences of inputs, or of results."""
    statements: list[Stmt] = []

    def keep(value: Expr) -> Expr:
        register = registers.new()
        statements.append(register.set(value))
        return register.value

    def number(value: Fraction) -> Expr:
        return vectors.spread(tirx.const(float(value), registers.name), registers.lanes)

    def total(terms: Sequence[tuple[Fraction, Expr]]) -> Expr:
        (first, value), *rest = sorted(terms, key=lambda term: term[0] != 1)
        zero = number(Fraction(0))
        found = value if first == 1 else keep(fused(value, number(first), zero))
        for factor, value in rest:
            found = keep(fused(value, number(factor), found))
        return found

    if len(matrix) < SIZE:
        both = {}
        for j in (1, 3):
            both[j, 1] = total([(Fraction(1), values[j]), (Fraction(1), values[j + 1])])
            both[j, -1] = total([(Fraction(1), values[j]), (Fraction(-1), values[j + 1])])

        def of_row(row: tuple[Fraction, ...]) -> list[tuple[Fraction, Expr]]:
            found = [(row[0], values[0]), (row[5], values[5])]
            found += [(row[j], both[j, 1 if row[j] == row[j + 1] else -1]) for j in (1, 3)]
            return [term for term in found if term[0]]

        return statements, [total(of_row(row)) for row in matrix]

    def part(row: tuple[Fraction, ...], other: tuple[Fraction, ...], sign: int) -> Expr:
        chosen = [
            (a, value)
            for a, b, value in zip(row, other, values, strict=True)
            if a and a == sign * b
        ]
        return total(chosen)

    results: list[Expr] = [None] * len(matrix)
    for i in (0, 5):
        results[i] = total([(a, v) for a, v in zip(matrix[i], values, strict=True) if a])
    for i in (1, 3):
        same, opposite = (part(matrix[i], matrix[i + 1], sign) for sign in (1, -1))
        results[i] = total([(Fraction(1), same), (Fraction(1), opposite)])
        results[i + 1] = total([(Fraction(1), same), (Fraction(-1), opposite)])
    return statements, results
