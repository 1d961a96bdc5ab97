"""Recurrent nets at work: a character model learns a text, and exports for any batch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from conformance.onnx_runs import compare
from conformance.onnx_runs import run as run_onnx
from steps import Arrays, Steps
from weft.backends.numpy.backend import BACKEND
from weft.backends.onnx.export import export_graph, export_predict
from weft.compiler.analysis import executed, multiply_adds
from weft.compiler.errors import Source
from weft.compiler.evaluate import evaluate
from weft.compiler.loops import loops_of
from weft.compiler.pipeline import Target, lower
from weft.compiler.program import Program
from weft.compiler.training import build
from weft.frontends.dsl.elaborate import elaborate
from weft.runtime.session import Session

TEXT = (
    "she sells sea shells by the sea shore. the shells that she sells are sea shells i'm sure. "
    "so if she sells sea shells on the sea shore, then i'm sure she sells sea shore shells. "
)
LETTERS = sorted(set(TEXT))
WINDOW = 8

SPEC = """
data text {
  source = embedded("digits")
  x: i64[WINDOW] = x
  y: class[LETTERS] = y
  split = { train: 80%, valid: 20% }
}
layer reader(x: int[B, T]) {
  x |> embedding(LETTERS, 8) |> LAYER |> dense(LETTERS)
}
model net = reader()
train {
  data = text.batch(32)
  minimize cross_entropy(net(x), y) with adam(lr = 1e-2)
  metrics = { accuracy: accuracy(net(x), y) }
  clip = global_norm(1.0)
  epochs = 1
}
"""


def columns() -> dict[str, np.ndarray]:
    """Windows of the text, and the letter that comes next."""
    ids = np.array([LETTERS.index(c) for c in TEXT])
    windows = np.lib.stride_tricks.sliding_window_view(ids, WINDOW + 1)
    return {"x": windows[:, :-1].astype(np.int64), "y": windows[:, -1].astype(np.int64)}


def spec(layer: str) -> str:
    text = SPEC.replace("LETTERS", str(len(LETTERS))).replace("WINDOW", str(WINDOW))
    return text.replace("LAYER", layer)


@cache
def program(layer: str) -> Program:
    return build(elaborate(Source("spec.weft", spec(layer)), Arrays(columns())))


LAYERS = (
    'rnn(24, give = "last")',
    'lstm(24, give = "last")',
    'gru(24, give = "last")',
    'bidirectional(12, layer_of = gru, give = "last")',
)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_character_model_learns_a_text(layer: str) -> None:
    session = Session(program(layer), BACKEND)
    session.initialise(0)
    data, size = columns(), 32
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(100):
        chosen = rng.permutation(len(data["y"]))[:size]
        losses.append(session.run("train_step", {k: v[chosen] for k, v in data.items()}, size))
    loss = [float(o["loss"]) for o in losses]
    # The letters' own frequencies give 2.6, the letter before alone 1.7.
    assert loss[0] > 2.5
    assert np.mean(loss[-10:]) < 1.0
    found = session.run("eval_step", data, len(data["y"]))
    assert found["accuracy"] > 0.75


def test_a_compiled_step_is_the_reference_step() -> None:
    layer = 'lstm(6, give = "last")'
    steps = Steps.of(spec(layer), columns(), precision="f64")
    session = Session(steps.program, BACKEND)
    session.load(steps.state)
    batch = {k: v[:7] for k, v in columns().items()}
    for _ in range(3):
        expected = steps.step(**batch)
        found = session.run("train_step", batch, 7)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-12)
    for name, array in session.tensors().items():
        np.testing.assert_allclose(array, steps.state[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_step_runs_the_loop_once_there_and_once_back() -> None:
    graph = lower(program(LAYERS[1]).train_step, Target(sizes={"batch": 4}))
    assert sorted(loop[0].attributes["reverse"] for loop in loops_of(graph.nodes)) == [False, True]


def test_operations_of_all_turns_are_counted() -> None:
    """x W and h U for each of 8 letters, and the dense layer: per example."""
    graph = lower(program(LAYERS[1]).predict, Target(sizes={"batch": 1}))
    expected = WINDOW * (8 * 96 + 24 * 96) + 24 * len(LETTERS)
    assert sum(times * multiply_adds(node) for node, times in executed(graph)) == expected


@pytest.mark.parametrize("layer", [*LAYERS, "lstm(6) |> flat"], ids=lambda v: v.split("(")[0])
def test_exported_models_agree_for_any_batch(layer: str) -> None:
    text = spec(layer) + "\nfn flat(x: float[B, T, I]) = mean(x, over = T)\n"
    made = build(elaborate(Source("spec.weft", text), Arrays(columns())))
    state = evaluate(made.init, {"seed": np.array([3, 0], np.uint32)})
    model = export_predict(made, state)
    assert [n.op_type for n in model.graph.node].count("Scan") == (2 if "bidir" in layer else 1)
    for batch in (1, 7, 64):
        x = columns()["x"][:batch]
        inputs = {n.name: state.get(n.name) for n in made.predict.inputs} | {"x": x}
        expected = evaluate(made.predict, inputs, {"batch": batch})  # type: ignore[arg-type]
        compare(run_onnx(model, {"x": x}), expected, 1e-5)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_an_exported_training_step_agrees(batch: int) -> None:
    step = program(LAYERS[1]).train_step
    state = evaluate(program(LAYERS[1]).init, {"seed": np.array([3, 0], np.uint32)})
    state["seed"] = np.array([3, 0], np.uint32)
    data = {k: v[:batch] for k, v in columns().items()}
    values = {n.name: (data | state)[n.name] for n in step.inputs}
    model = export_graph(step)
    expected = evaluate(step, values, {"batch": batch})
    found = run_onnx(model, values)
    renamed = {k.removesuffix(".next"): v for k, v in found.items()}
    compare(renamed, expected, 2e-3)
