"""Whole training steps as CUDA, run on the emulator: what they leave is what NumPy's leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weft
from cupy_backend.emulated import BACKEND, emulated
from cupy_backend.stopping import Killed, Killing
from weft.runtime import backends
from weft.runtime.backends import backend_named
from weft.runtime.feed import Rows
from weft.runtime.session import Session, session_for
from weft.runtime.verification.checks import verify

FOLDER = Path(__file__).parents[2] / "examples"

# Each with a small batch, and how far its state may be from NumPy's after two steps, relative to
# the largest element: Adam divides gradients by their size, so that rounding of small ones shows.
STEPS = {
    "digits_mlp": 1e-5,
    "mlp_6431": 1e-5,
    "ring_gan": 1e-4,
    "multi_task": 1e-4,
    "siamese": 1e-4,
    "diabetes": 1e-5,
    "small/vit_b16": 1e-4,
    "transformer_lm": 1e-4,
}


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_two_steps(name: str) -> None:
    loaded = weft.load(FOLDER / f"{name}.weft").loaded
    settings = loaded.experiment.settings
    reference = session_for(loaded, backend_named("numpy"))
    found = session_for(loaded, BACKEND)
    for session in (reference, found):
        session.initialise(settings.seed)
    compare(found, reference, 1e-6)
    fields = reference.fields("train_step")
    rows = Rows(loaded.fields, fields, reference.backend)
    for step in range(2):
        inputs = dict(rows(np.arange(settings.batch) + step * settings.batch))
        expected = reference.run("train_step", inputs, settings.batch)
        outputs = found.run("train_step", inputs, settings.batch)
        assert outputs.keys() == expected.keys()
        for output, value in expected.items():
            np.testing.assert_allclose(outputs[output], value, rtol=1e-4, atol=1e-5)
    compare(found, reference, STEPS[name])


# The true gradient of a bias of keys is 0, as it adds the same to all scores of a query: Adam makes
# steps of what rounding leaves.
ROUNDING = "multi_head_attention.b_k"


def compare(found: Session, expected: Session, bound: float) -> None:
    values = found.tensors()
    for name, value in expected.tensors().items():
        if name.endswith(ROUNDING):
            continue
        wide = value.astype(np.float64)
        most = np.abs(wide).max(initial=1e-3)
        assert np.abs(values[name] - wide).max(initial=0) <= bound * most, name


@emulated
@pytest.mark.slow
def test_training_and_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on after a checkpoint ends with the bytes of one that was never stopped."""
    monkeypatch.setitem(backends.BACKENDS, "cupy", backends.Entry(lambda: BACKEND))
    spec = FOLDER / "digits_mlp.weft"
    whole = weft.load(spec, epochs=2).train(out=tmp_path / "whole", backend="cupy")
    assert whole.metrics["valid"]["accuracy"] > 0.8
    with pytest.raises(Killed):
        weft.load(spec, epochs=2).train("cupy", tmp_path / "parts", reporter=Killing())
    resumed = weft.load(spec, epochs=2).train("cupy", tmp_path / "parts", resume=True)
    assert resumed.steps == whole.steps
    for name, value in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[name], value)


@emulated
@pytest.mark.slow
def test_verified() -> None:
    """`weft verify`: random bits, each kernel, each graph, and the same bits in any order."""
    found = weft.load(FOLDER / "digits_mlp.weft").loaded
    for check in verify(found, BACKEND).checks:
        assert not check.faults, check


def test_state_is_sent_and_fetched_when_it_is_needed() -> None:
    arrays = {"a": np.arange(3.0), "b": np.ones(2)}
    state = BACKEND.hold(arrays)
    state.send(["a"])
    np.testing.assert_array_equal(state["a"], [0, 1, 2])
    state.memory("a").write(np.array([5.0, 6.0, 7.0]))
    np.testing.assert_array_equal(state["a"], [0, 1, 2])  # nobody said that it changed
    state.written(["a"])
    np.testing.assert_array_equal(state["a"], [5, 6, 7])
    state["a"][...] = 9
    state.changed()
    state.send(["a", "b"])
    state.written(["a", "b"])
    np.testing.assert_array_equal(state["a"], [9, 9, 9])
    assert dict(state).keys() == arrays.keys()
