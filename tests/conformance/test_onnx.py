"""ONNX export against the reference: primitives, drawn settings, symbolic sizes, refusals."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.cases import Case, cases, spaced, unit
from conformance.drawn import Attributes, Sizes, convolutions, layouts, paddings, windows
from conformance.onnx_runs import Arrays, compare, run
from random_graphs import SIZES, arrays, random_graph
from weft.backends.onnx import export
from weft.backends.onnx.export import export_graph
from weft.compiler import builder as b
from weft.compiler.errors import RunError
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import vjp
from weft.compiler.graph import Graph, make
from weft.compiler.ops import OPS
from weft.compiler.types import (
    BF16,
    F16,
    F32,
    F64,
    I64,
    U8,
    U32,
    U64,
    DType,
    TensorType,
    dtype_of,
    symbol,
)

BATCH = symbol("batch")
RATES = {F16: 2e-2, F32: 1e-5, F64: 1e-12}

# What onnxruntime's CPU provider has no kernel for; the models are valid all the same.
NOT_IN_F64 = frozenset({"conv", "erf"})


# -- primitives -----------------------------------------------------------------------------------


def test_every_primitive_has_a_rule() -> None:
    assert export.RULES.keys() == OPS.keys() - {"input", "call"}


def runnable(case: Case, dtype: DType) -> bool:
    """Whether onnxruntime has the kernels, and Python a way to read the results."""
    if BF16 in case.attributes.values() or (dtype == F64 and case.op in NOT_IN_F64):
        return False
    return case.has_float or dtype == F32


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(c, d) for c in cases() for d in (F32, F64) if runnable(c, d)],
    ids=lambda value: value.id if isinstance(value, Case) else str(value),
)
def test_primitive(case: Case, dtype: DType) -> None:
    graph, values = case.graph(dtype)
    compare(run(export_graph(graph), values), evaluate(graph, values), RATES[dtype])


@pytest.mark.parametrize("op", sorted(OPS.keys() - {"input", "call"}))
def test_half_precision_is_valid(op: str) -> None:
    """The checker accepts 16-bit floats for every primitive; f16 also runs."""
    for case in cases():
        if case.op != op or not case.has_float:
            continue
        export_graph(case.graph(BF16)[0])
        if runnable(case, F16):
            graph, values = case.graph(F16)
            compare(run(export_graph(graph), values), evaluate(graph, values), RATES[F16])


INTEGERS: tuple[tuple[str, DType, dict[str, object]], ...] = (
    ("floor_divide", U8, {}),
    ("remainder", U64, {}),
    ("shift_left", U64, {}),
    ("shift_right", I64, {}),
    ("maximum", U64, {}),
    ("minimum", I64, {}),
    ("select", U64, {}),
    ("arg_max", U64, {"axis": 0}),
    ("reduce_max", U64, {"axes": (0,)}),
    ("reduce_min", U32, {"axes": (0,)}),
    ("reduce_max", I64, {"axes": (0,)}),
    ("reduce_sum", U8, {"axes": (0,)}),
    ("sort", U64, {"axis": 0, "descending": True}),
    ("cumsum", U32, {"axis": 0, "reverse": False}),
    ("dot_general", U8, {"contract": ((0,), (0,)), "batch": ((), ())}),
    ("gather", U64, {"batch_dims": 0}),
)


@pytest.mark.parametrize(("op", "dtype", "attributes"), INTEGERS, ids=str)
def test_integers_that_kernels_lack(op: str, dtype: DType, attributes: dict[str, object]) -> None:
    info = np.iinfo(dtype.numpy)
    edge = [0, 1, 2, 5, 7, info.max // 2, info.max - 1, info.max]
    values = {
        "x": np.array(edge, dtype.numpy),
        "y": np.array([3, 0, 1, 9, 63, 2, 1, info.max], dtype.numpy),
        "c": np.array([True, False] * 4),
    }
    nodes = {k: b.input_(k, TensorType(dtype_of(v), v.shape)) for k, v in values.items()}
    row = OPS[op]
    names = ("c", "x", "y") if op == "select" else ("x", "y")[: row.arity]
    graph = Graph("g", tuple(nodes.values()), (make(op, *(nodes[n] for n in names), **attributes),))
    compare(run(export_graph(graph), values), evaluate(graph, values), 0)


# -- symbolic sizes -------------------------------------------------------------------------------


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_random_graph(seed: int) -> None:
    """Sizes stay symbolic; names may hold any character."""
    graph = random_graph(random.Random(seed), 40)
    values = arrays(graph)
    compare(run(export_graph(graph), values), evaluate(graph, values, SIZES), 1e-9)


@pytest.mark.parametrize("batch", [1, 4, 9])
def test_symbolic_sizes(batch: int) -> None:
    """What needs a size in numbers computes it from the shape of an input."""
    x = b.input_("x", TensorType(F32, (BATCH, 2, 6)))
    seed, step = b.input_("seed", TensorType(U32, (2,))), b.input_("step", TensorType(U32))
    half = (BATCH + 1) // 2
    places = b.iota(I64, (BATCH,), 0)
    outputs = {
        "bits": make("random_bits", seed, step, shape=(BATCH, 3), stream="s"),
        "line": places,
        "rows": b.iota(F32, (2, BATCH, 3), 1),
        "zeros": b.zeros(TensorType(F32, (BATCH, BATCH * 2))),
        "count": make("dim_size", dim=BATCH * BATCH * 3 - 1, dtype=F32),
        "flat": b.flatten(x),
        "swapped": b.reshape(b.transpose(x, (1, 0, 2)), (2, BATCH * 2, 3)),
        "evens": b.slice_axis(x, 0, 0, BATCH, 2),
        "first": b.slice_axis(x, 0, 0, half),
        "padded": b.pad(x, (BATCH, 0, 0), (1, 0, 0)),
        "spread": b.pad(x, (0, 0, 0), (0, 0, 0), (2, 0, 1), 0.5),
        "sums": b.reduce_window(x, "sum", (2,), (2,), ((0, 0),)),
        "places": make(
            "arg_reduce_window", x, reducer="max", window=(3,), strides=(3,),
            padding=((1, 1),), dilation=(1,),
        ),
        "sorted": make("sort", x, axis=0, descending=True),
        "last": b.gather(x, places + 5),
        "added": b.scatter_add(x, places * 0, x),
        "product": b.dot_general(x, x, ((1, 2), (1, 2))),
    }  # fmt: skip
    graph = Graph("g", (x, seed, step), tuple(outputs.values()), tuple(outputs))
    values = {
        "x": np.random.default_rng(0).normal(size=(batch, 2, 6)).astype(np.float32),
        "seed": np.array([5, 6], np.uint32),
        "step": np.array(2, np.uint32),
    }
    compare(run(export_graph(graph), values), evaluate(graph, values), 1e-5)


def test_bias_is_not_repeated() -> None:
    """Broadcasts that arithmetic does by itself are not written."""
    x, bias = b.input_("x", TensorType(F32, (BATCH, 4))), b.input_("b", TensorType(F32, (4,)))
    outer = b.broadcast(bias, (4, 4), (0,)) - b.broadcast(bias, (4, 4), (1,))
    graph = Graph("g", (x, bias), (x + b.broadcast(bias, x.type.shape, (1,)), outer))
    assert [n.op_type for n in export_graph(graph).graph.node] == ["Add", "Unsqueeze", "Sub"]


# -- drawn settings -------------------------------------------------------------------------------


def case_of(op: str, *arrays: np.ndarray, **attributes: object) -> tuple[Graph, Arrays]:
    values = {f"x{i}": a.astype(np.float32) for i, a in enumerate(arrays)}
    inputs = tuple(b.input_(k, TensorType(F32, a.shape)) for k, a in values.items())
    return Graph("g", inputs, (make(op, *inputs, **attributes),)), values


@settings(max_examples=80)
@given(drawn=convolutions())
def test_convolution(drawn: tuple[Sizes, Sizes, Attributes]) -> None:
    """The product, and its gradients: the one to `x` reads the kernel as the product does."""
    x, kernel, attributes = drawn
    graph, values = case_of("conv", spaced(*x), unit(*kernel, seed=1), **attributes)
    product = graph.outputs[0]
    outputs = (product, *vjp([product], [b.unary("sin", product)], graph.inputs))
    whole = Graph("g", graph.inputs, outputs, ("product", "to x", "to kernel"))
    compare(run(export_graph(whole), values), evaluate(whole, values), 1e-4)


@settings(max_examples=80)
@given(drawn=windows())
def test_window(drawn: tuple[Sizes, Attributes]) -> None:
    shape, attributes = drawn
    graph, values = case_of("reduce_window", spaced(*shape), **attributes)
    outputs = {"reduced": graph.outputs[0]}
    if attributes["reducer"] != "sum":
        outputs["place"] = make("arg_reduce_window", *graph.inputs, **attributes)
    whole = graph.with_outputs(outputs)
    compare(run(export_graph(whole), values), evaluate(whole, values), 1e-5)


@settings(max_examples=80)
@given(drawn=layouts())
def test_product(drawn: tuple[Sizes, Sizes, Attributes, str]) -> None:
    left, right, attributes, _ = drawn
    graph, values = case_of("dot_general", spaced(*left), spaced(*right, seed=1), **attributes)
    compare(run(export_graph(graph), values), evaluate(graph, values), 1e-5)


@settings(max_examples=80)
@given(drawn=paddings())
def test_padding(drawn: tuple[Sizes, Attributes]) -> None:
    shape, attributes = drawn
    graph, values = case_of("pad", spaced(*shape), **attributes)
    compare(run(export_graph(graph), values), evaluate(graph, values), 0)


# -- what ONNX can't say --------------------------------------------------------------------------


def graph_of(op: str, *types: TensorType, **attributes: object) -> Graph:
    inputs = tuple(b.input_(f"x{i}", t) for i, t in enumerate(types))
    return Graph("g", inputs, (make(op, *inputs, **attributes),))


def test_missing_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(export.RULES, "erf")
    with pytest.raises(RunError, match="no ONNX rule for `erf`"):
        export_graph(graph_of("erf", TensorType(F32, (2,))))


def test_unknown_opset() -> None:
    with pytest.raises(RunError, match="opset 3 can't be written"):
        export_graph(graph_of("exp", TensorType(F32, (2,))), opset=3)


def test_opset_without_an_operator() -> None:
    graph = graph_of("xor", TensorType(U32, (2,)), TensorType(U32, (2,)))
    with pytest.raises(RunError, match="opset 17 has no `BitwiseXor`"):
        export_graph(graph, opset=17)


def test_size_that_no_input_has() -> None:
    x = b.input_("x", TensorType(F32, (BATCH * 2,)))
    graph = Graph("g", (x,), (make("dim_size", dim=BATCH, dtype=F32), x))
    with pytest.raises(RunError, match="the size `batch` can't be known"):
        export_graph(graph)


def test_initialiser_of_another_type() -> None:
    graph = graph_of("exp", TensorType(F32, (2,)))
    with pytest.raises(RunError, match="`x0` has another type"):
        export_graph(graph, initializers={"x0": np.zeros(3, np.float32)})


def test_names_are_used_once() -> None:
    """An input returned as it is, a value returned twice, a state's new value."""
    x, y = (b.input_(n, TensorType(F32, (2,))) for n in "xy")
    total = x + y
    graph = Graph("g", (x, y), (total, total, x, y), ("x", "sum", "same", "y"))
    model = export_graph(graph, outputs={"sum": "total"})
    assert [o.name for o in model.graph.output] == ["x.next", "total", "same", "y.next"]
    values = {"x": np.ones(2, np.float32), "y": np.zeros(2, np.float32)}
    found = run(model, values)
    np.testing.assert_array_equal(found["total"], found["x.next"])
    np.testing.assert_array_equal(found["y.next"], values["y"])
