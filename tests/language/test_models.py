"""Layers, models, parameters and states; library calls that stay whole."""

from __future__ import annotations

import numpy as np
import pytest

import weft
from language.elaborated import elaborate, refuses, run, value
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import topological

rng = np.random.default_rng(0)
X = rng.normal(size=(4, 3))


# -- layers, parameters, states --------------------------------------------------------------------


def test_each_call_of_a_layer_owns_its_parameters() -> None:
    text = """
layer block(x, width) { x |> dense(width) |> dense(width) }
layer net_of(x) { x |> block(5) |> block(2) }
model net = net_of()
fn f(x) = net(x)
"""
    names = [n for n in elaborate(text, X).initial if n.endswith(".w")]
    assert names == [
        "net.block.dense.w",
        "net.block.dense_2.w",
        "net.block_2.dense.w",
        "net.block_2.dense_2.w",
    ]


def test_a_model_shares_its_parameters_between_calls() -> None:
    text = "model net = dense(2)\nfn f(x, y) = net(x) + net(y)"
    found = elaborate(text, X, 2 * X)
    assert list(found.initial) == ["seed", "step", "net.w", "net.b"]
    message = refuses(text, X, np.ones((4, 5)))
    assert "`net.w` has two shapes" in message
    assert "f64[3, 2]" in message


def test_models_have_parameters_and_weights() -> None:
    head = "model net = dense(2)\nfn f(x) {\n  let y = net(x)\n  "
    assert value(head + "len(net.parameters) * 10 + len(net.weights)\n}", X) == 21
    assert "has no parameters yet" in refuses("model net = dense(2)\nfn f(x) = l2(net.weights)", X)
    assert "did you mean `weights`" in refuses(head + "l2(net.weigths)\n}", X)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fn f(x) = dense(x, 3)", "only models and layers own layers"),
        ("fn f(x) {\n  param w: f32[3] ~ zeros\n  x * w\n}", "declare the function with `layer`"),
        ("model net = relu\nfn f(x) = net(x)", "is not made of a layer"),
        ("model net = dense(units = 2, x = 3)\nfn f(x) = net(x)", "no argument `x`"),
        ("fn f(x) {\n  x <- 2 * x\n  x\n}", "`x` is not a state"),
    ],
)
def test_layers_that_dont_fit(text: str, message: str) -> None:
    assert message in refuses(text, X)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("param w ~ zeros", "`w` needs a type"),
        ("param w: class[3] ~ zeros", "there is no type `class`"),
        ("param w: f32[0] ~ zeros", "positive whole number"),
        ("param w: f32[2, 2] ~ ones([3])", "`~`: sizes"),
        ("param w: f32[2] ~ relu", "found: the fn `relu`"),
        ("param w: f32[2] ~ zeros when 3", "`when` takes true or false"),
        ("param w: f32[2] ~ zeros\n  w <- x", "`<-`"),
        ("state w: f32[2] ~ zeros\n  v <- x", "`v` is not a state"),
    ],
)
def test_parameters_that_dont_fit(body: str, message: str) -> None:
    text = f"layer l(x) {{\n  {body}\n  x\n}}\nmodel net = l()\nfn f(x) = net(x)"
    assert message in refuses(text, X)


def test_states_are_updated_in_order() -> None:
    text = """
layer counter(x) {
  state n: float[] ~ zeros
  n <- n + 1
  n <- n * 2
  x * n
}
model net = counter()
fn f(x) = net(x) + net(2 * x)
"""
    found = elaborate(text, 1.0)
    assert found.updates() == {"net.n": 6}
    assert found.values()[0] == 2 * 1 + 6 * 2


def test_an_absent_parameter_leaves_the_other_operand() -> None:
    text = """
layer l(x, on = false) {
  param w: float[3] ~ ones when on
  x + w
}
model net = l()
model other = l(on = true)
fn f(x) = net(x) + other(x)
"""
    found = elaborate(text, X)
    assert list(found.initial) == ["seed", "step", "other.w"]
    np.testing.assert_allclose(found.values()[0], 2 * X + 1)


def test_equal_weights_are_warned_about() -> None:
    text = "model net = dense(2, init = zeros)\nfn f(x) = net(x)"
    (warning,) = elaborate(text, X).interpreter.registry.warnings
    assert "all start at 0" in warning.message
    assert not elaborate("model net = dense(1)\nfn f(x) = net(x)", X).interpreter.registry.warnings


def test_initial_values_may_use_fans_in_place() -> None:
    text = "layer l(x) {\n  param w: float[4, 9] ~ constant(fan_in * 100 + fan_out)\n  w\n}\n"
    assert (value(text + "model net = l()\nfn f(x) = net(x)", X) == 409).all()


# -- composites ------------------------------------------------------------------------------------


def test_library_calls_are_whole_and_mean_their_bodies() -> None:
    text = "model net = dense(2)\nfn f(x) = gelu(net(x))"
    found = elaborate(text, X)
    node = found.results[0].node
    assert node.attributes["name"] == "gelu"
    dense = node.inputs[0]
    assert dense.attributes["name"] == "dense"
    assert dict(dense.attributes["config"]) == {"units": 2, "bias": True}
    assert [n.name for n in dense.attributes["body"].inputs] == ["x", "w", "b"]
    assert run([node], {"x": X, **found.initial})[0].shape == (4, 2)


def test_in_training_only_calls_that_state_their_gradient_are_whole() -> None:
    text = """
data points {
  x: f32[3]
  y: class[2]
  split = { train: 10 }
}
model net = dense(2)
train {
  data = points.batch(5)
  minimize cross_entropy(gelu(net(x)), y) with sgd(0.1)
}
"""
    experiment = weft.load(text).loaded.experiment
    (objective,) = experiment.forward.objectives
    trained, evaluated = (
        {
            n.attributes["name"]: n.attributes["gradient"]
            for n in topological([loss])
            if n.op.name == "call"
        }
        for loss in (objective.loss, experiment.eval_metrics["loss"])
    )
    assert list(trained) == ["label_cross_entropy"]
    assert trained["label_cross_entropy"] is not None
    assert "cross_entropy" in evaluated


def test_what_comes_from_the_unpooled_picture_is_no_part_of_its_gradient() -> None:
    """In training `max_unpool` is no call of its own, and sees that y is made of x."""
    text = """
data pictures {
  x: f32[1, 4, 4]
  y: f32[1, 4, 4]
  split = { train: 10 }
}
layer there_and_back(x: f32[B, C, ...S]) {
  let h = x |> conv(2)
  max_unpool(3 * max_pool(h), h) |> conv(1)
}
model net = there_and_back()
train {
  data = pictures.batch(5)
  minimize mse(net(x), y) with sgd(0.1)
}
"""
    program = weft.load(text).loaded.program
    states = evaluate(program.init, {"seed": np.array([3, 0], np.uint32)})
    inputs = {**states, "x": rng.normal(size=(5, 1, 4, 4)).astype("f")}
    inputs["y"] = 2 * inputs["x"]
    trained, evaluated = (evaluate(g, inputs) for g in (program.train_step, program.eval_step))
    np.testing.assert_allclose(trained["loss"], evaluated["loss"], rtol=1e-6)
