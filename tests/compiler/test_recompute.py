"""What a kernel computes again: fewer bytes are kept, and every value stays what it was."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from random_graphs import SIZES, arrays, random_graph
from weft.compiler import builder as b
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node, make
from weft.compiler.passes.bind import bind
from weft.compiler.passes.fuse import Group, fuse
from weft.compiler.passes.recompute import recompute
from weft.compiler.types import F32, TensorType
from weft.compiler.verify import verify


def input_(name: str, *shape: int) -> Node:
    return b.input_(name, TensorType(F32, shape))


def _product(x: Node, w: Node) -> Node:
    return make("dot_general", x, w, contract=((1,), (0,)), batch=((), ()))


def left_to_later(groups: tuple[Group, ...]) -> list[list[str]]:
    return [[node.op.name for node in group.outputs] for group in groups]


def step(function: str, heavy: int = 1) -> Graph:
    """A product, functions of it, and a second product after which their values are read again."""
    x, w = input_("x", 64, 32), input_("w", 32, 32)
    h = _product(x, w)
    first = h
    for _ in range(heavy):
        first = make(function, first)
    second = make("negate", h)
    y = _product(first * second, w)
    late = y * first * second
    return Graph("step", (x, w), (late,), ("late",))


def checked(graph: Graph) -> tuple[Graph, tuple[Group, ...]]:
    """The result, verified: every node in one group, groups in order, values what they were."""
    made, groups = recompute(graph, fuse(graph))
    verify(made)
    members = [node for group in groups for node in group.nodes]
    assert len(members) == len(set(members))
    leaves = {n for n in made.nodes if n.op.name in ("input", "constant")}
    assert set(members) == set(made.nodes) - leaves
    known = set(leaves)
    for group in groups:
        assert set(group.inputs) <= known
        known |= set(group.outputs)
    values = arrays(graph)
    found, expected = evaluate(made, values), evaluate(graph, values)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    return made, groups


def test_one_value_is_kept_in_place_of_two() -> None:
    graph = step("tanh")
    assert left_to_later(fuse(graph))[0] == ["tanh", "negate", "multiply"]
    _, groups = checked(graph)
    assert left_to_later(groups)[0] == ["dot_general", "multiply"]
    assert [n.op.name for n in groups[1].nodes].count("tanh") == 1


def test_much_work_is_not_done_again() -> None:
    graph = step("exp", heavy=6)
    made, groups = checked(graph)
    assert made is graph
    assert left_to_later(groups) == left_to_later(fuse(graph))


def test_outputs_of_the_graph_are_kept() -> None:
    graph = step("tanh")
    (kept,) = (n for n in graph.nodes if n.op.name == "tanh")
    graph = Graph("step", graph.inputs, (*graph.outputs, kept), ("late", "kept"))
    _, groups = checked(graph)
    assert "tanh" in left_to_later(groups)[0]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_graphs_keep_their_values(seed: int) -> None:
    checked(bind(random_graph(random.Random(seed), 40, calls=False), SIZES))
