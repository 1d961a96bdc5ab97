"""The library's optimisers that PyTorch lacks, worked by hand for three updates of a matrix."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from make_library import BEFORE

from language.elaborated import descend

Array = np.ndarray
State = dict[str, Array]
Rule = Callable[[Array, Array, int, State], Array]

rng = np.random.default_rng(3)
THETA = rng.normal(size=(3, 4))
GRADIENTS = [rng.normal(size=(3, 4)) for _ in range(3)]
FALLING = "schedule falling(base) = base / (step + 1)\n"


def by_hand(rule: Rule, theta: Array = THETA, gradients: list[Array] = GRADIENTS) -> list[Array]:
    """Theta after each update; slots begin at 0."""
    state: State = {name: np.zeros_like(theta) for name in ("m", "v", "r", "u")}
    path = []
    for t, g in enumerate(gradients, 1):
        theta = rule(theta, g, t, state)
        path.append(theta)
    return path


def moments(g: Array, t: int, s: State) -> tuple[Array, Array]:
    """The corrected averages of Adam, with beta1 = 0.9 and beta2 = 0.99."""
    s["m"] = 0.9 * s["m"] + 0.1 * g
    s["v"] = 0.99 * s["v"] + 0.01 * g * g
    return s["m"] / (1 - 0.9**t), s["v"] / (1 - 0.99**t)


def momentum_decay(theta: Array, g: Array, t: int, s: State) -> Array:
    s["v"] = 0.9 * s["v"] + g
    return theta - 0.1 / t * (s["v"] + 0.2 * theta)


def lion(theta: Array, g: Array, t: int, s: State) -> Array:
    direction = np.sign(0.9 * s["m"] + 0.1 * g)
    s["m"] = 0.99 * s["m"] + 0.01 * g
    return theta - 0.1 * (direction + 0.2 * theta)


def adamax(theta: Array, g: Array, t: int, s: State) -> Array:
    s["m"] = 0.9 * s["m"] + 0.1 * g
    s["u"] = np.maximum(0.99 * s["u"], np.abs(g))
    return theta - 0.1 / (1 - 0.9**t) * s["m"] / s["u"]


def nadam_constant(theta: Array, g: Array, t: int, s: State) -> Array:
    _, v_hat = moments(g, t, s)
    m_hat = 0.9 * s["m"] / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
    return theta - 0.1 * m_hat / (np.sqrt(v_hat) + 1e-8)


def amsgrad_paper(theta: Array, g: Array, t: int, s: State) -> Array:
    moments(g, t, s)
    s["u"] = np.maximum(s["u"], s["v"])
    return theta - 0.1 * s["m"] / (np.sqrt(s["u"]) + 1e-8)


def length(x: Array) -> float:
    return float(np.sqrt((x * x).sum()))


def lars(theta: Array, g: Array, t: int, s: State) -> Array:
    trust = 0.01 * length(theta) / (length(g) + 0.2 * length(theta))
    s["v"] = 0.9 * s["v"] + 0.1 / t * trust * (g + 0.2 * theta)
    return theta - s["v"]


def lamb(theta: Array, g: Array, t: int, s: State) -> Array:
    m_hat, v_hat = moments(g, t, s)
    u = m_hat / (np.sqrt(v_hat) + 1e-6) + 0.2 * theta
    return theta - 0.1 * length(theta) / length(u) * u


def power(matrix: Array, exponent: float) -> Array:
    """A power of a symmetric matrix, by its eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def shampoo(theta: Array, g: Array, t: int, s: State) -> Array:
    s.setdefault("left", 1e-2 * np.eye(3))
    s.setdefault("right", 1e-2 * np.eye(4))
    s["left"] = s["left"] + g @ g.T
    s["right"] = s["right"] + g.T @ g
    return theta - 0.1 * power(s["left"], -0.25) @ g @ power(s["right"], -0.25)


def newton_schulz(x: Array, turns: int = 5) -> Array:
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T, turns).T
    x = x / length(x)
    for _ in range(turns):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x


def muon(theta: Array, g: Array, t: int, s: State) -> Array:
    s["m"] = 0.95 * s["m"] + 0.05 * g
    u = 0.95 * s["m"] + 0.05 * g
    scale = max(1.0, g.shape[0] / g.shape[1]) ** 0.5
    return theta - 0.1 * (0.2 * theta + scale * newton_schulz(u))


def per_fan_in(theta: Array, g: Array, t: int, s: State) -> Array:
    m_hat, v_hat = moments(g, t, s)
    return theta - 0.1 / 3 * m_hat / (np.sqrt(v_hat) + 1e-8)


ADAM = "beta2 = 0.99"
CASES: dict[str, Rule] = {
    "momentum_decay(falling(0.1), decay = 0.2)": momentum_decay,
    "lion(0.1, decay = 0.2)": lion,
    f"adamax(0.1, {ADAM}, eps = 0)": adamax,
    f"nadam_constant(0.1, {ADAM})": nadam_constant,
    f"amsgrad_paper(0.1, {ADAM})": amsgrad_paper,
    "lars(falling(0.1), decay = 0.2, eta = 0.01)": lars,
    f"lamb(0.1, {ADAM}, decay = 0.2)": lamb,
    "shampoo(0.1, eps = 1e-2)": shampoo,
    "muon(0.1, decay = 0.2)": muon,
    f"per_fan_in(adam(0.1, {ADAM}))": per_fan_in,
}


@pytest.mark.parametrize("text", CASES)
def test_updates_worked_by_hand(text: str) -> None:
    found = descend(text, THETA, GRADIENTS, FALLING)
    np.testing.assert_allclose(found, by_hand(CASES[text]), rtol=1e-9)


def test_tall_matrices_and_kernels_are_turned_and_flattened() -> None:
    tall = [g.T for g in GRADIENTS]
    np.testing.assert_allclose(
        descend("muon(0.1, decay = 0.2)", THETA.T, tall), by_hand(muon, THETA.T, tall), rtol=1e-9
    )
    kernel, slopes = THETA.reshape(3, 2, 2), [g.reshape(3, 2, 2) for g in GRADIENTS]
    for text in ("muon(0.1)", "shampoo(0.1)"):
        flat = [x.reshape(3, 2, 2) for x in descend(text, THETA, GRADIENTS)]
        np.testing.assert_allclose(descend(text, kernel, slopes), flat, rtol=1e-9)


def test_vectors_have_their_own_equations() -> None:
    theta, slopes = THETA[0], [g[0] for g in GRADIENTS]
    rest = descend("adam(0.1)", theta, slopes)
    np.testing.assert_allclose(descend("muon(1, rest = adam(0.1))", theta, slopes), rest)
    r, expected = np.full(4, 1e-4), theta
    for g in slopes:
        r = r + g * g
        expected = expected - 0.1 * g / np.sqrt(r)
    np.testing.assert_allclose(descend("shampoo(0.1)", theta, slopes)[-1], expected, rtol=1e-12)


def test_a_matrix_of_muon_has_singular_values_near_one() -> None:
    step = descend("muon(1, beta = 0, decay = 0)", THETA, GRADIENTS[:1])[0] - THETA
    values = np.linalg.svd(step, compute_uv=False)
    assert np.all((values > 0.6) & (values < 1.3))


def test_lengths_of_zero_have_a_ratio_of_one() -> None:
    zero = np.zeros((2, 2))
    for text in ("lamb(0.1)", "lars(0.1)"):
        assert np.all(np.isfinite(descend(text, zero, [np.ones((2, 2)), zero])))


def test_lookahead_goes_back_every_k_updates() -> None:
    fast = descend("sgd(0.1)", THETA, GRADIENTS)
    found = descend("lookahead(sgd(0.1), k = 2, alpha = 0.25)", THETA, GRADIENTS)
    np.testing.assert_allclose(found[0], fast[0])
    back = THETA + 0.25 * (fast[1] - THETA)
    np.testing.assert_allclose(found[1], back)
    np.testing.assert_allclose(found[2], back - 0.1 * GRADIENTS[2])


def test_optimisers_around_optimisers_have_slots_of_their_own() -> None:
    own = """
optimizer twice(one: optimizer, other: optimizer) {
  theta <- (one(theta, grad) + other(theta, grad)) / 2
}
"""
    found = descend("twice(adam(0.1), adam(0.2, beta1 = 0.5))", THETA, GRADIENTS, own)[0]
    pair = [descend(text, THETA, GRADIENTS)[0] for text in ("adam(0.1)", "adam(0.2, beta1 = 0.5)")]
    np.testing.assert_allclose(found, sum(pair) / 2)


# -- what of the gradients they make use of --------------------------------------------------------


def steps_of(call: str, *gradients: float) -> list[float]:
    """How far each update goes."""
    path = descend(call, np.zeros(1), [np.full(1, float(g)) for g in gradients])
    return [float(abs(after - before)[0]) for before, after in pairwise([np.zeros(1), *path])]


def features(name: str) -> list[bool]:
    """First and second moment, whether that fades, and whether it is corrected: by what it does."""
    call = f"{name}(0.1)"
    goes_on = steps_of(call, 1, 0)[1] > 0
    adapts = steps_of(call, 100)[0] < 2 * steps_of(call, 1)[0]
    fades = steps_of(call, *[1] * 300)[-1] > 0.9 * 0.1
    corrected = abs(steps_of(call, 1)[0] - 0.1) < 1e-6
    return [goes_on, adapts, adapts and fades, adapts and fades and corrected]


def test_the_table_of_features_is_true() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(#\1\) \|(.*)\|$", BEFORE["optimisers"], re.MULTILINE)
    assert len(rows) == 7
    for name, cells in rows:
        assert features(name) == [cell.strip() == "yes" for cell in cells.split("|")], name
