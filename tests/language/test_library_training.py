"""The library's initial values, optimisers and schedules: against PyTorch and their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from language.elaborated import descend, draw, elaborate, fixture, schedule
from weft.compiler.errors import CompileError

Array = np.ndarray
rng = np.random.default_rng(0)

# -- initial values --------------------------------------------------------------------------------

INITS = {
    "glorot_uniform": (6 / 300) ** 0.5,
    "glorot_normal": (2 / 300) ** 0.5,
    "he_normal": (2 / 200) ** 0.5,
    "he_uniform": (6 / 200) ** 0.5,
    "xavier_fan_in": (1 / 200) ** 0.5,
    "xavier_fan_sum": (1 / 300) ** 0.5,
    "fan_in_uniform": (1 / 200) ** 0.5,
    "gaussian(0.01)": 0.01,
    "normal": 1.0,
}


@pytest.mark.parametrize("init", INITS)
def test_initial_values_have_the_spread_they_state(init: str) -> None:
    w, size = draw(init, (200, 100)), INITS[init]
    uniform = "uniform" in init
    assert abs(w.mean()) < 0.03 * size
    assert w.std() == pytest.approx(size / 3**0.5 if uniform else size, rel=0.02)
    if uniform:
        assert 0.99 * size < np.abs(w).max() <= size
    else:
        assert 3 * size < np.abs(w).max() < 6 * size


def test_fans_of_a_convolution() -> None:
    w = draw("he_uniform", (8, 4, 5, 5))
    assert 0.98 < np.abs(w).max() / (6 / 100) ** 0.5 <= 1
    w = draw("glorot_uniform", (8, 4, 5, 5))
    assert 0.98 < np.abs(w).max() / (6 / 300) ** 0.5 <= 1


def test_other_initial_values() -> None:
    assert draw("constant(0.1)", (3,)).tolist() == [0.1] * 3
    assert draw("zeros", (2,)).tolist() == [0, 0]
    assert draw("ones", (2, 1)).tolist() == [[1], [1]]
    w = draw("uniform_between(-2, 4)", (50, 60))
    assert -2 <= w.min() < -1.9
    assert 3.9 < w.max() < 4
    w = draw("gaussian(0.5, mean = 3)", (50, 60))
    assert w.mean() == pytest.approx(3, abs=0.05)
    assert w.std() == pytest.approx(0.5, rel=0.05)
    own = "init halves(k = 2) = k * constant(0.25)\n"
    assert draw("halves(4)", (2,), own).tolist() == [1, 1]
    assert draw("halves", (2,), own).tolist() == [0.5, 0.5]
    assert draw("0.01 * normal", (50, 60)).std() == pytest.approx(0.01, rel=0.05)


def test_draws_are_named_by_what_they_draw() -> None:
    """Another layer before it changes no draw of a layer with its own name."""
    text = """
layer small(x) {{
  {}
  param w: float[4, 4] ~ normal
  x @ w
}}
model net = small()
fn f(x) = net(x)
"""
    x = np.zeros((1, 4))
    plain = elaborate(text.format(""), x).initial
    more = elaborate(text.format("x = x |> dense(4)"), x).initial
    np.testing.assert_array_equal(plain["net.w"], more["net.w"])
    assert not np.array_equal(more["net.w"], more["net.dense.w"])


# -- optimisers and schedules ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "sgd": "sgd(0.1)",
        "momentum": "momentum(0.1)",
        "nesterov": "nesterov(0.1)",
        "adagrad": "adagrad(0.1)",
        "rmsprop": "rmsprop(0.1)",
        "adam": "adam(0.1, beta1 = 0.8, beta2 = 0.95, eps = 1e-3)",
        "adamw": "adamw(0.1, 0.8, 0.95, 1e-3, decay = 0.2)",
    }.items(),
)
def test_optimisers_agree_with_pytorch(name: str, text: str) -> None:
    stored = fixture("optimizer", "in")
    path = descend(text, stored["theta"], [*stored["gradients"]])
    np.testing.assert_allclose(path, fixture("optimizer", "path")[name], rtol=1e-12)


THETA = np.array([1.0, -2.0, 0.5])
GRADIENTS = [rng.normal(size=3) for _ in range(6)]


def test_what_is_frozen_stays() -> None:
    np.testing.assert_array_equal(descend("frozen", THETA, GRADIENTS), [THETA] * len(GRADIENTS))


def by_hand(update, slots: int = 1) -> list[Array]:  # type: ignore[no-untyped-def]
    theta, state, path = THETA, [np.zeros(3)] * slots, []
    for t, g in enumerate(GRADIENTS, 1):
        theta, *state = update(theta, g, t, *state)
        path.append(theta)
    return path


def velocity(theta: Array, g: Array, t: int, v: Array) -> tuple[Array, Array]:
    v = 0.9 * v + 0.1 / t * g
    return theta - v, v


def average(theta: Array, g: Array, t: int, v: Array) -> tuple[Array, Array]:
    v = 0.9 * v + 0.1 * g
    return theta - 0.1 / t * v, v


def nesterov_velocity(theta: Array, g: Array, t: int, v: Array) -> tuple[Array, Array]:
    new = 0.9 * v - 0.1 / t * g
    return theta - 0.9 * v + 1.9 * new, new


def rmsprop_inside(theta: Array, g: Array, t: int, r: Array) -> tuple[Array, Array]:
    r = 0.9 * r + 0.1 * g * g
    return theta - 0.1 * g / np.sqrt(r + 0.01), r


def uncorrected(theta: Array, g: Array, t: int, m: Array, v: Array) -> tuple[Array, ...]:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return theta - 0.1 * m / (np.sqrt(v) + 0.01), m, v


def inside(theta: Array, g: Array, t: int, m: Array, v: Array) -> tuple[Array, ...]:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return theta - 0.1 * m / np.sqrt(v + 0.01), m, v


def adamw_paper(theta: Array, g: Array, t: int, m: Array, v: Array) -> tuple[Array, ...]:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    step = 0.1 * m_hat / (np.sqrt(v_hat) + 1e-8) + 0.2 * theta
    return theta - 0.1 / t * step, m, v


FALLING = "schedule falling(base) = base / (step + 1)\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("momentum_velocity(falling(0.1))", by_hand(velocity)),
        ("momentum_average(falling(0.1))", by_hand(average)),
        ("nesterov_velocity(falling(0.1))", by_hand(nesterov_velocity)),
        ("rmsprop_inside(0.1, eps = 0.01)", by_hand(rmsprop_inside)),
        ("adam_uncorrected(0.1, eps = 0.01)", by_hand(uncorrected, 2)),
        ("adam_uncorrected_inside(0.1, eps = 0.01)", by_hand(inside, 2)),
        ("adamw_paper(falling(0.1), alpha = 0.1, decay = 0.2)", by_hand(adamw_paper, 2)),
    ],
    ids=lambda v: v.split("(")[0] if isinstance(v, str) else "",
)
def test_optimisers_follow_their_equations(text: str, expected: list[Array]) -> None:
    np.testing.assert_allclose(descend(text, THETA, GRADIENTS, FALLING), expected, rtol=1e-12)


def test_momenta_agree_while_the_rate_is_constant_and_differ_when_it_changes() -> None:
    pairs = [("momentum", "momentum_velocity"), ("nesterov", "nesterov_velocity")]
    for one, other in pairs:
        same = [descend(f"{name}(0.1)", THETA, GRADIENTS)[-1] for name in (one, other)]
        np.testing.assert_allclose(*same, rtol=1e-12)
        differ = [
            descend(f"{n}(falling(0.1))", THETA, GRADIENTS, FALLING)[-1] for n in (one, other)
        ]
        assert not np.allclose(*differ, rtol=1e-3)
    average = descend("momentum_average(1)", THETA, GRADIENTS)[-1]
    np.testing.assert_allclose(average, descend("momentum(0.1)", THETA, GRADIENTS)[-1])


def test_adam_starts_at_full_rate() -> None:
    step = descend("adam(0.1)", THETA, [np.array([1e-3, -5.0, 2.0])])[0] - THETA
    np.testing.assert_allclose(step, [-0.1, 0.1, -0.1], rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "points"),
    {
        "constant(0.3)": {0: 0.3, 99: 0.3},
        "cosine(2)": {0: 2, 25: 1 + math.cos(math.pi / 4), 50: 1, 99: 1 + math.cos(math.pi * 0.99)},
        "cosine(2, floor = 1)": {0: 2, 50: 1.5},
        "cosine(2, warmup = 2 epochs)": {0: 0.1, 9: 1, 19: 2, 20: 2, 60: 1},
        "cosine(2, warmup = 100 steps)": {0: 0.02, 99: 2},
        "linear(2)": {0: 2, 25: 1.5, 99: 0.02},
        "linear(2, end = 1, warmup = 10%)": {0: 0.2, 9: 2, 10: 2, 55: 1.5},
        "step_decay(2, every = 3 epochs)": {0: 2, 29: 2, 30: 0.2, 60: 0.02},
        "step_decay(2, every = 40, factor = 0.5)": {39: 2, 40: 1, 80: 0.5},
        "exponential(2, 0.1)": {0: 2, 10: 2 / math.e},
        "warmup(2, 10 steps)": {0: 0.2, 4: 1, 9: 2, 50: 2},
        "warmup(cosine(2), 1 epoch)": {0: 0.2, 50: 1},
        "warmup(2, 0)": {0: 2},
    }.items(),
)
def test_schedules(text: str, points: dict[int, float]) -> None:
    for step, expected in points.items():
        assert schedule(text, step) == pytest.approx(expected), step


def test_schedules_refuse_what_is_no_duration() -> None:
    for text in (
        "cosine(1, warmup = 2 hours)",
        "warmup(1, 0.5)",
        "step_decay(1, every = -1 steps)",
    ):
        with pytest.raises(CompileError):
            schedule(text, 0)
    with pytest.raises(CompileError, match="a number"):
        descend("sgd(2 epochs)", THETA, GRADIENTS)
