"""A user's own optimiser, layer, schedule, initial value and loss work as the library's do.

They are Weft source in files of their own: a run of them trains, is killed and resumed to the same
bytes, stands by itself in its folder, and exports.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import weft
from steps import Steps
from training.test_kill_resume import TRAIN, check_kills, finish, outcome, start
from weft.api import Run

# Lion: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2.
OWN = """
optimizer my_lion(lr: float = 1e-4, beta1: float = 0.9, beta2: float = 0.99, decay: float = 0) {
  state m ~ zeros
  let way = sign(beta1 * m + (1 - beta1) * grad)
  m <- beta2 * m + (1 - beta2) * grad
  theta <- theta - lr * (way + decay * theta)
}

schedule halving(base: float, every: duration) = base / 2^floor(step / every)

init spread(width: float = 1) = width * (2 * uniform - 1) / sqrt(fan_in)

layer gated(x: float[...B, I], units: int, momentum = 0.1) {
  param w: float[I, units] ~ spread
  param v: float[I, units] ~ spread(0.5)
  param b: float[units]    ~ 0.1
  state level: float[units] ~ zeros
  let y = (x @ w + b) * sigmoid(x @ v)
  when training {
    level <- lerp(level, batch_mean(y), momentum)
  }
  y - level
}

fn batch_mean(y: float[B, U]) = mean(y, over = B)

fn steep_loss(logits: float[B, C], labels: class[C]) {
  let wrong = 1 - pick(softmax(logits), labels)
  mean(label_cross_entropy(logits, labels) + wrong^2)
}
"""

SPEC = """
import "own.weft"
data digits {
  source = embedded("digits")
  x: f32[64]   = features / 16
  y: class[10] = target
  split = { train: 600, valid: 200, test: 200 }
}
layer stack_of(x: float[B, D]) = x |> gated(24) |> gated(16) |> dense(10)
model net = stack_of()
train {
  data     = digits.batch(50, shuffle = true)
  minimize steep_loss(net(x), y) with my_lion(lr = halving(0.01, every = 3 epochs), decay = 0.1)
  metrics  = { accuracy: accuracy(net(x), y) }
  epochs   = 12
}
"""

LINE = """
data line {
  source = embedded("digits")
  x: f32[3] = x
}
model net = dense(2, bias = false)
train {
  data      = line.batch(4)
  precision = f64
  minimize mean(net(x)^2) with OPTIMISER
}
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.weft").write_text(OWN)
    path = folder / "spec.weft"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def run(spec: Path) -> Run:
    """The run that was never killed, by a process of its own."""
    folder = spec.parent / "whole"
    assert finish(start(TRAIN, str(spec), str(folder))) == 0
    return weft.open_run(folder)


def test_it_learns(run: Run) -> None:
    assert run.metrics["test"]["accuracy"] > 0.85
    assert run.tensors["my_lion.m/net.gated.w"].shape == (64, 24)
    assert np.abs(run.tensors["net.gated_2.level"]).min() > 0


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    run: Run, spec: Path, tmp_path: Path
) -> None:
    check_kills(spec, outcome(run.folder), tmp_path / "run", 2, seed=7)


def test_it_stands_by_itself(run: Run, spec: Path, tmp_path: Path) -> None:
    """The run has its copy of the user's files."""
    x = run.loaded.fields.arrays["x"][:5]
    (spec.parent / "own.weft").rename(tmp_path / "away.weft")
    try:
        again = weft.open_run(run.folder).predict(x)["net"]
    finally:
        (tmp_path / "away.weft").rename(spec.parent / "own.weft")
    np.testing.assert_array_equal(again, run.predict(x)["net"])


@pytest.mark.parametrize("rows", [1, 33])
def test_it_exports(run: Run, tmp_path: Path, rows: int) -> None:
    model = onnxruntime.InferenceSession(run.export_onnx(tmp_path / "own.onnx"))
    x = run.loaded.fields.arrays["x"][:rows]
    expected = run.predict(x)["net"]
    (found,) = model.run(None, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_lion_is_the_librarys() -> None:
    """And by hand: two steps of the published update."""
    x = np.random.default_rng(3).normal(size=(4, 3))
    setting = "(0.01, beta1 = 0.8, beta2 = 0.95, decay = 0.1)"
    own = Steps.of(LINE.replace("OPTIMISER", f"my_lion{setting}") + OWN, {"x": x})
    theirs = Steps.of(LINE.replace("OPTIMISER", f"lion{setting}"), {"x": x})
    w, m = own.state["net.w"].copy(), np.zeros((3, 2))
    for _ in range(2):
        gradient = x.T @ (x @ w) / 4
        w -= 0.01 * (np.sign(0.8 * m + 0.2 * gradient) + 0.1 * w)
        m = 0.95 * m + 0.05 * gradient
        own.step(x=x)
        theirs.step(x=x)
        np.testing.assert_allclose(own.state["net.w"], w, rtol=1e-12)
        np.testing.assert_array_equal(own.state["net.w"], theirs.state["net.w"])
