"""`ctc`: against PyTorch, against all paths one by one, and at its limits."""

from __future__ import annotations

from itertools import groupby, product

import numpy as np
import pytest

from language.elaborated import Array, elaborate, fixture, fixture_names, fixture_result, refuses

rng = np.random.default_rng(5)
OPTIONS = {"blank_last": "blank = 4"}


def said(path: tuple[int, ...], blank: int) -> list[int]:
    """What a path says: repetitions are one, blanks nothing."""
    return [c for c, _ in groupby(path) if c != blank]


def by_paths(logits: Array, labels: list[int], blank: int = 0) -> float:
    """The loss of one example by its definition: a sum over every path."""
    y = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    paths = product(range(y.shape[1]), repeat=len(y))
    return -np.log(sum(np.prod(y[range(len(y)), p]) for p in paths if said(p, blank) == labels))


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", sorted(fixture_names("ctc")))
def test_agrees_with_pytorch(name: str, symbolic: bool) -> None:
    inputs = fixture(name, "in", "ctc")
    given = [f"{k} = {k}" for k in inputs if k not in "xy"] + [OPTIONS.get(name, "blank = 0")]
    text = f"fn f({', '.join(inputs)}) = ctc_each(x, y, {', '.join(given)})"
    found = elaborate(text, *inputs.values(), symbolic=symbolic)
    expected = fixture_result(name, "ctc")
    np.testing.assert_allclose(found.values()[0], expected, rtol=1e-10, atol=1e-12)
    (gradient,) = found.gradients("x")
    expected = fixture(name, "grad", "ctc")["x"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("labels", [[1], [1, 2], [2, 2], [1, 2, 1], [1, 1, 1]])
@pytest.mark.parametrize("blank", [0, 3])
def test_sums_all_paths(labels: list[int], blank: int) -> None:
    x = rng.normal(size=(2, 5, 4))
    text = f"fn f(x, y) = ctc_each(x, y, blank = {blank})"
    (found,) = elaborate(text, x, np.array([labels, labels])).values()
    np.testing.assert_allclose(found, [by_paths(row, labels, blank) for row in x], rtol=1e-12)


def test_the_mean_is_over_the_batch() -> None:
    x, y = rng.normal(size=(3, 4, 5)), np.array([[1, 2], [3, 3], [4, 1]])
    (each,) = elaborate("fn f(x, y) = ctc_each(x, y)", x, y).values()
    (mean,) = elaborate("fn f(x, y) = ctc(x, y)", x, y).values()
    np.testing.assert_allclose(mean, each.mean())


def test_what_comes_after_the_ends_counts_for_nothing() -> None:
    text = "fn f(x, y, n, m) = ctc_each(x, y, lengths = n, label_lengths = m)"
    x, y = rng.normal(size=(2, 6, 5)), np.array([[1, 2, 3], [4, 0, 0]])
    ends = np.array([4, 3]), np.array([2, 1])
    found = elaborate(text, x, y, *ends)
    other, others = x.copy(), y.copy()
    other[0, 4:], other[1, 3:] = 99, -99
    others[0, 2], others[1, 1:] = 0, 3
    changed = elaborate(text, other, others, *ends)
    np.testing.assert_array_equal(found.values()[0], changed.values()[0])
    (gradient,) = found.gradients("x")
    assert not gradient[0, 4:].any()
    assert not gradient[1, 3:].any()
    assert gradient[0, :4].all()


def test_labels_that_no_path_says() -> None:
    x = rng.normal(size=(2, 3, 5))
    (found,) = elaborate(
        "fn f(x, y) = ctc_each(x, y)", x, np.array([[1, 1, 1], [1, 2, 3]])
    ).values()
    assert np.isinf(found[0])
    assert np.isfinite(found[1])


def test_large_logits_lose_nothing() -> None:
    x = 1000 * rng.normal(size=(1, 4, 3))
    (found,) = elaborate("fn f(x, y) = ctc_each(x, y)", x, np.array([[1, 2]])).values()
    best = max(x[0][range(4), p].sum() for p in product(range(3), repeat=4) if said(p, 0) == [1, 2])
    np.testing.assert_allclose(found, x.max(2).sum() - best, rtol=1e-12)


def test_a_blank_is_a_class() -> None:
    message = refuses(
        "fn f(x, y) = ctc(x, y, blank = 5)", np.zeros((1, 4, 5)), np.ones((1, 2), int)
    )
    assert "`blank` is one of the classes" in message
