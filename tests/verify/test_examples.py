"""Every example that trains computes what it says, within the bounds of rounding."""

from __future__ import annotations

from pathlib import Path

import pytest

import weft
from everywhere import ON_GPU
from examples.table import EXAMPLES

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", ON_GPU])
@pytest.mark.parametrize("name", [name for name, row in EXAMPLES.items() if row.reaches])
def test_an_example_is_verified(name: str, backend: str) -> None:
    found = weft.load(FOLDER / f"{name}.weft").verify(backend)
    assert found.passed, [fault.render() for check in found.checks for fault in check.faults]
