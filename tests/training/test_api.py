"""The Python API: load, check, train, open, predict; and what it says to mistakes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import training_specs as specs
import weft
from weft.api import Run
from weft.compiler.errors import CompileError, RunError


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return specs.points(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="module")
def run(spec: Path) -> Run:
    return weft.load(spec).train("numpy", out=spec.parent / "run")


def test_importing_is_quick() -> None:
    """Nothing heavy comes with the name; the command line's start depends on it."""
    code = (
        "import sys, weft; print(sorted({'numpy', 'networkx', 'onnx', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_check_counts(spec: Path) -> None:
    report = weft.load(spec).check()
    assert report.parameters == 4 * 8 + 8 + 8 * 3 + 3
    assert report.multiply_adds == 4 * 8 + 8 * 3
    # Products, the biases that are added, and tanh.
    assert report.flops == 2 * report.multiply_adds + 8 + 3 + 8
    assert report.step_flops > 2 * 16 * report.flops
    assert report.peak_bytes > 3 * 4 * report.parameters
    (line,) = [x for x in report.lines if x.parameters]
    assert line.text.startswith("layer mlp")
    assert (line.parameters, line.multiply_adds) == (report.parameters, report.multiply_adds)
    assert str(line.result) == "f32[batch, 3]"
    assert sum(x.bytes for x in report.lines) <= report.peak_bytes
    assert [(x.name, x.parameters) for x in report.layers] == [
        ("net.dense", 40),
        ("net.dense_2", 27),
    ]


def test_overrides_are_values_or_text(spec: Path) -> None:
    assert weft.load(spec, width=16).check().layers[0].parameters == 80
    assert weft.load(spec, width="4 * 4").check().layers[0].parameters == 80
    assert weft.load(spec, width=np.int64(16)).check().layers[0].parameters == 80
    assert weft.load(spec, epochs=2).loaded.experiment.settings.steps == 20
    with pytest.raises(CompileError, match="nothing to set is called `widht`"):
        weft.load(spec, widht=3)


def test_the_fingerprint_is_of_the_meaning(spec: Path, tmp_path: Path) -> None:
    first = weft.load(spec).fingerprint
    text = spec.read_text()
    (tmp_path / "points.npz").write_bytes((spec.parent / "points.npz").read_bytes())
    other = tmp_path / "other.weft"
    other.write_text("# Nothing new.\n\n" + text.replace("tanh |>", "tanh\n  |>"))
    assert weft.load(other).fingerprint == first
    for change in ({"width": 9}, {"epochs": 5}, {"seed": 1}, {"precision": "f64"}):
        assert weft.load(spec, **change).fingerprint != first
    other.write_text(text.replace("batch(16", "batch(17"))
    assert weft.load(other).fingerprint != first


def test_text_and_paths(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(spec.parent)
    text = spec.read_text()
    assert weft.load("points.weft").fingerprint == weft.load(text).fingerprint
    with pytest.raises(CompileError, match=r"missing\.weft"):
        weft.load("missing.weft")


def test_runs_are_numbered(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = weft.load(spec, epochs=1)
    folders = [experiment.train("numpy").folder for _ in range(2)]
    assert folders == [Path("runs/points-001"), Path("runs/points-002")]


def test_labels_out_of_range(tmp_path: Path) -> None:
    spec = specs.points(tmp_path)
    spec.write_text(
        spec.read_text().replace("class[3]", "class[2]").replace("dense(3)", "dense(2)")
    )
    with pytest.raises(CompileError, match="a label of `y` is out of range") as error:
        weft.load(spec)
    found = error.value.diagnostic
    assert found.span is not None
    assert found.span.line == 5
    assert found.expected == "whole numbers from 0 to 1"
    assert "2 in row" in (found.found or "")


def test_texts_know_their_alphabet(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abc abd. " * 30, encoding="utf-8")
    (tmp_path / "t.weft").write_text("""
data text {
  source = text("t.txt", window = 4)
  x: class[classes(characters), 4] = characters
  y: class[classes(next)]          = next[:, -1]
}
layer reader(x: class[V, B, T]) = x |> embedding(V, 8) |> rnn(8, give = "last") |> dense(V)
model net = reader()
train {
  data = text.batch(16)
  minimize cross_entropy(net(x), y) with adam(0.01)
  epochs = 1
}
""")
    experiment = weft.load(tmp_path / "t.weft")
    assert experiment.classes == dict.fromkeys(("characters", "next"), tuple(" .abcd"))
    run = experiment.train("numpy", out=tmp_path / "run")
    assert run.tensors["net.embedding.table"].shape == (6, 8)
    (tmp_path / "t.txt").unlink()
    reopened = weft.open_run(tmp_path / "run")
    assert reopened.classes == experiment.classes
    assert reopened.predict(np.array([[2, 3, 4, 0]]))["net"].shape == (1, 6)


def test_labels_may_have_a_shape(tmp_path: Path) -> None:
    spec = specs.points(tmp_path)
    text = spec.read_text().replace("net(x), y)", "net(x), y[:, 1])")
    spec.write_text(text.replace("class[3] = y", "class[3, 2] = stack([0 * y, y], at = 1)"))
    run = weft.load(spec, epochs=1).train("numpy", out=tmp_path / "run")
    assert run.metrics["test"]["accuracy"] > 0
    text = spec.read_text().replace("class[3, 2]", "class[2, 2]")
    spec.write_text(text.replace("dense(3)", "dense(2)"))
    with pytest.raises(CompileError, match="a label of `y` is out of range") as error:
        weft.load(spec)
    assert "2 at [1] in row" in (error.value.diagnostic.found or "")


def test_values_that_are_not_finite_are_warned_of(tmp_path: Path) -> None:
    spec = specs.points(tmp_path)
    with np.load(tmp_path / "points.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["x"][[7, 9], 1] = np.nan
    np.savez(tmp_path / "points.npz", **arrays)
    (warning,) = weft.load(spec).warnings
    assert "`x` has values that are not finite" in warning.message
    assert "2 of 200 rows, the first of them row 7" in (warning.found or "")


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_found_in_the_data(tmp_path: Path, wrong: float) -> None:
    spec = specs.points(tmp_path)
    with np.load(tmp_path / "points.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["x"][:, 1] = wrong
    np.savez(tmp_path / "points.npz", **arrays)
    with pytest.raises(RunError, match="is not finite at step 1") as error:
        weft.load(spec).train("numpy", out=tmp_path / "run")
    found = error.value.diagnostic
    assert found.span is not None
    assert found.span.line == 4
    assert "in the data: in `x`" in (found.found or "")


@pytest.mark.parametrize(
    ("column", "expression", "warned"),
    [
        ("1 2 N/A", "float(a) / 2", "`N/A`: texts count as 0, 1, ... in sorted order"),
        ("red blue red", "float(a)", "`blue`, `red`: texts count as 0, 1, ... in sorted order"),
        ("red blue red", "float(a == 1)", None),
        ("red blue red", "one_hot(a, 2)[:, 0]", None),
        ("1 2 3", "float(a) / 2", None),
    ],
)
def test_text_taken_as_numbers_is_warned_of(
    tmp_path: Path, column: str, expression: str, warned: str | None
) -> None:
    rows = "".join(f"{text},{i}\n" for i, text in enumerate(column.split()))
    (tmp_path / "t.csv").write_text("a,b\n" + rows)
    spec = tmp_path / "t.weft"
    spec.write_text(
        f'data t {{\n  source = csv("t.csv")\n  x: f32 = {expression}\n  y: f32 = b\n}}\n'
        "layer line(x: f32[B]) {\n  param w: f32[] ~ 0.5\n  x * w\n}\n"
        "model net = line()\n"
        "train {\n  data = t.batch(2)\n  minimize mse(net(x), y) with sgd(0.1)\n}\n"
    )
    warnings = weft.load(spec).check().warnings
    assert [w.found for w in warnings] == ([warned] if warned else [])
    assert all("`x` takes the text of the column `a`" in w.message for w in warnings)


GENERATOR = """
data points {
  source = npz("points.npz")
  x: f32[4] = x
}
model G = dense(units = 4)
train {
  data     = points.batch(16)
  let fake = G(normal([batch, 3]))
  minimize mse(fake, x) with adam(1e-2)
  predict  = { fake: fake }
  epochs   = 1
}
"""


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("generator")
    spec = specs.points(folder)
    spec.write_text(GENERATOR)
    return weft.load(spec).train("numpy", out=folder / "run")


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_a_model_that_draws_its_own_input(generator: Run, rows: int, tmp_path: Path) -> None:
    import onnxruntime

    assert generator.fields == {}
    made = generator.predict(rows=rows)["fake"]
    assert made.shape == (rows, 4)
    assert len(np.unique(made[:, 0])) == rows
    path = generator.export_onnx(tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(["fake"], {"batch": np.array(rows)})
    np.testing.assert_allclose(found, made, rtol=1e-5, atol=1e-6)


def test_rows_are_for_a_model_that_reads_nothing(generator: Run, run: Run) -> None:
    for arrays, rows in ((None, None), ({}, None), ({"x": np.ones((2, 4))}, None), ([[1.0]], 2)):
        with pytest.raises(RunError, match="the model reads no field"):
            generator.predict(arrays, rows)
    with pytest.raises(RunError, match="at least one row"):
        generator.predict(rows=0)
    for rows in (None, 3):
        with pytest.raises(RunError, match="the model reads `x`"):
            run.predict(None, rows)


@pytest.mark.parametrize("size", [1, 7, 256, 300])
def test_predict_takes_any_number_of_rows(run: Run, size: int) -> None:
    x = np.random.default_rng(1).normal(size=(size, 4)).astype(np.float32)
    (name, logits), *others = run.predict({"x": x}).items()
    assert (name, logits.shape, others) == ("net", (size, 3), [])
    one = np.concatenate([run.predict({"x": x[i : i + 1]})["net"] for i in (0, size - 1)])
    np.testing.assert_allclose(logits[[0, -1]], one, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run.predict(x.astype(np.float64))["net"], logits)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "the field `x` is missing"),
        ({"x": np.zeros((2, 4)), "z": 1}, "reads no field `z`"),
        ({"x": np.zeros(4)}, "another shape"),
        ({"x": np.zeros((2, 5))}, "another shape"),
        ({"x": np.zeros((0, 4))}, "nothing to predict"),
        ({"x": np.full((2, 4), "a")}, "another element type"),
        ({"x": np.full((2, 4), 1j)}, "another element type"),
        ({"x": [[1.0, 2.0, 3.0, 4.0], [5.0]]}, "`x` is no array"),
    ],
)
def test_predict_says_what_is_wrong(run: Run, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(RunError, match=message):
        run.predict(arrays)


def test_a_run_is_opened_again(run: Run) -> None:
    again = weft.open_run(str(run.folder))
    assert again.metrics == run.metrics
    assert again.steps == 40
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(again.predict(x)["net"], run.predict(x)["net"])
    with pytest.raises(RunError, match="no part `validation`"):
        again.evaluate("validation")


def test_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run"):
        weft.open_run(tmp_path / "none")


def test_a_run_whose_spec_was_edited_is_refused(run: Run, tmp_path: Path) -> None:
    """The same shapes, another meaning: nothing but the text tells."""
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    text = (copy / "spec.weft").read_text()
    (copy / "spec.weft").write_text(text + "# a remark\n")
    assert weft.open_run(copy).metrics == run.metrics
    (copy / "spec.weft").write_text(text.replace("tanh", "relu"))
    with pytest.raises(RunError, match="was edited since the run began"):
        weft.open_run(copy)


@pytest.mark.parametrize("damage", ["gone", "empty"])
def test_no_other_parameters_than_the_kept_ones(run: Run, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    best = copy / "checkpoints" / f"step-{run.result.best_step:09d}.safetensors"
    best.unlink()
    if damage == "empty":
        best.touch()
    with pytest.raises(RunError, match=best.name):
        weft.open_run(copy).predict(np.ones((3, 4), np.float32))


def test_unknown_backends(spec: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no backend `nunpy`") as error:
        weft.load(spec).train("nunpy", out=tmp_path / "run")
    assert error.value.diagnostic.hint == "did you mean `numpy`?"


def test_export(run: Run, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = run.export_onnx(tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for size in (1, 7, 64):
        x = np.random.default_rng(size).normal(size=(size, 4)).astype(np.float32)
        (logits,) = session.run(None, {"x": x})
        np.testing.assert_allclose(logits, run.predict(x)["net"], rtol=1e-5, atol=1e-6)
