"""Small products keep to one thread, large ones don't, and the caller's setting comes back."""

from __future__ import annotations

import numpy as np
import pytest

from weft.backends.numpy import blas
from weft.backends.numpy.backend import BACKEND
from weft.compiler import builder as b
from weft.compiler.graph import Graph
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan
from weft.compiler.types import F32, TensorType


def product(size: int) -> Graph:
    x = b.input_("x", TensorType(F32, (size, size)))
    return Graph("product", (x,), (b.matmul(x, x),), ("y",))


@pytest.mark.parametrize(("size", "expected"), [(32, False), (128, True), (512, False)])
def test_who_wants_one_thread(size: int, expected: bool) -> None:
    assert blas.wants_one_thread(product(size)) == expected


def test_the_number_of_threads_is_put_back() -> None:
    found = blas.controls()
    if found is None:
        pytest.skip("NumPy's linear algebra library isn't OpenBLAS")
    ask, tell = found
    before = ask()
    try:
        tell(2)
        graph = product(128)
        step = BACKEND.compile(plan(graph, fuse(graph), BACKEND.abilities)).bind({})
        x = np.ones((128, 128), np.float32)
        np.testing.assert_array_equal(step({"x": x})["y"], np.full((128, 128), 128, np.float32))
        assert ask() == 2
    finally:
        tell(before)
