"""Arenas: layout, and that packing a graph changes where state lives and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from weft.compiler import builder as b
from weft.compiler.errors import InternalError
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node
from weft.compiler.passes.pack import (
    Arena,
    gathered,
    layout,
    pack,
    pack_values,
    unpack_values,
    views,
)
from weft.compiler.passes.simplify import simplify
from weft.compiler.types import F32, F64, DType, TensorType

SHAPES = {"w": (3, 5), "b": (5,), "none": (0, 4), "scalar": ()}


def arena(name: str = "theta", dtype: DType = F64) -> Arena:
    return layout(name, dtype, SHAPES.items())


def states(prefix: str = "") -> list[Node]:
    return [b.input_(prefix + n, TensorType(F64, s)) for n, s in SHAPES.items()]


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_members_are_aligned(dtype: DType) -> None:
    found = arena(dtype=dtype)
    assert all(m.offset * dtype.bytes % 64 == 0 for m in found.members)
    assert found.size * dtype.bytes % 64 == 0
    assert [m.shape for m in found.members] == list(SHAPES.values())
    ends = [m.offset + m.size for m in found.members]
    assert all(e <= m.offset for e, m in zip(ends, found.members[1:], strict=False))


def test_a_name_is_held_once() -> None:
    with pytest.raises(InternalError, match="twice"):
        layout("theta", F64, [("w", (1,)), ("w", (2,))])


def test_views_and_gathered_are_inverse() -> None:
    values = {n: np.random.default_rng(0).normal(size=s) for n, s in SHAPES.items()}
    flat = gathered(values, arena())
    for name, view in views(flat, arena()).items():
        np.testing.assert_array_equal(view, values[name])
        assert view.size == 0 or np.shares_memory(view, flat)
    assert flat.sum() == pytest.approx(sum(v.sum() for v in values.values()))


def step() -> Graph:
    """An optimiser of a flat vector, applied to tensors that are states of their own."""
    theta, slots = states(), states("m/")
    gradients = [b.unary("sin", t) for t in theta]
    home = arena()
    flat = pack_values(theta, home)
    slot = pack_values(slots, home) * 0.9 + pack_values(gradients, home) * 0.1
    new = unpack_values(flat - slot * 0.5, home)
    values = [*new, *unpack_values(slot, home), b.reduce_sum(new[0])]
    names = [*SHAPES, *(f"m/{n}" for n in SHAPES), "total"]
    return Graph("step", (*theta, *slots), tuple(values), tuple(names))


SLOTS = layout("m", F64, [(f"m/{n}", s) for n, s in SHAPES.items()])


def test_packing_keeps_the_meaning() -> None:
    graph, rng = step(), np.random.default_rng(0)
    values = {n.name: rng.normal(size=n.type.shape) for n in graph.inputs}
    packed = pack(graph, (arena(), SLOTS))
    assert [n.name for n in packed.inputs] == ["theta", "m"]
    assert packed.output_names == ("theta", "m", "total")
    found = evaluate(packed, {a.name: gathered(values, a) for a in (arena(), SLOTS)})
    expected = evaluate(graph, values)
    np.testing.assert_allclose(found["total"], expected["total"])
    for home in (arena(), SLOTS):
        for name, view in views(found[home.name], home).items():
            np.testing.assert_allclose(view, expected[name], err_msg=name)


def test_an_update_of_the_whole_vector_stays_one() -> None:
    packed = simplify(pack(step(), (arena(), SLOTS)))
    theta, slot = packed.outputs[:2]
    assert theta.op.name == "subtract"
    assert theta.inputs[0] is packed.named_inputs["theta"]
    assert slot.op.name == "add"
    joined = [n for n in packed.nodes if n.op.name == "concat"]
    assert len(joined) == 1, "the gradients alone are laid out anew"


def test_members_that_a_graph_leaves_alone_keep_their_values() -> None:
    theta = states()
    graph = Graph("part", (theta[1],), (theta[1] + 1.0,), ("b",))
    packed = pack(graph, (arena(),))
    values = {n: np.full(s, 2.0) for n, s in SHAPES.items()}
    found = evaluate(packed, {"theta": gathered(values, arena())})
    for name, view in views(found["theta"], arena()).items():
        np.testing.assert_array_equal(view, 3.0 if name == "b" else 2.0)


def test_a_graph_that_only_makes_state_needs_no_arena() -> None:
    made = tuple(b.ones(TensorType(F64, s)) for s in SHAPES.values())
    packed = pack(Graph("init", (), made, tuple(SHAPES)), (arena(),))
    assert packed.inputs == ()
    assert packed.output_names == ("theta",)


def test_reading_an_arena_does_not_write_it() -> None:
    theta = states()
    packed = pack(Graph("predict", (theta[0],), (theta[0] * 2.0,), ("y",)), (arena(),))
    assert [n.name for n in packed.inputs] == ["theta"]
    assert packed.output_names == ("y",)
