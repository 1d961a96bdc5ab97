"""Loops: the same as unrolled, before and after the passes that change them, and what those do."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.cases import Case, cases, spaced
from weft.backends.numpy.backend import BACKEND
from weft.compiler import builder as b
from weft.compiler.errors import InternalError
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import differentiate
from weft.compiler.graph import Graph, Node, make, topological
from weft.compiler.loops import Loop, loops_of, unrolled, with_bodies
from weft.compiler.passes.bind import bind
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.loops import join, trim
from weft.compiler.passes.memory import plan
from weft.compiler.passes.motion import hoist, sink
from weft.compiler.passes.vectorise import vectorise
from weft.compiler.pipeline import Target, compile_plan, optimise
from weft.compiler.text import parse_graph, print_graph
from weft.compiler.type_rules import TypeRuleError
from weft.compiler.types import F64, I64, Dim, TensorType, dtype_of, symbol
from weft.compiler.verify import verify

Array = np.ndarray
TURNS = 4


def arrays_of(graph: Graph) -> dict[str, Array]:
    return {
        n.name: spaced(*n.type.shape, low=-0.8, high=0.9, seed=i)
        for i, n in enumerate(graph.inputs)
    }


def agree(found: dict[str, Array], expected: dict[str, Array]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


def compiled(graph: Graph, values: dict[str, Array], optimised: bool = True) -> dict[str, Array]:
    """What the numpy backend gives, called twice."""
    if optimised:
        made = compile_plan(graph, Target(abilities=BACKEND.abilities))
    else:
        made = plan(graph, fuse(graph), BACKEND.abilities)
    step = BACKEND.compile(made).bind({})
    step({k: v * 0 for k, v in values.items()})
    return step(values)


# -- drawn loops ----------------------------------------------------------------------------------


def random_loop(rng: random.Random, length: Dim = TURNS) -> tuple[list[Node], Loop]:
    """A loop of a random body over matrices and vectors, and its operands as inputs."""
    shapes = [(2, 3), (3,), (3, 3), ()]
    start = [
        b.input_(f"c{i}", TensorType(F64, rng.choice(shapes))) for i in range(rng.randint(0, 3))
    ]
    steps = [
        b.input_(f"x{i}", TensorType(F64, (length, *rng.choice(shapes))))
        for i in range(rng.randint(0, 2))
    ]
    fixed = [
        b.input_(f"f{i}", TensorType(F64, rng.choice(shapes))) for i in range(rng.randint(0, 2))
    ]
    types = [n.type for n in start]
    types += [n.type.with_shape(n.type.shape[1:]) for n in steps]
    types += [n.type for n in fixed]
    inside = [b.input_(f"i{k}", t) for k, t in enumerate(types)]
    pool = [*inside, b.constant(0.5, F64), b.ones(TensorType(F64, (2, 3)))]
    for _ in range(rng.randint(2, 12)):
        pool.append(_grown(rng, pool))
    after = [rng.choice([n for n in pool if n.type == t]) for t in types[: len(start)]]
    bounded = [rng.choice((n, b.unary("tanh", n), b.unary("sin", n * 0.5))) for n in after]
    stacked = [rng.choice(pool) for _ in range(rng.randint(0 if start else 1, 3))]
    body = Graph("drawn", tuple(inside), (*bounded, *stacked))
    return [*start, *steps, *fixed], Loop(
        tuple(start), tuple(steps), tuple(fixed), body, length, rng.random() < 0.4
    )


def _grown(rng: random.Random, pool: list[Node]) -> Node:
    x, y = rng.choice(pool), rng.choice(pool)
    choice = rng.randrange(8)
    if choice == 0 and x.type.rank == 2 and y.type.rank == 2 and x.type.shape[1] == y.type.shape[0]:
        return b.matmul(x, y) * 0.3
    if choice == 1 and x.type.rank == 2:
        return b.reduce_sum(x, [0])
    if choice == 2 and x.type.rank == 2:
        return (
            b.matmul(x, b.ones(TensorType(F64, (3,))))
            if rng.random() < 0.2
            else b.transpose(b.transpose(x, (1, 0)), (1, 0))
        )
    if choice == 3 and x.type.shape == (3,):
        return b.broadcast(x, (rng.choice((2, 3)), 3), (1,))
    if choice == 4 and x.type.rank == 2:
        parts = [b.slice_axis(x, 1, 0, 1), b.slice_axis(x, 1, 1, 3)]
        return b.concat(parts[::-1], 1)
    if choice == 5 and x.type.rank == 0:
        return b.broadcast(x, (3,), ())
    same = [n for n in pool if n.type == x.type]
    other = rng.choice(same)
    return rng.choice((x + other, x * other, x - other, b.unary("sin", x), b.maximum(x, other)))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_a_loop_is_what_it_is_unrolled(seed: int) -> None:
    rng = random.Random(seed)
    inputs, loop = random_loop(rng)
    count = len(loop.body.outputs)
    read = sorted(rng.sample(range(count), rng.randint(1, count)))
    names = tuple(f"result {i}" for i in read)
    looped = Graph("g", tuple(inputs), tuple(loop.result(i) for i in read), names)
    flat = unrolled(loop)
    values = arrays_of(looped)
    expected = evaluate(Graph("g", tuple(inputs), tuple(flat[i] for i in read), names), values)
    verify(looped)
    agree(evaluate(looped, values), expected)
    assert print_graph(parse_graph(print_graph(looped))) == print_graph(looped)
    for change in (join, trim, hoist, sink, optimise):
        changed = change(looped)
        verify(changed)
        agree(evaluate(changed, values), expected)
    agree(compiled(looped, values, optimised=False), expected)
    agree(compiled(looped, values), expected)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_gradients_of_a_loop_are_those_of_it_unrolled(seed: int) -> None:
    """The gradient, and the gradient of a function of it; as written, and compiled."""
    inputs, loop = random_loop(random.Random(seed))
    results = []
    for made in ([loop.result(i) for i in range(len(loop.body.outputs))], unrolled(loop)):
        loss = b.constant(0.0, F64)
        for i, node in enumerate(made):
            loss = loss + b.reduce_sum(b.unary("sin", node * (1 + 0.3 * i)))
        first = differentiate(loss, inputs)
        norm = b.constant(0.0, F64)
        for node in first:
            norm = norm + b.reduce_sum(b.unary("tanh", node))
        second = differentiate(norm, inputs)
        results.append(Graph("g", tuple(inputs), (loss, *first, *second)))
    looped, flat = results
    if not inputs:
        return
    verify(looped)
    values = arrays_of(looped)
    expected = evaluate(flat, values)
    agree(evaluate(looped, values), expected)
    agree(compiled(looped, values), expected)


# -- an rnn ---------------------------------------------------------------------------------------


def rnn(length: Dim = TURNS, batch: Dim = 2) -> tuple[tuple[Node, ...], Loop]:
    """`h <- tanh(x w + h u + b)`, with `h v` stacked."""
    shapes: dict[str, tuple[Dim, ...]] = {
        "h": (batch, 4), "x": (length, batch, 3), "w": (3, 4), "u": (4, 4), "b": (4,), "v": (4, 5),
    }  # fmt: skip
    inputs = tuple(b.input_(k, TensorType(F64, s)) for k, s in shapes.items())
    h, x, w, u, bias, v = (
        b.input_(f"{k}_t", TensorType(F64, s[1:] if k == "x" else s)) for k, s in shapes.items()
    )
    after = b.unary("tanh", b.matmul(x, w) + b.matmul(h, u) + b.broadcast(bias, (batch, 4), (1,)))
    body = Graph("rnn", (h, x, w, u, bias, v), (after, b.matmul(after, v)))
    return inputs, Loop(inputs[:1], inputs[1:2], inputs[2:], body, length)


def inside(graph: Graph) -> list[list[str]]:
    """The ops of each loop's body."""
    return [
        [n.op.name for n in loop[0].attributes["body"].nodes if n.op.name != "input"]
        for loop in loops_of(graph.nodes)
    ]


def test_products_that_need_no_turn_leave_the_loop() -> None:
    inputs, loop = rnn()
    made = optimise(Graph("g", inputs, (loop.result(0), loop.result(1))))
    assert [ops.count("dot_general") for ops in inside(made)] == [1]
    assert [n.op.name for n in made.nodes].count("dot_general") == 2


def test_a_training_step_has_one_loop_there_and_one_back() -> None:
    """One product of the state in each; those of weights' gradients are outside."""
    inputs, loop = rnn()
    loss = b.reduce_sum(b.exp(loop.result(0))) + b.reduce_sum(b.unary("sin", loop.result(1)))
    made = optimise(Graph("g", inputs, (loss, *differentiate(loss, inputs))))
    bodies = inside(made)
    assert [ops.count("dot_general") for ops in bodies] == [1, 1]
    # The state after the last turn and all outputs both send cotangents: into one loop.
    backward = next(n for n in made.nodes if n.op.name == "scan" and n.attributes["reverse"])
    assert backward.attributes["carried"] == 1


def test_results_that_nobody_reads_are_not_made() -> None:
    inputs, loop = rnn()
    made = trim(Graph("g", inputs, (loop.result(0),)))
    (scan,) = (n for n in made.nodes if n.op.name == "scan")
    assert len(scan.attributes["body"].outputs) == 1
    assert len(scan.inputs) == 5  # without v


def test_values_of_every_turn_are_made_once() -> None:
    x, w = b.input_("x", TensorType(F64, (TURNS, 3))), b.input_("w", TensorType(F64, (3,)))
    s, here, v = (b.input_(k, TensorType(F64, (3,))) for k in "shv")
    body = Graph("g", (s, here, v), (s + here * b.exp(v), b.exp(v)))
    loop = Loop((b.zeros(s.type),), (x,), (w,), body, TURNS)
    made = optimise(Graph("g", (x, w), (loop.result(0), loop.result(1))))
    assert all("exp" not in ops for ops in inside(made))
    assert made.outputs[1].op.name == "broadcast_in_dim"


def test_an_unchanged_carried_value_is_fixed_and_a_stack_of_inputs_is_the_input() -> None:
    x, w = b.input_("x", TensorType(F64, (TURNS, 3))), b.input_("w", TensorType(F64, (3,)))
    s, v, here = (b.input_(k, TensorType(F64, (3,))) for k in "svh")
    body = Graph("g", (s, v, here), (b.unary("sin", s * v), v, here))
    loop = Loop((w, w), (x,), (), body, TURNS)
    made = trim(trim(Graph("g", (x, w), tuple(loop.result(i) for i in range(3)))))
    assert made.outputs[1:] == (w, x)
    (scan,) = (n for n in made.nodes if n.op.name == "scan")
    assert (scan.attributes["carried"], scan.attributes["stepped"]) == (1, 0)


def test_loops_of_no_turn_and_of_one_are_none() -> None:
    for length in (0, 1):
        inputs, loop = rnn(length)
        graph = Graph("g", inputs, (loop.result(0), loop.result(1)))
        made = optimise(graph)
        assert not inside(made)
        agree(evaluate(made, arrays_of(graph)), evaluate(graph, arrays_of(graph)))


def test_equal_loops_are_joined_and_others_are_not() -> None:
    inputs, loop = rnn()
    _, other = rnn()
    assert other.body is not loop.body
    second = Loop(loop.start, loop.steps, loop.fixed, other.body, loop.length)
    made = join(Graph("g", inputs, (loop.result(0), second.result(1), second.result(0))))
    assert len(loops_of(made.nodes)) == 1
    back = Loop(loop.start, loop.steps, loop.fixed, other.body, loop.length, reverse=True)
    made = join(Graph("g", inputs, (loop.result(0), back.result(1))))
    assert len(loops_of(made.nodes)) == 2


def test_sums_that_a_turn_reads_stay() -> None:
    x = b.input_("x", TensorType(F64, (TURNS, 3, 3)))
    s, here = (b.input_(k, TensorType(F64, (3, 3))) for k in "sh")
    product = b.matmul(here, here)
    for outputs in ((s + product, s), (s + product * s,), (s + product, s + product)):
        loop = Loop((b.zeros(s.type),), (x,), (), Graph("g", (s, here), outputs), TURNS)
        graph = Graph("g", (x,), tuple(loop.result(i) for i in range(len(outputs))))
        made = sink(graph)
        assert any(ops for ops in inside(made))
        agree(evaluate(made, arrays_of(graph)), evaluate(graph, arrays_of(graph)))


def test_any_number_of_turns() -> None:
    """A symbolic length, bound later."""
    length, batch = symbol("length"), symbol("batch")
    inputs, loop = rnn(length, batch)
    loss = b.reduce_sum(loop.result(1))
    graph = Graph("g", inputs, (loop.result(0), *differentiate(loss, inputs)))
    made = optimise(graph)
    verify(made)
    sizes = {"length": 5, "batch": 3}
    fixed, known = bind(graph, sizes), bind(made, sizes)
    verify(fixed)
    values = arrays_of(fixed)
    agree(evaluate(made, values), evaluate(fixed, values))
    agree(evaluate(known, values), evaluate(fixed, values))


# -- one op for all turns -------------------------------------------------------------------------

_ONE_OP = [
    c
    for c in cases()
    if c.arrays and c.op not in ("scan", "call", "input", "random_bits") and c.arrays[0].size
]


@pytest.mark.parametrize("case", _ONE_OP, ids=lambda c: c.id)
def test_an_op_over_all_turns_is_the_op_in_each(case: Case) -> None:
    """Every choice of operands that have turns; the others are the same in each."""
    for choice in range(1, 2 ** len(case.arrays)):
        flags = [bool(choice >> i & 1) for i in range(len(case.arrays))]
        turns = [[a, a[::-1].copy() if a.ndim else a] for a in case.arrays]
        stacks = [np.stack(t) if f else t[0] for t, f in zip(turns, flags, strict=True)]
        given_ = [b.input_(f"x{i}", TensorType(dtype_of(a), a.shape)) for i, a in enumerate(stacks)]
        one = case.node(
            F64,
            *(
                b.input_(f"y{i}", TensorType(dtype_of(a), a.shape))
                for i, a in enumerate(case.arrays)
            ),
        )
        node = vectorise(one, given_, flags, 2)
        if node is None:
            continue
        graph = Graph("g", tuple(given_), (node,))
        found = evaluate(graph, {f"x{i}": a for i, a in enumerate(stacks)})["out"]
        single = Graph("g", one.inputs, (one,))
        for t in range(2):
            picked = [s[t] if f else s for s, f in zip(stacks, flags, strict=True)]
            expected = evaluate(single, {f"y{i}": np.asarray(a) for i, a in enumerate(picked)})[
                "out"
            ]
            np.testing.assert_allclose(found[t], expected, rtol=1e-12, atol=1e-12)


# -- what is wrong --------------------------------------------------------------------------------


def _wrong(change: Callable[[Loop], dict[str, object]]) -> str:
    _, loop = rnn()
    node = loop.result(0)
    attributes = {**node.attributes, **change(loop)}
    with pytest.raises(TypeRuleError) as caught:
        make("scan", *node.inputs, **attributes)
    return str(caught.value)


def test_loops_that_do_not_fit_are_refused() -> None:
    assert "there is no result 2 of 2" in _wrong(lambda _: {"result": 2})
    assert "don't go along axis 0" in _wrong(lambda _: {"length": 3})
    assert "a loop of -1 turns" in _wrong(lambda _: {"length": -1})
    assert "takes f64[2, 4] where a turn has" in _wrong(
        lambda _: {"carried": 0, "stepped": 1, "length": 2}
    )
    _, loop = rnn()
    body = Graph("rnn", loop.body.inputs, (b.zeros(TensorType(F64, (1,))),))
    assert "carries [f64[2, 4]] on as [f64[1]]" in _wrong(lambda _: {"body": body})
    shorter = Graph("rnn", loop.body.inputs[1:], loop.body.outputs)
    assert "takes 5 values, got 6" in _wrong(lambda _: {"body": shorter})


def test_verify_looks_into_bodies() -> None:
    inputs, loop = rnn()
    stray = b.input_("stray", TensorType(F64, (2, 4)))
    body = Graph("rnn", loop.body.inputs, (loop.next[0] + stray, loop.stacked[0]))
    wrong = Loop(loop.start, loop.steps, loop.fixed, body, loop.length)
    with pytest.raises(InternalError, match="stray"):
        verify(Graph("g", inputs, (wrong.result(0),)))


def test_bodies_are_changed_innermost_first_and_only_when_they_change() -> None:
    case = next(c for c in cases() if c.id == "scan-nested-0")
    graph, _ = case.graph()
    seen: list[str] = []

    def note(body: Graph) -> Graph:
        seen.append(body.name)
        return body

    assert with_bodies(graph, note) is graph
    assert seen == ["rows", "nested"]


def test_positions_are_carried_as_whole_numbers() -> None:
    """An integer carried value has no gradient, and others beside it have."""
    n, s = b.input_("n", TensorType(I64)), b.input_("s", TensorType(F64))
    body = Graph("g", (n, s), (n + 2, s * b.cast(n, F64)))
    start = b.input_("start", TensorType(F64))
    one = b.cast(b.constant(1.0, F64), I64)
    loop = Loop((one, start), (), (), body, 4)
    (gradient,) = differentiate(loop.result(1), [start])
    graph = Graph("g", (start,), (loop.result(0), gradient))
    found = evaluate(graph, {"start": np.array(2.0)})
    assert (int(found["out"]), float(found["out1"])) == (9, 1.0 * 3 * 5 * 7)
    assert all(n.op.name != "scan" or n.type.dtype in (F64, I64) for n in topological([gradient]))
