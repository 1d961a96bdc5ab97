"""`ctc` at work: a model learns what short strips say without being told where, and exports."""

from __future__ import annotations

from functools import cache

import numpy as np

from conformance.onnx_runs import compare
from conformance.onnx_runs import run as run_onnx
from steps import Arrays, Steps
from weft.backends.numpy.backend import BACKEND
from weft.backends.onnx.export import export_graph
from weft.compiler.errors import Source
from weft.compiler.evaluate import evaluate
from weft.compiler.program import Program
from weft.compiler.training import build
from weft.frontends.dsl.elaborate import elaborate
from weft.runtime.session import Session

SPEC = """
data strips {
  source = embedded("digits")
  x: f32[8, 4]   = x
  y: class[4, 3] = y
  n: i64         = n
}
layer reader(x: float[B, T, I]) = x |> dense(16) |> tanh |> dense(4)
model net = reader()
train {
  data     = strips.batch(32)
  minimize ctc(net(x), y, label_lengths = n) with adam(lr = 0.02)
  epochs   = 1
}
"""


def columns(rows: int = 256) -> dict[str, np.ndarray]:
    """Strips of 8 noisy columns with one to three letters at places that none of them tells."""
    rng = np.random.default_rng(1)
    n = rng.integers(1, 4, rows)
    y, shown = np.zeros((rows, 3), np.int64), np.zeros((rows, 8), np.int64)
    for row in range(rows):
        y[row, : n[row]] = rng.integers(1, 4, n[row])
        places = 2 * np.sort(rng.permutation(4)[: n[row]])
        shown[row, places] = y[row, : n[row]]
    x = np.eye(4)[shown] + 0.1 * rng.normal(size=(rows, 8, 4))
    return {"x": x.astype(np.float32), "y": y, "n": n}


@cache
def program() -> Program:
    return build(elaborate(Source("spec.weft", SPEC), Arrays(columns())))


def test_a_model_learns_where_the_letters_are() -> None:
    session, data = Session(program(), BACKEND), columns()
    session.initialise(0)
    for step in range(150):
        chosen = np.arange(32) + 32 * (step % 6)
        session.run("train_step", {k: v[chosen] for k, v in data.items()}, 32)
    unseen = {k: v[192:] for k, v in data.items()}
    path = session.run("predict", {"x": unseen["x"]}, 64)["net"].argmax(2)
    right = 0
    for row, labels, count in zip(path, unseen["y"], unseen["n"], strict=True):
        starts = np.r_[True, row[1:] != row[:-1]] & (row != 0)
        right += row[starts].tolist() == labels[:count].tolist()
    assert right >= 60


def test_a_compiled_step_is_the_reference_step() -> None:
    steps = Steps.of(SPEC, columns(), precision="f64")
    session = Session(steps.program, BACKEND)
    session.load(steps.state)
    batch = {k: v[:7].astype(v.dtype.str.replace("f4", "f8")) for k, v in columns().items()}
    for _ in range(3):
        expected = steps.step(**batch)
        found = session.run("train_step", batch, 7)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-12)
    for name, array in session.tensors().items():
        np.testing.assert_allclose(array, steps.state[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_an_exported_training_step_agrees() -> None:
    step = program().train_step
    state = evaluate(program().init, {"seed": np.array([3, 0], np.uint32)})
    state["seed"] = np.array([3, 0], np.uint32)
    model = export_graph(step)
    assert [n.op_type for n in model.graph.node].count("Scan") == 2
    for batch in (1, 7):
        values = {
            n.name: ({k: v[:batch] for k, v in columns().items()} | state)[n.name]
            for n in step.inputs
        }
        found = run_onnx(model, values)
        renamed = {k.removesuffix(".next"): v for k, v in found.items()}
        compare(renamed, evaluate(step, values, {"batch": batch}), 1e-4)
