"""What `gpu.py` asks of CuPy, with a module that only pretends to be CuPy."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

import weft
from conformance.backends import compare, run_twice
from cupy_backend import pretended
from cupy_backend.emulated import EMULATOR, emulated
from cupy_backend.test_sizes import CASES, executable, retyped
from weft.backends.cupy.backend import CupyBackend
from weft.backends.cupy.code import Gemm
from weft.backends.cupy.gpu import Gpu
from weft.backends.cupy.timing import peaks
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph
from weft.compiler.kernel import Port
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan
from weft.compiler.plan import Buffer
from weft.compiler.types import BF16, F16, F32, F64, I64, DType
from weft.runtime import backends
from weft.runtime.backends import backend_named
from weft.runtime.session import session_for

SPEC = Path(__file__).parents[2] / "examples" / "digits_mlp.weft"
GPU = Gpu(pretended.cupy(EMULATOR), pretended.Blas(), None)
BACKEND = CupyBackend(GPU)

pytestmark = [emulated, pytest.mark.slow]

BY_LIBRARY = [name for name in CASES if "library" in name]


@pytest.mark.parametrize("case", [*BY_LIBRARY, "few long rows", "a batch of tiles"])
def test_results(case: str) -> None:
    run_case(executable(case)[1])


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
@pytest.mark.parametrize("case", [*BY_LIBRARY, "few long rows", "a batch of tiles"])
def test_results_of_16_bits(case: str, dtype: DType) -> None:
    run_case(retyped(executable(case)[1], dtype))


def run_case(graph: Graph) -> None:
    program = BACKEND.compile(plan(graph, fuse(graph), BACKEND.abilities))
    rng = np.random.default_rng(0)
    values = {
        node.name: rng.uniform(0.1, 1.0, node.type.shape).astype(node.type.dtype.numpy)
        for node in graph.inputs
    }
    assert all(node.type.dtype is not I64 for node in graph.inputs)
    compare(run_twice(program, graph, values), evaluate(graph, values))


@pytest.mark.parametrize("orders", list(product("CF", repeat=3)))
@pytest.mark.parametrize(
    ("dtype", "kept"), [(F32, F32), (F64, F64), (F16, F16), (BF16, BF16), (BF16, F32)]
)
def test_products_of_any_orientation(
    orders: tuple[str, str, str], dtype: DType, kept: DType
) -> None:
    """Matrices by row and by column, with gaps between lines and between matrices."""
    m, n, k, count = 3, 5, 4, 2
    rng = np.random.default_rng(0)
    ports, addresses, steps, jumps, held = [], [], [], [], []
    types = (dtype, dtype, kept)
    for order, type, (rows, columns) in zip(orders, types, ((m, k), (k, n), (m, n)), strict=True):
        line, lines = (columns, rows) if order == "C" else (rows, columns)
        memory = GPU.allocate((line + 2) * (lines + 1) * count * type.bytes)
        values = rng.normal(size=(line + 2) * (lines + 1) * count).astype(type.numpy)
        memory.write(values)
        held.append((memory, values))
        ports.append(Port(Buffer("m", "input", type, values.size, 0, 0, ()), 0))
        addresses.append(memory.address)
        steps.append((line + 2, 1) if order == "C" else (1, line + 2))
        jumps.append((line + 2) * (lines + 1))
    a, b, c = ports
    one, two, three = steps
    left, right, out = jumps
    gemm = Gemm((a, b, c), count, (m, n, k), (left, right, out), (one, two, three))
    with GPU.compute:
        GPU.gemm(gemm, (addresses[0], addresses[1], addresses[2]))
    found = np.zeros_like(held[2][1])
    held[2][0].read(found)
    shapes = ((m, k), (k, n), (m, n))
    values = [held[0][1], held[1][1], found]
    views = [
        np.lib.stride_tricks.as_strided(
            array, (count, *shape), [x * array.itemsize for x in (jump, *step)]
        ).astype(np.float64)
        for array, shape, jump, step in zip(values, shapes, jumps, steps, strict=True)
    ]
    unit = {F16: 2.0**-11, BF16: 2.0**-8}.get(kept, 1e-4)
    np.testing.assert_allclose(views[2], views[0] @ views[1], rtol=1.1 * unit, atol=1e-6)


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.BACKENDS, "cupy", backends.Entry(lambda: BACKEND))
    run = weft.load(SPEC, epochs=1).train("cupy", tmp_path / "run")
    reference = weft.load(SPEC, epochs=1).train("numpy", tmp_path / "numpy")
    for part, metrics in reference.metrics.items():
        for name, value in metrics.items():
            assert run.metrics[part][name] == pytest.approx(value, abs=1e-3), (part, name)


def test_outputs_that_nobody_reads_do_not_come_in_the_way() -> None:
    loaded = weft.load(SPEC).loaded
    found, reference = session_for(loaded, BACKEND), session_for(loaded, backend_named("numpy"))
    rng = np.random.default_rng(0)
    for session in (found, reference):
        session.initialise(0)
    outputs = []
    for _ in range(5):
        x, y = rng.normal(size=(32, 64)).astype(np.float32), rng.integers(0, 10, 32)
        outputs.append(found.run("train_step", {"x": x, "y": y}, 32))
        x[...], y[...] = -1, 0  # the step has its own copy
    rng = np.random.default_rng(0)
    for output in outputs:
        x, y = rng.normal(size=(32, 64)).astype(np.float32), rng.integers(0, 10, 32)
        expected = reference.run("train_step", {"x": x, "y": y}, 32)
        np.testing.assert_allclose(output["loss"], expected["loss"], rtol=1e-4)


def test_name_and_peaks() -> None:
    assert BACKEND.traits == {"gpu": "Pretended"}
    found = peaks(GPU, F32, product=32, copies=(1 << 12,))
    assert found.flops == pytest.approx(2 * 32**3 / 1e-6)
