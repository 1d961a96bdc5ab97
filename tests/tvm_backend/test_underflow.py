"""What is too small for a normal number comes as 0, in every thread, and only within a step."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from weft.compiler import builder as b
from weft.compiler.graph import Graph
from weft.compiler.pipeline import Target, compile_plan
from weft.compiler.types import F32, F64, DType, TensorType

pytest.importorskip("tvm", reason="the tvm backend needs apache-tvm (extra `tvm`)")

from weft.backends.tvm.backend import BACKEND

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="only x86 has the switch"
)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("size", [3, 1 << 19], ids=["one thread", "all threads"])
def test_small_results_are_zero(dtype: DType, size: int) -> None:
    x = b.input_("x", TensorType(dtype, (size,)))
    graph = Graph("g", (x,), (x * 0.5, x + 0.0), ("half", "same"))
    step = BACKEND.compile(compile_plan(graph, Target(abilities=BACKEND.abilities))).bind({})
    normal = np.finfo(dtype.numpy).smallest_normal
    given = np.full(size, normal, dtype.numpy)
    for _ in range(20):  # so that every thread comes by
        found = step({"x": given})
        assert not found["half"].any()
        assert (found["same"] == normal).all()
    # NumPy computes with such numbers as before.
    assert (given * dtype.numpy.type(0.5) > 0).all()


def test_moments_fade_to_zero() -> None:
    """A number times 0.9 again and again; rounding alone would keep it at the smallest number."""
    x = b.input_("x", TensorType(F32, (8,)))
    graph = Graph("g", (x,), (x * 0.9,), ("y",))
    step = BACKEND.compile(compile_plan(graph, Target(abilities=BACKEND.abilities))).bind({})
    moment = np.ones(8, np.float32)
    for _ in range(1000):
        moment = step({"x": moment})["y"]
    assert (moment == 0).all()
