"""Kernels over the same rows as one, and what keeps kernels apart."""

from __future__ import annotations

from dataclasses import replace

from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node, make
from weft.compiler.kernel import Kernel, Nest
from weft.compiler.kernel_text import text
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.kernels import kernels
from weft.compiler.passes.memory import plan
from weft.compiler.passes.rows import joined
from weft.compiler.plan import Abilities
from weft.compiler.types import F32, TensorType

ABILITIES = Abilities(
    views=frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "stop_gradient"}),
    strided=True,
    kernels=True,
)


def each(of: Node, axis: int = 0) -> Node:
    """A value of each row for its elements (or of each column)."""
    return make("broadcast_in_dim", of, shape=(6, 8), dims=(axis,))


X = b.input_("x", TensorType(F32, (6, 8)))
TOP = make("reduce_max", X, axes=(1,))
EXP = make("exp", X - each(TOP))
SOFTMAX = make("divide", EXP, each(make("reduce_sum", EXP, axes=(1,))))


def kernels_over(*outputs: Node) -> tuple[Kernel, ...]:
    graph = Graph("g", (X,), outputs)
    return kernels(plan(graph, fuse(graph), ABILITIES), ABILITIES)


def test_a_softmax_is_one_kernel() -> None:
    found = kernels_over(SOFTMAX)
    assert len(found) == 3
    (one,) = joined(found, lambda nest: True)
    assert isinstance(one, Nest)
    assert text(one).count("fold") == 2
    assert "subtract(p" in text(one)
    assert "/" not in text(one)


def test_only_where_the_backend_wants_it() -> None:
    assert len(joined(kernels_over(SOFTMAX), lambda nest: False)) == 3


def test_other_rows_stay_apart() -> None:
    """Rows after columns: each column needs all rows."""
    shifted = make("subtract", X, each(TOP))
    columns = make("reduce_sum", shifted, axes=(0,))
    found = joined(kernels_over(make("exp", shifted - each(columns, 1))), lambda nest: True)
    assert len(found) > 1


def test_memory_that_is_used_again_for_something_else_keeps_kernels_apart() -> None:
    """Here the second kernel writes where other rows of the first still read."""
    first, second, third = kernels_over(SOFTMAX)
    assert isinstance(first, Nest)
    assert isinstance(third, Nest)
    (store,) = third.stages[0].stores
    target = third.ports[store.port].buffer
    ports = []
    for port in first.ports:
        if port.buffer.name == "x":
            buffer = replace(port.buffer, kind="arena", offset=target.offset)
            port = replace(port, buffer=buffer, offset=1)
        ports.append(port)
    found = joined((replace(first, ports=tuple(ports)), second, third), lambda nest: True)
    assert next(len(k.nodes) for k in found if isinstance(k, Nest)) == len(first.nodes)


def test_memory_that_is_used_twice_holds_what_was_written_last() -> None:
    """The third fold's result takes the first one's place, and the last kernel reads it there."""
    low = make("reduce_min", X, axes=(1,))
    top = make("reduce_max", make("exp", X - each(low)), axes=(1,))
    total = make("reduce_sum", make("tanh", X * each(top)), axes=(1,))
    places = {low: 1_024, top: 2_048, total: 1_024}
    found = []
    for kernel in kernels_over(make("divide", X, each(total))):
        ports = []
        for port in kernel.ports:
            offset = places.get(port.buffer.nodes[0], port.buffer.offset)
            ports.append(replace(port, buffer=replace(port.buffer, offset=offset)))
        found.append(replace(kernel, ports=tuple(ports)))
    (one,) = joined(found, lambda nest: True)
    assert isinstance(one, Nest)
    (last,) = (line for line in text(one).splitlines() if "divide" in line)
    assert "%2" in last


def test_a_view_of_what_the_kernel_itself_makes_is_not_read_from_memory() -> None:
    """`stop_gradient` is a view of its operand, which is in memory only after the kernel."""
    total = make("reduce_max", X, axes=(0, 1))
    held = make("stop_gradient", total)
    (kernel,) = kernels_over(total, make("tanh", held))
    assert isinstance(kernel, Nest)
    assert "tanh(%0)" in text(kernel)
