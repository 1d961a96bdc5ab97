"""The examples: each has the size that it should, trains to its bar, and exports what it learnt."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import weft
from everywhere import EVERYWHERE
from examples.table import EXAMPLES, VARIANTS
from weft.api import Run
from weft.compiler.types import static_shape

FOLDER = Path(__file__).parents[2] / "examples"
TRAINED = [name for name, row in EXAMPLES.items() if row.reaches]


def test_each_example_has_a_row() -> None:
    files = {p.relative_to(FOLDER).with_suffix("").as_posix() for p in FOLDER.rglob("*.weft")}
    assert files == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_size(name: str) -> None:
    row, experiment = EXAMPLES[name], weft.load(FOLDER / f"{name}.weft")
    report = experiment.check()
    assert not report.warnings
    assert row.parameters in (None, report.parameters)
    assert row.multiply_adds in (None, report.multiply_adds)
    if row.sees is not None:
        assert report.sees is not None
        assert set(report.sees.size) == {row.sees}
    stated = bool(row.reaches), row.parameters is not None
    assert any(stated), "the row says nothing of its example"
    assert stated[0] == experiment.loaded.at_hand, "what can be trained has a bar"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings", "parameters"), VARIANTS)
def test_variants(name: str, settings: Mapping[str, Any], parameters: int) -> None:
    experiment = weft.load(FOLDER / f"{name}.weft", **settings).loaded.experiment
    states = [s for s in experiment.forward.states.values() if s.role == "parameter"]
    assert sum(prod(static_shape(s.type.shape)) for s in states) == parameters


@pytest.mark.slow
@pytest.mark.parametrize("backend", EVERYWHERE)
@pytest.mark.parametrize("name", TRAINED)
def test_it_learns(name: str, backend: str, tmp_path: Path) -> None:
    row = EXAMPLES[name]
    run = weft.load(FOLDER / f"{name}.weft").train(backend, out=tmp_path / "run")
    for metric, (low, high) in row.reaches.items():
        part, _, of = metric.partition(".")
        assert low <= run.metrics[part][of] <= high, metric
    if row.also is not None:
        row.also(run)
    sizes = (1, 7, 64) if backend == "numpy" else (64,)  # others compile for each
    check_export(run, tmp_path / "model.onnx", sizes)


def check_export(run: Run, path: Path, sizes: tuple[int, ...]) -> None:
    """onnxruntime gives what `predict` gives, for batches of these sizes."""
    run.export_onnx(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnxruntime.InferenceSession(path, options)
    for rows in sizes:
        if run.fields:
            arrays = {name: run.loaded.fields.arrays[name][:rows] for name in run.fields}
            mine, theirs = run.predict(arrays), model.run(None, arrays)
        else:  # the model draws its own input, and is told how many rows
            (size,) = model.get_inputs()
            mine, theirs = run.predict(rows=rows), model.run(None, {size.name: np.array(rows)})
        assert [output.name for output in model.get_outputs()] == list(mine)
        for value, got in zip(mine.values(), theirs, strict=True):
            assert got.shape == value.shape
            if value.dtype.kind == "f":
                np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-6 * np.abs(value).max())
            else:  # a class that is chosen: where two are as likely, rounding decides
                assert np.mean(got != value) <= 1e-4
