"""Optimisers in whole steps: paths of PyTorch's, groups, second gradients, and the stated laws."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from steps import Steps
from weft.compiler.errors import CompileError

Array = np.ndarray
FIXTURES = Path(__file__).parents[1] / "fixtures" / "optimisers.npz"
SHOWN = (1, 2, 5, 10, 20, 50)

OPTIMISERS = {
    "sgd": "sgd(0.02)",
    "sgd_decay": "sgd_decay(0.02, decay = 0.1)",
    "momentum": "momentum(0.01)",
    "momentum_l2": "momentum_l2(0.01, decay = 0.1)",
    "nesterov": "nesterov(0.01)",
    "adagrad": "adagrad(0.1)",
    "rmsprop": "rmsprop(0.002)",
    "adadelta": "adadelta",
    "rprop": "rprop",
    "adam": "adam(0.02)",
    "adam_l2": "adam_l2(0.02, decay = 0.1)",
    "adamw": "adamw(0.02, decay = 0.1)",
    "adamax": "adamax(0.02)",
    "nadam": "nadam(0.02)",
    "radam": "radam(0.02)",
    "amsgrad": "amsgrad(0.02)",
    "adafactor": "adafactor(0.05, eps = 2.220446049250313e-16, decay = 0.1)",
}

QUADRATIC = """
data equations {{
  source = embedded("digits")
  a: f32[6] = a
  b: f32[3] = b
}}
layer unknowns(a: float[N, M]) {{
  param x: float[M, 3] ~ normal
  a @ x
}}
model q = unknowns()
{own}
train {{
  data = equations.batch(8)
  precision = f64
  minimize {loss} with {optimizer}
}}
"""

NET = """
data points {{
  source = embedded("digits")
  x: f32[3] = x
  y: f32[2] = y
}}
layer two(x: float[B, I]) {{
  param w1: float[I, 5] ~ normal
  param b1: float[5] ~ zeros
  param w2: float[5, 2] ~ normal
  param b2: float[2] ~ zeros
  tanh(x @ w1 + b1) @ w2 + b2
}}
model net = two()
{own}
train {{
  data = points.batch(16)
  precision = f64
  {rest}
}}
"""


@cache
def stored() -> dict[str, Array]:
    with np.load(FIXTURES) as found:
        return dict(found)


def quadratic(
    optimizer: str, loss: str = "0.5 * sum((q(a) - b)^2)", own: str = ""
) -> tuple[Steps, dict[str, Array]]:
    """The step of the quadratic, at the stored start, and its one batch."""
    fields = {name: stored()[f"quadratic/{name}"] for name in ("a", "b")}
    text = QUADRATIC.format(optimizer=optimizer, loss=loss, own=own)
    steps = Steps.of(text, {k: v.astype(np.float32) for k, v in fields.items()})
    steps.state["q.x"] = stored()["quadratic/x"].copy()
    return steps, fields


def net(rest: str, own: str = "") -> tuple[Steps, dict[str, Array]]:
    """The step of the small net, at the stored weights, and its one batch."""
    fields = {name: stored()[f"net/{name}"] for name in ("x", "y")}
    text = NET.format(rest=rest, own=own)
    steps = Steps.of(text, {k: v.astype(np.float32) for k, v in fields.items()})
    for name in ("w1", "b1", "w2", "b2"):
        steps.state[f"net.{name}"] = stored()[f"net/{name}"].copy()
    return steps, fields


def end(steps: Steps, fields: dict[str, Array], count: int, name: str = "q.x") -> Array:
    for _ in range(count):
        steps.step(**fields)
    return steps.state[name]


def tolerance(name: str) -> float:
    """How near 50 steps come; PyTorch keeps the product of NAdam's momenta in f32."""
    return 1e-6 if name == "nadam" else 1e-9


@pytest.mark.parametrize("name", OPTIMISERS)
def test_fifty_steps_on_a_quadratic_are_those_of_pytorch(name: str) -> None:
    steps, fields = quadratic(OPTIMISERS[name])
    path = []
    for step in range(1, max(SHOWN) + 1):
        steps.step(**fields)
        if step in SHOWN:
            path.append(steps.state["q.x"])
    expected = stored()[f"path/{name}/quadratic"]
    np.testing.assert_allclose(path, expected, rtol=tolerance(name), atol=1e-10)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_fifty_steps_of_a_net_are_those_of_pytorch(name: str) -> None:
    steps, fields = net(f"minimize mean((net(x) - y)^2) with {OPTIMISERS[name]}")
    end(steps, fields, max(SHOWN), "net.w1")
    for part in ("w1", "b1", "w2", "b2"):
        expected = stored()[f"path/{name}/net/{part}"]
        found = steps.state[f"net.{part}"]
        np.testing.assert_allclose(found, expected, rtol=tolerance(name), atol=1e-10)


# -- second gradients -----------------------------------------------------------------------------


def slope(x: Array) -> Array:
    """The gradient of the quadratic."""
    a, b = stored()["quadratic/a"], stored()["quadratic/b"]
    return a.T @ (a @ x - b)


def test_sam_takes_the_gradient_at_the_worst_point_nearby() -> None:
    steps, fields = quadratic("sam(sgd(0.01), rho = 0.3)")
    x = steps.state["q.x"]
    for _ in range(3):
        g = slope(x)
        x = x - 0.01 * slope(x + 0.3 * g / np.sqrt((g * g).sum()))
        steps.step(**fields)
        np.testing.assert_allclose(steps.state["q.x"], x, rtol=1e-9)


def test_sam_measures_all_gradients_together() -> None:
    """The length of the whole move is 1, not that of each parameter's."""
    own = "optimizer far(inner: optimizer) { theta <- theta + grad / norm(together(grad)) }"
    steps, fields = net("minimize mean((net(x) - y)^2) with far(sgd)", own)
    before = {k: v for k, v in steps.state.items() if k.startswith("net.")}
    steps.step(**fields)
    moved = sum(float(((steps.state[k] - v) ** 2).sum()) for k, v in before.items())
    assert moved == pytest.approx(1, rel=1e-9)


def test_the_two_forms_of_nesterov_agree_under_the_change_of_variable() -> None:
    ahead, fields = quadratic("nesterov_ahead(0.01)")
    other, _ = quadratic("nesterov_velocity(0.01)")
    for _ in range(20):
        ahead.step(**fields)
        other.step(**fields)
        x = ahead.state["q.x"] + 0.9 * ahead.state["nesterov_ahead.v/q.x"]
        np.testing.assert_allclose(x, other.state["q.x"], rtol=1e-9)


def test_a_second_gradient_is_clipped_too() -> None:
    rest = """minimize 100 * mean((net(x) - y)^2) with {}
  clip = global_norm(0.5)"""
    own = "optimizer here(lr) { theta <- theta - lr * gradient_at(theta) }"
    one, fields = net(rest.format("sgd(0.1)"))
    two, _ = net(rest.format("here(0.1)"), own)
    np.testing.assert_allclose(end(one, fields, 3, "net.w1"), end(two, fields, 3, "net.w1"))


def test_the_slow_weights_of_lookahead_start_where_the_parameters_do() -> None:
    text = QUADRATIC.format(optimizer="lookahead(adam)", loss="sum(q(a) - b)", own="")
    columns = {name: stored()[f"quadratic/{name}"].astype(np.float32) for name in ("a", "b")}
    state = Steps.of(text, columns).state
    np.testing.assert_array_equal(state["lookahead.slow/q.x"], state["q.x"])


# -- groups ---------------------------------------------------------------------------------------


def test_groups_share_one_gradient_and_have_their_own_rates() -> None:
    rest = """minimize mean((net(x) - y)^2) + 0.1 * l2(net.weights)
    over net.weights with momentum(0.1)
    over net.biases with sgd(exponential(0.5, 0.1))
  clip = global_norm(0.1)"""
    steps, fields = net(rest)
    whole, _ = net("""minimize mean((net(x) - y)^2) + 0.1 * l2(net.weights) with sgd(1)
  clip = global_norm(0.1)""")
    before = {k: v for k, v in steps.state.items() if k.startswith("net.")}
    steps.step(**fields)
    whole.step(**fields)
    for name, rate in {"w1": 0.1, "b1": 0.5, "w2": 0.1, "b2": 0.5}.items():
        gradient = before[f"net.{name}"] - whole.state[f"net.{name}"]
        moved = before[f"net.{name}"] - steps.state[f"net.{name}"]
        np.testing.assert_allclose(moved, rate * gradient, rtol=1e-9)
    assert "momentum.v/net.w1" in steps.state
    assert "momentum.v/net.b1" not in steps.state


def test_the_last_with_takes_what_is_left() -> None:
    rest = "minimize mean((net(x) - y)^2) over net.w1, net.b2 with sgd(0.0) with sgd(0.1)"
    steps, fields = net(rest)
    before = dict(steps.state)
    steps.step(**fields)
    same = {n: np.array_equal(before[f"net.{n}"], steps.state[f"net.{n}"]) for n in SIZES}
    assert same == {"w1": True, "b1": False, "w2": False, "b2": True}


SIZES = ("w1", "b1", "w2", "b2")


def test_one_optimiser_may_treat_matrices_and_vectors_apart() -> None:
    own = """
optimizer split(lr) {
  let decay = if rank(theta) >= 2 { 0.5 } else { 0 }
  theta <- theta - lr * (grad + decay * theta)
}
"""
    steps, fields = net("minimize mean((net(x) - y)^2) with split(0.1)", own)
    plain, _ = net("minimize mean((net(x) - y)^2) with sgd(0.1)")
    before = dict(steps.state)
    steps.step(**fields)
    plain.step(**fields)
    for name in SIZES:
        decay = 0.05 * before[f"net.{name}"] if name.startswith("w") else 0
        expected = plain.state[f"net.{name}"] - decay
        np.testing.assert_allclose(steps.state[f"net.{name}"], expected, rtol=1e-9, atol=1e-12)


def test_slots_have_types_of_their_own() -> None:
    steps, _ = net("minimize mean((net(x) - y)^2) with adafactor")
    shapes = {k: v.shape for k, v in steps.state.items() if k.startswith("adafactor")}
    assert shapes == {
        "adafactor.r/net.w1": (3,),
        "adafactor.c/net.w1": (5,),
        "adafactor.square/net.b1": (5,),
        "adafactor.r/net.w2": (5,),
        "adafactor.c/net.w2": (2,),
        "adafactor.square/net.b2": (2,),
    }
    steps, _ = net("minimize mean((net(x) - y)^2) with nadam")
    assert [k for k in steps.state if "product" in k] == ["nadam.product/net.w1"]


@pytest.mark.parametrize(
    ("rest", "message"),
    {
        "over net with sgd over net.w1 with sgd": "two groups",
        "with sgd with adam": "only one `with`",
        "over net.w1 with sgd": "no `minimize` updates",
        "over net.w3 with sgd": "has no `w3`",
        "with sam(0.1)": "can't take this as `inner`",
        "with twice(sgd)": "takes tensors of the parameter's shape",
        "with flat": "`hessian_times` takes tensors of the parameter's shape",
    }.items(),
)
def test_mistakes_are_refused(rest: str, message: str) -> None:
    own = """
optimizer twice(inner: optimizer) { theta <- inner(theta, 1) }
optimizer flat() { theta <- theta - hessian_times(sum(grad)) }
"""
    with pytest.raises(CompileError, match=message):
        net(f"minimize mean((net(x) - y)^2) {rest}", own)


# -- laws -----------------------------------------------------------------------------------------

PENALTY = "0.5 * sum((q(a) - b)^2) + 0.3 / 2 * l2(q.x)"


@pytest.mark.parametrize(
    ("plain", "with_decay"),
    {
        "sgd(0.01)": "sgd_decay(0.01, decay = 0.3)",
        "momentum(0.01)": "momentum_l2(0.01, decay = 0.3)",
        "adam(0.01)": "adam_l2(0.01, decay = 0.3)",
    }.items(),
)
def test_a_penalty_is_a_decay_added_to_the_gradient(plain: str, with_decay: str) -> None:
    penalty, fields = quadratic(plain, PENALTY)
    decay, _ = quadratic(with_decay)
    np.testing.assert_allclose(end(penalty, fields, 20), end(decay, fields, 20), rtol=1e-9)


def test_decay_outside_of_the_velocity_has_the_same_minimum_and_that_of_adam_has_not() -> None:
    """At rest momentum has v = grad / (1 - beta), so its decay weighs 1 - beta as much."""
    a, b = stored()["quadratic/a"], stored()["quadratic/b"]
    minimum = np.linalg.solve(a.T @ a + 0.3 * np.eye(6), a.T @ b)
    outside, fields = quadratic("momentum_decay(0.01, decay = 3)")
    inside, _ = quadratic("momentum(0.01)", PENALTY)
    for _ in range(400):
        outside.step(**fields)
        inside.step(**fields)
    np.testing.assert_allclose(outside.state["q.x"], minimum, atol=1e-6)
    np.testing.assert_allclose(inside.state["q.x"], minimum, atol=1e-6)
    penalty, _ = quadratic("adam(0.01)", PENALTY)
    decayed, _ = quadratic("adamw(0.01, decay = 0.3)")
    assert np.abs(end(penalty, fields, 300) - end(decayed, fields, 300)).max() > 0.05
