"""Every gradient rule against central differences in float64, and every gradient's gradient too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.cases import Case, cases, spaced
from conformance.drawn import convolutions, layouts, paddings, windows
from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Source, Span
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import RULES, differentiate, vjp
from weft.compiler.graph import Graph, Node, locate, make, topological
from weft.compiler.text import parse_graph, print_graph
from weft.compiler.types import (
    F32,
    F64,
    I64,
    Shape,
    TensorType,
    bind_dim,
    dtype_of,
    static_shape,
    symbol,
)
from weft.compiler.verify import verify

Array = np.ndarray


class Problem:
    """A scalar of named float64 inputs, to be differentiated as a graph and by differences."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        self.inputs: list[Node] = []
        self.arrays: dict[str, Array] = {}

    def add(self, array: Array, shape: Shape | None = None) -> Node:
        type = TensorType(dtype_of(array), array.shape if shape is None else shape)
        node = b.input_(f"v{len(self.inputs)}", type)
        self.inputs.append(node)
        self.arrays[node.name] = array
        return node

    def weigh(self, x: Node) -> Node:
        """`sum(x * w)` with new inputs `w`, so that no element's gradient can hide."""
        shape = static_shape(tuple(bind_dim(d, self.sizes) for d in x.type.shape))
        w = spaced(*shape, low=-1.0, high=1.3, seed=len(self.inputs))
        return b.reduce_sum(x * self.add(w, x.type.shape))

    def value(self, output: Node, arrays: dict[str, Array] | None = None) -> Array:
        graph = Graph("scalar", tuple(self.inputs), (output,))
        return evaluate(graph, arrays or self.arrays, self.sizes)["out"]

    def check(self, output: Node, tolerance: float = 2e-7) -> list[Node]:
        """The gradient nodes of `output` by every float input, after comparing them."""
        wrt = [i for i in self.inputs if i.type.dtype.kind == "float"]
        gradients = differentiate(output, wrt)
        graph = Graph("gradients", tuple(self.inputs), tuple(gradients))
        verify(graph)
        assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
        found = list(evaluate(graph, self.arrays, self.sizes).values())
        rng = np.random.default_rng(1)
        for _ in range(2):
            directions = [rng.uniform(-1, 1, self.arrays[w.name].shape) for w in wrt]
            slope = sum(float(np.sum(g * d)) for g, d in zip(found, directions, strict=True))
            step = 1e-5
            ends = []
            for side in (step, -step):
                moved = {
                    w.name: self.arrays[w.name] + side * d
                    for w, d in zip(wrt, directions, strict=True)
                }
                ends.append(float(self.value(output, self.arrays | moved)))
            difference = (ends[0] - ends[1]) / (2 * step)
            scale = max(1.0, abs(ends[0]), *(float(np.abs(g).max(initial=0)) for g in found))
            assert abs(slope - difference) <= tolerance * scale, (slope, difference)
        return gradients

    def check_twice(self, output: Node) -> None:
        gradients = self.check(output)
        self.check(sum_of([self.weigh(g) for g in gradients]))


def sum_of(terms: Sequence[Node]) -> Node:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


DIFFERENTIABLE = [
    case
    for case in cases()
    if (case.op in RULES or case.op in ("call", "stop_gradient", "sign", "floor", "ceil", "round"))
    and any(a.dtype == np.float64 for a in case.arrays)
    and case.graph()[0].outputs[0].type.dtype == F64
]


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=lambda case: case.id)
def test_gradient_and_its_gradient_equal_central_differences(case: Case) -> None:
    problem = Problem()
    node = case.node(F64, *(problem.add(a) for a in case.arrays))
    if case.op == "stop_gradient":
        x, *_ = problem.inputs
        assert not problem.value(b.reduce_sum(differentiate(problem.weigh(node), [x])[0])).any()
        return
    problem.check_twice(problem.weigh(node))


@pytest.mark.parametrize("op", sorted(RULES))
def test_a_wrong_rule_is_noticed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = RULES[op]

    def wrong(ct: Node, node: Node, *operands: Node) -> tuple[Node | None, ...]:
        return tuple(part and part * 1.001 for part in rule(ct, node, *operands))

    monkeypatch.setitem(RULES, op, wrong)
    case = next(c for c in DIFFERENTIABLE if c.op == op and c.arrays[0].size)
    problem = Problem()
    node = case.node(F64, *(problem.add(a) for a in case.arrays))
    with pytest.raises(AssertionError):
        problem.check(problem.weigh(node))


# -- kinks and other choices ----------------------------------------------------------------------


def slope(build: Callable[[Node], Node], at: float) -> float:
    x = b.input_("x", TensorType(F64))
    graph = Graph("slope", (x,), tuple(differentiate(build(x), [x])))
    return float(evaluate(graph, {"x": np.array(at)})["out"])


def test_slopes_at_kinks_are_those_that_are_documented() -> None:
    assert slope(lambda x: b.maximum(x, 0), 0.0) == 0
    assert slope(lambda x: b.maximum(0, x), 0.0) == 0
    assert slope(lambda x: b.minimum(x, 6), 6.0) == 0
    assert slope(lambda x: b.maximum(x, b.cast(b.constant(0, I64), F64)), 0.0) == 0
    assert slope(lambda x: b.maximum(x, -x), 0.0) == 0
    assert slope(lambda x: b.maximum(x, 3 * x), 0.0) == 2
    assert slope(lambda x: b.unary("abs", x), 0.0) == 0
    assert slope(b.sqrt, 0.0) == math.inf


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, -2, 0.5, 2.5])
def test_power_by_a_constant_exponent(exponent: float) -> None:
    for base in (0.0, 1.7, -1.3):
        slope_found = slope(lambda x: x**exponent, base)
        with np.errstate(all="ignore"):
            expected = exponent * np.float64(base) ** (exponent - 1) if exponent else 0.0
        np.testing.assert_allclose(slope_found, expected)


def test_power_by_a_tensor_is_finite_where_the_base_or_the_exponent_is_zero() -> None:
    x, y = (b.input_(name, TensorType(F64, (5,))) for name in "xy")
    arrays = {"x": np.array([0.0, 0, 0, 2, -2]), "y": np.array([0.0, 1, 2, 0, 3])}
    graph = Graph("g", (x, y), tuple(differentiate(b.reduce_sum(x**y), [x, y])))
    d_x, d_y = evaluate(graph, arrays).values()
    np.testing.assert_array_equal(d_x, [0, 1, 0, 0, 12])
    np.testing.assert_allclose(d_y, [0, 0, 0, math.log(2), math.nan])
    only_x = differentiate(b.reduce_sum(x**y), [x])
    assert all(node.op.name != "log" for node in topological(only_x))


def test_reductions_share_among_ties_and_multiply_around_zeros() -> None:
    x = b.input_("x", TensorType(F64, (4,)))

    def gradient(op: str, values: list[float]) -> list[float]:
        graph = Graph("g", (x,), tuple(differentiate(b.reduce(op, x, [0]), [x])))
        return list(evaluate(graph, {"x": np.array(values, float)})["out"])

    assert gradient("max", [1, 3, 0, 3]) == [0, 0.5, 0, 0.5]
    assert gradient("min", [1, 1, 1, 3]) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert gradient("prod", [0, 2, 3, 4]) == [24, 0, 0, 0]
    assert gradient("prod", [0, 2, 0, 4]) == [0, 0, 0, 0]


def test_second_derivatives_of_a_product_are_exact_at_zeros() -> None:
    problem = Problem()
    x = problem.add(np.array([[0.0, 0.0, 2.0, 3.0, 5.0], [0.0, 1.5, -2.0, 0.5, 1.0]]))
    problem.check_twice(problem.weigh(b.reduce("prod", x, [1])))


def test_a_window_of_padding_passes_no_gradient_on() -> None:
    problem = Problem()
    x = problem.add(spaced(4))
    pooled = b.reduce_window(x, "max", (2,), strides=(2,), padding=((2, 3),))
    finite = b.select(b.unary("is_finite", pooled), pooled, 0)
    problem.check_twice(problem.weigh(finite))


def test_a_gradient_has_the_type_of_what_it_is_taken_by() -> None:
    x = b.input_("x", TensorType(F32, (3,)))
    (gradient,) = differentiate(b.reduce_sum(b.exp(b.cast(x, F64))), [x])
    assert gradient.type == x.type
    found = evaluate(Graph("g", (x,), (gradient,)), {"x": np.ones(3, np.float32)})["out"]
    np.testing.assert_allclose(found, np.full(3, math.e), rtol=1e-7)


# -- symbolic dimensions --------------------------------------------------------------------------

BATCH = symbol("batch")
SIDE = symbol("side")


def _perceptron(p: Problem) -> Node:
    x, w, v = p.add(spaced(3, 4), (BATCH, 4)), p.add(spaced(4, 5)), p.add(spaced(5, 2, seed=2))
    hidden = b.unary("tanh", b.matmul(x, w))
    logits = b.matmul(b.maximum(hidden, 0), v)
    top = b.spread(b.reduce("max", logits, [1]), logits.type, [1])
    summed = b.reduce_sum(b.exp(logits - top), [1])
    mean = b.size_of([BATCH], F64)
    return b.reduce_sum(b.log(summed)) / mean


def _image(p: Problem) -> Node:
    x, k = p.add(spaced(2, 3, 5, 5), (BATCH, 3, 5, 5)), p.add(unit_kernel(4, 3, 2, 2))
    y = b.conv(x, k, strides=(2, 1), padding=((1, 1), (0, 1)))
    y = b.reduce_window(y, "max", (2, 2), strides=(1, 2))
    y = b.reduce_window(y, "sum", (2, 2), strides=(2, 2))
    y = b.transpose(y, (0, 2, 3, 1))
    return p.weigh(b.reshape(y, (BATCH, 4)))


def unit_kernel(*shape: int) -> Array:
    return spaced(*shape, low=-0.9, high=0.9, seed=3)


def _side_conv(p: Problem) -> Node:
    x, k = p.add(spaced(2, 4, 8), (2, 4, SIDE)), p.add(unit_kernel(6, 2, 3))
    y = b.conv(x, k, strides=(3,), padding=((1, 2),), rhs_dilation=(2,), groups=2)
    return p.weigh(y)


def _side_windows(p: Problem) -> Node:
    x = p.add(spaced(2, 9), (2, SIDE))
    windows = [
        b.reduce_window(x, "sum", (3,), strides=(2,), padding=((1, 1),)),
        b.reduce_window(x, "sum", (2,), strides=(2,), padding=((1, 0),)),
        b.reduce_window(x, "sum", (2,), dilation=(2,), padding=((0, 1),)),
        b.reduce_window(x, "max", (3,), strides=(2,), padding=((1, 1),)),
    ]
    return sum_of([p.weigh(y) for y in windows])


def _movement(p: Problem) -> Node:
    x = p.add(spaced(5, 3), (BATCH, 3))
    moved = [
        b.slice_axis(x, 0, 1, BATCH, 2),
        b.slice_axis(x, 0, 1, BATCH - 1),
        b.pad(x, (-1, 1), (2, -1), (2, 1)),
        b.concat([x, x * 2], 0),
        b.reverse(x, [0]),
        b.broadcast(x, (2, BATCH, 3), (1, 2)),
        b.swap_axes(x, 0, 1),
        b.flatten(x),
    ]
    return sum_of([p.weigh(y) for y in moved])


def _ordered(p: Problem) -> Node:
    x = p.add(spaced(5, 3), (BATCH, 3))
    values = [
        make("cumsum", x, axis=0, reverse=False),
        make("sort", x, axis=0, descending=True),
        make("top_k", b.swap_axes(x, 0, 1), k=2),
        b.reduce("prod", x, [0]),
        b.reduce("max", x, [0]),
        b.gather(x, make("arg_max", x, axis=1), 1),
        b.scatter_add(x, b.iota(I64, (BATCH,), 0), x * x),
        b.dot_general(x, x, ((0,), (0,))),
        b.dot_general(x, x, ((1,), (1,))),
    ]
    return sum_of([p.weigh(y) for y in values])


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (_perceptron, {"batch": 3}),
        (_image, {"batch": 2}),
        (_side_conv, {"side": 8}),
        (_side_windows, {"side": 9}),
        (_movement, {"batch": 5}),
        (_ordered, {"batch": 5}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_symbolic_sizes(build: Callable[[Problem], Node], sizes: dict[str, int]) -> None:
    problem = Problem(**sizes)
    problem.check_twice(build(problem))


# -- the walk -------------------------------------------------------------------------------------


def test_what_the_output_does_not_depend_on_has_gradient_zero() -> None:
    x, y = b.input_("x", TensorType(F64, (2,))), b.input_("y", TensorType(F32, (BATCH, 3)))
    _, by_y = differentiate(b.reduce_sum(x), [x, y])
    assert by_y.type == y.type
    zeros = evaluate(Graph("g", (y,), (by_y,)), {"y": np.ones((2, 3), np.float32)})["out"]
    assert not zeros.any()
    for op in ("stop_gradient", "sign", "floor", "ceil", "round"):
        (by_x,) = differentiate(b.reduce_sum(b.unary(op, x)), [x])
        assert not evaluate(Graph("g", (x,), (by_x,)), {"x": np.ones(2)})["out"].any()


def test_intermediate_values_can_be_differentiated_by_also_several_on_one_path() -> None:
    x = b.input_("x", TensorType(F64))
    y = x * x
    z = b.exp(y)
    graph = Graph("g", (x,), tuple(differentiate(z, [x, y, z, x])))
    found = [float(v) for v in evaluate(graph, {"x": np.array(0.5)}).values()]
    assert found == pytest.approx([math.exp(0.25), math.exp(0.25), 1, math.exp(0.25)])


def test_a_vector_jacobian_product_sums_over_outputs() -> None:
    x = b.input_("x", TensorType(F64, (3,)))
    ct = b.input_("ct", TensorType(F64, (3,)))
    (found,) = vjp([b.exp(x), x * x, ct], [ct, ct, ct], [x])
    arrays = {"x": np.array([0.1, 0.2, 0.3]), "ct": np.array([1.0, -2, 3])}
    value = evaluate(Graph("g", (x, ct), (found,)), arrays)["out"]
    np.testing.assert_allclose(value, arrays["ct"] * (np.exp(arrays["x"]) + 2 * arrays["x"]))


def test_only_scalars_have_gradients_and_only_floats_are_differentiated_by() -> None:
    x, n = b.input_("x", TensorType(F64, (2,))), b.input_("n", TensorType(I64))
    with pytest.raises(CompileError, match="only a scalar has a gradient"):
        differentiate(x, [x])
    with pytest.raises(CompileError, match="only a scalar has a gradient"):
        differentiate(n, [x])
    with pytest.raises(CompileError, match="floating-point"):
        differentiate(b.reduce_sum(x), [n])


def test_no_products_with_one_and_no_sums_of_padded_pieces() -> None:
    x, y = (b.input_(name, TensorType(F64, (4, 6))) for name in "xy")
    assert differentiate(b.reduce_sum(x * y), [x]) == [y]
    left, middle, right = (b.slice_axis(x, 1, i, i + 2) for i in (0, 2, 4))
    split = left * b.exp(middle) * right
    (gradient,) = differentiate(b.reduce_sum(split), [x])
    assert gradient.op.name == "concat"
    assert all(node.op.name != "pad" for node in topological([gradient]))
    problem = Problem()
    x = problem.add(spaced(2, 6))
    left, middle, right = (b.slice_axis(x, 1, i, i + 2) for i in (0, 2, 4))
    problem.check_twice(problem.weigh(right * b.exp(middle) * left))


def test_pieces_that_overlap_or_leave_gaps_are_summed() -> None:
    for pieces in ([(0, 3), (2, 6)], [(0, 2), (3, 6)], [(0, 4), (0, 4)], [(0, 0), (0, 6), (3, 6)]):
        problem = Problem()
        x = problem.add(spaced(2, 6))
        parts = [b.slice_axis(x, 1, low, high) for low, high in pieces]
        problem.check_twice(sum_of([problem.weigh(part) for part in parts]))


def test_a_stated_gradient_is_used_and_a_body_is_opened_otherwise() -> None:
    x, ct = (b.input_(name, TensorType(F64)) for name in ("x", "ct"))
    body = Graph("square", (x,), (x * x,))
    stated = Graph("square_gradient", (x, ct), (ct * 100,))
    argument = b.input_("a", TensorType(F64))
    for gradient, expected in ((stated, 100.0), (None, 6.0)):
        call = make("call", argument, name="square", body=body, config=(), gradient=gradient)
        graph = Graph("g", (argument,), tuple(differentiate(call, [argument])))
        assert float(evaluate(graph, {"a": np.array(3.0)})["out"]) == expected
    # A call that is itself differentiated by stays whole.
    call = make("call", argument, name="square", body=body, config=(), gradient=None)
    by_call, by_argument = differentiate(call * call, [call, argument])
    graph = Graph("g", (argument,), (by_call, by_argument))
    assert [float(v) for v in evaluate(graph, {"a": np.array(3.0)}).values()] == [18, 108]


def test_gradient_nodes_have_the_place_of_the_forward_node() -> None:
    source = Source("s.weft", "exp(x) * tanh(x)")
    places = [Span(source, 0, 6), Span(source, 9, 16), Span(source, 0, 16)]
    x = b.input_("x", TensorType(F64))
    first = locate(b.exp(x), places[0])
    second = locate(b.unary("tanh", x), places[1])
    output = locate(first * second, places[2])
    for node in topological(differentiate(output, [x])):
        assert node.op.name == "input" or node.span in places


def test_depth_is_no_limit() -> None:
    x = b.input_("x", TensorType(F64))
    y = x
    for _ in range(20_000):
        y = y + 1
    assert differentiate(y, [x])[0].op.name == "constant"
    inner = b.input_("x", TensorType(F64))
    body = Graph("layer", (inner,), (inner * 1.01,))
    for _ in range(60):
        inner = b.input_("x", TensorType(F64))
        call = make("call", inner, name="layer", body=body, config=(), gradient=None)
        body = Graph("layer", (inner,), (call,))
    call = make("call", x, name="layer", body=body, config=(), gradient=None)
    graph = Graph("g", (x,), tuple(differentiate(call, [x])))
    assert float(evaluate(graph, {"x": np.array(1.0)})["out"]) == pytest.approx(1.01)


# -- drawn settings -------------------------------------------------------------------------------


@settings(max_examples=60)
@given(convolutions())
def test_convolutions(drawn: tuple[Any, Any, dict[str, Any]]) -> None:
    x, kernel, attributes = drawn
    problem = Problem()
    node = make("conv", problem.add(spaced(*x)), problem.add(unit_kernel(*kernel)), **attributes)
    problem.check_twice(problem.weigh(node))


@settings(max_examples=40)
@given(windows())
def test_windows(drawn: tuple[Any, dict[str, Any]]) -> None:
    shape, attributes = drawn
    problem = Problem()
    pooled = make("reduce_window", problem.add(spaced(*shape)), **attributes)
    finite = b.select(b.unary("is_finite", pooled), pooled, 0)
    problem.check_twice(problem.weigh(finite))


@settings(max_examples=40)
@given(layouts())
def test_products_of_any_layout(drawn: tuple[Any, Any, dict[str, Any], str]) -> None:
    left, right, attributes, _ = drawn
    problem = Problem()
    x, y = problem.add(spaced(*left)), problem.add(spaced(*right, seed=1))
    problem.check_twice(problem.weigh(make("dot_general", x, y, **attributes)))


@settings(max_examples=40)
@given(paddings(), st.integers(1, 3))
def test_pads_and_slices(drawn: tuple[Any, dict[str, Any]], stride: int) -> None:
    shape, attributes = drawn
    problem = Problem()
    padded = make("pad", problem.add(spaced(*shape)), **attributes)
    sizes = static_shape(padded.type.shape)
    start = [min(1, n) for n in sizes]
    problem.check_twice(problem.weigh(b.slice_(padded, start, sizes, [stride] * len(sizes))))
