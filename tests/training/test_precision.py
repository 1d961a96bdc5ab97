"""`precision = bf16` and `f16`: models compute in 16 bits, and all that is kept has 32."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import weft
from examples.table import EXAMPLES
from steps import Steps
from training.test_trainer import Listener, same_run
from weft.compiler import builder as b
from weft.compiler.composites import bodies
from weft.compiler.errors import CompileError, RunError
from weft.compiler.graph import Graph, Node
from weft.compiler.pipeline import optimise
from weft.compiler.types import BF16, F16, F32, F64, DType, TensorType
from weft.runtime.backends import BACKENDS, Entry, backend_named
from weft.runtime.signals import Interrupted

DIGITS = """\
data digits {
  source = embedded("digits")
  x: f32[64]   = features / 16
  y: class[10] = target
  split = { train: 80%, valid: 10%, test: 10% }
}
layer mlp(x: f32[B, D]) {
  x |> dense(64) |> batch_norm |> relu |> dropout(0.1) |> dense(10)
}
model net = mlp()
train {
  data = digits.batch(32, shuffle = true)
  minimize cross_entropy(net(x), y) + 1e-4 * l2(net.weights) with adamw(lr = cosine(5e-3))
  metrics = { accuracy: accuracy(net(x), y) }
  clip = global_norm(1.0)
  average = ema(0.9)
  epochs = 4
}
"""
FOLDER = Path(__file__).parents[2] / "examples"
POINTS = """\
data points {
  source = npz("points.npz")
  x: f32[4] = x
  split = { train: 80%, valid: 20% }
}
"""
NARROW = pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


def steps(model: str, train: str, **overrides: object) -> Steps:
    text = f"{POINTS}{model}\ntrain {{\n  data = points.batch(8)\n  steps = 10\n  {train}\n}}\n"
    return Steps.of(text, {"x": X}, **overrides)


def nodes(graph: Graph) -> list[Node]:
    return [node for part in (graph, *bodies(graph)) for node in part.nodes]


# -- what has which type --------------------------------------------------------------------------


@NARROW
def test_what_is_kept_is_wide_and_what_a_model_computes_is_narrow(dtype: DType) -> None:
    program = weft.load(DIGITS, precision=str(dtype)).loaded.program
    floats = {n: s for n, s in program.states.items() if s.type.dtype.kind == "float"}
    assert {s.role for s in floats.values()} == {"parameter", "buffer", "slot", "average", "metric"}
    assert {s.type.dtype for s in floats.values() if s.role != "metric"} == {F32}
    products = [n for n in nodes(program.train_step) if n.op.name == "dot_general"]
    assert {n.type.dtype for n in products} == {dtype}
    for graph in (program.train_step, program.eval_step):
        outputs = graph.named_outputs
        assert {outputs[name].type.dtype for name in ("loss", "accuracy")} == {F32}
    assert [n.type.dtype for n in program.predict.outputs] == [F32]
    assert not any(n.type.dtype.is_narrow for n in program.epoch_end.nodes)
    assert not any(n.type.dtype.is_narrow for n in nodes(program.init))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_has_it(name: str) -> None:
    """Its models in 16 bits, its parameters in f32: no part of the library is in the way."""
    program = weft.load(FOLDER / f"{name}.weft", precision="bf16").loaded.program
    assert BF16 in program.types
    assert not any(state.type.dtype.is_narrow for state in program.states.values())


def test_a_parameter_is_rounded_once_a_step_however_often_it_is_used() -> None:
    made = steps(
        "layer twice(x) {\n  param w: float[4, 4] ~ normal\n  x @ w @ w\n}\nmodel net = twice()",
        "minimize mean(net(x)^2) + mean(net(2 * x)^2) with sgd(0.1)",
        precision="bf16",
    )
    graph = optimise(made.program.train_step)
    casts = [n for n in graph.nodes if n.op.name == "cast" and n.inputs[0].op.name == "input"]
    assert [n.inputs[0].name for n in casts].count("net.w") == 1


MEETING = """\
layer halves(x) { x |> wide }
layer meeting(x: f32[B, D]) {
  state seen: f32[D] ~ zeros
  seen <- lerp(seen, mean(x, over = B), 0.5)
  let y = wide(x) * 2
  let both = concat([where(y > 0, y, x), x], over = 1)
  fail("here", found = PROBE)
}
model net = meeting()"""
PROBES = {
    "x * 2": BF16,
    "x + seen": F32,
    "seen - x": F32,
    "y": F32,
    "both": F32,
    "both @ ones([2 * D, D])": F32,
    "x @ ones([D, D])": BF16,
    "float(y)": BF16,
    "halves(x)": BF16,
    "ones([D])": BF16,
    "mean(x)": BF16,
    "sum(x) / count(B)": F32,
    "x + uniform([B, D])": F32,
}


@pytest.mark.parametrize("probe", PROBES)
def test_narrow_meets_wide(probe: str) -> None:
    """A state, a size, a draw, and what is said to be wide; what a layer gives is narrow again."""
    with pytest.raises(CompileError) as error:
        steps(MEETING.replace("PROBE", probe), "minimize net(x) with sgd(0.1)", precision="bf16")
    assert str(error.value.diagnostic.found).startswith(f"{PROBES[probe]}[")


@NARROW
def test_what_is_rounded_stays_rounded(dtype: DType) -> None:
    """No pass takes a rounding for a way and back; the other way round it is one."""
    x, y = b.input_("x", TensorType(F32, (3,))), b.input_("y", TensorType(dtype, (3,)))
    there, back = b.cast(b.cast(x, dtype), F32), b.cast(b.cast(y, F32), dtype)
    graph = optimise(Graph("g", (x, y), (there, back), ("there", "back")))
    assert [n.op.name for n in graph.nodes] == ["input", "input", "cast", "cast"]
    assert graph.named_outputs["back"].op.name == "input"


# -- what that is worth ---------------------------------------------------------------------------

ONE = "layer one(x) {\n  param w: f32[4] ~ ones\n  mean(x * 0 + w)\n}\nmodel net = one()"


@NARROW
def test_steps_that_are_too_small_for_a_narrow_parameter_add_up(dtype: DType) -> None:
    """The gradient is 1/4 by each weight of 1; a step is a small part of the last place of 1."""
    rate = 4e-5
    narrow = dtype.numpy.type
    assert narrow(narrow(1) - narrow(rate / 4)) == 1
    made = steps(ONE, f"minimize net(x) with sgd({rate})", precision=str(dtype))
    for _ in range(50):
        made.step(x=X[:8])
    np.testing.assert_allclose(made.state["net.w"], 1 - 50 * rate / 4, rtol=1e-6)


@NARROW
def test_clocks_are_exact(dtype: DType) -> None:
    """Whole numbers after 256 have no place in bf16: Adam counts on, and so does a schedule."""
    train = "minimize net(x) with adam(lr = cosine(1e-3), beta2 = 0.9)\n  clip = global_norm(0.5)"
    narrow, wide = (steps(ONE, train, precision=p, steps=400) for p in (str(dtype), "f32"))
    for _ in range(300):
        narrow.step(x=X[:8])
        wide.step(x=X[:8])
    np.testing.assert_array_equal(narrow.state["net.w"], wide.state["net.w"])
    assert wide.state["net.w"][0] < 0.85


@NARROW
def test_running_averages_do_not_stop_short(dtype: DType) -> None:
    """A bf16 average that takes 1% of what is new stays where that is less than half a place."""
    made = steps(
        "layer scaled(x: f32[B, D]) { x + 3 |> batch_norm(momentum = 0.01) |> dense(1) }\n"
        "model net = scaled()",
        "minimize mean(net(x)^2) with sgd(0)",
        precision=str(dtype),
    )
    for _ in range(600):
        made.step(x=X[:8])
    mean = made.state["net.batch_norm.mean"]
    expected = (X[:8].astype(dtype.numpy) + 3).astype(np.float32).mean(0)
    np.testing.assert_allclose(mean, expected * (1 - 0.99**600), rtol=5e-3)


def test_means_of_more_than_a_narrow_float_counts() -> None:
    """Neither 80,000 nor their sum is an f16."""
    made = steps(
        "layer long(x) { mean(broadcast(x[0, 0], [80000])) + 0 * sum(dense(x, 1)) }\n"
        "model net = long()",
        "minimize net(x + 2) with sgd(0)",
        precision="f16",
    )
    assert made.step(x=np.zeros((8, 4), np.float32))["loss"] == 2


# -- runs -----------------------------------------------------------------------------------------


def accuracy(run: weft.Run) -> float:
    return float(run.metrics["test"]["accuracy"])


def test_digits_reach_what_they_reach_in_single_precision(tmp_path: Path) -> None:
    found = {
        p: accuracy(weft.load(DIGITS, precision=p).train("numpy", tmp_path / p))
        for p in ("f32", "bf16", "f16")
    }
    assert found["f32"] > 0.95
    assert found["bf16"] > found["f32"] - 0.015
    assert found["f16"] > found["f32"] - 0.015


def test_a_precision_that_there_is_not() -> None:
    with pytest.raises(CompileError) as caught:
        weft.load(DIGITS, precision="tf33")
    assert caught.value.diagnostic.message == "`precision` is a floating type"
    assert "`tf32`" in str(caught.value.diagnostic.expected)


def test_a_stopped_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    spec = weft.load(DIGITS, precision="bf16")
    whole = spec.train("numpy", tmp_path / "whole")
    with pytest.raises(Interrupted):
        spec.train("numpy", tmp_path / "cut", reporter=Listener(stop_after=2))
    weft.open_run(tmp_path / "cut").resume()
    assert same_run(tmp_path / "whole", tmp_path / "cut")
    assert {a.dtype for n, a in whole.tensors.items() if n.startswith("net.")} == {np.dtype("f4")}


def test_an_exported_model_agrees(tmp_path: Path) -> None:
    run = weft.load(DIGITS, precision="f16", epochs=1).train("numpy", tmp_path / "run")
    session = onnxruntime.InferenceSession(run.export_onnx(tmp_path / "model.onnx"))
    x = np.random.default_rng(0).uniform(size=(20, 64)).astype(np.float32)
    (found,) = session.run(None, {"x": x})
    expected: Mapping[str, np.ndarray] = run.predict({"x": x})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected["net"], atol=2e-2)


# -- backends -------------------------------------------------------------------------------------


def test_a_backend_that_computes_them_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "tvm", Entry(BACKENDS["numpy"].load, narrow=False))  # type: ignore[misc]
    assert backend_named("auto", [F32, BF16]).name == "numpy"
    with pytest.raises(RunError, match="computes in f32 and f64") as error:
        backend_named("tvm", [F32, BF16])
    assert error.value.diagnostic.found == "`precision = bf16`"
    assert "numpy" in str(error.value.diagnostic.hint)
    assert backend_named("tvm", [F32, F64]) is backend_named("numpy")


def test_less_memory_is_taken() -> None:
    layers = "x " + "|> dense(256) |> relu " * 4 + "|> dense(10)"
    text = re.sub("x .> dense.64.*", layers, DIGITS).replace("batch(32", "batch(1024")
    found = {p: weft.load(text, precision=p).check().peak_bytes for p in ("f32", "bf16")}
    assert found["bf16"] < 0.75 * found["f32"]


# -- scaled losses --------------------------------------------------------------------------------


def test_a_scaled_loss_saves_gradients_that_f16_would_lose() -> None:
    """A gradient of 1e-9 is 0 in f16; 2^14 times as much is not."""
    tiny = "layer tiny(x) {\n  param w: f32[4] ~ ones\n  mean(x * 0 + w)\n}\nmodel net = tiny()"
    train = "minimize 4e-9 * net(x) with sgd(1e6)"
    lost = steps(tiny, train, precision="f16")
    kept = steps(tiny, f"{train}\n  loss_scale = 16384", precision="f16")
    for made in (lost, kept):
        assert made.step(x=X[:8])["loss"] == np.float32(4e-9)
    np.testing.assert_array_equal(lost.state["net.w"], 1)
    np.testing.assert_allclose(kept.state["net.w"], 1 - 1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("loss_scale = 0", "`loss_scale` is a number above 0"),
        ("loss_scale = true", "`loss_scale` is a number above 0"),
        ("loss_scale = 8\n  precision = bf16", "only gradients in f16"),
        ("loss_scale = 8", "only gradients in f16"),
    ],
)
def test_scales_that_make_no_sense(setting: str, said: str) -> None:
    with pytest.raises(CompileError, match=said):
        steps(ONE, f"minimize net(x) with sgd(0.1)\n  {setting}")
