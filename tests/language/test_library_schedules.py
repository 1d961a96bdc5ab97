"""The library's schedules at ten points each: PyTorch's tables, formulas, and what they are for."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from language.elaborated import schedule
from weft.compiler.errors import CompileError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "optimisers.npz"
POINTS = (0, 3, 9, 10, 24, 33, 50, 66, 89, 99)


@cache
def stored() -> dict[str, np.ndarray]:
    with np.load(FIXTURES) as found:
        return dict(found)


def table(text: str, declarations: str = "") -> list[float]:
    return [schedule(text, step, declarations) for step in POINTS]


PYTORCH = {
    "step_decay": "step_decay(0.1, every = 3 epochs)",
    "milestones": "milestones(0.1, [1 epochs, 50 steps], factor = 0.5)",
    "exponential": "exponential(0.1, k = 0.02)",
    "linear": "linear(0.1, end = 0.01)",
    "cosine": "cosine(0.1, floor = 0.001)",
    "polynomial": "polynomial(0.1, power = 2)",
    "cosine_restarts": "cosine_restarts(0.1, every = 1 epoch, floor = 0.001)",
    "cosine_restarts_longer": "cosine_restarts(0.1, 1 epoch, factor = 2, floor = 0.001)",
    "triangular": "triangular(0.01, 0.1, half = 1 epoch)",
    "triangular_halving": "triangular_halving(0.01, 0.1, half = 1 epoch)",
    "one_cycle": "one_cycle(0.1)",
    "one_cycle_linear": "one_cycle_linear(0.1)",
    "sequence": "hold(0.05, 10 steps) then cosine(0.1)",
}


@pytest.mark.parametrize("name", PYTORCH)
def test_tables_are_those_of_pytorch(name: str) -> None:
    assert tuple(stored()["schedule/points"]) == POINTS
    np.testing.assert_allclose(table(PYTORCH[name]), stored()[f"schedule/{name}"], rtol=1e-9)


def cosine(x: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * x)


FORMULAS: dict[str, Callable[[int], float]] = {
    "constant(0.3)": lambda s: 0.3,
    "step_decay(1, every = 1 epoch, factor = 0.95)": lambda s: 0.95 ** (s // 10),
    "step_decay(1, every = 3 epochs, factor = 0.5)": lambda s: 0.5 ** (s // 30),
    "piecewise([1, 0.3, 0.1], at = [10, 50 steps])": lambda s: (
        1 if s < 10 else 0.3 if s < 50 else 0.1
    ),
    "exponential(2, k = 0.3, per = 1 epoch)": lambda s: 2 * math.exp(-0.3 * s / 10),
    "inverse_time(2, k = 0.1)": lambda s: 2 / (1 + 0.1 * s),
    "inverse(2)": lambda s: 2 / (s + 1),
    "inverse(2, t0 = 5)": lambda s: 2 / (s + 6),
    "inverse_root(2, warmup = 10)": lambda s: 2 * min((s + 1) / 10, (10 / (s + 1)) ** 0.5),
    "transformer(512, warmup = 20)": lambda s: 512**-0.5 * min((s + 1) ** -0.5, (s + 1) * 20**-1.5),
    "range_test(1e-5, 10)": lambda s: 1e-5 * 1e6 ** (s / 99),
    "linear(2, warmup = 10)": lambda s: 2 * min((s + 1) / 10, 1) * (1 - max(s - 10, 0) / 90),
    "warmup(2, 10) then cosine(2)": lambda s: (
        2 * (s + 1) / 10 if s < 10 else 2 * cosine((s - 10) / 90)
    ),
    "hold(1, 10) then hold(0.1, 40) then 0.01": lambda s: 1 if s < 10 else 0.1 if s < 50 else 0.01,
    "during(cosine(1), 50) then linear(1)": lambda s: (
        cosine(s / 50) if s < 50 else 1 - (s - 50) / 50
    ),
    "restarts(linear(1), 2 epochs)": lambda s: 1 - s % 20 / 20,
    "warmup(restarts(cosine(1), 1 epoch), 5)": lambda s: min((s + 1) / 5, 1) * cosine(s % 10 / 10),
    "during(one_cycle_linear(1, 10, start = 2), 50) then 0": lambda s: (
        0.5 + 0.5 * s / 9
        if s <= 9
        else 1 - 0.5 * (s - 9) / 9
        if s <= 18
        else 0.5 + (5e-5 - 0.5) * (s - 18) / 31
        if s < 50
        else 0
    ),
}


@pytest.mark.parametrize("text", FORMULAS)
def test_tables_follow_their_formulas(text: str) -> None:
    np.testing.assert_allclose(table(text), [FORMULAS[text](s) for s in POINTS], rtol=1e-9)


def test_restarts_of_a_cosine_are_cosine_restarts() -> None:
    np.testing.assert_allclose(
        table("restarts(cosine(1), 10)"), table("cosine_restarts(1, 10)"), atol=1e-12
    )


def test_a_schedule_of_ones_own_may_call_another() -> None:
    own = "schedule slowly(inner: schedule) = inner(step / 2, steps)\n"
    assert schedule("slowly(linear(1))", 50, own) == pytest.approx(0.75)
    assert schedule("slowly(0.5)", 50, own) == 0.5


def test_robbins_and_monro() -> None:
    """sum 1/t grows without end, by log 10 for every tenfold; sum 1/t^2 stays below pi^2 / 6."""
    rates = np.array([schedule("inverse(1)", s) for s in range(0, 1000, 37)])
    t = np.arange(0, 1000, 37) + 1
    np.testing.assert_allclose(rates, 1 / t)
    harmonic = [sum(1 / k for k in range(1, n + 1)) for n in (100, 1000, 10000)]
    assert np.diff(harmonic) == pytest.approx([math.log(10)] * 2, rel=2e-3)
    assert sum(1 / k**2 for k in range(1, 10001)) < math.pi**2 / 6


@pytest.mark.parametrize(
    "text", ["cosine(1)", "linear(1)", "polynomial(1, 2)", "one_cycle(1)", "exponential(1, 0.05)"]
)
def test_rates_end_a_hundredth_of_their_height_or_lower(text: str) -> None:
    assert schedule(text, 99) <= 0.01 + 1e-9


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "cosine(1) then 0.1": "how long does what stands before `then` last",
        "0.1 then cosine(1)": "how long does what stands before `then` last",
        "restarts(2 epochs, 3)": "can't take this as `inner`",
        "piecewise([1, 2], [1, 2])": "a time between every two values",
    }.items(),
)
def test_mistakes_are_refused(text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        schedule(text, 0)
