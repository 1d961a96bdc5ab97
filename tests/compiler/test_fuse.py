"""Fusion: each node in one group, groups convex and in order, and what is meant to fuse."""

from __future__ import annotations

import random

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from random_graphs import SIZES, graphs, random_graph
from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node, make
from weft.compiler.passes.bind import bind
from weft.compiler.passes.fuse import LEAVES, Group, fuse
from weft.compiler.types import F32, TensorType


def quotient(graph: Graph, groups: tuple[Group, ...]) -> networkx.DiGraph:
    home = {node: i for i, group in enumerate(groups) for node in group.nodes}
    network = networkx.DiGraph()
    network.add_nodes_from(range(len(groups)))
    for node, number in home.items():
        for operand in node.inputs:
            if operand in home and home[operand] != number:
                network.add_edge(home[operand], number)
    return network


@given(graphs(60))
def test_groups_are_a_convex_ordered_partition(graph: Graph) -> None:
    groups = fuse(graph)
    fused = [node for group in groups for node in group.nodes]
    assert len(fused) == len(set(fused))
    assert set(fused) == {n for n in graph.nodes if n.op.name not in LEAVES}
    network = quotient(graph, groups)
    assert networkx.is_directed_acyclic_graph(network)
    assert all(before < after for before, after in network.edges)


@given(graphs(60))
def test_inputs_and_outputs_of_groups(graph: Graph) -> None:
    for group in fuse(graph):
        done: set[Node] = set(group.inputs)
        assert not done & group.members
        for node in group.nodes:
            assert set(node.inputs) <= done
            done.add(node)
        for node in group.nodes:
            outside = any(user not in group.members for user in graph.users[node])
            assert (node in group.outputs) == (outside or node in graph.outputs)


@given(st.integers(0, 2**32))
def test_the_same_graph_gives_the_same_groups(seed: int) -> None:
    first, second = (bind(random_graph(random.Random(seed), 40), SIZES) for _ in range(2))
    assert _numbered(first) == _numbered(second)


def _numbered(graph: Graph) -> list[tuple[str, list[int], list[int]]]:
    """Groups with the places of their nodes in place of these."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    return [
        (g.kind, [place[n] for n in g.nodes], [place[n] for n in g.outputs]) for g in fuse(graph)
    ]


X = b.input_("x", TensorType(F32, (8, 5)))
W = b.input_("w", TensorType(F32, (5, 3)))
V = b.input_("v", TensorType(F32, (3,)))


def kinds(*outputs: Node) -> list[tuple[str, list[str]]]:
    graph = Graph("g", (X, W, V), outputs)
    return [(g.kind, [n.op.name for n in g.nodes]) for g in fuse(graph)]


def test_a_product_takes_its_bias_and_activation() -> None:
    biased = b.matmul(X, W) + b.broadcast(V, (8, 3), (1,))
    assert kinds(b.maximum(biased, 0.0)) == [
        (
            "contraction",
            ["dot_general", "broadcast_in_dim", "add", "broadcast_in_dim", "maximum"],
        )
    ]


def test_a_reduction_takes_prologue_and_epilogue() -> None:
    norm = make("sqrt", b.reduce_sum(X * X, (1,)) + 1.0)
    assert kinds(norm) == [
        ("reduction", ["multiply", "reduce_sum", "broadcast_in_dim", "add", "sqrt"])
    ]


def test_reductions_over_different_axes_are_apart() -> None:
    assert [kind for kind, _ in kinds(b.reduce_sum(X, (0,)), b.reduce_sum(X, (1,)))] == [
        "reduction",
        "reduction",
    ]


def test_a_group_is_not_left_and_entered_again() -> None:
    chain = b.exp(X)
    share = b.broadcast(b.reduce_sum(chain, (1,)), (8, 5), (0,))
    assert kinds(chain / share) == [
        ("reduction", ["exp", "reduce_sum"]),
        ("elementwise", ["broadcast_in_dim", "divide"]),
    ]


def test_an_operand_of_a_product_is_not_its_epilogue() -> None:
    square = b.input_("s", TensorType(F32, (4, 4)))
    first = b.exp(square)
    graph = Graph("g", (square,), (b.matmul(first, square) + first,))
    assert [g.kind for g in fuse(graph)] == ["elementwise", "contraction"]


def test_two_chains_that_meet_become_one() -> None:
    assert kinds(b.exp(X) + b.log(X)) == [("elementwise", ["exp", "log", "add"])]


@pytest.mark.parametrize("kind", ["slice", "reshape"])
def test_movement_read_by_two_groups_is_a_group(kind: str) -> None:
    moved = b.slice_axis(X, 0, 0, 4) if kind == "slice" else b.flatten(X)
    groups = kinds(b.reduce_sum(moved, (0,)), make("cumsum", moved, axis=0, reverse=False))
    assert ("movement", [kind]) in groups
