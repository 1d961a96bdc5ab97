"""Floats of 16 bits and TF32 on GPUs: steps as the reference makes them, and what is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import weft
from conformance.backends import compare, run_twice
from cupy_backend import pretended
from cupy_backend.emulated import BACKEND, EMULATOR, emulated
from weft.backends.cupy.backend import SHOWN, CupyBackend
from weft.backends.cupy.code import Gemm
from weft.backends.cupy.gpu import Gpu
from weft.compiler import builder as b
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import differentiate
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.kernel_text import text
from weft.compiler.parse import parse_graph
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan
from weft.compiler.passes.widen import widen
from weft.compiler.text import print_graph
from weft.compiler.type_rules import TypeRuleError
from weft.compiler.types import BF16, F16, F32, F64, DType, TensorType
from weft.runtime.backends import backend_named
from weft.runtime.feed import Rows
from weft.runtime.session import session_for
from weft.runtime.verification.checks import verify

FOLDER = Path(__file__).parents[2] / "examples"
PRETENDED = CupyBackend(Gpu(pretended.cupy(EMULATOR), pretended.Blas()))


# -- 16 bits --------------------------------------------------------------------------------------


@emulated
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [("digits_mlp", "f16"), ("digits_conv", "bf16"), ("small/vit_b16", "bf16")],
)
def test_two_steps(name: str, precision: str) -> None:
    """Losses of two steps on small batches, of which the second sees what the first has learnt."""
    loaded = weft.load(FOLDER / f"{name}.weft", precision=precision).loaded
    batch = 16
    sessions = session_for(loaded, backend_named("numpy")), session_for(loaded, BACKEND)
    reference, found = sessions
    for session in sessions:
        session.initialise(loaded.experiment.settings.seed)
    rows = Rows(loaded.fields, reference.fields("train_step"), reference.backend)
    for step in range(2):
        inputs = dict(rows(np.arange(batch) + step * batch))
        expected = reference.run("train_step", inputs, batch)["loss"]
        loss = found.run("train_step", inputs, batch)["loss"]
        np.testing.assert_allclose(loss, expected, rtol=5e-3)
    for name, value in found.tensors().items():
        assert value.dtype == loaded.program.states[name].type.dtype.numpy
        assert value.dtype.itemsize > 2


@emulated
@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), [("digits_mlp", "bf16"), ("digits_conv", "tf32")])
def test_verify(name: str, precision: str) -> None:
    loaded = weft.load(FOLDER / f"{name}.weft", precision=precision).loaded
    for check in verify(loaded, BACKEND).checks:
        assert not check.faults, check


def test_what_lies_in_memory_between_kernels_has_16_bits() -> None:
    """Sums are in f32 on the way, not in what is kept of a hidden layer."""
    sizes = {}
    for precision in ("f32", "bf16"):
        loaded = weft.load(FOLDER / "digits_conv.weft", precision=precision).loaded
        made = session_for(loaded, SHOWN).plan("train_step", loaded.experiment.settings.batch)
        sizes[precision] = made.arena_bytes
    assert sizes["bf16"] < 0.65 * sizes["f32"]


def neighbours(dtype: DType, stored: DType) -> Graph:
    """A few operations on each element, and sums of them by row."""
    x = b.input_("x", TensorType(dtype, (40, 1_024)))
    y = b.unary("exp", x * 0.5) + x
    rows = b.reduce_sum(b.unary("tanh", x), (1,))
    return Graph("g", (x,), (b.cast(y, stored), rows), ("points", "rows"))


@pytest.mark.parametrize(("stored", "runs"), [(BF16, ["8"]), (F32, ["4", "8"])], ids=str)
def test_threads_read_16_bytes_at_once(stored: DType, runs: list[str]) -> None:
    """Eight numbers, unless what they become is written four at a time."""
    graph = neighbours(BF16, stored)
    source = SHOWN.compile(plan(graph, fuse(graph), SHOWN.abilities)).source
    assert sorted(set(re.findall(r"load<(\d)>", source))) == runs


@emulated
def test_every_result_is_rounded_as_the_reference_does() -> None:
    graph = neighbours(BF16, BF16)
    values = {"x": np.random.default_rng(0).normal(size=(40, 1_024)).astype(BF16.numpy)}
    program = BACKEND.compile(plan(graph, fuse(graph), BACKEND.abilities))
    compare(run_twice(program, graph, values), evaluate(graph, values))


# -- products by the library ----------------------------------------------------------------------


def product(dtype: DType, factors: str | None = None, biased: bool = False) -> Graph:
    x, y = (b.input_(name, TensorType(dtype, (260, 260))) for name in "xy")
    out = b.dot_general(x, y, ((1,), (0,)), factors=factors)
    return Graph("g", (x, y), (b.maximum(out, 1.0) if biased else out,))


def gemms(graph: Graph) -> list[Gemm]:
    program = SHOWN.compile(plan(graph, fuse(graph), SHOWN.abilities)).program
    return [run.call for run in program.runs if isinstance(run.call, Gemm)]


@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)
def test_the_library_sums_in_f32_and_rounds_once(dtype: DType) -> None:
    """It writes the result, or what an epilogue takes without having been rounded."""
    (direct,) = gemms(product(dtype))
    assert {port.dtype for port in direct.ports} == {dtype}
    (kept,) = gemms(product(dtype, biased=True))
    assert [p.dtype for p in kept.ports] == [dtype, dtype, F32 if dtype.is_narrow else dtype]


# -- TF32 -----------------------------------------------------------------------------------------

SPEC = """\
data noise {
  x: f32[512]
  split = { train: 512, valid: 512 }
}
layer net_of(x: f32[B, D]) {
  reshape(x |> dense(512) |> relu, [B, 2, 16, 16]) |> conv(4, 3) |> flatten |> dense(4)
}
model net = net_of()
train {
  data = noise.batch(512)
  minimize mean(net(x)^2) + 1e-3 * mean((net.dense.w @ transpose(net.dense.w))^2) with OPTIMIZER
  steps = 1
  precision = PRECISION
}
"""


def spec(precision: str, optimizer: str = "sgd(0.1)") -> weft.Experiment:
    text = SPEC.replace("PRECISION", precision).replace("OPTIMIZER", optimizer)
    return weft.load(text, {"noise": {"x": np.ones((1_024, 512), np.float32)}})


def products(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.op.name in ("dot_general", "conv")]


def test_products_of_models_and_their_gradients_may_round_factors() -> None:
    """And no others: those of a regulariser and of an optimiser are outside of models."""
    program = spec("tf32", "muon(0.1)").loaded.program
    rounded = [n for n in products(program.train_step) if "factors" in n.attributes]
    whole = [n for n in products(program.train_step) if "factors" not in n.attributes]
    assert sum(n.op.name == "conv" for n in rounded) == 3
    assert sum(n.op.name == "dot_general" for n in rounded) == 5
    assert len(whole) > 3
    assert {n.type.dtype for n in products(program.train_step)} == {F32}
    plain = spec("f32", "muon(0.1)").loaded.program
    assert not any("factors" in n.attributes for n in products(plain.train_step))
    assert len(products(plain.train_step)) == len(rounded) + len(whole)


def test_it_shows_in_graphs_and_code() -> None:
    one, other = spec("tf32").loaded, spec("f32").loaded
    assert one.fingerprint != other.fingerprint
    graph = one.program.predict
    assert 'factors="tf32"' in print_graph(graph)
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
    made = SHOWN.listing(session_for(one, SHOWN).plan("train_step", 512), "cuda")
    assert "// cuBLAS: 1 of 512 x 512 by 512 x 512, factors rounded to TF32" in made
    assert "factors in f32" in made  # those of the regulariser
    assert "TF32" not in SHOWN.listing(session_for(other, SHOWN).plan("train_step", 512), "cuda")


def test_code_with_rounded_factors_is_other_code() -> None:
    from weft.compiler.passes.kernels import kernels

    texts = set()
    for factors in (None, "tf32"):
        graph = product(F32, factors)
        (kernel,) = kernels(plan(graph, fuse(graph), SHOWN.abilities), SHOWN.abilities)
        texts.add(text(kernel))
    assert len(texts) == 2
    assert [gemm.tf32 for f in (None, "tf32") for gemm in gemms(product(F32, f))] == [False, True]


@emulated
@pytest.mark.slow
def test_only_calls_that_say_so_round() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(260, 260)).astype(np.float32) for name in "xy"}
    exact = values["x"].astype(float) @ values["y"].astype(float)
    errors = []
    for factors in ("tf32", None):
        graph = product(F32, factors)
        program = PRETENDED.compile(plan(graph, fuse(graph), PRETENDED.abilities))
        errors.append(np.abs(program.bind({})(values)["out"] - exact).max())
    assert 5e-3 < errors[0] < 5e-2
    assert errors[1] < 1e-4


def test_rewriting_keeps_it() -> None:
    """Gradients of gradients too; in double precision there is nothing to round."""
    x, y = (b.input_(name, TensorType(F32, (4, 4))) for name in "xy")
    loss = b.reduce_sum(b.dot_general(x, b.transpose(y, (1, 0)), ((1,), (0,)), factors="tf32") * x)
    first = differentiate(loss, [x, y])
    second = differentiate(b.reduce_sum(first[0] * first[1]), [x, y])
    found = [n for n in topological(second) if n.op.name == "dot_general"]
    assert len(found) > 4
    assert all(n.attributes["factors"] == "tf32" for n in found)
    graph = Graph("g", (x, y), tuple(second))
    assert not any("factors" in n.attributes for n in widen(graph).nodes)


@pytest.mark.parametrize("dtype", [F64, BF16], ids=str)
def test_only_f32_has_it(dtype: DType) -> None:
    with pytest.raises(TypeRuleError, match="only factors of f32 can be rounded to tf32"):
        product(dtype, "tf32")
