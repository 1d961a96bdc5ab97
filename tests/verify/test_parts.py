"""The parts of a verification: slopes, bounds, graphs in double precision."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from random_graphs import SIZES, arrays, random_graph
from weft.backends.numpy.backend import BACKEND
from weft.compiler import builder as b
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, make
from weft.compiler.ops import OPS
from weft.compiler.passes.bind import bind
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan
from weft.compiler.passes.widen import widen
from weft.compiler.types import F32, F64, TensorType
from weft.compiler.verify import verify
from weft.runtime.verification.differences import slope
from weft.runtime.verification.rounding import bounded, is_stated, judge

# -- slopes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [math.sin, math.exp, lambda x: math.log1p(x) * 3, lambda x: x**3 - x])
def test_a_smooth_slope_is_found_to_ten_digits(f) -> None:
    moved = lambda h: f(0.7 + h)  # noqa: E731
    exact = {math.sin: math.cos(0.7), math.exp: math.exp(0.7)}.get(f)
    found = slope(moved, 1.0)
    assert found.error < 1e-7
    if exact is not None:
        assert abs(found.value - exact) < 1e-9
        assert abs(found.value - exact) <= found.error


@pytest.mark.parametrize("at", [0.0, 1e-9, -1e-8, 3e-9])
def test_a_kink_nearer_than_the_steps_is_seen(at: float) -> None:
    found = slope(lambda h: max(h + at, 0.0), 1.0)
    assert found.error > 0.1, "the slopes on the two sides are 0 and 1"


@pytest.mark.parametrize("at", [2e-5, 3e-7])
def test_a_kink_further_away_than_the_last_step_does_no_harm(at: float) -> None:
    found = slope(lambda h: max(h + at, 0.0) + math.sin(h), 1.0)
    assert abs(found.value - 2) <= found.error < 1e-6


def test_a_jump_leaves_no_slope() -> None:
    assert slope(math.floor, 1.0).error > 0.1


# -- bounds ---------------------------------------------------------------------------------------


def test_each_operation_says_what_it_may_be_wrong_by() -> None:
    assert [name for name in OPS if not is_stated(name)] == []


def single(rows: int = 3, columns: int = 400) -> tuple[Graph, dict[str, np.ndarray]]:
    """A long sum of numbers that cancel, in f32."""
    x = b.input_("x", TensorType(F32, (rows, columns)))
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, columns)).astype(np.float32)
    values[0] -= values[0].mean()
    return Graph("sum", (x,), (b.reduce_sum(b.exp(x * 0.01) - 1.0, [1]),)), {"x": values}


def test_the_bound_holds_rounding_and_no_more() -> None:
    graph, values = single()
    expected = bounded(graph, values)
    right = evaluate(graph, values)["out"]
    assert expected.judge("out", right).within
    size = np.abs(values["x"] * 0.01).sum(1)
    bound = expected.bound("out")
    assert (bound < 400 * 2.0**-24 * 400).all(), "far less than a unit for each number, all alike"
    assert (bound > 2.0**-24 * size).all(), "more than one rounding of what is added"
    wrong = right + np.float32(1e-3) * size.astype(np.float32)
    assert not expected.judge("out", wrong).within


def test_a_bound_is_as_wide_as_a_jump_that_rounding_can_cause() -> None:
    x = b.input_("x", TensorType(F32, (2,)))
    values = np.array([0.7, 5.0], np.float32)
    above = b.compare("greater", x / 3.0 * 3.0, float(values[0]))  # a tie, and none
    graph = Graph("jump", (x,), (b.select(above, x, 0.0),))
    expected = bounded(graph, {"x": values})
    assert expected.judge("out", np.array([0.7, 5.0], np.float32)).within
    assert expected.judge("out", np.array([0.0, 5.0], np.float32)).within
    assert not expected.judge("out", np.array([0.7, 0.0], np.float32)).within
    assert not expected.judge("out", np.array([7.0, 5.0], np.float32)).within


def test_what_is_not_finite_has_to_be_the_same() -> None:
    exact = np.array([np.inf, np.nan, 1.0, -np.inf])
    assert judge(exact.astype(np.float32), exact, np.zeros(4)).within
    assert not judge(np.array([1.0, np.nan, 1.0, -np.inf]), exact, np.zeros(4)).within
    assert not judge(np.array([np.inf, 0.0, 1.0, -np.inf]), exact, np.zeros(4)).within
    overflown = judge(np.array([np.inf], np.float32), np.array([1e300]), np.zeros(1))
    assert overflown.within, "1e300 is infinite in f32"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_numpy_backend_is_within_the_bounds_of_random_graphs(seed: int) -> None:
    graph = inline_calls(random_graph(random.Random(seed), 40, calls=False))
    values = arrays(graph, seed % 1000)
    bound = bind(graph, SIZES)
    run = BACKEND.compile(plan(bound, fuse(bound), BACKEND.abilities)).bind({})
    found, expected = run(values), bounded(graph, values, SIZES)
    for name, value in found.items():
        judged = expected.judge(name, np.asarray(value))
        assert judged.within, (name, judged)


# -- double precision -----------------------------------------------------------------------------


def test_a_widened_graph_is_the_same_computation() -> None:
    graph, values = single()
    wide = widen(graph)
    verify(wide)
    assert {n.type.dtype for n in wide.nodes} == {F64}
    assert [n.op.name for n in wide.nodes] == [n.op.name for n in graph.nodes]
    found = evaluate(wide, {"x": values["x"].astype(np.float64)})["out"]
    np.testing.assert_allclose(found, evaluate(graph, values)["out"], rtol=1e-3, atol=1e-5)


def test_a_widened_constant_keeps_its_number() -> None:
    graph = Graph("tenth", (), (b.constant(0.1, F32), b.constant(3, F32)))
    tenth, three = evaluate(widen(graph), {}).values()
    assert (float(tenth), float(three)) == (float(np.float32(0.1)), 3.0)
    several = make("constant", value=(0.1, 0.2), dtype=F32, shape=(2,))
    found = evaluate(widen(Graph("two", (), (several,))), {})["out"]
    np.testing.assert_array_equal(found, np.array([0.1, 0.2], np.float32).astype(np.float64))
