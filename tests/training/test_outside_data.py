"""Data without a source: arrays from outside, checked against what the spec declares."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weft
from weft.compiler.errors import CompileError, RunError, WeftError

SPEC = """
data spots {
  x: f32[2, 3]
  y: class[4]
  bright: f32 = sum(x, over = [1, 2])
  split = { train: 40, valid: 10 }
}
model net = dense(units = 4)
train {
  data = spots.batch(8, shuffle = true)
  minimize cross_entropy(net(flatten(x)), y) + 0.01 * mean(bright) with sgd(0.1)
  epochs = 3
}
"""
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(50, 2, 3)).astype(np.float32), RNG.integers(0, 4, 50)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spots.weft"
    path.write_text(SPEC)
    return path


def folder_of(path: Path, **arrays: np.ndarray) -> Path:
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def archive_of(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_a_spec_says_all_that_checking_needs(spec: Path) -> None:
    experiment = weft.load(spec)
    assert experiment.check().parameters == 6 * 4 + 4
    assert {name: part.size for name, part in experiment.loaded.parts.items()} == {
        "train": 40,
        "valid": 10,
    }
    assert experiment.loaded.experiment.settings.steps == 15
    assert experiment.warnings == ()


def test_training_says_what_is_missing(spec: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        weft.load(spec).train("numpy", out=tmp_path / "run")
    said = caught.value.diagnostic
    assert said.expected == "`x: f32[2, 3]` and `y: class[4]` of 50 examples"
    assert "--data spots=FILE.npz" in (said.hint or "")
    assert said.span is not None
    assert not (tmp_path / "run").exists()


def test_every_form_trains_to_the_same_bytes(spec: Path, tmp_path: Path) -> None:
    forms: dict[str, Any] = {
        "arrays": {"x": X, "y": Y, "z": np.zeros(50)},  # what nobody asked for is left out
        "wider": {"x": X.astype(np.float64), "y": Y.astype(np.uint8)},
        "lists": {"x": X.tolist(), "y": Y.tolist()},
        "archive": archive_of(tmp_path / "spots.npz", x=X, y=Y),
        "folder": str(folder_of(tmp_path / "spots", x=X, y=Y)),
        "folder, wider": folder_of(tmp_path / "wide", x=X.astype(np.float64), y=Y.astype("u1")),
    }
    runs = {
        k: weft.load(spec, {"spots": v}).train("numpy", out=tmp_path / k) for k, v in forms.items()
    }
    for name, run in runs.items():
        for tensor, array in run.tensors.items():
            np.testing.assert_array_equal(array, runs["arrays"].tensors[tensor], err_msg=name)
        assert run.metrics == runs["arrays"].metrics
    assert weft.load(spec).fingerprint == runs["folder"].loaded.fingerprint


def test_files_of_a_folder_stay_on_disk(spec: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "spots", x=X, y=Y)
    columns = weft.load(spec, {"spots": folder}).loaded.columns
    assert all(isinstance(array, np.memmap) for array in columns.arrays.values())


def test_a_run_remembers_where_its_file_was(spec: Path, tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "spots.npz", x=X, y=Y)
    run = weft.load(spec, {"spots": archive}).train("numpy", out=tmp_path / "runs" / "a")
    measured, metrics = run.evaluate("valid"), run.metrics
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("runs", "spots.npz"):
        shutil.move(tmp_path / name, moved / name)
    again = weft.open_run(moved / "runs" / "a")
    assert again.evaluate("valid") == measured
    assert again.resume().metrics == metrics
    (moved / "spots.npz").rename(moved / "renamed.npz")
    again = weft.open_run(moved / "runs" / "a")
    with pytest.raises(RunError, match=r"there is no .*spots\.npz"):
        again.evaluate("valid")
    given = weft.open_run(moved / "runs" / "a", {"spots": moved / "renamed.npz"})
    assert given.evaluate("valid") == measured
    assert given.resume().metrics == metrics
    other = weft.open_run(moved / "runs" / "a", {"spots": {"x": X + 1, "y": Y}})
    with pytest.raises(RunError, match="the data have changed"):
        other.resume()


def test_arrays_in_memory_are_given_again(spec: Path, tmp_path: Path) -> None:
    arrays = {"spots": {"x": X, "y": Y}}
    run = weft.load(spec, arrays).train("numpy", out=tmp_path / "run")
    with pytest.raises(CompileError, match="no arrays are given"):
        weft.open_run(run.folder).evaluate("valid")
    with pytest.raises(CompileError, match="no arrays are given"):
        weft.open_run(run.folder).resume()
    assert weft.open_run(run.folder, arrays).evaluate("valid") == run.evaluate("valid")
    assert weft.open_run(run.folder, arrays).resume().metrics == run.metrics


WRONG: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no such file": (lambda f: f / "spot.npz", "there is no", "did you mean `spots.npz`?"),
    "no such folder": (lambda f: f / "a" / "b", "there is no", "--data spots=PATH"),
    "another file": (lambda f: f / "spots.weft", "holds no data for `spots`", "a `.npz` file"),
    "one array": (lambda f: f / "all" / "x.npy", "holds no data for `spots`", "a folder with"),
    "empty folder": (lambda f: f / "none", "has no `.npy` files", "a `.npz` file"),
    "missing": (lambda f: {"x": X}, "has no array `y`", "`x`"),
    "misspelt": (lambda f: {"X": X, "y": Y}, "has no array `x`", "did you mean `X`?"),
    "shape": (lambda f: {"x": X[:, :1], "y": Y}, "another shape", "`float32[1, 3]`"),
    "fractions": (lambda f: {"x": X, "y": Y + 0.5}, "numbers that its type", "`float64[]`"),
    "count": (lambda f: {"x": X[:9], "y": Y[:9]}, "another number of examples", "50 examples"),
    "lengths": (lambda f: {"x": X, "y": Y[:9]}, "different lengths", "9 in `y`"),
    "range": (lambda f: {"x": X, "y": Y + 1}, "out of range", "from 0 to 3"),
    "no file": (lambda f: X, "is no data", "arrays by name, or a `.npz` file"),
    "ragged": (lambda f: {"x": [[1], [1, 2]], "y": Y}, "`x` of `spots` is no array", "inhomog"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_given_is_checked(case: str, spec: Path, tmp_path: Path) -> None:
    archive_of(tmp_path / "spots.npz", x=X, y=Y)
    folder_of(tmp_path / "all", x=X, y=Y)
    folder_of(tmp_path / "none")
    given, message, more = WRONG[case]
    with pytest.raises(CompileError) as caught:
        weft.load(spec, {"spots": given(tmp_path)})
    said = str(caught.value)
    assert message in said
    assert more in said
    assert caught.value.diagnostic.span is not None


@pytest.mark.parametrize("value", [-1, 300])
def test_integers_beyond_the_range_are_refused(value: int, tmp_path: Path) -> None:
    text = SPEC.replace("x: f32[2, 3]", "x: u8[2, 3]").replace(
        "net(flatten(x))", "net(flatten(float(x)))"
    )
    pixels = np.full((50, 2, 3), 255)
    assert weft.load(text, {"spots": {"x": pixels, "y": Y}}).loaded.columns.size == 50
    pixels[3, 1, 1] = value
    with pytest.raises(CompileError, match="numbers that its type does not hold"):
        weft.load(text, {"spots": {"x": pixels, "y": Y}})


def test_data_for_what_does_not_ask_is_refused(spec: Path) -> None:
    with pytest.raises(RunError, match=r"asks for no data `spot`[\s\S]*did you mean `spots`"):
        weft.load(spec, {"spot": {"x": X, "y": Y}})
    digits = spec.parent / "digits.weft"
    digits.write_text(
        'data digits {\n source = embedded("digits")\n features: f32[64]\n target: class[10]\n}\n'
        "model net = dense(units = 10)\ntrain {\n data = digits.batch(8)\n"
        " minimize cross_entropy(net(features), target) with sgd(0.1)\n}\n"
    )
    with pytest.raises(WeftError, match="has a source of its own"):
        weft.load(digits, {"digits": "digits.npz"})
