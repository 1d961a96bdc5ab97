"""Symbolic dimensions: arithmetic on polynomials is that of the numbers that they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.compiler.types import Dim, SymDim, bind_dim, symbol

N, M = symbol("n"), symbol("m")

dims = st.recursive(
    st.sampled_from([N, M]) | st.integers(-5, 5),
    lambda inner: (
        st.builds(lambda a, b: a + b, inner, inner)
        | st.builds(lambda a, b: a - b, inner, inner)
        | st.builds(lambda a, b: a * b, inner, inner)
        | st.builds(lambda a, d: a // d, inner, st.integers(1, 6))
    ),
    max_leaves=6,
)


@given(dims, dims, st.integers(1, 7), st.integers(0, 40), st.integers(0, 40))
def test_arithmetic_commutes_with_binding(a: Dim, b: Dim, d: int, n: int, m: int) -> None:
    sizes = {"n": n, "m": m}
    x, y = bind_dim(a, sizes), bind_dim(b, sizes)
    assert isinstance(x, int)
    assert bind_dim(a + b, sizes) == x + y
    assert bind_dim(a - b, sizes) == x - y
    assert bind_dim(a * b, sizes) == x * y
    assert bind_dim(a // d, sizes) == x // d
    assert (a + b) - b == a
    assert bind_dim(bind_dim(a, {"n": n}), {"m": m}) == x


def test_division_takes_out_what_is_whole() -> None:
    assert (2 * N + 1) // 2 == N
    assert (3 * N) // 2 == N + N // 2
    assert ((6 * N + 4) // 2 - 1) // 3 == N + (1 // 3)
    assert (4 * N * M) // (2 * M) == 2 * N
    assert (N - 1) // 2 + (N - 1) // 2 == 2 * ((N - 1) // 2)
    with pytest.raises(ValueError, match="exactly"):
        (N + 1) // M


def test_a_polynomial_without_symbols_is_a_number() -> None:
    assert type(N - N) is int
    assert N * 0 == 0
    assert isinstance(N + 1, SymDim)
    assert str(2 * N * M - 3 * N + 1) == "2*m*n - 3*n + 1"
