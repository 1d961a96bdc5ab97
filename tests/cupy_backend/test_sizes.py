"""Sizes at which the CUDA code goes another way: teams, parts, tiles, the library, long rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from conformance.backends import compare, run_twice
from cupy_backend.emulated import BACKEND, compiled, emulated
from weft.backends.cupy.bound import CupyExecutable
from weft.backends.cupy.code import Gemm, Launch
from weft.compiler import builder as b
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node, make, topological, transform
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan
from weft.compiler.types import F64, I64, DType, TensorType

Outputs = dict[str, Node]


def normal(name: str, *shape: int) -> Node:
    return b.input_(name, TensorType(F64, shape))


def indices(name: str, *shape: int) -> Node:
    return b.input_(name, TensorType(I64, shape))


def by_rows(x: Node, of: Node) -> Node:
    """A value of each row, for each element of the row."""
    return make("broadcast_in_dim", of, shape=x.type.shape, dims=tuple(range(of.type.rank)))


def softmax(rows: int, columns: int) -> Outputs:
    x = normal("x", rows, columns)
    top = make("reduce_max", x, axes=(1,))
    e = make("exp", x - by_rows(x, top))
    return {"out": make("divide", e, by_rows(x, make("reduce_sum", e, axes=(1,))))}


def product(m: int, n: int, k: int, *, batch: int = 0, transposed: bool = False) -> Outputs:
    lead = (batch,) if batch else ()
    x = normal("x", *lead, *((k, m) if transposed else (m, k)))
    y = normal("y", *lead, *((n, k) if transposed else (k, n)))
    one = len(lead)
    contract = ((one + (not transposed),), (one + transposed,))
    batches = ((0,), (0,)) if batch else ((), ())
    found = b.dot_general(x, y, contract, batches)
    return {"out": found}


def biased(m: int, n: int, k: int) -> Outputs:
    found, bias = product(m, n, k)["out"], normal("bias", n)
    spread = make("broadcast_in_dim", bias, shape=found.type.shape, dims=(1,))
    return {"out": b.maximum(found + spread, 0.0), "sum": found + spread}


def convolution(images: int, inside: int, outside: int, size: int) -> Outputs:
    x, kernel = normal("x", images, inside, size, size), normal("y", outside, inside, 3, 3)
    return {
        "out": make(
            "conv", x, kernel, strides=(1, 1), padding=((1, 1), (1, 1)), lhs_dilation=(1, 1),
            rhs_dilation=(1, 1), groups=1,
        )
    }  # fmt: skip


def reduced(op: str, shape: tuple[int, ...], *axes: int) -> Outputs:
    x = normal("x", *shape)
    if op.startswith("arg"):
        return {"out": make(op, x, axis=axes[0])}
    return {"out": make(op, x, axes=axes)}


def scattered(rows: int, updates: int, width: int) -> Outputs:
    shape = (width,) if width else ()
    x, more = normal("x", rows, *shape), normal("y", updates, *shape)
    return {"out": make("scatter_add", x, indices("i", updates), more, batch_dims=0)}


# What each is, and stems of functions that its program has to have.
CASES: dict[str, tuple[Callable[[], Outputs], set[str]]] = {
    "softmax, a warp a row": (lambda: softmax(300, 500), {"rows"}),
    "softmax, a block a row": (lambda: softmax(130, 1500), {"rows"}),
    "a long sum": (lambda: reduced("reduce_sum", (100_003,), 0), {"parts", "rows"}),
    "few long rows": (lambda: reduced("reduce_max", (3, 30_000), 1), {"parts", "rows"}),
    "columns": (lambda: reduced("reduce_sum", (5_000, 64), 0), {"parts", "rows"}),
    "channels": (lambda: reduced("reduce_sum", (20, 5, 900), 0, 2), {"parts", "rows"}),
    "the place in a long row": (lambda: reduced("arg_max", (2, 40_000), 1), {"parts", "rows"}),
    "the place in columns": (lambda: reduced("arg_min", (4_000, 9), 0), {"rows"}),
    "small tiles in parts": (lambda: product(40, 30, 3_000), {"product", "rows"}),
    "middle tiles": (lambda: product(700, 700, 20), {"product"}),
    "middle tiles in parts": (lambda: product(70, 80, 2_100), {"product", "rows"}),
    "large tiles": (lambda: product(1_500, 1_500, 7), {"product"}),
    "a batch of tiles": (lambda: product(30, 40, 50, batch=7), {"product"}),
    "transposed tiles": (lambda: product(65, 33, 17, transposed=True), {"product"}),
    "the library": (lambda: product(260, 270, 280), {"library"}),
    "the library, transposed": (lambda: product(260, 270, 280, transposed=True), {"library"}),
    "the library, in a batch": (lambda: product(90, 100, 300, batch=8), {"library"}),
    "the library, and more": (lambda: biased(260, 272, 280), {"library", "finish"}),
    "a convolution in middle tiles": (lambda: convolution(9, 3, 40, 31), {"convolution"}),
    "running sums of a row": (
        lambda: {"out": make("cumsum", normal("x", 3, 1_000), axis=1, reverse=True)},
        {"cumsum"},
    ),
    "running sums of columns": (
        lambda: {"out": make("cumsum", normal("x", 300, 7), axis=0, reverse=False)},
        {"cumsum"},
    ),
    "a sort in shared memory": (
        lambda: {"out": make("arg_sort", normal("x", 3, 1_500), axis=1, descending=False)},
        {"arg_sort"},
    ),
    "a sort outside of it": (
        lambda: {"out": make("sort", normal("x", 2, 5_000), axis=1, descending=True)},
        {"sort"},
    ),
    "scattered numbers": (lambda: scattered(50, 400, 0), {"points", "scatter_add"}),
    "scattered rows": (lambda: scattered(20, 150, 200), {"points", "scatter_add"}),
    "many scattered numbers": (
        lambda: scattered(600, 5_000, 0),
        {"points", "scatter_add", "digits", "sums", "sorted"},
    ),
    "many scattered rows": (
        lambda: scattered(19, 4_200, 40),
        {"points", "scatter_add", "digits", "sums", "sorted"},
    ),
}


def executable(case: str) -> tuple[CupyExecutable, Graph]:
    outputs = CASES[case][0]()
    inputs = tuple(n for n in topological(outputs.values()) if n.op.name == "input")
    graph = Graph("g", inputs, tuple(outputs.values()), tuple(outputs))
    return BACKEND.compile(plan(graph, fuse(graph), BACKEND.abilities)), graph


def retyped(graph: Graph, dtype: DType) -> Graph:
    """The graph with other floats."""

    def replace(node: Node, operands: tuple[Node, ...]) -> Node:
        attributes = dict(node.attributes)
        if "type" in attributes and attributes["type"].dtype.kind == "float":
            attributes["type"] = attributes["type"].with_dtype(dtype)
        if attributes.get("dtype") == F64:
            attributes["dtype"] = dtype
        return make(node.op.name, *operands, **attributes)

    return transform(graph, replace)


def inputs(graph: Graph) -> dict[str, np.ndarray]:
    """Values for a graph's inputs. Some indices are out of range."""
    rng = np.random.default_rng(0)
    return {
        node.name: rng.integers(-1, 700, node.type.shape)
        if node.type.dtype is I64
        else rng.uniform(0.1, 1.0, node.type.shape)
        for node in graph.inputs
    }


@pytest.mark.parametrize("case", CASES)
def test_the_way_that_is_gone(case: str) -> None:
    program = executable(case)[0].program
    stems = set()
    for run in program.runs:
        if isinstance(run.call, Launch):
            stems.add(run.call.function.name.rpartition("_")[0])
        elif isinstance(run.call, Gemm):
            stems.add("library")
    assert stems == CASES[case][1]


@emulated
@pytest.mark.slow
def test_results() -> None:
    made = {case: executable(case) for case in CASES}
    compiled([graph for _, graph in made.values()])
    for case, (program, graph) in made.items():
        values = inputs(graph)
        try:
            compare(run_twice(program, graph, values), evaluate(graph, values))
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error
