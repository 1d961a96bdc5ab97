"""What the built-in functions do to tensors, and the gradients that functions state."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import check, elaborate, refuses, value
from weft.compiler.types import F32

Array = np.ndarray
rng = np.random.default_rng(0)
X = rng.normal(size=(4, 3))
CUBE = rng.normal(size=(2, 3, 4))


# -- tensors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "expected"),
    {
        "x[1]": CUBE[1],
        "x[-1, 2]": CUBE[-1, 2],
        "x[..., 0]": CUBE[..., 0],
        "x[0, ..., 1]": CUBE[0, ..., 1],
        "x[:, 1:]": CUBE[:, 1:],
        "x[:, :, ::2]": CUBE[:, :, ::2],
        "x[:, -2:, 1:-1]": CUBE[:, -2:, 1:-1],
        "x[0:0]": CUBE[0:0],
        "x[B - 1]": CUBE[1],
    }.items(),
)
def test_indexing(index: str, expected: Array) -> None:
    np.testing.assert_array_equal(value(f"fn f(x: f32[B, C, S]) = {index}", CUBE), expected)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("x[2]", "index 2 is outside an axis of size 2"),
        ("x[-3]", "index -3 is outside"),
        ("x[:, 0:9]", "slice 0:9 is outside"),
        ("x[0, 0, 0, 0]", "4 indices for 3 axes"),
        ("x[..., 0, ...]", "at most one `...`"),
        ("x[::-1]", "use `reverse`"),
        ("x[x]", "take(x, indices)"),
        ("2[0]", "only tensors and lists"),
    ],
)
def test_indexing_that_fails(index: str, message: str) -> None:
    assert message in refuses(f"fn f(x) = {index}", CUBE)


def test_a_slice_keeps_the_names_of_whole_axes() -> None:
    text = "fn f(x: f32[B, D], b: f32[B]) = x[:, :2] * b"
    b = rng.normal(size=4)
    check(text, X, b, expected=X[:, :2] * b[:, None])


def test_element_types_meet_only_themselves() -> None:
    n = np.arange(4)
    assert "convert the whole numbers with `float(x)`" in refuses("fn f(x, n) = x[:, 0] + n", X, n)
    check("fn f(x, n) = x[:, 0] + float(n)", X, n, expected=X[:, 0] + n)
    assert "meets a tensor of whole numbers" in refuses("fn f(n) = n + 0.5", n)
    check("fn f(n) = n + 2", n, expected=n + 2)
    assert value("fn f(n) = cast(n, f32)", n, float_type=F32).dtype == np.float32


def test_comparisons_and_choices() -> None:
    check("fn f(x) = where(x > 0 and x < 1, x, -1)", X, expected=np.where((X > 0) & (X < 1), X, -1))
    check("fn f(x) = where(not (x > 0), 0, x)", X, expected=np.maximum(X, 0))
    check("fn f(x) = float(any(x > 2))", X, expected=float((X > 2).any()))
    assert "the condition is a comparison" in refuses("fn f(x) = where(x, x, x)", X)


def test_reductions_and_shapes() -> None:
    check("fn f(x: f32[B, C, S]) = mean(x, over = [B, S])", CUBE, expected=CUBE.mean((0, 2)))
    check("fn f(x) = max(x, over = -1)", CUBE, expected=CUBE.max(-1))
    check("fn f(x) = prod(x, over = [0, 1])", CUBE, expected=CUBE.prod((0, 1)))
    check("fn f(x) = reshape(x, [-1, 6])", CUBE, expected=CUBE.reshape(-1, 6))
    check("fn f(x: f32[B, C, S]) = transpose(x, [S, B, C])", CUBE, expected=CUBE.transpose(2, 0, 1))
    check("fn f(x) = x * size(x) + rank(x)", CUBE, expected=CUBE * 24 + 3)
    check("fn f(x) = pad(x, [1, 0], [0, 2])", X, expected=np.pad(X, [(1, 0), (0, 2)]))
    check("fn f(x) = reverse(cumsum(x, over = 0), over = 0)", X, expected=X.cumsum(0)[::-1])
    check("fn f(x) = sort(x, over = 0, descending = true)", X, expected=-np.sort(-X, 0))
    assert "is not whole" in refuses("fn f(x) = reshape(x, [-1, 5])", CUBE)
    assert "names each axis once" in refuses("fn f(x) = transpose(x, [0, 0, 1])", CUBE)
    assert "both" in refuses("fn f(x) = max(x, 0, over = 0)", X)


def test_products() -> None:
    w, v = rng.normal(size=(3, 5)), rng.normal(size=3)
    check("fn f(x, w) = x @ w", X, w, expected=X @ w)
    check("fn f(x, v) = x @ v", X, v, expected=X @ v)
    check("fn f(x, w) = x @ w", CUBE.transpose(0, 2, 1), w, expected=CUBE.transpose(0, 2, 1) @ w)
    keys = CUBE.transpose(0, 2, 1)
    check("fn f(q, k) = q @ k", CUBE, keys, expected=CUBE @ keys)
    message = refuses("fn f(x: f32[B, I], w: f32[J, O]) = x @ w", X, np.ones((4, 5)))
    assert "`f64[B=4, I=3] @ f64[J=4, O=5]`" in message
    message = refuses("fn f(x: f32[B, I], w: f32[J, O]) = x @ w", X, w)
    assert "sums axis `I` with axis `J`" in message
    assert "equal leading axes" in refuses("fn f(x, k) = x @ k", X, np.ones((2, 3, 4)))
    assert "needs tensors with axes" in refuses("fn f(x) = x @ 2", X)


def test_rows_by_position() -> None:
    ids = np.array([2, 0])
    check("fn f(x, i) = take(x, i)", X, ids, expected=X[ids])
    check("fn f(x, i) = pick(x, i)", X[:2], ids, expected=X[[0, 1], ids])
    rows = np.array([[2, 2, 0], [1, 0, 1]])
    each = np.stack([CUBE[0, rows[0]], CUBE[1, rows[1]]])
    check("fn f(x, i) = take(x, i, shared = 1)", CUBE, rows, expected=each)
    taken = [[CUBE[b, 1, rows[b, r]] for r in range(3)] for b in range(2)]
    check("fn f(x, i) = take(x[:, 1], i, shared = 1)", CUBE, rows, expected=taken)
    assert "begin with the sizes [2]" in refuses(
        "fn f(x, i) = take(x, i, shared = 1)", CUBE, np.zeros((3, 2), int)
    )
    assert "share their first 2 axes" in refuses("fn f(x, i) = take(x, i, shared = 2)", X, rows)
    text = "fn f(x: float[B, C, D], i: int[A, K]) = take(x, i, shared = 1)"
    assert "axis `B` meets axis `A`" in refuses(text, CUBE, rows)
    check("fn f(i) = one_hot(i, 4)", ids, expected=np.eye(4)[ids])
    assert "one index for each row" in refuses("fn f(x, i) = pick(x, i)", X, ids)
    assert "the number of classes" in refuses("fn f(i) = one_hot(i)", ids)
    assert "whole numbers" in refuses("fn f(x) = take(x, x)", X)


def test_grad_is_an_expression() -> None:
    check("fn f(x) = grad(sum(x^3), x)", X, expected=3 * X**2)
    text = "fn f(x, y) {\n  let g = grad(sum(x * y), [x, y])\n  g[0] - g[1]\n}"
    check(text, X, 2 * X, expected=X)
    check("fn f(x) = grad(sum(grad(sum(x^3), x)), x)", X, expected=6 * X)
    assert "differentiates a scalar" in refuses("fn f(x) = grad(x^2, x)", X)


def test_draws_depend_on_step_and_place() -> None:
    text = "fn f(x: f32[B, D]) = normal([B, D]), normal([B, D]), uniform([100])"
    found = elaborate(text, X)
    one, two, u = found.values()
    assert one.shape == X.shape
    assert not np.array_equal(one, two)
    assert (u >= 0).all()
    assert (u < 1).all()
    again = elaborate(text, X).values()
    np.testing.assert_array_equal(one, again[0])
    assert not np.array_equal(one, found.values({"step": np.int64(9)})[0])


# -- stated gradients ------------------------------------------------------------------------------


def test_a_stated_gradient_replaces_that_of_the_body() -> None:
    text = """
fn g(a, b) {
  let product = a * b
  product + 1
  gradient(d) { d * product, 0 }
}
fn f(x, y) = sum(g(x, y))
"""
    one, two = elaborate(text, X, 2 * X).gradients(weights=np.ones(()))
    np.testing.assert_allclose(one, 2 * X**2)
    np.testing.assert_array_equal(two, 0 * X)


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        ("d", "one value for each tensor argument"),
        ("sum(d), d", "another type than `a`"),
        ("d * c, d", "`c` is not defined"),
    ],
)
def test_stated_gradients_that_dont_fit(clause: str, message: str) -> None:
    text = f"fn f(a, b) {{\n  a * b\n  gradient(d) {{ {clause} }}\n}}"
    assert message in refuses(text, X, X)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ("stack([x, n])", ["different element types", "f64[3] and i64[3]", "`float(x)`"]),
        ("concat([x > 0, x])", ["different element types", "convert the comparison"]),
        ("stack([x, x[:2]])", ["different shapes", "f64[3] and f64[2]", "`concat` joins"]),
        ("stack(x, x)", ["takes a list of tensors", "such as `stack([x, y])`"]),
    ],
)
def test_tensors_that_are_not_joined(call: str, parts: list[str]) -> None:
    message = refuses(f"fn f(x, n) = {call}", np.ones(3), np.arange(3))
    for part in parts:
        assert part in message
