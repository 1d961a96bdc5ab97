"""`weft.function`: values and gradients of a spec's functions on NumPy arrays."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import weft
from weft.compiler.errors import CompileError, RunError

RNG = np.random.default_rng(0)
SOURCE = """
fn f(x) = sum(x ^ 2)
fn logistic_loss(x, w, y: class[3]) {
  let z = x @ w
  cross_entropy(z, y)
}
fn smooth(x, k) = mean(tanh(k * x) + gelu(x))
fn pair(x) = (sum(x), mean(x))
fn noisy(x) = sum(uniform(shape(x)) * x)
fn twice(x) = 2 * x
"""


def differences(f: object, arrays: list[np.ndarray], place: int, h: float = 1e-6) -> np.ndarray:
    """Central differences of a scalar function for one argument."""
    assert callable(f)
    gradient = np.zeros_like(arrays[place])
    for index in np.ndindex(gradient.shape):
        ends = []
        for sign in (1, -1):
            moved = [a.copy() for a in arrays]
            moved[place][index] += sign * h
            ends.append(float(f(*moved)))
        gradient[index] = (ends[0] - ends[1]) / (2 * h)
    return gradient


def test_values_and_gradients() -> None:
    f = weft.function(SOURCE)
    x = np.arange(3.0)
    assert f(x) == 5
    value, (gradient,) = f.value_and_grad(x)
    assert (value, gradient.dtype) == (5, np.float64)
    np.testing.assert_array_equal(gradient, 2 * x)


def test_gradients_agree_with_differences() -> None:
    x, w, y = RNG.normal(size=(5, 4)), RNG.normal(size=(4, 3)), np.array([0, 1, 2, 1, 0])
    f = weft.function(SOURCE, "logistic_loss")
    value, gradients = f.value_and_grad(x, w, y, wrt=(0, 1))
    z = x @ w
    expected = np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(5), y])
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for place, gradient in enumerate(gradients):
        wanted = differences(lambda *a: f(*a, y), [x, w], place)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-8)
    by_name = f.value_and_grad(x, w, y, wrt=("w", "x"))[1]
    np.testing.assert_array_equal(by_name[0], gradients[1])


def test_library_functions_have_gradients() -> None:
    f = weft.function(SOURCE, "smooth")
    x, k = RNG.normal(size=(2, 3)), np.array(0.7)
    _, gradients = f.value_and_grad(x, k, wrt=(0, 1))
    for place, gradient in enumerate(gradients):
        wanted = differences(f, [x, k], place)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-8)


def test_types_follow_the_arguments() -> None:
    f = weft.function(SOURCE, "twice")
    assert f(np.ones(2, np.float32)).dtype == np.float32
    assert f(np.ones(2, np.float64)).dtype == np.float64
    assert f(np.ones(2, np.int64)).dtype == np.int64
    assert f([1.0, 2.0]).dtype == np.float32
    assert weft.function(SOURCE, "smooth")(np.ones(3), 0.5).dtype == np.float64


def test_shapes_may_change_between_calls() -> None:
    f = weft.function(SOURCE)
    for size in (1, 4, 1, 9):
        assert f(np.ones(size)) == size
    assert f(np.ones((3, 3)).T[::2]) == 6


def test_results_are_the_callers() -> None:
    f = weft.function(SOURCE, "twice")
    first = f(np.ones(3))
    f(np.zeros(3))
    np.testing.assert_array_equal(first, [2, 2, 2])


def test_several_results() -> None:
    total, mean = weft.function(SOURCE, "pair")(np.arange(4.0))
    assert (total, mean) == (6, 1.5)


@pytest.mark.parametrize("body", ["x", "1 * x", "stop_gradient(x)"])
def test_a_stated_gradient_counts_whatever_the_body(body: str) -> None:
    """Also where the result is the argument itself, as in gradient reversal."""
    source = f"fn reversed(x) {{ {body}\n gradient(g) {{ -g }} }}\nfn f(x) = sum(reversed(x)^2)"
    value, (gradient,) = weft.function(source).value_and_grad(np.arange(3.0))
    assert value == 5
    np.testing.assert_array_equal(gradient, [0, -2, -4])


def test_a_stated_gradient_is_of_one_tensor() -> None:
    source = "fn f(x) { x, 2 * x\n gradient(g) { g } }"
    with pytest.raises(CompileError, match="so it gives one tensor"):
        weft.function(source)(np.ones(3))


@pytest.mark.parametrize(
    ("expression", "hint"),
    [("x // 2.0", "floor(x / y)"), ("int(x)^2", "x * x"), ("int(x) / 2", "`//`, which rounds")],
)
def test_operators_that_want_another_kind_of_number(expression: str, hint: str) -> None:
    with pytest.raises(CompileError) as error:
        weft.function(f"fn f(x) = {expression}")(np.ones(3))
    assert hint in (error.value.diagnostic.hint or "")


def test_random_numbers_follow_seed_and_step() -> None:
    f = weft.function(SOURCE, "noisy")
    x = np.ones(8)
    assert f(x) == f(x)
    assert f(x) != f(x, seed=1)
    assert f(x) != f(x, step=1)
    value, (gradient,) = f.value_and_grad(x)
    assert value == pytest.approx(gradient.sum())


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "functions.weft"
    path.write_text(SOURCE)
    assert weft.function(path)(np.ones(2)) == 2
    assert weft.function(str(path), "twice")(np.ones(1)) == [2]


@pytest.mark.parametrize(
    ("name", "wrt", "message"),
    [
        ("twice", (0,), "only a scalar has a gradient"),
        ("pair", (0,), "only a scalar has a gradient"),
        ("f", (1,), "no argument 1"),
        ("f", ("y",), "no argument `y`"),
        ("f", (1.5,), "by place or by name"),  # type: ignore[list-item]
    ],
)
def test_what_has_no_gradient(name: str, wrt: tuple[int | str, ...], message: str) -> None:
    with pytest.raises(RunError, match=message):
        weft.function(SOURCE, name).value_and_grad(np.ones(3), wrt=wrt)


def test_whole_numbers_have_no_gradient() -> None:
    f = weft.function(SOURCE, "logistic_loss")
    x, w, y = np.ones((2, 4)), np.ones((4, 3)), np.array([0, 1])
    with pytest.raises(RunError, match="no gradient for `y`"):
        f.value_and_grad(x, w, y, wrt=(2,))


def test_mistakes_are_shown_in_the_source() -> None:
    with pytest.raises(CompileError, match="missing"):
        weft.function(SOURCE, "missing")
    with pytest.raises(CompileError, match="`pi` is not a function"):
        weft.function("let pi = 3", "pi")
    with pytest.raises(CompileError):
        weft.function(SOURCE, "logistic_loss")(np.ones((2, 3)), np.ones((4, 3)), np.array([0, 1]))
    with pytest.raises(RunError, match="no array of numbers"):
        weft.function(SOURCE)(np.array(["a"]))
    with pytest.raises(RunError, match="argument 0 is no array of numbers"):
        weft.function(SOURCE)([[1.0], [1.0, 2.0]])
    with pytest.raises(RunError, match="`step` is out of range"):
        weft.function(SOURCE)(np.ones(3), step=-1)


def test_arrays_of_another_byte_order() -> None:
    assert weft.function("fn f(x) = sum(x)")(np.arange(3, dtype=">f8")) == 3


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=str)
def test_functions_of_16_bits(dtype: type) -> None:
    """On whatever backend: one that computes them is taken."""
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(dtype)
    found = weft.function("fn f(x: f32[B, D]) = softmax(x)", "f", backend="auto")(x)
    assert found.dtype == dtype
    exact = np.exp(x.astype(float))
    exact /= exact.sum(1, keepdims=True)
    np.testing.assert_allclose(found.astype(float), exact, rtol=2e-2)
