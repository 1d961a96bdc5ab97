"""A step with a clock between its kernels, and the device's peaks, as the emulator has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weft
from cupy_backend.emulated import BACKEND, EMULATOR, emulated
from weft.backends.cupy.timing import peaks
from weft.compiler.types import F32
from weft.runtime.session import session_for

SPEC = Path(__file__).parents[2] / "examples" / "digits_mlp.weft"


@emulated
@pytest.mark.slow
def test_every_kernel_is_timed() -> None:
    session = session_for(weft.load(SPEC).loaded, BACKEND)
    plan = session.plan("train_step", 32)
    timed = BACKEND.timed(plan)
    run = timed.bind(session.state)
    inputs = {
        node.name: np.zeros(node.type.shape, node.type.dtype.numpy)
        for node in plan.graph.inputs
        if node.name not in plan.bound
    }
    timing = run(inputs)
    kernels = BACKEND.compile(plan).program.kernels_run
    assert timing.calls.sum() == len(kernels)
    assert len(timed.parts) == len(timing.nanoseconds)
    assert (timing.nanoseconds > 0).all()
    assert len({part.name for part in timed.parts}) == len(timed.parts)
    assert {"nest", "product"} <= {part.kind for part in timed.parts}
    assert sum(part.cost.flops for part in timed.parts) > 32 * 64 * 256


@emulated
@pytest.mark.slow
def test_peaks() -> None:
    found = peaks(EMULATOR, F32, product=64, copies=(1 << 12, 1 << 14))
    assert found.flops > 0
    assert [size for size, _ in found.copies] == [1 << 12, 1 << 14]
    assert all(rate > 0 for _, rate in found.copies)
