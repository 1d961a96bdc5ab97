"""Every example that trains computes what it says, within the bounds of rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weft
from everywhere import EVERYWHERE
from examples.table import EXAMPLES
from weft.runtime.backends import backend_named
from weft.runtime.verification import running
from weft.runtime.verification.report import Tally, Verification
from weft.runtime.verification.subject import Subject

FOLDER = Path(__file__).parents[2] / "examples"
TRAINED = [name for name, row in EXAMPLES.items() if row.reaches]
COMPILING = [backend for backend in EVERYWHERE if backend != "numpy"]


def verified(name: str, backend: str) -> Verification:
    return weft.load(FOLDER / f"{name}.weft").verify(backend)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_an_example_is_verified(name: str) -> None:
    found = verified(name, "numpy")
    assert found.passed, [fault.render() for check in found.checks for fault in check.faults]


@pytest.mark.slow
@pytest.mark.parametrize("backend", COMPILING)
@pytest.mark.parametrize("name", TRAINED)
def test_its_step_is_verified_by_backends_that_compile(name: str, backend: str) -> None:
    """Kernels one by one and graphs for several batches take a minute to compile.

    The step for a full batch is one that training compiles too, and keeps.
    """
    subject = Subject(weft.load(FOLDER / f"{name}.weft").loaded, backend_named(backend))
    tally = Tally("graphs", "each output of the training step against the reference")
    with np.errstate(all="ignore"):
        running.graph(tally, subject, "train_step", subject.loaded.experiment.settings.batch)
    found = tally.check()
    assert found.count > 0
    assert found.passed, [fault.render() for fault in found.faults]


@pytest.mark.thorough
@pytest.mark.parametrize("backend", COMPILING)
@pytest.mark.parametrize("name", TRAINED)
def test_an_example_is_verified_by_backends_that_compile(name: str, backend: str) -> None:
    found = verified(name, backend)
    assert found.passed, [fault.render() for check in found.checks for fault in check.faults]
