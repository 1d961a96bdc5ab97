"""What fields take from all examples: those that train, in pieces, kept along with the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import weft
from weft.compiler import builder as b
from weft.compiler.graph import Graph
from weft.compiler.statistics import mixing, split
from weft.compiler.types import F32, TensorType, symbol
from weft.runtime import fields as fields_module

Array = np.ndarray
rng = np.random.default_rng(3)
MIXED = rng.normal(size=(5, 5)) @ np.diag([4, 2, 1, 0.5, 0.2]) @ rng.normal(size=(5, 5))
SPEC = """
data points {{
  source = {source}
  v: f32[{size}] = {field}
  y: f32         = t
  split = {{ train: 70%, valid: 30% }}
}}
model net = dense(1)
train {{
  data = points.batch(16)
  precision = {precision}
  minimize mse(net(flatten(v))[..., 0], y) with sgd(0.001)
  epochs = 1
}}
"""


def columns(rows: int = 60) -> dict[str, Array]:
    """Features with correlations, one of them the same everywhere; images; a target."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(rows, 5)) @ MIXED + 3
    image = draw.normal(size=(rows, 2, 3, 3)) * [[[2.0]], [[5.0]]] + [[[1.0]], [[-4.0]]]
    return {"x": x, "c": np.hstack([x, np.full((rows, 1), 7.0)]), "image": image, "t": x[:, 0]}


def spec(
    folder: Path,
    field: str,
    size: str = "5",
    data: dict[str, Array] | None = None,
    precision: str = "f64",
) -> Any:
    """The experiment of a field over columns stored in the folder."""
    np.savez(folder / "points.npz", **(data or columns()))
    text = SPEC.format(source='npz("points.npz")', field=field, size=size, precision=precision)
    (folder / "points.weft").write_text(text)
    return weft.load(folder / "points.weft")


def trained(experiment: Any) -> Array:
    """Which rows train."""
    rows: Array = experiment.loaded.parts["train"].rows()
    return rows


def values(experiment: Any) -> Array:
    """The field of all rows."""
    return experiment.loaded.fields.arrays["v"]  # type: ignore[no-any-return]


def principal(x: Array, count: int) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of the covariance, the largest elements positive."""
    sizes, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    axes = axes[:, ::-1][:, :count]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(count)])
    return sizes[::-1][:count], axes


def deviation(x: Array, axes: int | tuple[int, ...] = 0) -> Array:
    spread = x.std(axes, keepdims=True)
    return np.where(spread > 0, spread, 1)


def whitened(eps: float) -> Callable[[Array, Array], Array]:
    def formula(x: Array, t: Array) -> Array:
        sizes, axes = principal(t, 5)
        return (x - t.mean(0)) @ axes / np.sqrt(sizes + eps) @ axes.T

    return formula


IMAGE = (0, 2, 3)
FORMULAS = {
    "centre(x)": lambda x, t: x - t.mean(0),
    "x - mean(x, over = 0)": lambda x, t: x - t.mean(0),
    "equalise(x)": lambda x, t: x / np.sqrt((t**2).mean(0)),
    "rescale(x, -1, 1)": lambda x, t: 2 * (x - t.min(0)) / (t.max(0) - t.min(0)) - 1,
    "principal_components(x, 5)": lambda x, t: (x - t.mean(0)) @ principal(t, 5)[1],
    "whiten_components(x, 5)": lambda x, t: (
        (x - t.mean(0)) @ principal(t, 5)[1] / np.sqrt(principal(t, 5)[0] + 1e-5)
    ),
    "whiten(x, 0.01)": whitened(0.01),
}
SHAPED = {
    "standardise(c)": ("c", "6", lambda x, t: (x - t.mean(0)) / deviation(t)),
    "rescale(c)": (
        "c",
        "6",
        lambda x, t: (x - t.min(0)) / np.where(np.ptp(t, 0) > 0, np.ptp(t, 0), 1),
    ),
    "centre(image)": ("image", "2, 3, 3", lambda x, t: x - t.mean(0)),
    "centre_channels(image)": (
        "image",
        "2, 3, 3",
        lambda x, t: x - t.mean(IMAGE, keepdims=True),
    ),
    "standardise_channels(image)": (
        "image",
        "2, 3, 3",
        lambda x, t: (x - t.mean(IMAGE, keepdims=True)) / deviation(t, IMAGE),
    ),
}
CASES = {call: ("x", "5", formula) for call, formula in FORMULAS.items()} | SHAPED


@pytest.mark.parametrize("call", CASES)
def test_statistics_are_those_of_the_examples_that_train(call: str, tmp_path: Path) -> None:
    column, size, formula = CASES[call]
    data = columns()
    found = spec(tmp_path, call, size)
    expected = formula(data[column], data[column][trained(found)])
    np.testing.assert_allclose(values(found), expected, rtol=1e-6, atol=1e-7)


def test_other_examples_change_nothing(tmp_path: Path) -> None:
    found = spec(tmp_path, "standardise(x)")
    rows = trained(found)
    other = columns()
    held = np.setdiff1d(np.arange(60), rows)
    other["x"][held] = 1e3
    changed = spec(tmp_path, "standardise(x)", data=other)
    np.testing.assert_array_equal(trained(changed), rows)
    np.testing.assert_array_equal(values(changed)[rows], values(found)[rows])


@pytest.mark.parametrize("call", ["whiten(x)", "rescale(x)", "standardise(x)"])
def test_pieces_give_what_the_whole_gives(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = values(spec(tmp_path, call))
    monkeypatch.setattr(fields_module, "CHUNK", 7)
    np.testing.assert_allclose(values(spec(tmp_path, call)), whole, rtol=1e-6)


def test_files_on_disk_give_what_arrays_in_memory_give(tmp_path: Path) -> None:
    whole = spec(tmp_path, "standardise(x)")
    data = columns()
    for name in ("x", "t"):
        np.save(tmp_path / f"{name}.npy", data[name])
    source = 'npy(x = "x.npy", t = "t.npy")'
    text = SPEC.format(source=source, field="standardise(x)", size="5", precision="f64")
    (tmp_path / "mapped.weft").write_text(text)
    mapped = weft.load(tmp_path / "mapped.weft")
    assert mapped.loaded.fields.mapped
    np.testing.assert_array_equal(trained(mapped), trained(whole))
    np.testing.assert_allclose(values(mapped), values(whole), rtol=1e-12)
    one = mapped.train("numpy", out=tmp_path / "one")
    two = whole.train("numpy", out=tmp_path / "two")
    np.testing.assert_allclose(one.tensors["net.w"], two.tensors["net.w"], rtol=1e-9)


@pytest.mark.parametrize(
    "call", ["centre(x)", "equalise(x)", "standardise(c)", "centre_channels(image)", "whiten(x, 1)"]
)
def test_columns_of_another_width_will_do(call: str, tmp_path: Path) -> None:
    """A table's columns are f64, where the spec computes in f32."""
    column, size, formula = {**CASES, "whiten(x, 1)": ("x", "5", whitened(1))}[call]
    data = columns()
    found = spec(tmp_path, call, size, precision="f32")
    assert values(found).dtype == np.float32
    expected = formula(data[column], data[column][trained(found)])
    np.testing.assert_allclose(values(found), expected, rtol=1e-4, atol=1e-4)


def test_columns_narrower_than_the_precision_will_do(tmp_path: Path) -> None:
    """`resize_linear` makes weights of the run's precision, which meet the columns here."""
    data = {n: a.astype(np.float32) for n, a in columns().items()}
    wide = spec(tmp_path, "resize_linear(image, 2)", "2, 2, 2", data)
    assert values(wide).dtype == np.float64
    narrow = spec(tmp_path, "resize_linear(image, 2)", "2, 2, 2", data, "f32")
    np.testing.assert_allclose(values(wide), values(narrow), rtol=1e-5, atol=1e-6)


def test_sums_do_not_lose_the_digits_that_f32_lacks(tmp_path: Path) -> None:
    x = (1e4 + np.random.default_rng(0).normal(size=(20000, 1))).astype(np.float32)
    data = {"x": x, "t": x[:, 0]}
    found = spec(tmp_path, "x - mean(x, over = 0)", "1", data, "f32")
    assert abs(values(found)[trained(found)].astype(np.float64).mean()) < 1e-3


def test_a_model_takes_its_statistics_along(tmp_path: Path) -> None:
    """Prediction and ONNX from raw columns, when the data are gone."""
    from click.testing import CliRunner

    from weft.cli.app import app

    experiment = spec(tmp_path, "whiten(x)", precision="f32")
    run = experiment.train("numpy", out=tmp_path / "run")
    expected = run.predict(values(experiment)[:9])["net"]
    raw = columns()["x"][:9]
    np.savez(tmp_path / "raw.npz", x=raw)
    (tmp_path / "points.npz").unlink()
    predict = ["predict", "run", "-i", "raw.npz", "-o", "out.npy", "--raw"]
    export = ["export", "run", "-o", "raw.onnx", "--raw"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for arguments in (predict, export):
            done = CliRunner().invoke(app, arguments, catch_exceptions=False)
            assert done.exit_code == 0, done.output
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5, atol=1e-6)
    session = onnxruntime.InferenceSession(tmp_path / "raw.onnx")
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("x", ["batch", 5])]
    (given,) = session.run(None, {"x": raw})
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


def test_a_raw_export_needs_no_statistics(tmp_path: Path) -> None:
    run = spec(tmp_path, "x / 2", precision="f32").train("numpy", out=tmp_path / "run")
    assert not (tmp_path / "run" / "fitted.npz").exists()
    raw = columns()["x"][:4]
    session = onnxruntime.InferenceSession(run.export_onnx(tmp_path / "raw.onnx", raw=True))
    (given,) = session.run(None, {"x": raw})
    expected = run.predict((raw / 2).astype(np.float32))["net"]
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def test_a_run_keeps_its_statistics_for_other_data(tmp_path: Path) -> None:
    """Evaluating on shifted examples must see the shift: nothing is fitted to them."""
    run = spec(tmp_path, "standardise(x)").train("numpy", out=tmp_path / "run")
    before = run.evaluate("valid")
    moved = columns()
    moved["x"] = moved["x"] + 100
    np.savez(tmp_path / "points.npz", **moved)
    after = weft.open_run(tmp_path / "run").evaluate("valid")
    assert after["loss"] > 2 * before["loss"]


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    experiment = spec(tmp_path, "standardise(x)")
    one, two = (experiment.train("numpy", out=tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(two.tensors[name], tensor)
    stored = [(tmp_path / name / "fitted.npz").read_bytes() for name in ("one", "two")]
    assert stored[0] == stored[1]


# -- the graph ------------------------------------------------------------------------------------

BATCH = symbol("batch")


def prepare(build: Any) -> Graph:
    x = b.input_("x", TensorType(F32, (BATCH, 3)))
    out = build(x)
    return Graph("prepare", (x,), (out,), ("v",))


def spread(values: Any, shape: Any) -> Any:
    return b.broadcast(values, shape.type.shape, (1,))


def test_independent_sums_take_one_pass_and_dependent_ones_wait() -> None:
    def build(x: Any) -> Any:
        low, high = b.reduce("min", x, (0,)), b.reduce("max", x, (0,))
        near = x - spread(low, x)
        return near / spread(high, x) + spread(b.reduce("sum", near, (0,)), x)

    found = split(prepare(build), BATCH)
    assert [len(stage.combined) for stage in found.stages] == [2, 1]
    assert len(found.names) == 3
    assert not any(n.op.name.startswith("reduce") for n in found.prepare.nodes)


def test_a_field_of_its_own_example_is_left_as_it_is() -> None:
    graph = prepare(lambda x: x + spread(b.zeros(TensorType(F32, (3,))), x))
    found = split(graph, BATCH)
    assert not found.stages
    assert found.prepare.outputs == graph.outputs


def test_how_many_examples_there_are_is_how_many_train() -> None:
    def build(x: Any) -> Any:
        return x * b.broadcast(b.size_of([BATCH], F32), x.type.shape, ())

    found = split(prepare(build), BATCH)
    assert len(found.names) == 1


def test_what_runs_along_the_examples_is_found() -> None:
    from weft.compiler.graph import make

    graphs = {
        "sort": prepare(lambda x: make("sort", x, axis=0, descending=False)),
        "cumsum": prepare(lambda x: make("cumsum", x, axis=0, reverse=False)),
        "reverse": prepare(lambda x: make("reverse", x, axes=(0,))),
    }
    for name, graph in graphs.items():
        node = mixing(graph, BATCH)
        assert node is not None, name
        assert node.op.name == name
    for axis in (1, -1):
        fine = prepare(lambda x, axis=axis: make("reverse", x, axes=(axis % 2,)))
        assert mixing(fine, BATCH) is None
