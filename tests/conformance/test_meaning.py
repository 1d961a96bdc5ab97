"""What primitives mean: as their type rules say, and as plain loops and Python's own numbers do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.cases import Case, cases, spaced
from conformance.drawn import convolutions, layouts, paddings, windows
from weft.compiler import builder as b
from weft.compiler.errors import RunError
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, make
from weft.compiler.ops import OPS
from weft.compiler.types import (
    BF16,
    F16,
    F32,
    F64,
    I64,
    DType,
    TensorType,
    static_shape,
    symbol,
)

Array = np.ndarray


def meaning(op: str, *arrays: Array, **attributes: Any) -> Array:
    evaluate_op = OPS[op].evaluate
    assert evaluate_op is not None
    with np.errstate(all="ignore"):
        return np.asarray(evaluate_op(*arrays, **attributes))


# -- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_results_have_the_type_that_the_rule_states(case: Case) -> None:
    for dtype in (F64, F32, F16, BF16) if case.has_float else (F64,):
        graph, arrays = case.graph(dtype)
        result = evaluate(graph, arrays)["out"]
        type = graph.outputs[0].type
        assert (result.dtype, result.shape) == (type.dtype.numpy, static_shape(type.shape))
        assert result.flags.c_contiguous
        if case.op != "input":
            assert not any(np.shares_memory(result, array) for array in arrays.values())


@pytest.mark.parametrize("case", [c for c in cases() if c.has_float], ids=lambda case: case.id)
def test_single_precision_is_near_double(case: Case) -> None:
    (single, few), (double, many) = case.graph(F32), case.graph(F64)
    found, expected = evaluate(single, few)["out"], evaluate(double, many)["out"]
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_short_floats_are_summed_in_single_precision(dtype: DType) -> None:
    ones = np.ones((3000, 1), dtype.numpy)
    expected = np.asarray(3000.0).astype(dtype.numpy)
    assert meaning("reduce_sum", ones, axes=(0, 1)) == expected
    assert meaning("cumsum", ones, axis=0, reverse=False)[-1] == expected
    axes = {"contract": ((0,), (0,)), "batch": ((), ())}
    assert meaning("dot_general", ones, ones, **axes)[0, 0] == expected
    added = meaning("scatter_add", ones[:1], np.zeros(2999, np.int64), ones[1:], batch_dims=0)
    assert added[0, 0] == expected


# -- elementwise ----------------------------------------------------------------------------------

POINTWISE: dict[str, Callable[..., float]] = {
    "negate": lambda x: -x,
    "abs": abs,
    "sign": lambda x: math.copysign(1, x),
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "logistic": lambda x: 1 / (1 + math.exp(-x)),
    "erf": math.erf,
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "remainder": lambda x, y: x % y,
    "power": lambda x, y: x**y,
    "maximum": max,
    "minimum": min,
    "equal": lambda x, y: x == y,
    "not_equal": lambda x, y: x != y,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "select": lambda c, x, y: x if c else y,
}


@pytest.mark.parametrize("op", sorted(POINTWISE))
def test_elementwise_ops_are_those_of_python(op: str) -> None:
    for case in (c for c in cases() if c.op == op and c.has_float):
        graph, arrays = case.graph()
        values = [array.ravel().tolist() for array in arrays.values()]
        expected = [POINTWISE[op](*numbers) for numbers in zip(*values, strict=True)]
        found = evaluate(graph, arrays)["out"].ravel()
        np.testing.assert_allclose(found, np.array(expected), rtol=1e-15)


def test_erf_is_exact_to_the_last_digits() -> None:
    steps = np.concatenate([np.linspace(-6.5, 6.5, 40_001), np.geomspace(1e-300, 0.5, 2_000)])
    edges = np.array([0.46875, 0.5, 4.0, 0.0, -0.0])
    x = np.concatenate([steps, edges, np.nextafter(edges, 9), np.nextafter(edges, -9)])
    expected = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(meaning("erf", x), expected, rtol=1e-15, atol=0)
    special = meaning("erf", np.array([np.inf, -np.inf, np.nan, 30.0]))
    np.testing.assert_array_equal(special, [1, -1, np.nan, 1])
    assert np.signbit(meaning("erf", np.array([-0.0])))[0]


def test_logistic_does_not_overflow() -> None:
    found = meaning("logistic", np.array([-1000.0, -40.0, 0.0, 40.0, 1000.0, np.inf, -np.inf]))
    np.testing.assert_allclose(found, [0, math.exp(-40), 0.5, 1, 1, 1, 0], rtol=1e-15)


def test_integers_wrap_and_shift_as_bits() -> None:
    x = np.array([2**32 - 1, 5, 2**31], np.uint32)
    by = np.array([31, 32, 1], np.uint32)
    np.testing.assert_array_equal(meaning("shift_left", x, by), np.array([2**31, 0, 0], np.uint32))
    np.testing.assert_array_equal(meaning("shift_right", x, by), np.array([1, 0, 2**30]))
    signed = np.array([-1, -1, 4], np.int32)
    found = meaning("shift_right", signed, np.array([28, 40, -1], np.int32))
    np.testing.assert_array_equal(found, [15, 0, 0])
    a, c = np.array([-7, 7, -7], np.int32), np.array([2, -2, -2], np.int32)
    np.testing.assert_array_equal(meaning("floor_divide", a, c), [-4, -4, 3])
    np.testing.assert_array_equal(meaning("remainder", a, c), [1, -1, -1])


def test_reductions_of_nothing_are_the_identity() -> None:
    nothing = np.ones((0, 2))
    expected = {"sum": 0, "prod": 1, "max": -np.inf, "min": np.inf}
    for name, value in expected.items():
        found = meaning(f"reduce_{name}", nothing, axes=(0,))
        np.testing.assert_array_equal(found, [value, value])


# -- loops ----------------------------------------------------------------------------------------


def positions(shape: tuple[int, ...]) -> itertools.product[tuple[int, ...]]:
    return itertools.product(*(range(n) for n in shape))


def output_size(size: int, width: int, stride: int, padding: tuple[int, int], gap: int) -> int:
    return (size + sum(padding) - (width - 1) * gap - 1) // stride + 1


def conv_by_loops(x: Array, kernel: Array, attributes: dict[str, Any]) -> Array:
    strides, padding = attributes["strides"], attributes["padding"]
    spread, gap = attributes["lhs_dilation"], attributes["rhs_dilation"]
    rank = len(strides)
    sizes = tuple(
        output_size(
            (x.shape[2 + i] - 1) * spread[i] + 1,
            kernel.shape[2 + i], strides[i], padding[i], gap[i],
        )
        for i in range(rank)
    )  # fmt: skip
    per_group = kernel.shape[0] // attributes["groups"]
    out = np.zeros((x.shape[0], kernel.shape[0], *sizes))
    for n, o, *at in positions(out.shape):
        for c, *k in positions(kernel.shape[1:]):
            place = [at[i] * strides[i] + k[i] * gap[i] - padding[i][0] for i in range(rank)]
            source = [p // s for p, s in zip(place, spread, strict=True)]
            exact = all(p % s == 0 for p, s in zip(place, spread, strict=True))
            if exact and all(0 <= p < x.shape[2 + i] for i, p in enumerate(source)):
                channel = o // per_group * kernel.shape[1] + c
                out[(n, o, *at)] += x[(n, channel, *source)] * kernel[(o, c, *k)]
    return out


@settings(max_examples=80)
@given(convolutions())
def test_conv_is_its_sum(drawn: tuple[Any, Any, dict[str, Any]]) -> None:
    x, kernel = spaced(*drawn[0]), spaced(*drawn[1], seed=1)
    expected = conv_by_loops(x, kernel, drawn[2])
    np.testing.assert_allclose(meaning("conv", x, kernel, **drawn[2]), expected, atol=1e-12)


@pytest.mark.parametrize("case", [c for c in cases() if c.op == "conv"], ids=lambda c: c.label)
def test_conv_cases_are_their_sums(case: Case) -> None:
    expected = conv_by_loops(*case.arrays, case.attributes)
    np.testing.assert_allclose(meaning("conv", *case.arrays, **case.attributes), expected)


def windows_by_loops(x: Array, attributes: dict[str, Any]) -> tuple[Array, Array]:
    """The reduction, and for `max` and `min` where each window's first extreme element is."""
    window, strides, padding, gap = (
        attributes[name] for name in ("window", "strides", "padding", "dilation")
    )
    rank, lead = len(window), x.ndim - len(window)
    inner = x.shape[lead:]
    sizes = tuple(
        output_size(inner[i], window[i], strides[i], padding[i], gap[i]) for i in range(rank)
    )
    identity, better = {
        "sum": (0.0, None),
        "max": (-np.inf, lambda new, old: new > old),
        "min": (np.inf, lambda new, old: new < old),
    }[attributes["reducer"]]
    out = np.full((*x.shape[:lead], *sizes), identity)
    places = np.full(out.shape, -1)
    for index in positions(out.shape):
        at = index[lead:]
        for w in positions(window):
            source = [at[i] * strides[i] + w[i] * gap[i] - padding[i][0] for i in range(rank)]
            # Negative padding cuts: what it cuts is not seen either.
            low = [max(0, -p[0]) for p in padding]
            high = [n - max(0, -p[1]) for n, p in zip(inner, padding, strict=True)]
            if not all(a <= s < z for a, s, z in zip(low, source, high, strict=True)):
                continue
            value = x[(*index[:lead], *source)]
            if better is None:
                out[index] += value
            elif places[index] < 0 or better(value, out[index]):
                out[index] = value
                places[index] = np.ravel_multi_index(source, inner)
    return out, places


@settings(max_examples=80)
@given(windows())
def test_windows_are_their_loops(drawn: tuple[Any, dict[str, Any]]) -> None:
    x = np.round(spaced(*drawn[0]))  # with ties
    values, places = windows_by_loops(x, drawn[1])
    np.testing.assert_allclose(meaning("reduce_window", x, **drawn[1]), values, atol=1e-12)
    if drawn[1]["reducer"] != "sum":
        np.testing.assert_array_equal(meaning("arg_reduce_window", x, **drawn[1]), places)


def test_an_extreme_window_names_an_element_before_padding() -> None:
    x = np.array([-np.inf, -np.inf])
    settings = {"window": (2,), "strides": (2,), "padding": ((1, 1),), "dilation": (1,)}
    found = meaning("arg_reduce_window", x, reducer="max", **settings)
    np.testing.assert_array_equal(found, [0, 1])


@settings(max_examples=60)
@given(layouts())
def test_dot_general_is_einsum(drawn: tuple[Any, Any, dict[str, Any], str]) -> None:
    x, y = spaced(*drawn[0]), spaced(*drawn[1], seed=1)
    expected = np.einsum(drawn[3], x, y)
    found = meaning("dot_general", x, y, **drawn[2])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.shape == expected.shape


@settings(max_examples=60)
@given(paddings())
def test_pad_is_its_loop(drawn: tuple[Any, dict[str, Any]]) -> None:
    x, attributes = spaced(*drawn[0]), drawn[1]
    low, high, interior = (attributes[name] for name in ("low", "high", "interior"))
    sizes = [
        n + (n - 1) * between + before + after
        for n, before, after, between in zip(x.shape, low, high, interior, strict=True)
    ]
    expected = np.full(sizes, attributes["value"])
    for index in positions(x.shape):
        place = [a + i * (b + 1) for i, a, b in zip(index, low, interior, strict=True)]
        if all(0 <= p < n for p, n in zip(place, sizes, strict=True)):
            expected[tuple(place)] = x[index]
    np.testing.assert_array_equal(meaning("pad", x, **attributes), expected)


@settings(max_examples=60)
@given(st.data())
def test_gather_and_scatter_add_are_their_loops(data: st.DataObject) -> None:
    small = st.lists(st.integers(1, 3), max_size=2)
    lead, places, rest = (tuple(data.draw(small)) for _ in range(3))
    size = data.draw(st.integers(1, 4))
    count = math.prod((*lead, *places))
    drawn = data.draw(st.lists(st.integers(-2, 5), min_size=count, max_size=count))
    indices = np.array(drawn, np.int64).reshape((*lead, *places))
    x = spaced(*lead, size, *rest)
    updates = spaced(*lead, *places, *rest, seed=1)
    gathered, scattered = np.zeros(updates.shape), x.copy()
    for index in positions(indices.shape):
        row = (*index[: len(lead)], min(max(int(indices[index]), 0), size - 1))
        gathered[index] = x[row]
        scattered[row] += updates[index]
    attributes = {"batch_dims": len(lead)}
    np.testing.assert_array_equal(meaning("gather", x, indices, **attributes), gathered)
    found = meaning("scatter_add", x, indices, updates, **attributes)
    np.testing.assert_allclose(found, scattered, atol=1e-12)


@settings(max_examples=60)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.booleans(), st.data())
def test_orders_are_stable(numbers: list[int], descending: bool, data: st.DataObject) -> None:
    x = np.array(numbers, np.int32)
    sign = -1 if descending else 1
    expected = sorted(range(len(numbers)), key=lambda i: sign * numbers[i])
    found = meaning("arg_sort", x, axis=0, descending=descending)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(meaning("sort", x, axis=0, descending=descending), x[expected])
    k = data.draw(st.integers(1, len(numbers)))
    largest = sorted(range(len(numbers)), key=lambda i: -numbers[i])[:k]
    np.testing.assert_array_equal(meaning("arg_top_k", x, k=k), largest)
    np.testing.assert_array_equal(meaning("top_k", x, k=k), x[largest])
    sums = list(itertools.accumulate(reversed(numbers) if descending else numbers))
    expected_sums = sums[::-1] if descending else sums
    found = meaning("cumsum", x, axis=0, reverse=descending)
    np.testing.assert_array_equal(found, expected_sums)


REDUCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "reduce_sum": sum,
    "reduce_prod": math.prod,
    "reduce_max": max,
    "reduce_min": min,
    "reduce_and": all,
    "reduce_or": any,
    "arg_max": lambda values: values.index(max(values)),
    "arg_min": lambda values: values.index(min(values)),
}


@pytest.mark.parametrize("op", sorted(REDUCTIONS))
def test_reductions_are_those_of_python(op: str) -> None:
    for case in (c for c in cases() if c.op == op and c.arrays[0].size):
        (x,) = case.arrays
        axes = case.attributes.get("axes", (case.attributes.get("axis"),))
        kept = [i for i in range(x.ndim) if i not in axes]
        rows = x.transpose([*kept, *axes]).reshape([*(x.shape[i] for i in kept), -1])
        expected = np.apply_along_axis(lambda row: REDUCTIONS[op](row.tolist()), -1, rows)
        np.testing.assert_allclose(meaning(op, x, **case.attributes), expected, atol=1e-13)


MOVEMENTS: dict[str, Callable[..., Array]] = {
    "reshape": lambda x, shape: np.array(x.ravel().tolist(), x.dtype).reshape(shape),
    "transpose": lambda x, permutation: np.einsum(x, list(range(x.ndim)), list(permutation)),
    "broadcast_in_dim": lambda x, shape, dims: np.einsum(
        x, list(dims), np.ones(shape), list(range(len(shape))), list(range(len(shape)))
    ),
    "slice": lambda x, start, limit, strides: x[
        np.ix_(*(np.arange(*r, dtype=int) for r in zip(start, limit, strides, strict=True)))
    ].reshape([len(range(*r)) for r in zip(start, limit, strides, strict=True)]),
    "reverse": lambda x, axes: x[
        np.ix_(*(np.arange(n)[:: -1 if i in axes else 1] for i, n in enumerate(x.shape)))
    ],
    "concat": lambda *parts, axis: np.moveaxis(
        np.array([row for part in parts for row in np.moveaxis(part, axis, 0)]), 0, axis
    ),
}


@pytest.mark.parametrize("op", sorted(MOVEMENTS))
def test_movement_is_indexing(op: str) -> None:
    for case in (c for c in cases() if c.op == op):
        expected = MOVEMENTS[op](*case.arrays, **case.attributes)
        np.testing.assert_array_equal(meaning(op, *case.arrays, **case.attributes), expected)


# -- graphs ---------------------------------------------------------------------------------------


def test_sizes_are_read_off_the_inputs_or_given() -> None:
    n = symbol("n")
    x = b.input_("x", TensorType(F64, (n, 2)))
    mean = b.reduce_sum(x, [0]) / b.broadcast(b.size_of([n], F64), (2,), ())
    graph = Graph("mean", (x,), (mean,))
    value = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(evaluate(graph, {"x": value})["out"], [2, 3])
    line = b.iota(I64, (n * 2,), 0)
    found = evaluate(Graph("line", (), (line,)), {}, {"n": 2})["out"]
    np.testing.assert_array_equal(found, range(4))


def test_inputs_that_do_not_fit_are_named() -> None:
    x = b.input_("x", TensorType(F64, (2,)))
    graph = Graph("g", (x,), (x + 1,))
    for inputs in ({}, {"x": np.ones(3)}, {"x": np.ones(2, np.float32)}):
        with pytest.raises(RunError, match="`x`"):
            evaluate(graph, inputs)


def test_an_output_may_be_an_input_and_nothing_need_be_used() -> None:
    x, y = (b.input_(name, TensorType(F64, (2,))) for name in "xy")
    square = x * x
    graph = Graph("g", (x, y), (x, square, square + x), ("x", "square", "sum"))
    found = evaluate(graph, {"x": np.array([1.0, 2]), "y": np.zeros(2)})
    assert [v.tolist() for v in found.values()] == [[1, 2], [1, 4], [2, 6]]


def test_type_rules_refuse_what_has_no_meaning() -> None:
    x = b.input_("x", TensorType(F32, (4, 3)))
    flags = b.compare("less", x, 0)
    indices = b.iota(I64, (2,), 0)
    empty = b.slice_axis(x, 0, 0, 0)
    refused: list[Callable[[], Any]] = [
        lambda: b.dot_general(x, x, ((-1,), (-1,))),
        lambda: b.dot_general(x, x, ((1, 1), (1, 1))),
        lambda: b.dot_general(flags, flags, ((1,), (1,))),
        lambda: b.reduce_window(x, "max", (2,), dilation=(0,)),
        lambda: b.reduce_window(flags, "max", (2,)),
        lambda: b.pad(x, (0, 0), (0, 0), (0, -1)),
        lambda: b.pad(x, (-5, 0), (0, 0)),
        lambda: b.gather(empty, indices),
        lambda: b.gather(x, indices, -1),
        lambda: make("arg_max", empty, axis=0),
        lambda: b.concat([x, flags], 0),
        lambda: b.concat([x, b.transpose(x, (1, 0))], 0),
        lambda: make("top_k", flags, k=1),
    ]
    for build in refused:
        with pytest.raises(ValueError, match=r"."):
            build()
