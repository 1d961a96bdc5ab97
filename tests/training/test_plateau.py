"""Rates that follow what an epoch measured: in the graph of the epoch's end, and in whole runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import weft
from steps import Steps
from training_specs import points
from weft.compiler.errors import CompileError
from weft.compiler.evaluate import evaluate
from weft.runtime.checkpoint import checkpoints
from weft.runtime.checkpoint import load as load_checkpoint
from weft.runtime.reporting import Epoch
from weft.runtime.signals import Interrupted

FIXTURES = Path(__file__).parents[1] / "fixtures" / "optimisers.npz"
SPEC = """
data points {{
  source = embedded("digits")
  x: f32[2] = x
  split = {{ train: 80%, valid: 20% }}
}}
layer one(x: float[B, I]) {{
  param w: float[I] ~ ones
  x @ w
}}
model net = one()
train {{
  data = points.batch(4)
  precision = f64
  minimize mean(net(x)) with sgd({})
  metrics = {{ size: mean(abs(net(x))) }}
}}
"""
COLUMNS = {"x": np.ones((4, 2), np.float32)}


def end_epoch(steps: Steps, **measured: float) -> None:
    """Run the graph of the epoch's end, on metrics such as `valid.loss`."""
    graph = steps.program.epoch_end
    known = {**steps.state, **{k.replace("_", "."): np.array(v) for k, v in measured.items()}}
    outputs = evaluate(graph, {n.name: known[n.name] for n in graph.inputs})
    steps.state |= {k: v for k, v in outputs.items() if k in steps.state}


def rate(steps: Steps) -> float:
    """By how much a gradient of 1 moves a parameter."""
    before = steps.state["net.w"]
    steps.step(x=np.ones((4, 2)))
    return float((before - steps.state["net.w"])[0])


def test_rates_after_each_epoch_are_those_of_pytorch() -> None:
    with np.load(FIXTURES) as found:
        losses, rates = found["plateau/losses"], found["plateau/rates"]
    text = "plateau(0.1, valid.loss, factor = 0.5, patience = 2, cooldown = 1)"
    steps = Steps.of(SPEC.format(text), COLUMNS)
    assert rate(steps) == pytest.approx(0.1)
    for loss, expected in zip(losses, rates, strict=True):
        end_epoch(steps, valid_loss=loss)
        assert rate(steps) == pytest.approx(expected)


def test_what_should_grow_and_a_floor() -> None:
    text = 'plateau(0.1, valid.size, 0.1, patience = 0, mode = "max", floor = 0.005)'
    steps = Steps.of(SPEC.format(text), COLUMNS)
    for size, expected in ((0.5, 0.1), (0.6, 0.1), (0.6, 0.01), (0.5, 0.005), (0.7, 0.005)):
        end_epoch(steps, valid_size=size)
        assert rate(steps) == pytest.approx(expected)


def test_metrics_of_training_need_no_input() -> None:
    steps = Steps.of(SPEC.format("plateau(0.1, train.loss, patience = 0)"), COLUMNS)
    names = {node.name for node in steps.program.epoch_end.inputs}
    assert names <= set(steps.program.states)
    rate(steps)
    end_epoch(steps)
    assert steps.state["sgd.lr.epochs_seen"] == 1


def test_two_plateaus_have_their_own_states() -> None:
    text = "lr = warmup(plateau(0.1, valid.loss), 2 steps)"
    names = Steps.of(SPEC.format(text), COLUMNS).program.states
    assert "sgd.lr.base.scale" in names
    spec = SPEC.format("plateau(0.1, valid.loss)").replace(
        "  metrics",
        "  minimize mean(other(x)) with sgd(plateau(0.2, valid.loss_2))\n  metrics",
    )
    spec = spec.replace("valid.loss)", "valid.loss_1)").replace(
        "train {\n", "model other = one()\ntrain {\n"
    )
    names = Steps.of(spec.replace("net(x))", "net(x))", 1), COLUMNS).program.states
    assert {"sgd.lr.scale", "sgd_2.lr.scale"} <= set(names)


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "plateau(0.1, valid.los)": "there is no metric `los`",
        "plateau(0.1, test.loss)": "`test` is not defined",
        "plateau(0.1, 3)": "can't take this as `watch`",
        "each(valid.loss)": "needs `valid.loss` in every step",
    }.items(),
)
def test_mistakes_are_refused(text: str, message: str) -> None:
    own = "schedule each(watch: metric) = 0.1 * watch\n"
    with pytest.raises(CompileError, match=message):
        Steps.of(own + SPEC.format(text), COLUMNS)


def test_a_state_of_a_schedule_may_change_every_step() -> None:
    own = """schedule halving(base: float) {
  state rate: float[] ~ base
  rate <- rate / 2
  rate
}
"""
    steps = Steps.of(own + SPEC.format("halving(0.4)"), COLUMNS)
    assert [rate(steps) for _ in range(3)] == pytest.approx([0.2, 0.1, 0.05])


MOVES = """
    over net.dense with lookahead(sam(momentum(0.05)), k = 3)
    over net.dense_2.w with muon(plateau(0.02, valid.accuracy, patience = 0, mode = "max"))
    with adamw(warmup(0.01, 5 steps) then plateau(0.01, valid.loss, patience = 0, threshold = 0.5))
"""


class _Stop:
    """A reporter that raises a signal after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_start(self, start: object) -> None:
        pass

    def on_compile(self, compiling: object) -> None:
        pass

    def on_step(self, progress: object) -> None:
        pass

    def on_epoch(self, epoch: Epoch) -> None:
        if epoch.epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_end(self, result: object) -> None:
        pass


def test_groups_wrappers_and_plateaus_train_and_resume_to_the_same_bytes(tmp_path: Path) -> None:
    spec = points(tmp_path)
    text = spec.read_text()
    spec.write_text(text.replace(" with adam(1e-2)\n", MOVES))
    weft.load(spec).train("numpy", out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        weft.load(spec).train("numpy", out=tmp_path / "stopped", reporter=_Stop(2))
    weft.load(spec).train("numpy", out=tmp_path / "stopped", resume=True)
    newest = [checkpoints(tmp_path / f / "checkpoints")[0] for f in ("whole", "stopped")]
    assert newest[0].read_bytes() == newest[1].read_bytes()
    tensors = load_checkpoint(newest[0]).tensors
    assert tensors["adamw.lr.second.scale"] < 1
    assert tensors["adamw.lr.second.epochs_seen"] == 4
    assert "lookahead.sam.momentum.v/net.dense.w" in tensors
    assert tensors["muon.m/net.dense_2.w"].shape == (8, 3)
