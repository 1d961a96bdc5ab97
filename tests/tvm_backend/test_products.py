"""Products of the TVM backend: panels, blocks, parts and tiles of every kind, and their edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from weft.backends.threads import THREADS
from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node
from weft.compiler.kernel import Product
from weft.compiler.passes.kernels import kernels
from weft.compiler.pipeline import Target, compile_plan
from weft.compiler.types import F32, F64, DType, TensorType

pytest.importorskip("tvm", reason="the tvm backend needs apache-tvm (extra `tvm`)")

from weft.backends.tvm.backend import BACKEND

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """Shapes of the operands in memory, and the axes that are contracted and shared."""

    left: Axes
    right: Axes
    contract: tuple[Axes, Axes] = ((1,), (0,))
    batch: tuple[Axes, Axes] = ((), ())
    dtype: DType = F32


LEFT, RIGHT, BOTH = ((0,), (0,)), ((1,), (1,)), ((0,), (1,))  # transposed in memory

CASES = {
    "a vector": Case((8, 16), (16, 16)),
    "wide panels": Case((6, 40), (40, 256)),
    "panels of every width": Case((7, 33), (33, 127)),
    "three vectors": Case((32, 20), (20, 48)),
    "narrow": Case((50, 64), (64, 10)),
    "two columns": Case((50, 64), (64, 2)),
    "one row": Case((1, 300), (300, 200)),
    "rows in blocks of two sizes": Case((65, 30), (30, 64)),
    "left transposed": Case((30, 65), (30, 70), LEFT),
    "right transposed": Case((20, 65), (70, 65), RIGHT),
    "both transposed": Case((65, 20), (70, 65), BOTH),
    "one column of the depth": Case((40, 1), (1, 40)),
    "even parts of the depth": Case((20, 784), (784, 33)),
    "odd parts of the depth": Case((20, 1031), (1031, 33)),
    "odd parts, turned": Case((20, 1031), (33, 1031), RIGHT),
    "many rows": Case((300, 40), (40, 70)),
    "tiles of rows": Case((1999, 64), (64, 40)),
    "tiles of columns": Case((48, 200), (200, 1111)),
    "tiles of both": Case((515, 96), (96, 515)),
    "tiles of the depth": Case((3000, 40), (3000, 56), LEFT),
    "a batch": Case((5, 33, 20), (5, 20, 40), ((2,), (1,)), ((0,), (0,))),
    "a batch, turned": Case((5, 33, 20), (5, 40, 20), ((2,), (2,)), ((0,), (0,))),
    "heads": Case((3, 33, 4, 24), (3, 37, 4, 24), ((3,), (3,)), ((0, 2), (0, 2))),
    "two axes contracted": Case((30, 7, 40), (7, 50, 40), ((1, 2), (0, 2))),
    "double precision": Case((70, 600), (70, 600), RIGHT, dtype=F64),
    "double precision, narrow": Case((70, 65), (65, 7), dtype=F64),
}

BY_NAME = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def graph(case: Case, *, epilogue: bool) -> Graph:
    """The product, alone or with relu and what it was before."""
    x = b.input_("x", TensorType(case.dtype, case.left))
    y = b.input_("y", TensorType(case.dtype, case.right))
    z = b.dot_general(x, y, case.contract, case.batch)
    outputs: tuple[Node, ...] = (b.maximum(z + 1.0, 0.0), z) if epilogue else (z,)
    return Graph("g", (x, y), outputs, ("z", "before")[: len(outputs)])


def exact(case: Case, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By `einsum`, in the order of dot_general: what is shared, then the left, then the right."""
    left, right = list("abcd"[: x.ndim]), list("efgh"[: y.ndim])
    for i, j in [*zip(*case.contract, strict=True), *zip(*case.batch, strict=True)]:
        right[j] = left[i]
    shared = [left[i] for i in case.batch[0]]
    gone = [left[i] for i in case.contract[0]]
    free = [name for name in (*left, *right) if name not in (*shared, *gone)]
    found: np.ndarray = np.einsum(
        f"{''.join(left)},{''.join(right)}->{''.join(shared + free)}", x, y
    )
    return found


@BY_NAME
@pytest.mark.parametrize("epilogue", [False, True], ids=["alone", "epilogue"])
def test_values(case: Case, epilogue: bool) -> None:
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=shape).astype(case.dtype.numpy) for shape in (case.left, case.right))
    plan = compile_plan(graph(case, epilogue=epilogue), Target(abilities=BACKEND.abilities))
    assert any(isinstance(kernel, Product) for kernel in kernels(plan, BACKEND.abilities))
    found = BACKEND.compile(plan).bind({})({"x": x, "y": y})

    wide_x, wide_y = x.astype(np.longdouble), y.astype(np.longdouble)
    expected, sizes = exact(case, wide_x, wide_y), exact(case, abs(wide_x), abs(wide_y))
    depth = int(np.prod([case.left[axis] for axis in case.contract[0]]))
    # A sum of n products in any order is off by at most n units of the sum of their sizes (Higham,
    # Accuracy and Stability of Numerical Algorithms, section 3.1).
    limit = (depth + 2) * np.finfo(case.dtype.numpy).eps / 2 * (sizes + 1)
    if epilogue:
        assert (abs(found["before"] - expected) <= limit).all()
        expected = np.maximum(expected + 1, 0)
    assert found["z"].shape == expected.shape
    assert (abs(found["z"] - expected) <= limit).all()


def test_the_number_of_threads_changes_nothing() -> None:
    case = CASES["tiles of the depth"]
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=shape).astype(np.float32) for shape in (case.left, case.right))
    plan = compile_plan(graph(case, epilogue=True), Target(abilities=BACKEND.abilities))
    step = BACKEND.compile(plan).bind({})
    found = []
    for threads in (1, 2, 3):
        THREADS.use(threads)
        found.append(step({"x": x, "y": y})["z"].tobytes())
    THREADS.use(None)
    assert len(set(found)) == 1
