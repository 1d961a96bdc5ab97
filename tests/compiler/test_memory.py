"""The memory plan: run by a plain interpreter of places, it gives what the graph means."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldens import Golden
from random_graphs import SIZES, arrays, as_state, random_graph
from weft.compiler import builder as b
from weft.compiler.errors import InternalError
from weft.compiler.evaluate import evaluate, evaluate_node
from weft.compiler.graph import Graph, Node, make
from weft.compiler.passes.arena import Slot, pack
from weft.compiler.passes.bind import bind
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan
from weft.compiler.passes.plan_text import print_plan
from weft.compiler.plan import Abilities, Place, Plan
from weft.compiler.types import F32, F64, I64, DType, TensorType, symbol

MOVES = frozenset({"reshape", "slice", "transpose", "broadcast_in_dim", "reverse"})
IN_PLACE = frozenset(
    {"add", "subtract", "multiply", "divide", "tanh", "sin", "exp", "log", "abs", "negate"}
)
KINDS = {
    "nothing": Abilities(views=frozenset()),
    "native": Abilities(in_place=IN_PLACE),
    "strided": Abilities(views=MOVES, strided=True, in_place=IN_PLACE),
    "numpy": Abilities(
        views=MOVES,
        strided=True,
        in_place=IN_PLACE,
        registers=True,
        folded=frozenset({"constant", "iota", "dim_size"}),
        scratch=lambda node: 40 if node.op.name == "reduce_sum" else 0,
    ),
}


def planned(graph: Graph, abilities: Abilities = KINDS["numpy"]) -> Plan:
    return plan(graph, fuse(graph), abilities)


class Interpreter:
    """Runs a plan literally: every value is read from and written to the place it has."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.arena = np.full(plan.arena_bytes, 0xA5, np.uint8)
        self.outside: dict[str, np.ndarray] = {}

    def memory(self, place: Place) -> np.ndarray:
        buffer, layout = place.buffer, place.layout
        dtype: DType = buffer.dtype
        if buffer.kind in ("arena", "scratch"):
            raw, start = self.arena, buffer.offset
        else:
            key = f"{buffer.kind} {buffer.name}"
            whole = self.outside.setdefault(key, np.zeros(buffer.bytes, np.uint8))
            raw, start = whole, 0
        if not layout.size:
            return np.zeros(layout.shape, dtype.numpy)
        strides = tuple(s * dtype.bytes for s in layout.strides)
        offset = start + layout.offset * dtype.bytes
        return np.ndarray(layout.shape, dtype.numpy, raw, offset, strides)

    def is_constant(self, node: Node) -> bool:
        buffer = self.plan.places[node].buffer
        return buffer.kind == "constant" and node in buffer.nodes

    def run(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph, places = self.plan.graph, self.plan.places
        for node in graph.nodes:
            if node.op.name == "input":
                self.memory(places[node])[...] = values[node.name]
            elif self.is_constant(node):
                self.memory(places[node])[...] = evaluate_node(node, [])
        early = {n: self.memory(places[n]).copy() for n in graph.inputs if n.type.rank == 0}
        for node in self.plan.order:
            if node in self.plan.views or self.is_constant(node):
                continue
            operands = [early.get(i, self.memory(places[i])).copy() for i in node.inputs]
            with np.errstate(all="ignore"):
                self.memory(places[node])[...] = evaluate_node(node, operands)
            if node in self.plan.scratch:
                buffer = self.plan.scratch[node]
                self.arena[buffer.offset : buffer.offset + buffer.bytes] = 0x5A
        results = {
            name: self.memory(places[node]).copy()
            for name, node in graph.named_outputs.items()
            if name not in self.plan.bound
        }
        saved = {s: self.memory(places[s.source]).copy() for s in self.plan.stores if s.early}
        for store in self.plan.stores:
            value = saved[store] if store.early else self.memory(places[store.source]).copy()
            self.memory(places[graph.named_inputs[store.name]])[...] = value
        for name in self.plan.bound:
            results[name] = self.memory(places[graph.named_inputs[name]]).copy()
        return results


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_places_hold_what_the_graph_means(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    graph = as_state(bind(random_graph(rng, 40, calls=False), SIZES), rng)
    found = planned(graph, KINDS[kind])
    check(found)
    values = arrays(graph)
    results = Interpreter(found).run(values)
    expected = evaluate(graph, values)
    for name in found.bound | set(graph.output_names):
        np.testing.assert_allclose(results[name], expected[name], rtol=1e-12, err_msg=name)


def check(found: Plan) -> None:
    """What must hold of every plan."""
    mine = [b for b in found.buffers if b.kind in ("arena", "scratch") and b.bytes]
    for one, other in combinations(mine, 2):
        if one.first <= other.last and other.first <= one.last:
            apart = (
                one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset
            )
            assert apart, (one, other)
    for buffer in mine:
        assert buffer.offset % 64 == 0
        assert buffer.offset + buffer.bytes <= found.arena_bytes
    for node, place in found.places.items():
        layout = place.layout
        assert layout.shape == node.type.shape
        if layout.size:
            reach = [(n - 1) * s for n, s in zip(layout.shape, layout.strides, strict=True)]
            assert layout.offset + sum(r for r in reach if r < 0) >= 0
            assert layout.offset + sum(r for r in reach if r > 0) < place.buffer.size
    live = sum(b.bytes for b in found.live_at_peak)
    assert live <= found.arena_bytes <= found.peak_bytes
    assert print_plan(found) == print_plan(found)


F = TensorType(F64, (6,))
X, Y = b.input_("x", F), b.input_("y", F)


def state_plan(**outputs: Node) -> Plan:
    return planned(Graph("g", (X, Y), tuple(outputs.values()), tuple(outputs)))


def test_a_state_is_updated_in_place() -> None:
    found = state_plan(x=X * 0.9 + b.exp(Y) * 0.1)
    assert found.stores == ()
    assert found.places[found.graph.outputs[0]].buffer.name == "x"
    assert len([b for b in found.buffers if b.kind == "arena"]) == 1


def test_readers_of_the_old_value_come_first() -> None:
    new = X + 1.0
    found = state_plan(x=new, late=b.exp(X))
    assert found.stores == ()
    order = [n.op.name for n in found.order]
    assert order.index("exp") < order.index("add")


NATIVE = Abilities(views=MOVES, strided=True, kernels=True)


def test_a_sum_onto_a_state_is_written_in_place() -> None:
    """A kernel that folds may write over what it reads for each result, after its folds."""
    table = b.input_("t", TensorType(F64, (6, 9)))
    added = b.reduce_sum(b.exp(table), (1,)) * 0.5 + X
    found = planned(Graph("g", (X, table), (added,), ("x",)), NATIVE)
    assert found.stores == ()
    # But not over what the folds themselves read: other rows need it too.
    square = b.input_("s", TensorType(F64, (6, 6)))
    mixed = b.reduce_sum(square * b.broadcast(X, (6, 6), (1,)), (1,)) + X
    found = planned(Graph("g", (X, square), (mixed,), ("x",)), NATIVE)
    assert [s.name for s in found.stores] == ["x"]


def test_heads_are_merged_without_a_copy() -> None:
    weights = b.input_("w", TensorType(F64, (2, 3, 5, 5)))
    values = b.input_("v", TensorType(F64, (2, 3, 5, 8)))
    heads = b.dot_general(weights, values, ((3,), (2,)), ((0, 1), (0, 1)))
    merged = b.reshape(b.transpose(heads, (0, 2, 1, 3)), (2, 5, 24))
    found = planned(Graph("g", (weights, values), (b.exp(merged),)), NATIVE)
    assert found.places[heads].layout.strides == (120, 8, 24, 1)
    assert found.places[merged].layout.is_contiguous
    assert merged in found.views
    # But not where it is read in two ways, or its rows would be torn.
    for other in (
        b.reduce_sum(merged) + b.reduce_sum(heads),
        b.exp(b.transpose(heads, (0, 1, 3, 2))),
    ):
        found = planned(Graph("g", (weights, values), (other,)), NATIVE)
        assert found.places[heads].layout.is_contiguous


def test_states_that_swap_are_saved() -> None:
    found = state_plan(x=Y, y=X)
    assert [s.early for s in found.stores] == [True, True]


def test_a_reader_that_needs_the_new_value_too_forces_a_copy() -> None:
    new = X + 1.0
    found = state_plan(x=new, late=b.reverse(new, (0,)) * X)
    assert [s.name for s in found.stores] == ["x"]


def test_an_old_value_that_is_returned_forces_a_copy() -> None:
    assert [s.name for s in state_plan(x=X + 1.0, old=X).stores] == ["x"]


def test_a_reversed_state_is_not_written_while_it_is_read() -> None:
    assert [s.name for s in state_plan(x=b.reverse(X, (0,)) + X).stores] == ["x"]


def test_parts_are_written_into_their_concatenation() -> None:
    table = b.input_("t", TensorType(F64, (2, 3)))
    parts = [b.exp(X), b.flatten(make("sin", b.matmul(table, b.transpose(table, (1, 0)))))]
    graph = Graph("g", (X, table), (b.concat(parts, 0),))
    found = planned(graph)
    buffer = found.places[graph.outputs[0]].buffer
    for part in parts:
        assert found.places[part].buffer is buffer
    assert [b.kind for b in found.buffers if b.kind == "arena"] == ["arena"]


def test_inputs_outside_the_state_are_never_written() -> None:
    graph = Graph("g", (X, Y), (X + 1.0,), ("x",))
    found = plan(graph, fuse(graph), KINDS["numpy"], bound=())
    assert found.places[graph.outputs[0]].buffer.kind == "arena"


def test_memory_is_used_again() -> None:
    table = b.input_("t", TensorType(F32, (64, 64)))
    value = table
    for _ in range(10):
        value = b.matmul(value, table)
    graph = Graph("g", (table,), (value,))
    assert planned(graph).arena_bytes == 2 * 64 * 64 * 4


def test_symbols_must_be_bound() -> None:
    x = b.input_("x", TensorType(F32, (symbol("batch"),)))
    with pytest.raises(InternalError, match="batch"):
        planned(Graph("g", (x,), (b.exp(x),)))


def test_printed_plan(golden: Golden) -> None:
    index = b.input_("i", TensorType(I64, (2,)))
    parts = b.concat([b.exp(X), b.gather(b.reverse(X, (0,)), index)], 0)
    total = b.reduce_sum(parts)
    graph = Graph("step", (X, Y, index), (X * 2.0, X, total), ("x", "y", "total"))
    golden("plan/step.txt", print_plan(planned(graph)))


def test_a_tensor_that_no_address_reaches() -> None:
    with pytest.raises(MemoryError, match="4,611,686,018,427,387,904 bytes"):
        pack([Slot("x", "arena", F32, 1 << 60)])
