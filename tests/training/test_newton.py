"""The Hessian times a vector, and Newton's method by it: against formulas worked by hand."""

from __future__ import annotations

import numpy as np

from steps import Steps
from training.test_optimisers import SIZES, Array, end, net, quadratic, slope, stored


def bend(weights: dict[str, Array], along: dict[str, Array]) -> dict[str, Array]:
    """The Hessian of the net's loss times a direction, by Pearlmutter's rules (1994).

    Each value goes forward, then back, together with its change along the direction.
    """
    x, y = stored()["net/x"], stored()["net/y"]
    h = np.tanh(x @ weights["w1"] + weights["b1"])
    h_change = (1 - h**2) * (x @ along["w1"] + along["b1"])
    error = h @ weights["w2"] + weights["b2"] - y
    error_change = h_change @ weights["w2"] + h @ along["w2"] + along["b2"]
    slope, slope_change = 2 * error / y.size, 2 * error_change / y.size
    back = slope @ weights["w2"].T
    back_change = slope_change @ weights["w2"].T + slope @ along["w2"].T
    inner_change = back_change * (1 - h**2) - back * 2 * h * h_change
    return {
        "w1": x.T @ inner_change,
        "b1": inner_change.sum(0),
        "w2": h.T @ slope_change + h_change.T @ slope,
        "b2": slope_change.sum(0),
    }


def descent(weights: dict[str, Array]) -> dict[str, Array]:
    """The gradient of the net's loss."""
    x, y = stored()["net/x"], stored()["net/y"]
    h = np.tanh(x @ weights["w1"] + weights["b1"])
    slope = 2 * (h @ weights["w2"] + weights["b2"] - y) / y.size
    inner = slope @ weights["w2"].T * (1 - h**2)
    return {"w1": x.T @ inner, "b1": inner.sum(0), "w2": h.T @ slope, "b2": slope.sum(0)}


def weights_of(steps: Steps) -> dict[str, Array]:
    return {name: steps.state[f"net.{name}"] for name in SIZES}


def test_the_hessian_times_a_vector_is_that_of_pearlmutter() -> None:
    own = "optimizer bent() { theta <- hessian_times(theta + 3 * grad) }"
    steps, fields = net("minimize mean((net(x) - y)^2) with bent", own)
    before = weights_of(steps)
    slope = descent(before)
    expected = bend(before, {n: before[n] + 3 * slope[n] for n in SIZES})
    steps.step(**fields)
    for name, value in expected.items():
        np.testing.assert_allclose(steps.state[f"net.{name}"], value, rtol=1e-9, atol=1e-12)


def test_the_hessian_is_that_by_the_parameters_of_its_group() -> None:
    own = "optimizer bent() { theta <- hessian_times(theta) }"
    rest = "minimize mean((net(x) - y)^2) over net.w1, net.b2 with bent with bent"
    steps, fields = net(rest, own)
    before = weights_of(steps)
    steps.step(**fields)
    for group in (("w1", "b2"), ("b1", "w2")):
        along = {n: before[n] if n in group else np.zeros_like(before[n]) for n in SIZES}
        expected = bend(before, along)
        for name in group:
            found = steps.state[f"net.{name}"]
            np.testing.assert_allclose(found, expected[name], rtol=1e-9, atol=1e-12)


def test_one_step_of_newton_ends_in_the_minimum_of_a_quadratic() -> None:
    """A turn for each of the 6 eigenvalues of the Hessian is enough; more change nothing."""
    minimum = np.linalg.lstsq(stored()["quadratic/a"], stored()["quadratic/b"], rcond=None)[0]
    for turns in (6, 12):
        steps, fields = quadratic(f"newton(damping = 0, turns = {turns}, longest = 1e9)")
        np.testing.assert_allclose(end(steps, fields, 1), minimum, rtol=1e-9)
    steps, fields = quadratic("newton(damping = 0, turns = 3, longest = 1e9)")
    assert np.abs(end(steps, fields, 1) - minimum).max() > 1e-3


def flat(values: dict[str, Array]) -> Array:
    return np.concatenate([values[n].ravel() for n in SIZES])


def whole_hessian(weights: dict[str, Array]) -> Array:
    """Column by column."""
    columns = []
    for name in SIZES:
        for place in np.ndindex(weights[name].shape):
            along = {n: np.zeros_like(w) for n, w in weights.items()}
            along[name][place] = 1
            columns.append(flat(bend(weights, along)))
    return np.stack(columns, 1)


def test_newton_solves_for_its_step_on_a_net() -> None:
    """With the damping above the most negative curvature, enough turns solve the equations."""
    newton = "newton(0.5, damping = 4, turns = 40, longest = 1e9)"
    steps, fields = net(f"minimize mean((net(x) - y)^2) with {newton}")
    for _ in range(4):
        before = weights_of(steps)
        hessian = whole_hessian(before)
        assert -4 < np.linalg.eigvalsh(hessian)[0] < 0
        step = np.linalg.solve(hessian + 4 * np.eye(len(hessian)), flat(descent(before)))
        steps.step(**fields)
        np.testing.assert_allclose(flat(weights_of(steps)), flat(before) - 0.5 * step, rtol=1e-8)


def truncated(hessian: Array, g: Array, turns: int) -> tuple[Array, int]:
    """Conjugate gradients that end where the curvature isn't positive; how many turns they made."""
    d, r, p = np.zeros_like(g), g, g
    for turn in range(turns):
        q = hessian @ p
        if p @ q <= 0:
            return (d if turn else g), turn
        alpha = r @ r / (p @ q)
        d, after = d + alpha * p, r - alpha * q
        r, p = after, after + (after @ after) / (r @ r) * p
    return d, turns


def test_newton_ends_its_turns_where_the_curvature_is_not_positive() -> None:
    newton = "newton(0.3, damping = 0, turns = 8)"
    steps, fields = net(f"minimize mean((net(x) - y)^2) with {newton}")
    made, lengths = set(), []
    for _ in range(6):
        before = weights_of(steps)
        step, turns = truncated(whole_hessian(before), flat(descent(before)), 8)
        made.add(turns)
        lengths.append(np.linalg.norm(step))
        step = step / max(1, lengths[-1])
        steps.step(**fields)
        np.testing.assert_allclose(flat(weights_of(steps)), flat(before) - 0.3 * step, rtol=1e-6)
    assert min(made) < 8, made
    assert min(lengths) < 1 < max(lengths), lengths


def test_the_first_turn_of_newton_may_find_no_positive_curvature() -> None:
    steps, fields = quadratic(
        "newton(0.1, damping = 0, longest = 1e9)", loss="-0.5 * sum((q(a) - b)^2)"
    )
    x = steps.state["q.x"]
    np.testing.assert_allclose(end(steps, fields, 1), x + 0.1 * slope(x), rtol=1e-9)
