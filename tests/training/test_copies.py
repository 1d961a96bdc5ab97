"""Models that follow another: `model teacher = net.copy(ema(0.99))`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weft
from steps import Arrays, Steps
from training.test_step import DATA, LINEAR, columns
from training.test_trainer import Listener, same_run
from weft.compiler.errors import CompileError, Source
from weft.frontends.dsl.elaborate import elaborate
from weft.runtime.signals import Interrupted

COPIES = """
model teacher = net.copy(ema(0.75))
model early   = net.copy(snapshot(2))
"""


def train(body: str, models: str = COPIES) -> str:
    return f"""{DATA}{LINEAR}{models}
train {{
  data      = points.batch(8)
  precision = f64
  steps     = 5
{body}
}}
"""


def fields() -> dict[str, np.ndarray]:
    return {name: column.astype(np.float64) for name, column in columns().items()}


def test_copies_follow_by_their_rules() -> None:
    """A moving average, and the parameters as they were after two steps; both begin as `net`."""
    steps = Steps.of(
        train("""
  minimize mean((net(x) - y)^2) with sgd(0.5)
  predict = teacher(x) - early(x)"""),
        columns(),
    )
    path = [steps.state["net.w"]]
    average = path[0]
    for name in ("teacher.w", "early.w"):
        np.testing.assert_array_equal(steps.state[name], path[0])
    for t in range(1, 6):
        steps.step(**fields())
        path.append(steps.state["net.w"])
        assert np.abs(path[t] - path[t - 1]).max() > 1e-3
        average = 0.75 * average + 0.25 * path[t]
        np.testing.assert_allclose(steps.state["teacher.w"], average, rtol=1e-12)
        np.testing.assert_array_equal(steps.state["early.w"], path[min(t, 2)])
    assert {n for n, s in steps.program.states.items() if s.role == "parameter"} == {
        "net.w",
        "net.b",
    }


def test_an_objective_may_call_a_copy() -> None:
    """No gradient moves it, and a step sees it as the step before left it."""
    steps = Steps.of(
        train("  minimize mean((net(x) - y)^2) + mean((net(x) - teacher(x))^2) with sgd(0.5)"),
        columns(),
    )
    x, y = fields().values()
    w, b = steps.state["net.w"], steps.state["net.b"]
    slow_w, slow_b = w, b
    for _ in range(3):
        steps.step(x=x, y=y)
        slope = 2 * (2 * (x @ w + b) - y - (x @ slow_w + slow_b)) / y.size
        w, b = w - 0.5 * x.T @ slope, b - 0.5 * slope.sum(0)
        slow_w, slow_b = 0.75 * slow_w + 0.25 * w, 0.75 * slow_b + 0.25 * b
        np.testing.assert_allclose(steps.state["net.w"], w, rtol=1e-9)
        np.testing.assert_allclose(steps.state["teacher.w"], slow_w, rtol=1e-9)


def test_the_last_objective_of_a_step_is_the_one_that_a_copy_sees() -> None:
    """And what `constrain` has made of it."""
    steps = Steps.of(
        train("""
  minimize mean((net(x) - y)^2) over net.w with sgd(0.5)
  minimize mean((net(x) - y)^2) over net.b with sgd(0.5)
  constrain = l2_ball(0.1)
  predict   = early(x)"""),
        columns(),
    )
    for _ in range(2):
        steps.step(**fields())
        assert np.linalg.norm(steps.state["net.w"]) <= 0.1 + 1e-12
        for name in ("w", "b"):
            np.testing.assert_array_equal(steps.state[f"early.{name}"], steps.state[f"net.{name}"])


NORMED = """
layer counted(x) {
  state calls: i64[] ~ zeros
  calls <- calls + 1
  x
}
layer normed(x: f32[B, I]) = x |> batch_norm(momentum = 0.5) |> counted
model source  = normed()
model silent  = source.copy(snapshot(2))
model talking = source.copy(ema(0.5))
"""


def test_states_follow_where_no_call_updates_them() -> None:
    steps = Steps.of(
        train(
            """
  minimize mean(source(x)^3) + mean(net(talking(x + 1))^2) with sgd(0.5)
  predict = silent(x)""",
            NORMED,
        ),
        columns(),
    )
    means, counts = [], []
    for _ in range(4):
        steps.step(**fields())
        means.append(steps.state["source.batch_norm.mean"])
        counts.append(steps.state["source.counted.calls"])
    assert counts == [1, 2, 3, 4]
    np.testing.assert_array_equal(steps.state["silent.batch_norm.mean"], means[1])
    assert steps.state["silent.counted.calls"] == 4  # whole numbers are those of the model
    # The call in the objective saw the examples, and 1 more.
    own = steps.state["talking.batch_norm.mean"]
    np.testing.assert_allclose(own, means[3] + (1 - 0.5**4), rtol=1e-12)
    assert not np.allclose(steps.state["talking.batch_norm.shift"], 0)
    assert not np.allclose(
        steps.state["talking.batch_norm.shift"], steps.state["source.batch_norm.shift"]
    )


def test_parameters_of_a_copy_have_names() -> None:
    steps = Steps.of(
        train("""
  minimize mean((net(x) - y)^2) with sgd(0.5)
  metrics = { mean: mean(teacher(x)), apart: l2(net.w - teacher.w), size: l2(teacher.weights) }
"""),
        columns(),
    )
    steps.step(**fields())
    before = steps.state["teacher.w"]
    found = steps.step(**fields())
    np.testing.assert_allclose(found["size"], (before**2).sum(), rtol=1e-12)
    assert found["apart"] > 1e-3


def test_a_run_with_copies_resumes_and_evaluates_them(tmp_path: Path) -> None:
    spec = tmp_path / "spec.weft"
    spec.write_text("""
data digits {
  source = embedded("digits")
  x: f32[64]   = features / 16
  y: class[10] = target
  split = { train: 80%, test: 20% }
}
layer mlp(x: f32[B, D], hidden = 16) {
  x |> dense(hidden) |> batch_norm |> relu |> dense(10)
}
model net   = mlp()
model first = net.copy(snapshot(2 epochs))
train {
  data    = digits.batch(64, shuffle = true)
  minimize cross_entropy(net(x), y) with adam(1e-2)
  metrics = { last: accuracy(net(x), y), first: accuracy(first(x), y) }
  predict = { last: net(x), first: first(x) }
  epochs  = 4
}
""")
    run = weft.load(spec).train("numpy", out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        weft.load(spec).train("numpy", out=tmp_path / "cut", reporter=Listener(stop_after=2))
    weft.open_run(tmp_path / "cut").resume()
    assert same_run(tmp_path / "whole", tmp_path / "cut")
    short = weft.load(spec, epochs=2).train("numpy", out=tmp_path / "short")
    for name in ("dense.w", "batch_norm.shift", "dense_2.b"):
        np.testing.assert_array_equal(run.tensors[f"first.{name}"], short.tensors[f"net.{name}"])
    measured = run.metrics["test"]
    assert 0.8 < measured["first"] < measured["last"]
    arrays = {"x": run.loaded.fields.arrays["x"][:20]}
    assert np.abs(run.predict(arrays)["last"] - run.predict(arrays)["first"]).max() > 0.1


@pytest.mark.parametrize(
    ("models", "body", "message"),
    [
        ("model t = net.copy()", "net(x) - t(x)", "a copy of `net` says by one rule how"),
        ("model t = net.copy(decay = 0.5)", "net(x) - t(x)", "a copy of `net` says by one rule"),
        ("model t = net.copy(0.5)", "net(x) - t(x)", "`copy` is a rule, that is, a function"),
        ("model t = net.copy(sgd(0.5))", "net(x) - t(x)", "`copy` is a rule, that is, a function"),
        ("model t = linear.copy(ema)", "net(x) - t(x)", "only a model has copies"),
        (
            "model s = net.copy(ema)\nmodel t = s.copy(ema)",
            "net(x) - t(x)",
            "copy what it follows: `net.copy(...)`",
        ),
        (
            "fn total(copy, theta) = sum(theta)\nmodel t = net.copy(total)",
            "net(x) - t(x)",
            "the rule of `copy` gives no tensor in the shape of the parameter",
        ),
        (
            "model other = linear()\nmodel t = other.copy(ema)",
            "net(x) - t(x)",
            "`t` is a copy of `other`, which nothing calls",
        ),
        (
            "model t = net.copy(ema)",
            "net(x) - t(concat([x, x]))",
            "`t` and `net`, which it copies, get inputs of other shapes",
        ),
    ],
)
def test_wrong_copies(models: str, body: str, message: str) -> None:
    text = train(f"  minimize mean(({body} - y)^2) with sgd(0.5)", models)
    with pytest.raises(CompileError) as caught:
        elaborate(Source("spec.weft", text), Arrays(columns()), Path(), {})
    assert message in str(caught.value)
    assert caught.value.diagnostic.span is not None


def test_a_copy_is_not_trained() -> None:
    text = train("  minimize mean((net(x) - teacher(x))^2) over teacher with sgd(0.5)")
    with pytest.raises(CompileError, match="`teacher` is a copy, which isn't trained"):
        elaborate(Source("spec.weft", text), Arrays(columns()), Path(), {})
