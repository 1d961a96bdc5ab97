"""The training step as a graph: what it computes, against NumPy written by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steps import Arrays, Steps
from weft.compiler.errors import CompileError, Source
from weft.compiler.text import print_graph
from weft.frontends.dsl.elaborate import elaborate

DATA = """
data points {
  source = embedded("digits")
  x: f32[3] = x
  y: f32[2] = y
}
"""
LINEAR = """
layer linear(x: f32[B, I], units = 2) {
  param w: f32[I, units] ~ normal * 0.5
  param b: f32[units]    ~ zeros
  x @ w + b
}
model net = linear()
"""


def columns(size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "x": rng.standard_normal((size, 3)).astype(np.float32),
        "y": rng.standard_normal((size, 2)).astype(np.float32),
    }


def train(body: str) -> str:
    return f"{DATA}{LINEAR}train {{\n  data = points.batch(8)\n  precision = f64\n{body}\n}}\n"


def gradients(
    state: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients of the mean squared error of a linear model."""
    difference = x @ state["net.w"] + state["net.b"] - y
    slope = 2 * difference / difference.size
    return float((difference**2).mean()), x.T @ slope, slope.sum(0)


def test_momentum_with_decay_clipping_and_average() -> None:
    spec = train(
        """
  minimize mean((net(x) - y)^2) + 0.1 * l2(net.weights) with momentum(lr = 0.5, beta = 0.9)
  clip    = global_norm(0.3)
  average = ema(0.75)
"""
    )
    steps = Steps.of(spec, columns())
    x, y = (c.astype(np.float64) for c in columns().values())
    theta = {k: steps.state[k].copy() for k in ("net.w", "net.b")}
    velocity = {k: np.zeros_like(v) for k, v in theta.items()}
    average = {k: v.copy() for k, v in theta.items()}
    for _ in range(4):
        loss, w, b = gradients(theta, x, y)
        loss += 0.1 * float((theta["net.w"] ** 2).sum())
        grads = {"net.w": w + 0.2 * theta["net.w"], "net.b": b}
        norm = np.sqrt(sum(float((g**2).sum()) for g in grads.values()))
        scale = min(1.0, 0.3 / norm)
        for name, gradient in grads.items():
            velocity[name] = 0.9 * velocity[name] + scale * gradient
            theta[name] = theta[name] - 0.5 * velocity[name]
            average[name] = 0.75 * average[name] + 0.25 * theta[name]
        found = steps.step(x=x, y=y)
        assert found["loss"] == pytest.approx(loss, rel=1e-12)
        for name, value in theta.items():
            np.testing.assert_allclose(steps.state[name], value, rtol=1e-9)
            np.testing.assert_allclose(
                steps.state[f"momentum.v/{name}"], velocity[name], rtol=1e-9, atol=1e-12
            )
            np.testing.assert_allclose(steps.state[f"average/{name}"], average[name], rtol=1e-9)
    assert steps.state["step"] == 4
    assert steps.state["metrics.count"] == 32


@pytest.mark.parametrize(
    ("rule", "start", "every"),
    [
        ("swa(start = 1, every = 2)", 1, 2),
        ("swa(40%, 1 step)", 2, 1),
        ("swa(start = 0, every = 1 step)", 0, 1),
        ("swa(every = 3)", 4, 3),  # 75% of 5 steps are 4
    ],
)
def test_stochastic_weight_averaging_is_a_plain_mean(rule: str, start: int, every: int) -> None:
    """Of the parameters as they are at `start` and after each `every` steps from there on."""
    spec = train(f"  minimize mean((net(x) - y)^2) with sgd(0.5)\n  average = {rule}\n  steps = 5")
    steps = Steps.of(spec, columns())
    x, y = (c.astype(np.float64) for c in columns().values())
    path = [steps.state["net.w"]]
    for t in range(1, 6):
        steps.step(x=x, y=y)
        path.append(steps.state["net.w"])
        expected = np.mean(path[start : t + 1 : every], axis=0) if t >= start else path[t]
        np.testing.assert_allclose(steps.state["average/net.w"], expected, rtol=1e-12)


def test_rules_may_ask_for_the_time() -> None:
    """Of all three kinds; an argument that is given goes before."""
    own = """
fn slower(grad, t, steps) = grad * t / steps
fn none_at(theta, last, t) = where(t == last, 0, theta)
fn mean_of_all(average, theta, t) = lerp(average, theta, 1 / t)
"""
    spec = own + train("""
  minimize sum(net(x)) with sgd(1)
  clip      = slower
  constrain = none_at(2)
  average   = mean_of_all
  steps     = 4""")
    x = columns()["x"].astype(np.float64)
    steps, latest = (
        Steps.of(text, columns())
        for text in (spec, spec.replace("= mean_of_all\n", "= mean_of_all(t = 1)\n"))
    )
    w = steps.state["net.w"]
    path = []
    for t in range(1, 5):
        for made in (steps, latest):
            made.step(x=x)
        w = np.zeros_like(w) if t == 2 else w - x.sum(0)[:, None] * t / 4
        path.append(w)
        np.testing.assert_allclose(steps.state["net.w"], w, rtol=1e-9)
        mean = np.mean(path, axis=0)
        np.testing.assert_allclose(steps.state["average/net.w"], mean, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(latest.state["average/net.w"], w, rtol=1e-9, atol=1e-15)


def test_nothing_is_spent_on_the_gradient_of_what_is_frozen() -> None:
    spec = train(
        "  minimize mean((other(net(x)) - y)^2) over net with frozen with sgd(0.1)"
    ).replace("train {", "model other = linear()\ntrain {")
    steps = Steps.of(spec, columns())
    before = dict(steps.state)
    steps.step(**{name: a.astype(np.float64) for name, a in columns().items()})
    for name in ("net.w", "net.b"):
        np.testing.assert_array_equal(steps.state[name], before[name])
    assert not np.array_equal(steps.state["other.w"], before["other.w"])
    products = [n for n in steps.program.train_step.nodes if n.op.name == "dot_general"]
    assert len(products) == 3  # two forward, and the gradient of `other.w`


def test_a_second_objective_sees_what_the_first_left() -> None:
    spec = f"""{DATA}
layer scale(x: f32[B, I]) {{
  param s: f32[I] ~ ones
  x * s
}}
model one = scale()
model two = scale()
train {{
  data = points.batch(8)
  precision = f64
  let a = one(x)
  minimize mean(a^2) over one with sgd(lr = 0.5)
  minimize mean((two(a) - 1)^2) over two with sgd(lr = 0.5)
  metrics = {{ size: mean(abs(a)) }}
}}
"""
    steps = Steps.of(spec, columns())
    x = columns()["x"].astype(np.float64)
    one = np.ones(3)
    for _ in range(3):
        before = x * one
        first = (before**2).mean()
        one = one - 0.5 * (2 * before * x / x.size).sum(0)
        a = x * one
        two = steps.state["two.s"]
        second = ((a * two - 1) ** 2).mean()
        expected = two - 0.5 * (2 * (a * two - 1) * a / x.size).sum(0)
        found = steps.step(x=x)
        assert found["loss_1"] == pytest.approx(first, rel=1e-12)
        assert found["loss_2"] == pytest.approx(second, rel=1e-12)
        assert found["size"] == pytest.approx(np.abs(before).mean(), rel=1e-12)
        np.testing.assert_allclose(steps.state["one.s"], one, rtol=1e-9)
        np.testing.assert_allclose(steps.state["two.s"], expected, rtol=1e-9)


def test_a_schedule_is_part_of_the_graph() -> None:
    spec = train("  minimize mean((net(x) - y)^2) with sgd(lr = exponential(0.5, k = 0.1))")
    steps = Steps.of(spec, columns())
    x, y = (c.astype(np.float64) for c in columns().values())
    for t in range(3):
        _, w, _ = gradients(steps.state, x, y)
        expected = steps.state["net.w"] - 0.5 * np.exp(-0.1 * t) * w
        steps.step(x=x, y=y)
        np.testing.assert_allclose(steps.state["net.w"], expected, rtol=1e-9)


def test_running_statistics_are_updated_once_a_step() -> None:
    spec = f"""{DATA}
layer normed(x: f32[B, I]) {{ x |> batch_norm(momentum = 0.1) |> dense(2) }}
model net = normed()
train {{
  data = points.batch(8)
  precision = f64
  minimize mean((net(x) - y)^2) with sgd(lr = 0.0)
  metrics = {{ again: mean(net(x)) }}
}}
"""
    steps = Steps.of(spec, columns())
    x, y = (c.astype(np.float64) for c in columns().values())
    steps.step(x=x, y=y)
    name = "net.batch_norm"
    np.testing.assert_allclose(steps.state[f"{name}.mean"], 0.1 * x.mean(0), rtol=1e-6)
    expected = 0.9 + 0.1 * x.var(0, ddof=1)
    np.testing.assert_allclose(steps.state[f"{name}.var"], expected, rtol=1e-6)


DRAWS = """
layer net_layer(x: f32[B, I]) {{
  {extra}x |> dense(4) |> dropout(0.5) |> dense(2)
}}
model net = net_layer()
train {{
  data = points.batch(8)
  minimize mean((net(x) - y)^2) with sgd(lr = 0.0)
  {metrics}
}}
"""


def draws(extra: str = "", metrics: str = "") -> Steps:
    return Steps.of(DATA + DRAWS.format(extra=extra, metrics=metrics), columns())


def test_adding_a_layer_or_a_metric_changes_no_other_draw() -> None:
    plain = draws()
    normed = draws(extra="x = x |> layer_norm\n  ")
    metric = draws(metrics="metrics = { size: mean(abs(net(x))) }")
    for other in (normed, metric):
        for name in ("net.dense.w", "net.dense_2.w"):
            np.testing.assert_array_equal(plain.state[name], other.state[name])
    fields = columns()
    assert plain.step(**fields)["loss"] == metric.step(**fields)["loss"]


def test_a_stated_gradient_is_the_one_that_runs() -> None:
    spec = f"""{DATA}{LINEAR}
fn strange(x) {{
  sum(x * x)
  gradient(g) {{ g * (0 * x + 3) }}
}}
fn outer(x) = strange(x) + 0
train {{
  data = points.batch(8)
  precision = f64
  minimize outer(net(x)) with sgd(lr = 1.0)
}}
"""
    steps = Steps.of(spec, columns())
    before = steps.state["net.b"].copy()
    x = columns()["x"].astype(np.float64)
    steps.step(x=x)
    np.testing.assert_allclose(steps.state["net.b"], before - 24.0)


PRINT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from training.test_step import program_text
print(program_text(), end="")
"""


def program_text() -> str:
    """All graphs of a spec that uses most of the language, as text."""
    steps = draws(extra="x = x |> layer_norm\n  ", metrics="metrics = { size: mean(abs(net(x))) }")
    program = steps.program
    graphs = (program.init, program.train_step, program.eval_step, program.epoch_end)
    return "\n".join(print_graph(g) for g in graphs)


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_programs_are_the_same_bytes_in_every_process(seed: str) -> None:
    tests = str(Path(__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", PRINT.format(tests=tests)],
        env={"PYTHONHASHSEED": seed, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == program_text()


def test_layout_and_comments_do_not_change_the_program() -> None:
    spec = train("  minimize mean((net(x) - y)^2) with sgd(lr = 0.1)")
    spaced = "# A comment.\n" + spec.replace("\n", "\n\n").replace(" + b", "   +   b  # bias")
    one, two = Steps.of(spec, columns()), Steps.of(spaced, columns())
    assert print_graph(one.program.train_step) == print_graph(two.program.train_step)


def test_overrides_reach_lets_models_and_settings() -> None:
    spec = "let rate = 0.5\n" + train(
        "  minimize mean((net(x) - y)^2) with sgd(lr = rate)\n  seed = 3"
    )
    steps = Steps.of(spec, columns(), rate=0.0, seed=5, epochs=2)
    assert steps.experiment.settings.seed == 5
    assert steps.experiment.settings.steps == 2
    before = steps.state["net.w"].copy()
    steps.step(**{k: v.astype(np.float64) for k, v in columns().items()})
    np.testing.assert_array_equal(before, steps.state["net.w"])
    with pytest.raises(CompileError, match="both say how long"):
        Steps.of(spec, columns(), steps=10, epochs=2)
    with pytest.raises(CompileError, match="nothing to set is called `rat`"):
        elaborate(Source("s.weft", spec), Arrays(columns()), Path(), {"rat": 1})


@pytest.mark.parametrize(
    ("declaration", "name"),
    [
        ("fn unused(x) = relux(x)", "relux"),
        ("layer unused(x: f32[B, D]) { x |> dense(E) }", "E"),
        ("init unused = normal * fan", "fan"),
        ("let unused = [...items]", "items"),
        ("optimizer unused(lr = 0.1) { theta <- theta - lr * gradient }", "gradient"),
    ],
)
def test_names_are_checked_where_nothing_uses_them(declaration: str, name: str) -> None:
    spec = train("  minimize mean((net(x) - y)^2) with sgd(lr = 0.1)")
    with pytest.raises(CompileError, match=f"`{name}` is not defined"):
        Steps.of(f"{declaration}\n{spec}", columns())
    fine = declaration.replace(name, {"E": "D", "items": "[1]"}.get(name, "relu"))
    if name in ("relux", "E"):
        Steps.of(f"{fine}\n{spec}", columns())
