"""What kernels cost, counted by hand; and that their operations are the graph's."""

from __future__ import annotations

import pytest

from conformance.cases import Case, cases
from weft.compiler import builder as b
from weft.compiler.analysis import executed, flops
from weft.compiler.costs import Cost, kernel_cost, node_cost
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.kernel import Kernel, Turns
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.kernels import kernels
from weft.compiler.passes.memory import plan
from weft.compiler.passes.turn_kernels import loop_scratch
from weft.compiler.plan import Abilities
from weft.compiler.types import F32, I64, TensorType


def _scratch(node: Node) -> int:
    return loop_scratch(node, NATIVE) if node.op.name == "scan" else 0


NATIVE = Abilities(
    views=frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "reverse"}),
    strided=True,
    kernels=True,
    scratch=_scratch,
)


def f32(name: str, *shape: int) -> Node:
    return b.input_(name, TensorType(F32, shape))


def graph_of(y: Node) -> Graph:
    inputs = [node for node in topological([y]) if node.op.name == "input"]
    return Graph("g", tuple(inputs), (y,))


def lowered(graph: Graph) -> tuple[Kernel, ...]:
    return kernels(plan(graph, fuse(graph), NATIVE), NATIVE)


def cost(y: Node) -> Cost:
    return sum(map(kernel_cost, lowered(graph_of(y))), Cost())


def test_elementwise() -> None:
    x, m = f32("x", 32, 10), f32("m", 32)
    y = b.exp(x - b.broadcast(m, (32, 10), (0,)))
    assert cost(y) == Cost(flops=640, read=4 * (320 + 32), written=4 * 320)


def test_what_is_read_twice_counts_once() -> None:
    x = f32("x", 100)
    assert cost(x * x + x) == Cost(flops=200, read=400, written=400)


def test_parts_of_one_value_add_up() -> None:
    x = f32("x", 100)
    apart = b.slice_axis(x, 0, 0, 20) + b.slice_axis(x, 0, 70, 90)
    assert cost(apart).read == 4 * 40
    over = b.slice_axis(x, 0, 0, 60) + b.slice_axis(x, 0, 40, 100)
    assert cost(over).read == 4 * 100


def test_windows_read_each_element_once() -> None:
    x = f32("x", 1, 1, 8, 8)
    pooled = b.reduce_window(x, "max", (3, 3))
    assert cost(pooled) == Cost(flops=36 * 9, read=4 * 64, written=4 * 36)


def test_a_value_of_each_row_is_made_once_a_row() -> None:
    x = f32("x", 32, 10)
    total_ = b.reduce_sum(x, (1,))
    y = x / b.broadcast(b.sqrt(total_), (32, 10), (0,))
    assert cost(y).flops == 320 + 32 + 320


def test_a_product_and_its_epilogue() -> None:
    x, w, bias = f32("x", 32, 64), f32("w", 64, 10), f32("b", 10)
    y = b.maximum(b.matmul(x, w) + b.broadcast(bias, (32, 10), (1,)), 0.0)
    (kernel,) = lowered(graph_of(y))
    read = 4 * (32 * 64 + 64 * 10 + 10)
    assert kernel_cost(kernel) == Cost(2 * 32 * 64 * 10 + 640, read, 4 * 320)


def test_one_matrix_for_a_whole_batch_is_read_once() -> None:
    x, w = f32("x", 8, 32, 64), f32("w", 64, 10)
    y = b.dot_general(x, b.broadcast(w, (8, 64, 10), (1, 2)), ((2,), (1,)), ((0,), (0,)))
    assert cost(y).read == 4 * (8 * 32 * 64 + 64 * 10)


def test_a_product_over_two_axes_apart_costs_both() -> None:
    x, y = f32("x", 30, 7, 40), f32("y", 7, 50, 40)
    z = b.dot_general(x, y, ((1, 2), (0, 2)))
    read = 4 * (30 * 7 * 40 + 7 * 50 * 40)
    assert cost(z) == Cost(2 * 30 * 50 * 7 * 40, read, 4 * 30 * 50)


def test_a_convolution() -> None:
    x, w = f32("x", 2, 3, 8, 8), f32("w", 16, 3, 3, 3)
    y = b.conv(x, w, strides=(1, 1), padding=((1, 1), (1, 1)))
    assert cost(y) == Cost(
        flops=2 * (2 * 16 * 64) * 27, read=4 * (2 * 3 * 64 + 16 * 27), written=4 * 2 * 16 * 64
    )


def test_scattering_touches_the_rows_that_it_adds_to() -> None:
    x, updates = f32("x", 1000, 8), f32("updates", 5, 8)
    indices = b.input_("indices", TensorType(I64, (5,)))
    copy, add = lowered(graph_of(b.scatter_add(x, indices, updates)))
    assert kernel_cost(copy) == Cost(0, 4 * 8000, 4 * 8000)
    assert kernel_cost(add) == Cost(40, read=8 * 5 + 4 * 40 + 4 * 40, written=4 * 40)


def test_a_loop_costs_its_turns() -> None:
    (case,) = [c for c in cases() if c.id == "scan-sums-0"]
    graph, _ = case.graph(F32)
    (loop,) = [k for k in lowered(graph) if isinstance(k, Turns)]
    turn = sum(map(kernel_cost, loop.kernels), Cost())
    assert kernel_cost(loop) == turn * loop.length
    assert turn.flops > 0


# Both strided and dilated: computed by its definition, zeros between the elements and all.
BY_DEFINITION = {"conv-everything"}


@pytest.mark.parametrize(
    "case", [c for c in cases() if c.id not in BY_DEFINITION], ids=lambda case: case.id
)
def test_kernels_make_the_operations_of_the_graph(case: Case) -> None:
    graph = inline_calls(case.graph(F32)[0])
    found = sum(map(kernel_cost, lowered(graph)), Cost())
    assert found.flops == sum(times * flops(node) for node, times in executed(graph))


def test_an_operation_of_the_reference() -> None:
    x, m = f32("x", 32, 10), f32("m", 32)
    y = x - b.broadcast(m, (32, 10), (0,))
    for node, read in ((y, 320 + 32), (x * x, 320)):
        graph = graph_of(node)
        planned = plan(graph, fuse(graph), NATIVE)
        assert node_cost(planned, node) == Cost(320, 4 * read, 4 * 320)


def test_a_concatenation_moves_what_is_not_in_its_place() -> None:
    x, y = f32("x", 20), f32("y", 30)
    joined = b.concat([b.exp(x), b.reverse(y, (0,))], 0)
    graph = graph_of(joined)
    planned = plan(graph, fuse(graph), NATIVE)
    assert node_cost(planned, joined) == Cost(0, 4 * 30, 4 * 30)
