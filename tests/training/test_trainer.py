"""Training in a run's folder: it learns, it keeps the best, and it resumes to the byte."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import training_specs as specs
import weft
from weft.api import Run
from weft.backends.base import Backend, Executable
from weft.compiler.errors import RunError
from weft.compiler.plan import Plan
from weft.runtime.backends import backend_named, installed
from weft.runtime.checkpoint import checkpoint_path, checkpoints
from weft.runtime.checkpoint import load as load_checkpoint
from weft.runtime.reporting import Compiling, Epoch, Progress, Result, Start
from weft.runtime.run_folder import RunFolder
from weft.runtime.runs import run as run_in_folder
from weft.runtime.signals import Interrupted


@dataclass
class Listener:
    """A reporter that keeps what it hears, and can raise a signal after some epochs."""

    stop_after: int | None = None
    starts: list[Start] = field(default_factory=list)
    compiled: list[Compiling] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def on_start(self, start: Start) -> None:
        self.starts.append(start)

    def on_compile(self, compiling: Compiling) -> None:
        self.compiled.append(compiling)

    def on_step(self, progress: Progress) -> None:
        pass

    def on_epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        if epoch.epoch == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_end(self, result: Result) -> None:
        self.results.append(result)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return specs.points(tmp_path)


def altered(spec: Path, old: str, new: str) -> Path:
    text = spec.read_text()
    assert old in text
    spec.write_text(text.replace(old, new))
    return spec


def final(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of the newest checkpoint."""
    return load_checkpoint(checkpoints(folder / "checkpoints")[0]).tensors


def same_run(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same bytes: checkpoint, metrics and result."""
    newest = [checkpoints(f / "checkpoints")[0] for f in (one, other)]
    assert newest[0].name == newest[1].name
    names = ("metrics.jsonl", "result.json")
    return newest[0].read_bytes() == newest[1].read_bytes() and all(
        (one / n).read_bytes() == (other / n).read_bytes() for n in names
    )


class Compiler:
    """A backend that keeps when it was asked to compile: before the first epoch, or later."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.graphs: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def compile(self, plan: Plan) -> Executable:
        self.graphs.append(plan.graph.name)
        return self.inner.compile(plan)


@pytest.mark.parametrize("name", installed())
@pytest.mark.parametrize("mapped", [False, True])
def test_no_step_waits_for_a_compiler(spec: Path, tmp_path: Path, name: str, mapped: bool) -> None:
    """Batches of 15 leave a ragged last one in the part that trains, and in the others."""
    if mapped:
        with np.load(tmp_path / "points.npz") as stored:
            for column in stored.files:
                np.save(tmp_path / f"{column}.npy", stored[column])
        altered(spec, 'npz("points.npz")', 'npy(x = "x.npy", y = "y.npy")')
    compiler = Compiler(backend_named(name))
    seen: list[int] = []

    class Counting(Listener):
        def on_step(self, progress: Progress) -> None:
            seen.append(len(compiler.graphs))

        def on_epoch(self, epoch: Epoch) -> None:
            seen.append(len(compiler.graphs))

    listener = Counting()
    loaded = weft.load(altered(spec, "batch(16", "batch(15"), epochs=2).loaded
    run_in_folder(loaded, compiler, listener, tmp_path / "run")  # type: ignore[arg-type]
    assert listener.compiled == [Compiling(train=(15, 10), evaluation=(15, 5))]
    assert loaded.fields.mapped == mapped
    assert seen == [len(compiler.graphs)] * len(seen)


def test_it_learns_and_tells(spec: Path, tmp_path: Path) -> None:
    listener = Listener()
    run = weft.load(spec).train("numpy", out=tmp_path / "run", reporter=listener)
    (start,) = listener.starts
    assert (start.steps, start.steps_per_epoch, start.epochs) == (40, 10, 4)
    assert [e.epoch for e in listener.epochs] == [1, 2, 3, 4]
    losses = [e.train["loss"] for e in listener.epochs]
    assert losses[-1] < losses[0] * 0.7
    assert run.steps == 40
    assert set(run.metrics) == {"train", "valid", "test"}
    assert run.metrics["valid"] == run.evaluate("valid")
    assert run.metrics["test"] == run.evaluate("test")
    assert run.metrics["test"]["accuracy"] > 0.5
    records = [json.loads(x) for x in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [10, 20, 30, 40]
    assert records[-1]["valid.loss"] == listener.epochs[-1].valid["loss"]


def test_two_runs_are_the_same_bytes(spec: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        weft.load(spec).train("numpy", out=tmp_path / name)
    assert same_run(tmp_path / "a", tmp_path / "b")


def test_the_seed_changes_the_run(spec: Path, tmp_path: Path) -> None:
    a = weft.load(spec).train("numpy", out=tmp_path / "a")
    b = weft.load(spec, seed=1).train("numpy", out=tmp_path / "b")
    assert a.metrics["train"] != b.metrics["train"]


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_stopped_run_resumes_to_the_same_bytes(spec: Path, tmp_path: Path, epoch: int) -> None:
    weft.load(spec).train("numpy", out=tmp_path / "whole")
    with pytest.raises(Interrupted) as stopped:
        weft.load(spec).train("numpy", out=tmp_path / "cut", reporter=Listener(stop_after=epoch))
    assert (stopped.value.exit_code, stopped.value.step) == (143, epoch * 10)
    half = weft.open_run(tmp_path / "cut")
    assert half.steps == epoch * 10
    assert "test" not in half.metrics
    again = Listener()
    run = half.resume(reporter=again)
    assert again.starts[0].step == epoch * 10
    assert run.steps == 40
    assert same_run(tmp_path / "whole", tmp_path / "cut")


def test_newton_and_averages_resume_to_the_same_bytes(spec: Path, tmp_path: Path) -> None:
    """Stopped among the ends of epochs that the average takes, which here is not the parameter."""
    rules = " with newton(0.3, turns = 3)\n  average = swa(start = 1 epoch)\n"
    spec.write_text(spec.read_text().replace(" with adam(1e-2)\n", rules))
    whole = weft.load(spec).train("numpy", out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        weft.load(spec).train("numpy", out=tmp_path / "cut", reporter=Listener(stop_after=2))
    weft.open_run(tmp_path / "cut").resume()
    assert same_run(tmp_path / "whole", tmp_path / "cut")
    assert whole.metrics["test"]["accuracy"] > 0.8
    assert np.any(whole.tensors["average/net.dense.w"] != whole.tensors["net.dense.w"])


def test_a_run_resumes_from_the_middle_of_an_epoch(spec: Path, tmp_path: Path) -> None:
    weft.load(spec).train("numpy", out=tmp_path / "whole")
    weft.load(spec).train("numpy", out=tmp_path / "cut", checkpoint_every=7)
    assert same_run(tmp_path / "whole", tmp_path / "cut")
    folder = RunFolder(tmp_path / "cut")
    # As if the process had been killed after step 35, with a torn line in the log.
    checkpoint_path(folder.checkpoints, 40).unlink()
    (tmp_path / "cut" / "result.json").unlink()
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')
    listener = Listener()
    weft.load(spec).train("numpy", out=tmp_path / "cut", resume=True, reporter=listener)
    assert listener.starts[0].step == 35
    assert same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_damaged_checkpoint_is_passed_over(spec: Path, tmp_path: Path) -> None:
    weft.load(spec).train("numpy", out=tmp_path / "whole")
    weft.load(spec).train("numpy", out=tmp_path / "cut")
    newest = checkpoints(tmp_path / "cut" / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-7])
    (tmp_path / "cut" / "result.json").unlink()
    listener = Listener()
    weft.load(spec).train("numpy", out=tmp_path / "cut", resume=True, reporter=listener)
    assert newest.name in listener.starts[0].warnings[0].message
    assert listener.starts[0].step == 30
    assert same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_finished_run_is_not_trained_again(spec: Path, tmp_path: Path) -> None:
    weft.load(spec).train("numpy", out=tmp_path / "run")
    listener = Listener()
    run = weft.load(spec).train("numpy", out=tmp_path / "run", resume=True, reporter=listener)
    assert not listener.starts
    assert run.steps == 40


def test_resume_begins_a_run_that_never_began(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert weft.load(spec).train("numpy", out=tmp_path / "run", resume=True).steps == 40


def test_a_run_is_not_resumed_with_another_spec_or_other_data(spec: Path, tmp_path: Path) -> None:
    weft.load(spec).train("numpy", out=tmp_path / "run")
    with pytest.raises(RunError, match="other settings"):
        weft.load(spec, width=9).train("numpy", out=tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="holds another run"):
        weft.load(spec).train("numpy", out=tmp_path / "run")
    spec.write_text("# A remark.\n" + spec.read_text().replace("epochs   =", "epochs ="))
    assert weft.load(spec).train("numpy", out=tmp_path / "run", resume=True).steps == 40
    with np.load(tmp_path / "points.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["x"][3, 2] += 1
    np.savez(tmp_path / "points.npz", **arrays)
    with pytest.raises(RunError, match="the data have changed"):
        weft.load(spec).train("numpy", out=tmp_path / "run", resume=True)


def test_one_process_at_a_time(spec: Path, tmp_path: Path) -> None:
    weft.load(spec).train("numpy", out=tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(RunError, match="another process is training"):
        weft.load(spec).train("numpy", out=tmp_path / "run", resume=True)


def test_early_stopping_keeps_the_best(spec: Path, tmp_path: Path) -> None:
    altered(spec, "epochs   = 4", "epochs   = 40\n  stop = early(valid.loss, patience = 2)")
    altered(spec, "adam(1e-2)", "adam(0.3)")
    listener = Listener()
    run = weft.load(spec).train("numpy", out=tmp_path / "run", reporter=listener)
    losses = [e.valid["loss"] for e in listener.epochs]
    best = int(np.argmin(losses))
    assert run.result.stopped_early
    assert len(losses) == best + 1 + 2
    assert (run.result.best_epoch, run.result.best_step) == (best + 1, (best + 1) * 10)
    assert run.metrics["valid"]["loss"] == min(losses)
    assert [e.best for e in listener.epochs][best:] == [True, False, False]
    # The kept parameters are the best ones, not the last.
    assert run.evaluate("valid")["loss"] == min(losses)
    assert int(run.tensors["step"]) == (best + 1) * 10
    assert weft.open_run(tmp_path / "run").evaluate("test") == run.metrics["test"]


def test_a_metric_to_raise_decides(spec: Path, tmp_path: Path) -> None:
    rule = 'stop = early(valid.accuracy, patience = 3, mode = "max")'
    altered(spec, "epochs   = 4", f"epochs   = 6\n  {rule}")
    listener = Listener()
    run = weft.load(spec).train("numpy", out=tmp_path / "run", reporter=listener)
    accuracies = [e.valid["accuracy"] for e in listener.epochs]
    assert run.result.best_epoch == int(np.argmax(accuracies)) + 1


def test_without_a_validation_part_the_last_parameters_are_kept(spec: Path, tmp_path: Path) -> None:
    altered(spec, "split = { train: 80%, valid: 10%, test: 10% }", "")
    run = weft.load(spec).train("numpy", out=tmp_path / "run")
    assert set(run.metrics) == {"train"}
    assert run.result.best_step == run.steps == 13 * 4


@pytest.mark.parametrize(
    ("size", "drop", "steps"), [(200, "false", 12), (203, "false", 12), (203, "true", 9)]
)
def test_ragged_batches(tmp_path: Path, size: int, drop: str, steps: int) -> None:
    spec = specs.points(tmp_path, size)
    altered(spec, "batch(16, shuffle = true)", f"batch(48, shuffle = true, drop_last = {drop})")
    altered(spec, "epochs   = 4", "epochs   = 3")
    run = weft.load(spec).train("numpy", out=tmp_path / "run")
    assert run.steps == steps
    # The epoch's mean is over examples: a small batch counts for less.
    count = 1 + load_checkpoint(checkpoints(run.folder / "checkpoints")[0]).tensors["metrics.count"]
    assert count == 1


def test_an_epoch_cut_short_is_measured_too(spec: Path, tmp_path: Path) -> None:
    altered(spec, "epochs   = 4", "steps    = 25")
    listener = Listener()
    run = weft.load(spec).train("numpy", out=tmp_path / "run", reporter=listener)
    assert [e.step for e in listener.epochs] == [10, 20, 25]
    assert run.steps == 25


def test_checkpoints_in_memory_mapped_and_loaded_data_agree(tmp_path: Path) -> None:
    spec = specs.points(tmp_path)
    with np.load(tmp_path / "points.npz") as stored:
        for name in stored.files:
            np.save(tmp_path / f"{name}.npy", stored[name])
    loaded = weft.load(spec).train("numpy", out=tmp_path / "loaded")
    altered(spec, 'npz("points.npz")', 'npy(x = "x.npy", y = "y.npy")')
    mapped = weft.load(spec).train("numpy", out=tmp_path / "mapped")
    assert mapped.metrics == loaded.metrics
    for name, array in final(mapped.folder).items():
        np.testing.assert_array_equal(array, final(loaded.folder)[name], err_msg=name)


GAN = """
data ring {
  source = embedded("ring")
  p: f32[2] = point
}
layer maker(z: f32[B, K]) { z |> dense(8) |> relu |> dense(2) }
layer judge(x: f32[B, K]) { x |> dense(8) |> relu |> dense(1) }
model G = maker()
model D = judge()
train {
  data = ring.batch(512)
  let fake = G(normal([batch, 4]))
  minimize bce(D(p), 1) + bce(D(stop_gradient(fake)), 0) over D with adam(1e-3)
  minimize bce(D(fake), 1) over G with adam(1e-3)
  steps = 24
}
"""


def test_several_objectives(tmp_path: Path) -> None:
    run = weft.load(GAN).train("numpy", out=tmp_path / "a")
    assert set(run.metrics["train"]) == {"loss_1", "loss_2"}
    assert run.result.best_step == 24
    with pytest.raises(Interrupted):
        weft.load(GAN).train("numpy", out=tmp_path / "b", reporter=Listener(stop_after=1))
    weft.open_run(tmp_path / "b").resume()
    assert same_run(tmp_path / "a", tmp_path / "b")


BAD = """
data ring {{
  source = embedded("ring")
  p: f32[2] = point
}}
layer m(x: f32[B, D]) {{ x |> dense(8) |> relu |> dense(1, init = {init}) }}
model net = m()
train {{
  data = ring.batch(64, shuffle = true)
  let out = net(p)
  minimize {loss}
    with sgd({rate})
  epochs = 3
}}
"""


@pytest.mark.parametrize(
    ("loss", "init", "rate", "line", "told"),
    [
        ("mean(log(out * out - 0.0001))", "glorot_uniform", "1e-2", 11, "`log` gave NaN"),
        ("mean(exp(out * out)) - mean(out)", "glorot_uniform", "9.0", 11, "gave infinity"),
        ("mean(sqrt(out^2))", "zeros", "0.1", 11, "in the gradient or the update of this"),
    ],
)
def test_a_loss_that_is_not_finite_names_its_line(
    tmp_path: Path, loss: str, init: str, rate: str, line: int, told: str
) -> None:
    text = BAD.format(loss=loss, init=init, rate=rate)
    with pytest.raises(RunError, match="is not finite at step") as error:
        weft.load(text).train("numpy", out=tmp_path / "run")
    found = error.value.diagnostic
    assert found.span is not None
    assert found.span.line == line
    assert told in (found.found or "")


LOOPS = """
fn cell(h) {
  let room = h - 1
  sqrt(room)
}
fn outer(h) {
  let last, all = scan([], cell, start = h, length = 2)
  last
}
"""


@pytest.mark.parametrize(
    ("loss", "line", "told"),
    [
        # 3, 1.41, 0.64: the third root is that of a negative number.
        (
            "mean(scan([], cell, start = 0 * out + 3, length = 5)[0])",
            18,
            "at position 2 of the loop, `sqrt` gave NaN from -0.35",
        ),
        (
            "mean(scan([], outer, start = 0 * out + 3, length = 5)[0])",
            18,
            "at positions 1 and 0 of the loops, `sqrt` gave NaN from -0.35",
        ),
        # The root of 0, whose slope is not finite: the second turn from the last, going back.
        (
            "mean(scan([], cell, start = 0 * out + 2, length = 2)[0])",
            18,
            "in the gradient or the update of this, at position 1 of the loop,",
        ),
        # What the cell is given is wrong already: the line where it was made.
        ("mean(scan([], cell, start = log(0 * out - 1), length = 5)[0])", 11, "`log` gave NaN"),
    ],
)
def test_a_number_that_is_not_finite_in_a_loop_names_the_line_of_the_cell(
    tmp_path: Path, loss: str, line: int, told: str
) -> None:
    text = BAD.format(loss=loss, init="glorot_uniform", rate="0.1") + LOOPS
    with pytest.raises(RunError, match="is not finite at step 1") as error:
        weft.load(text).train("numpy", out=tmp_path / "run")
    found = error.value.diagnostic
    assert found.span is not None
    assert (found.span.line, told in (found.found or "")) == (line, True), found.render()


def test_a_wrong_number_is_found_far_from_the_last_checkpoint(tmp_path: Path) -> None:
    """The step is found again by running the steps since a copy of the state once more."""
    text = BAD.format(loss="mean(out^2)", init="glorot_uniform", rate="sudden(1e-3)")
    text = text.replace("epochs = 3", "steps = 2000").replace("batch(64", "batch(8")
    text += "schedule sudden(base) = base / (300 - step)\n"
    with pytest.raises(RunError, match="a parameter is not finite at step 301") as error:
        weft.load(text).train("numpy", out=tmp_path / "run")
    assert "`divide` gave infinity" in str(error.value)


def test_a_run_moves_with_its_spec(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    for name in ("points.weft", "points.npz"):
        (tmp_path / name).rename(tmp_path / "work" / name)
    run = weft.load(tmp_path / "work" / "points.weft", width=5).train(
        "numpy", out=tmp_path / "work" / "run"
    )
    measured = run.metrics["test"]
    (tmp_path / "work").rename(tmp_path / "moved")
    moved = weft.open_run(tmp_path / "moved" / "run")
    assert moved.evaluate("test") == moved.metrics["test"] == measured
    assert moved.tensors["net.dense.w"].shape == (4, 5)
    # Without the data a model still predicts.
    (tmp_path / "moved" / "points.npz").unlink()
    alone = weft.open_run(tmp_path / "moved" / "run")
    assert alone.predict({"x": np.zeros((3, 4), np.float32)})["net"].shape == (3, 3)
    with pytest.raises(RunError, match=r"no file `points.npz`"):
        alone.evaluate("test")


def test_imports_are_kept_with_the_run(spec: Path, tmp_path: Path) -> None:
    text = spec.read_text()
    start, end = text.index("layer mlp"), text.index("model net")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "layers.weft").write_text('import "../acts.weft"\n' + text[start:end])
    (tmp_path / "acts.weft").write_text("let unused = 1\n")
    spec.write_text('import "shared/layers.weft"\n' + text[:start] + text[end:])
    run = weft.load(spec).train("numpy", out=tmp_path / "run")
    for name in ("shared/layers.weft", "acts.weft"):
        (tmp_path / name).unlink()
    again: Run = weft.open_run(run.folder)
    assert again.loaded.fingerprint == run.loaded.fingerprint
    assert again.evaluate("test") == run.metrics["test"]
