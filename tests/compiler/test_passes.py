"""Every pass keeps the meaning of graphs; every rule fires, and gives the bits that it promises."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from conformance.cases import Case, cases
from goldens import Golden
from random_graphs import SIZES, arrays, graphs, random_graph
from weft.compiler import builder as b
from weft.compiler import pipeline
from weft.compiler.errors import CompileError, InternalError, Source, Span
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node, full, make
from weft.compiler.passes.algebra import ALGEBRA
from weft.compiler.passes.bind import bind
from weft.compiler.passes.cleanup import cse
from weft.compiler.passes.decompose import drop_stop_gradient, inline_calls
from weft.compiler.passes.fold import FOLDING, RESULT, fold
from weft.compiler.passes.movement import MOVEMENT
from weft.compiler.passes.simplify import simplify
from weft.compiler.pattern import Rule, Rules, rewrite
from weft.compiler.pipeline import Pass, Target, lower
from weft.compiler.text import parse_graph, print_graph
from weft.compiler.types import BOOL, F32, F64, I32, I64, U8, U32, TensorType, dtype_of, symbol
from weft.compiler.verify import verify

BATCH = symbol("batch")
M = TensorType(F32, (2, 3))
PASSES: dict[str, Callable[[Graph], Graph]] = {
    "simplify": simplify,
    "fold": fold,
    "cse": cse,
    "inline_calls": inline_calls,
    "drop_stop_gradient": drop_stop_gradient,
    "bind": lambda graph: bind(graph, SIZES),
    "all": lambda graph: cse(fold(simplify(inline_calls(bind(graph, SIZES))))),
}
EXACT = ("fold", "cse", "inline_calls", "drop_stop_gradient", "bind")


@pytest.mark.parametrize("name", PASSES)
@settings(max_examples=40)
@given(graph=graphs(40))
def test_meaning_stays(name: str, graph: Graph) -> None:
    after = PASSES[name](graph)
    verify(after)
    assert [n.name for n in after.inputs] == [n.name for n in graph.inputs]
    inputs = arrays(graph)
    before = evaluate(graph, inputs, SIZES)
    found = evaluate(after, inputs, SIZES)
    assert list(found) == list(before)
    for key, value in before.items():
        assert found[key].dtype == value.dtype
        if name in EXACT:
            assert found[key].tobytes() == value.tobytes()
        else:
            np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-9)


@settings(max_examples=100)
@given(graph=graphs(60))
def test_passes_settle(graph: Graph) -> None:
    graph = inline_calls(graph)
    for change in (simplify, fold, cse, inline_calls, drop_stop_gradient):
        once = change(graph)
        assert change(once) is once
        assert len(once.nodes) <= len(graph.nodes) or change is not cse


# -- each rule ------------------------------------------------------------------------------------

SPECIAL = np.array([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan, 3e38, 1e-40, 0.3], np.float32)
V = TensorType(F32, (10,))
N = TensorType(I32, (10,))
B = TensorType(BOOL, (10,))


def _inputs() -> dict[str, Node]:
    types = {"x": V, "y": V, "n": N, "p": B, "q": B, "u": TensorType(U8, (10,))}
    types |= {
        "m": M,
        "w": TensorType(F32, (3, 2)),
        "t": TensorType(F32, (2, 3, 4)),
        "s": TensorType(F32),
    }
    types |= {"r": TensorType(F32, (BATCH, 3))}
    return {name: b.input_(name, type) for name, type in types.items()}


def _values(graph: Graph, swap: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    values: dict[str, np.ndarray] = {}
    for node in graph.inputs:
        shape = tuple(d if isinstance(d, int) else 2 for d in node.type.shape)
        if node.type == V:
            values[node.name] = np.roll(SPECIAL, 3) if node.name == "y" else SPECIAL
        else:
            values[node.name] = rng.integers(-5 if node.type.dtype != U8 else 0, 6, shape).astype(
                node.type.dtype.numpy
            )
    return values


INPUTS = _inputs()
X, Y, N_, P, Q, U, M_, W, T, S, R = INPUTS.values()
u = b.unary


def _bc(x: Node, shape: tuple, *dims: int) -> Node:
    return make("broadcast_in_dim", x, shape=shape, dims=dims)


def _slice(x: Node, *ranges: tuple) -> Node:
    full_ranges = [r if len(r) == 3 else (*r, 1) for r in ranges]
    start, limit, strides = zip(*full_ranges, strict=True)
    return make("slice", x, start=start, limit=limit, strides=strides)


def _pad(
    x: Node, low: tuple, high: tuple, interior: tuple | None = None, value: float = 0.0
) -> Node:
    between = interior or (0,) * len(low)
    return make("pad", x, low=low, high=high, interior=between, value=value)


def _dot(x: Node, y: Node, i: int, j: int) -> Node:
    return b.dot_general(x, y, ((i,), (j,)))


def _perm(x: Node, *permutation: int) -> Node:
    return make("transpose", x, permutation=permutation)


def _reshape(x: Node, *shape: int) -> Node:
    return make("reshape", x, shape=shape)


def _reduce(what: str, x: Node, *axes: int) -> Node:
    return make(f"reduce_{what}", x, axes=axes)


# What is rewritten, and the operations that are left, operands first.
EXAMPLES: dict[str, tuple[Node, str]] = {
    "x - 0": (X - 0, ""),
    "x + -0.0": (X + -0.0, ""),
    "n + 0": (0 + N_, ""),
    "n - n": (N_ - N_, "constant broadcast_in_dim"),
    "x + -y": (X + -Y, "subtract"),
    "-x + y": (-X + Y, "subtract"),
    "x - -y": (X - -Y, "add"),
    "--x": (u("negate", -X), ""),
    "x * 1": (1 * X, ""),
    "n * 0": (N_ * 0, "constant broadcast_in_dim"),
    "x * -1": (X * -1, "negate"),
    "-x * -y": (-X * -Y, "multiply"),
    "-x * 3": (-X * 3, "constant broadcast_in_dim multiply"),
    "-(x * 3)": (-(X * 3), "constant broadcast_in_dim multiply"),
    "-(n * 3)": (-(N_ * 3), "constant broadcast_in_dim multiply"),
    "x / 1": (X / 1, ""),
    "x / -1": (X / -1, "negate"),
    "-x / -y": (-X / -Y, "divide"),
    "1 / sqrt(x)": (1 / u("sqrt", X), "rsqrt"),
    "x / 8": (X / 8, "constant broadcast_in_dim multiply"),
    "x / 0.25": (X / -0.25, "constant broadcast_in_dim multiply"),
    "n // 1": (make("floor_divide", N_, full(N, 1)), ""),
    "n % 1": (make("remainder", N_, full(N, 1)), "constant broadcast_in_dim"),
    "x ** 0": (X**0, "constant broadcast_in_dim"),
    "x ** 1": (X**1, ""),
    "x ** 2": (X**2, "multiply"),
    "x ** -1": (X**-1, "constant broadcast_in_dim divide"),
    "abs(-x)": (u("abs", -X), "abs"),
    "abs(abs(x))": (u("abs", u("abs", X)), "abs"),
    "stop(stop(x))": (u("stop_gradient", u("stop_gradient", X)), "stop_gradient"),
    "not not p": (u("not", u("not", P)), ""),
    "not x == y": (u("not", b.compare("equal", X, Y)), "not_equal"),
    "not n < 2": (u("not", b.compare("less", N_, 2)), "constant broadcast_in_dim greater_equal"),
    "p and p": (make("and", P, P), ""),
    "p and true": (make("and", P, full(B, True)), ""),
    "p and false": (make("and", full(B, False), P), "constant broadcast_in_dim"),
    "p or false": (make("or", P, full(B, False)), ""),
    "p or true": (make("or", P, full(B, True)), "constant broadcast_in_dim"),
    "p xor false": (make("xor", P, full(B, False)), ""),
    "n xor 0": (make("xor", N_, full(N, 0)), ""),
    "n and 0": (make("and", N_, full(N, 0)), "constant broadcast_in_dim"),
    "n << 0": (make("shift_left", N_, full(N, 0)), ""),
    "max(x, x)": (b.maximum(X, X), ""),
    "select same": (b.select(P, X, X), ""),
    "select true": (b.select(full(B, True), X, Y), ""),
    "select false": (b.select(full(B, False), X, Y), ""),
    "select not": (b.select(u("not", P), X, Y), "select"),
    "select select": (b.select(P, b.select(P, X, Y), -X), "negate select"),
    "select then select": (b.select(P, X, b.select(P, X, Y)), "select"),
    "cast to itself": (make("cast", X, dtype=F32), ""),
    "cast twice": (b.cast(b.cast(N_, I64), F64), "cast"),
    "cast there and back": (b.cast(b.cast(N_, F64), I32), ""),
    "cast bool": (b.cast(b.cast(P, I32), F32), "cast"),
    "transpose twice": (_perm(_perm(T, 1, 2, 0), 2, 0, 1), ""),
    "transpose nothing": (_perm(M_, 0, 1), ""),
    "transpose of ones": (_perm(_reshape(X, 1, 10), 1, 0), "reshape"),
    "reshape nothing": (_reshape(M_, 2, 3), ""),
    "reshape twice": (_reshape(_reshape(T, 6, 4), 24), "reshape"),
    "reshape of scalar": (_reshape(_bc(S, (2, 3)), 6), "broadcast_in_dim"),
    "reshape of number": (_reshape(full(M, 2), 6), "constant broadcast_in_dim"),
    "reverse of number": (b.reverse(full(M, 2), (0,)), "constant broadcast_in_dim"),
    "reverse nothing": (make("reverse", M_, axes=()), ""),
    "reverse one": (b.reverse(_reshape(X, 1, 10), (0, 1)), "reshape reverse"),
    "reverse twice": (b.reverse(b.reverse(T, (0, 1)), (1, 2)), "reverse"),
    "reverse back": (b.reverse(b.reverse(X, (0,)), (0,)), ""),
    "broadcast nothing": (_bc(M_, (2, 3), 0, 1), ""),
    "broadcast twice": (_bc(_bc(X, (2, 10), 1), (2, 3, 10), 0, 2), "broadcast_in_dim"),
    "transpose broadcast": (_perm(_bc(X, (2, 10), 1), 1, 0), "broadcast_in_dim"),
    "slice broadcast": (_slice(_bc(X, (5, 10), 1), (1, 4, 2), (0, 10)), "broadcast_in_dim"),
    "reverse broadcast": (b.reverse(_bc(X, (5, 10), 1), (0,)), "broadcast_in_dim"),
    "exp(broadcast)": (b.exp(_bc(X, (2, 10), 1)), "exp broadcast_in_dim"),
    "broadcast + number": (
        _bc(X, (2, 10), 1) + 3,
        "constant broadcast_in_dim add broadcast_in_dim",
    ),
    "broadcast * broadcast": (
        _bc(X, (2, 10, 3), 1) * _bc(S, (2, 10, 3)),
        "broadcast_in_dim multiply broadcast_in_dim",
    ),
    "reduce ones": (_reduce("max", _reshape(X, 1, 10), 0), ""),
    "max max": (_reduce("max", _reduce("max", T, 1), 1), "reduce_max"),
    "max transpose": (_reduce("max", _perm(T, 2, 0, 1), 0), "reduce_max"),
    "max broadcast": (_reduce("max", _bc(X, (2, 10), 1), 0), ""),
    "sum broadcast, kept": (_reduce("sum", _bc(X, (2, 10), 1), 1), "reduce_sum broadcast_in_dim"),
    "sum broadcast, powers": (
        _reduce("sum", _bc(S, (2, 4)), 0, 1), "constant multiply",
    ),
    "slice nothing": (_slice(M_, (0, 2), (0, 3)), ""),
    "slice slice": (_slice(_slice(X, (1, 9)), (2, 6)), "slice"),
    "slice slice strides": (_slice(_slice(X, (1, 10, 2)), (1, 5, 3)), "slice"),
    "slice of concat": (
        _slice(b.concat([X, Y], 0), (12, 17)), "slice"),
    "slice of batches": (_slice(b.concat([R, R], 0), (BATCH, BATCH * 2), (0, 3)), ""),
    "pad nothing": (_pad(M_, (0, 0), (0, 0)), ""),
    "pad zeros": (_pad(full(M, 0), (1, 0), (0, 1)), "constant broadcast_in_dim"),
    "pad pad": (_pad(_pad(M_, (1, 0), (0, 1)), (0, 2), (0, 1)), "pad"),
    "concat one": (make("concat", X, axis=0), ""),
    "concat slices": (b.concat([_slice(X, (0, 4)), _slice(X, (4, 7)), _slice(X, (7, 10))], 0), ""),
    "concat some slices": (b.concat([_slice(X, (0, 4)), _slice(X, (4, 7)), Y], 0), "slice concat"),
    "concat concat": (b.concat([b.concat([X, Y], 0), X], 0), "concat"),
    "concat nothing": (b.concat([X, _slice(Y, (2, 2))], 0), ""),
    "concat numbers": (b.concat([full(V, 1), full(V, 1)], 0), "constant broadcast_in_dim"),
    "concat broadcasts": (
        b.concat([_bc(X, (2, 10), 1), _bc(X, (3, 10), 1), _bc(Y, (1, 10), 1)], 0),
        "broadcast_in_dim broadcast_in_dim concat",
    ),
    "dot transposed": (_dot(_perm(M_, 1, 0), _perm(W, 1, 0), 0, 1), "dot_general"),
    "transpose dot": (_perm(_dot(M_, W, 1, 0), 1, 0), "dot_general"),
}  # fmt: skip

# Exact but for the sign of zeros.
SIGNS: dict[str, tuple[Node, str]] = {
    "x + 0": (X + 0, ""),
    "0 - x": (0 - X, "negate"),
    "-(x - y)": (-(X - Y), "subtract"),
    "sum of -x": (_reduce("sum", -T, 1), "reduce_sum negate"),
    "sum of one": (_reduce("sum", _reshape(X, 1, 10), 0), ""),
    "cast(n) * 0": (b.cast(N_, F32) * 0, "constant broadcast_in_dim"),
}

# Not exact: checked on ordinary numbers.
INEXACT: dict[str, tuple[Node, str]] = {
    "x ** 3": (S**3, "multiply multiply"),
    "x ** 0.5": (u("abs", S) ** 0.5, "abs sqrt"),
    "x ** -0.5": (u("abs", S) ** -0.5, "abs rsqrt"),
    "log(exp(x))": (b.log(b.exp(S)), ""),
    "(x + x) * c": ((S + S) * 0.3, "constant multiply"),
    "sum broadcast": (_reduce("sum", _bc(S, (7, 3)), 0, 1), "constant multiply"),
    "sum broadcast, batch": (_reduce("sum", _bc(S, (BATCH,)), 0), "dim_size multiply"),
}

# What must stay as it is.
KEPT: dict[str, Node] = {
    "x * 0": X * 0,
    "x - x": X - X,
    "x / x": X / X,
    "exp(log(x))": b.exp(b.log(X)),
    "x / 3": X / 3,
    "not x < y": u("not", b.compare("less", X, Y)),
    "int cast through float": b.cast(b.cast(N_, F32), I32),
    "cast through u8": b.cast(b.cast(N_, U8), I32),
    "stop_gradient": u("stop_gradient", X),
    "sums of sums": _reduce("sum", _reduce("sum", T, 1), 1),
    "pad then cut": _pad(_pad(M_, (1, 1), (1, 1)), (-1, 0), (0, 0)),
    "pad inside": _pad(M_, (0, 0), (-1, -2), (1, 1)),
    "concat of backward slices": b.concat([_slice(X, (5, 10)), _slice(X, (0, 5))], 0),
    "dot with swapped free axes": b.dot_general(_perm(T, 0, 2, 1), M_, ((0,), (0,))),
    "u8 sum of many": _reduce("sum", _bc(U, (10, 300), 0), 1),
}


def _graph(node: Node) -> Graph:
    return Graph("g", tuple(INPUTS.values()), (node,))


def _ops(graph: Graph) -> str:
    return " ".join(node.op.name for node in graph.nodes if node.op.name != "input")


@pytest.mark.parametrize("name", EXAMPLES)
def test_exact_rules(name: str) -> None:
    before, after = _rewritten(EXAMPLES[name])
    assert before.tobytes() == after.tobytes() or (
        np.array_equal(before, after, equal_nan=True)
        and np.array_equal(np.signbit(before[before == 0]), np.signbit(after[before == 0]))
    )


@pytest.mark.parametrize("name", SIGNS)
def test_rules_exact_but_for_signs_of_zero(name: str) -> None:
    before, after = _rewritten(SIGNS[name])
    assert np.array_equal(before, after, equal_nan=True)


@pytest.mark.parametrize("name", INEXACT)
def test_inexact_rules(name: str) -> None:
    before, after = _rewritten(INEXACT[name])
    np.testing.assert_allclose(before, after, rtol=1e-6)


def _rewritten(example: tuple[Node, str]) -> tuple[np.ndarray, np.ndarray]:
    node, ops = example
    graph = _graph(node)
    after = simplify(graph)
    verify(after)
    assert _ops(after) == ops
    values = _values(graph)
    return evaluate(graph, values)["out"], evaluate(after, values)["out"]


@pytest.mark.parametrize("name", KEPT)
def test_no_rule_applies(name: str) -> None:
    graph = _graph(KEPT[name])
    assert simplify(graph) is graph


def test_a_transposed_product_that_is_also_read_stays() -> None:
    dot = _dot(M_, W, 1, 0)
    graph = Graph("g", (M_, W), (dot, _perm(dot, 1, 0)))
    assert simplify(graph) is graph


def test_every_identity_has_an_example() -> None:
    identities = ALGEBRA + MOVEMENT
    examples = [node for table in (EXAMPLES, SIGNS, INEXACT) for node, _ in table.values()]
    assert _never_fired(identities, examples) == []


def _never_fired(table: Rules, examples: Iterable[Node]) -> list[str]:
    """The patterns of a table that replace nothing in any example."""
    fired: set[int] = set()

    def watched(number: int, rule: Rule) -> Rule:
        def apply(**captures: Node) -> Node | None:
            result = rule.replace(**captures)
            if result is not None:
                fired.add(number)
            return result

        return replace(rule, replace=apply)

    rules = Rules(*[watched(number, rule) for number, rule in enumerate(table.rows)])
    for node in examples:
        rewrite(_graph(node), rules)
    return [str(rule.pattern) for number, rule in enumerate(table.rows) if number not in fired]


# -- fold -----------------------------------------------------------------------------------------


def _text(*nodes: Node) -> str:
    return print_graph(Graph("g", tuple(INPUTS.values()), nodes))


FOLDED = {op for rule in FOLDING.rows for op in rule.pattern.ops} - {"constant", "dim_size"}


def _of_constants(case: Case) -> Node:
    """A case of the conformance table, of arrays that are known."""
    operands = [
        make("constant", value=tuple(a.ravel().tolist()), dtype=dtype_of(a), shape=a.shape)
        for a in case.operands()
    ]
    return case.node(F64, *operands)


SMALL = {
    case.id: _of_constants(case)
    for case in cases()
    if case.op in FOLDED and math.prod(case.graph()[0].outputs[0].type.shape) <= RESULT
}


@pytest.mark.parametrize("name", SMALL)
def test_fold_computes_what_it_knows(name: str) -> None:
    graph = _graph(SMALL[name])
    folded = fold(graph)
    assert _ops(folded) in ("constant", "constant broadcast_in_dim")
    before, after = (evaluate(g, _values(g))["out"] for g in (graph, folded))
    assert after.dtype == before.dtype
    assert after.tobytes() == before.tobytes()


def test_every_op_that_folds_has_an_example() -> None:
    sizes = [
        make("constant", value=(2, 2), dtype=I32, shape=(2,)),
        make("dim_size", dim=6, dtype=F32),
    ]
    assert _never_fired(FOLDING, [*SMALL.values(), *sizes]) == []


def test_fold_keeps_numbers_scalar() -> None:
    big = TensorType(F32, (1000, BATCH))
    node = b.exp(full(big, 1) * 2) + 1
    expected = np.exp(np.float32(2)) + np.float32(1)
    assert _text(*fold(_graph(node)).outputs) == _text(full(big, float(expected)))


def test_fold_rounds_as_the_type_does() -> None:
    node = b.constant(0.1, F32) + b.constant(0.2, F32)
    value = fold(_graph(node)).outputs[0].attributes["value"]
    assert value == float(np.float32(0.1) + np.float32(0.2))


def test_fold_small_tensors() -> None:
    numbers = make("constant", value=(3, 1, 2), dtype=I32, shape=(3,))
    order = make("sort", numbers, axis=0, descending=False)
    assert fold(_graph(order)).outputs[0].attributes["value"] == (1, 2, 3)
    assert fold(_graph(_reduce("sum", order, 0))).outputs[0].attributes["value"] == 6
    assert fold(_graph(order - order)).outputs[0].op.name == "broadcast_in_dim"


def test_fold_leaves_alone() -> None:
    seed = make("constant", value=(1, 2), dtype=U32, shape=(2,))
    bits = make("random_bits", seed, b.constant(0, U32), shape=(2,), stream="a")
    large = make("constant", value=tuple(map(float, range(65))), dtype=F32, shape=(65,))
    for node in (bits, -large, _bc(large, (2, 65), 1), b.iota(I32, (3,), 0), X + 1):
        graph = _graph(node)
        assert fold(graph) is graph


def test_fold_known_sizes() -> None:
    node = make("dim_size", dim=6, dtype=F32) * make("dim_size", dim=BATCH, dtype=F32)
    assert _ops(fold(_graph(node))) == "constant dim_size multiply"
    assert _ops(fold(bind(_graph(node), SIZES))) == "constant"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
def test_fold_special_numbers(value: float) -> None:
    node = -full(V, value)
    folded = fold(_graph(node))
    assert evaluate(folded, _values(folded))["out"].tobytes() == np.full(10, -value, "f").tobytes()


# -- cse ------------------------------------------------------------------------------------------


def _call(factor: int = 1, config: tuple = ()) -> Node:
    x = b.input_("x", V)
    body = Graph("f", (x,), (x * factor,))
    return make("call", X, name="f", body=body, config=config, gradient=None)


def test_cse_merges() -> None:
    nan = [b.constant(float("nan"), F32) for _ in range(2)]
    after = cse(_graph_of(X + Y, Y + X, X * 2 + 1, X * 2 + 1, *nan, _call(), _call()))
    first = after.outputs[::2]
    assert first == after.outputs[1::2]
    assert len(set(first)) == 4


def test_cse_tells_apart() -> None:
    numbers = [b.constant(v, F32) for v in (0.0, -0.0)]
    numbers += [b.constant(False, BOOL), b.constant(0, I32)]
    pads = [_pad(M_, (1, 0), (0, 0), value=v) for v in (0.0, -0.0, 1.0, 0)]
    calls = [_call(1), _call(2), _call(1, (1,)), _call(1, (1.0,)), _call(1, (True,))]
    different = [X - Y, Y - X, b.maximum(X, Y), b.maximum(Y, X), *numbers, *pads, *calls]
    after = cse(_graph_of(*different))
    assert len(set(after.outputs)) == len(different)


def _graph_of(*nodes: Node) -> Graph:
    return Graph("g", tuple(INPUTS.values()), nodes)


# -- decompose and bind ---------------------------------------------------------------------------


def _nest(depth: int) -> Graph:
    x = b.input_("x", V)
    body = Graph("f0", (x,), (x + 1,))
    for level in range(1, depth):
        x = b.input_("x", V)
        inner = make("call", x, name=body.name, body=body, config=(), gradient=None)
        body = Graph(f"f{level}", (x,), (inner,))
    return body


def test_inlining_is_deep() -> None:
    flat = inline_calls(_nest(2000))
    assert _ops(flat) == "constant broadcast_in_dim add"


def test_inlining_keeps() -> None:
    nest = _nest(4)
    kept = inline_calls(nest, frozenset({"f1"}))
    assert _ops(kept) == "call"
    assert kept.outputs[0].attributes["name"] == "f1"
    assert _ops(kept.outputs[0].attributes["body"]) == "call"
    assert inline_calls(nest, frozenset({"f2"})) is nest


def test_inlining_places_what_has_no_place() -> None:
    span = Span(Source("a.weft", "f(x)"), 0, 4)
    body = _nest(1)
    node = make("call", X, name="f", body=body, config=(), gradient=None, span=span)
    assert {n.span for n in inline_calls(_graph(node)).nodes if n.op.name != "input"} == {span}


SYMBOLIC = """
graph f(x: f32[batch, n]) {
  %0 = constant() value=0.0 dtype=f32 shape=() : f32[]
  %1 = broadcast_in_dim(%0) shape=(batch, n) dims=() : f32[batch, n]
  %2 = add(x, %1) : f32[batch, n]
  return out=%2
}

graph g(x: f32[batch, n], unused: f32[batch]) {
  %0 = call(x) name="f" body=@f config=(batch, 2*n) gradient=none : f32[batch, n]
  %1 = reshape(%0) shape=(batch*n,) : f32[batch*n]
  %2 = dim_size() dim=2*batch*n dtype=f32 : f32[]
  %3 = slice(%0) start=(batch - 1, 0) limit=(batch, n) strides=(1, 1) : f32[1, n]
  return out=%1, size=%2, last=%3
}
"""


def test_bind(golden: Golden) -> None:
    graph = parse_graph(SYMBOLIC)
    partly, wholly = bind(graph, {"batch": 5}), bind(graph, {"batch": 5, "n": 2, "other": 1})
    verify(partly)
    verify(wholly)
    golden("graph/bind.txt", print_graph(partly) + "\n" + print_graph(wholly))
    assert bind(wholly, {"batch": 7}) is wholly
    assert print_graph(bind(partly, {"n": 2})) == print_graph(wholly)


def test_bind_reports_what_does_not_fit() -> None:
    x = b.input_("x", TensorType(F32, (1, 1, BATCH)))
    window = make(
        "reduce_window", x, reducer="max", window=(4,), strides=(1,), padding=((0, 0),),
        dilation=(1,), span=Span(Source("a.weft", "max_pool(x, 4)"), 0, 14),
    )  # fmt: skip
    with pytest.raises(CompileError, match="can't have batch = 3: a window of 4 doesn't fit") as e:
        bind(Graph("g", (x,), (window,)), {"batch": 3})
    assert e.value.diagnostic.span is not None


# -- the passes together --------------------------------------------------------------------------


def test_golden(golden: Golden) -> None:
    """A dense layer with its gradient, as differentiation leaves it: transposes, ones, zeros."""
    x, w = b.input_("x", TensorType(F32, (BATCH, 4))), b.input_("w", TensorType(F32, (4, 3)))
    bias = b.input_("b", TensorType(F32, (3,)))
    y = b.matmul(x, w) + b.broadcast(bias, (BATCH, 3), (1,))
    ct = b.ones(y.type) * (2 * y) + b.zeros(y.type)
    dw = b.transpose(_dot(ct, x, 0, 0), (1, 0))
    db = b.reduce_sum(ct, (0,))
    dx = _dot(ct, _perm(w, 1, 0), 1, 0)
    flat = b.concat([b.flatten(dw), b.flatten(db)], 0)
    views = b.reshape(_slice(flat, (0, 12)), (4, 3)), _slice(flat, (12, 15))
    outputs = {"w": w - views[0] * 0.1, "b": bias - views[1] * 0.1, "dx": dx, "dw": dw * 1}
    graph = Graph("step", (x, w, bias), (), ()).with_outputs(outputs)
    golden("graph/cleaned.txt", print_graph(cse(fold(simplify(graph)))))


def _grown(graph: Graph, target: Target) -> Graph:
    """The graph with a first output of another type than its op gives."""
    node = graph.outputs[0]
    larger = TensorType(node.type.dtype, (9,))
    wrong = Node(node.op, node.inputs, node.attributes, larger, node.span)
    return Graph(graph.name, graph.inputs, (wrong,))


def _stumbles(graph: Graph, target: Target) -> Graph:
    raise KeyError("not what it was promised")


@pytest.mark.parametrize("later", [[], [Pass("later", _stumbles, "")]])
def test_a_pass_that_makes_a_wrong_graph_is_named(
    later: list[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Pass("grow", _grown, "")
    monkeypatch.setattr(pipeline, "PASSES", (*pipeline.PASSES, wrong, *later))
    with pytest.raises(
        InternalError, match=r"^the pass `grow` made a graph that is wrong: .*\[9\]"
    ):
        lower(_graph(X + Y), Target())
    assert len(lower(_graph(X + Y), Target(), "optimise").nodes) == len(_graph(X + Y).nodes)


def test_a_pass_that_fails_by_itself_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PASSES", (Pass("stumble", _stumbles, ""),))
    with pytest.raises(KeyError, match="promised"):
        lower(_graph(X + Y), Target())


def test_passes_are_fast() -> None:
    graph = random_graph(random.Random(3), 3000, calls=False, outputs=1500)
    started = time.process_time()
    cse(fold(simplify(graph)))
    # 0.2 s for 3,000 nodes; the rest is for a core that is slow, or shared with other processes.
    assert time.process_time() - started < 1.0 * len(graph.nodes) / 3000
