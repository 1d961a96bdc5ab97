"""What `gpu.py` asks of CuPy, with a module that only pretends to be CuPy."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import weft
from conformance.backends import compare, run_twice
from cupy_backend import pretended
from cupy_backend.emulated import EMULATOR, emulated
from cupy_backend.test_sizes import CASES, executable, retyped
from weft.backends.cupy import library
from weft.backends.cupy.backend import CupyBackend
from weft.backends.cupy.code import Gemm
from weft.backends.cupy.gpu import Gpu
from weft.backends.cupy.timing import peaks
from weft.compiler.errors import RunError
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph
from weft.compiler.kernel import Port
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan
from weft.compiler.plan import Buffer
from weft.compiler.types import BF16, F16, F32, F64, I64, DType
from weft.runtime import backends
from weft.runtime.backends import backend_named
from weft.runtime.session import Session, session_for

SPEC = Path(__file__).parents[2] / "examples" / "digits_mlp.weft"
GPU = Gpu(pretended.cupy(EMULATOR), pretended.Blas())
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


@pytest.fixture(params=[0, 1, 3, 1_000], ids="{} works at a time".format)
def pace(request: pytest.FixtureRequest) -> Iterator[None]:
    """How far the device comes by itself: nowhere, until the host waits; or some way, or all."""
    pretended.CLOCK.pace = request.param
    yield
    pretended.CLOCK.pace = 0


def digits() -> tuple[Session, Session]:
    """A session on the pretended GPU, and the reference."""
    loaded = weft.load(SPEC).loaded
    found, reference = session_for(loaded, BACKEND), session_for(loaded, backend_named("numpy"))
    for session in (found, reference):
        session.initialise(0)
    return found, reference


def batch(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(32, 64)).astype(np.float32), "y": rng.integers(0, 10, 32)}


@pytest.mark.usefixtures("pace")
def test_outputs_that_nobody_reads_do_not_come_in_the_way() -> None:
    found, reference = digits()
    rng, outputs = np.random.default_rng(0), []
    for _ in range(5):
        given = batch(rng)
        outputs.append(found.run("train_step", given, 32))
        given["x"][...], given["y"][...] = -1, 0  # the step has its own copy
    rng = np.random.default_rng(0)
    for output in outputs:
        expected = reference.run("train_step", batch(rng), 32)
        np.testing.assert_allclose(output["loss"], expected["loss"], rtol=1e-4)


@pytest.mark.usefixtures("pace")
def test_a_step_may_be_gone_before_its_work_is_done() -> None:
    """Its memory is somebody else's then, but not before."""
    graph = executable("few long rows")[1]
    program = BACKEND.compile(plan(graph, fuse(graph), BACKEND.abilities))
    rng = np.random.default_rng(0)
    given, other = ({n.name: rng.normal(size=n.type.shape) for n in graph.inputs} for _ in "ab")
    results = dict(program.bind(BACKEND.hold({}))(given))
    for _ in range(3):
        program.bind(BACKEND.hold({}))(other)
        gc.collect()
    again = dict(program.bind(BACKEND.hold({}))(given))
    for name, value in results.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.usefixtures("pace")
def test_state_that_the_host_changes() -> None:
    """It is read when it is sent, and not when the device comes to it."""
    found, reference = digits()
    rng = np.random.default_rng(0)
    for session in (found, reference):
        for value in session.tensors().values():
            if value.dtype == np.float32:
                value *= 0.5
        session.state.changed()
    given = batch(rng)
    expected = reference.run("train_step", given, 32)
    output = found.run("train_step", given, 32)
    np.testing.assert_allclose(output["loss"], expected["loss"], rtol=1e-4)


def test_a_step_is_recorded_when_it_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    begin = pretended.Stream.begin_capture
    monkeypatch.setattr(
        pretended.Stream, "begin_capture", lambda self: (begun.append(1), begin(self))
    )
    found, _ = digits()
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(3):
        found.run("train_step", batch(rng), 32)
        counts.append(len(begun))
    assert counts == [0, 1, 1]


def test_what_fails_while_it_is_recorded() -> None:
    """The stream is as before: other work goes on."""

    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GPU.captured(work)
    memory, found = GPU.allocate(4), np.ones(1, np.float32)
    memory.read(found)
    assert found == 0


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretended.Pointer, "most", 1_000)
    with pytest.raises(RunError, match=r"not enough memory(.|\n)*1,001 bytes(.|\n)*smaller batch"):
        GPU.allocate(1_001)


def test_what_the_library_refuses() -> None:
    port = Port(Buffer("m", "input", F32, 64, 0, 0, ()), 0)
    overlapping = (1, 4)  # columns of 8 numbers
    gemm = Gemm((port, port, port), 1, (8, 8, 8), (0, 0, 0), ((8, 1), overlapping, (8, 1)))
    with pytest.raises(RunError, match=r"cublasGemmStridedBatchedEx(.|\n)*error 7"):
        GPU.gemm(gemm, (0, 0, 0))


def test_the_library_is_as_we_say() -> None:
    """The functions are there, and CuPy has the same numbers."""
    pytest.importorskip("cuda.pathfinder")
    try:
        cublas = library.loaded()
    except ImportError as error:
        pytest.skip(str(error))
    assert cublas.cublasGetStatusString(13) == b"the function failed to launch on the GPU"
    from cupy_backends.cuda.libs import cublas as known

    assert (known.CUBLAS_OP_N, known.CUBLAS_OP_T) == (library.AS_IT_IS, library.TRANSPOSED)
    assert known.CUBLAS_COMPUTE_32F == library.SUM_F32
    assert known.CUBLAS_COMPUTE_64F == library.SUM_F64
    assert known.CUBLAS_COMPUTE_32F_FAST_TF32 == library.SUM_F32_OF_TF32
    assert known.CUBLAS_GEMM_DEFAULT == library.ANY_ALGORITHM
    from cupy.cuda import runtime

    numbers = runtime.CUDA_R_32F, runtime.CUDA_R_64F, runtime.CUDA_R_16F, runtime.CUDA_R_16BF
    assert numbers == tuple(library.TYPES.values())


def test_name_and_peaks() -> None:
    assert BACKEND.traits == {"gpu": "Pretended"}
    found = peaks(GPU, F32, product=32, copies=(1 << 12,))
    assert found.flops == pytest.approx(2 * 32**3 / 1e-6)
