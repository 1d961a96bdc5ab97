"""The CUDA code of every primitive against the reference: its cases, their gradients, and graphs.

The code runs on the CPU (`emulator.py`). All cases of a primitive are compiled at once.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from conformance.backends import compare, run_twice
from conformance.cases import Case, cases
from conformance.test_backends import as_state, has_narrow, variants
from cupy_backend.emulated import BACKEND, compiled, emulated
from random_graphs import SIZES, arrays, random_graph
from weft.backends.cupy.backend import CupyBackend
from weft.compiler import builder as b
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import RULES, differentiate
from weft.compiler.graph import Graph, Node, make
from weft.compiler.ops import OPS
from weft.compiler.passes.bind import bind
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.types import F64, DType, TensorType, dtype_of

Named = tuple[str, Graph, dict[str, np.ndarray]]
PRIMITIVES = sorted({case.op for case, _ in variants()})


def test_every_primitive_has_cases() -> None:
    assert set(PRIMITIVES) == OPS.keys()
    assert BACKEND.ops == OPS.keys() - {"call"}


def check(named: list[Named], backend: CupyBackend = BACKEND) -> None:
    """Each graph on its values gives what the reference gives."""
    programs = compiled([graph for _, graph, _ in named], backend)
    for (name, graph, values), program in zip(named, programs, strict=True):
        try:
            compare(run_twice(program, graph, values), evaluate(graph, values))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def primitive(op: str) -> list[Named]:
    """All cases of a primitive, in both precisions."""
    named = []
    for case, dtype in variants():
        if case.op == op:
            graph, values = case.graph(dtype)
            named.append((f"{case.id}-{dtype}", inline_calls(graph), values))
    return named


def gradients(op: str, *dtypes: DType) -> list[Named]:
    """The gradients of a primitive's cases."""
    found = [c for c in cases() if c.op == op and c.has_float and not has_narrow(c)]
    smooth = [c for c in found if result_of(c).type.dtype.kind == "float"]
    assert smooth
    return [(f"{c.id}-{d}", *gradient(c, d)) for c in smooth for d in dtypes]


@emulated
@pytest.mark.parametrize("op", PRIMITIVES)
def test_primitive(op: str) -> None:
    check(primitive(op))


@emulated
@pytest.mark.parametrize("op", sorted(RULES))
def test_gradient(op: str) -> None:
    check(gradients(op, F64))


def result_of(case: Case) -> Node:
    graph, _ = case.graph()
    return graph.outputs[0]


def gradient(case: Case, dtype: DType) -> tuple[Graph, dict[str, np.ndarray]]:
    """The gradient of a weighted sum of a case's result by its operands."""
    values = {f"x{i}": a for i, a in enumerate(case.operands(dtype))}
    inputs = [b.input_(name, TensorType(dtype_of(a), a.shape)) for name, a in values.items()]
    out = case.node(dtype, *inputs)
    weights = b.input_("weights", out.type)
    loss = b.reduce_sum(make("multiply", out, weights))
    by = [node for node in inputs if node.type.dtype.kind == "float"]
    rng = np.random.default_rng(0)
    values["weights"] = rng.normal(size=out.type.shape).astype(out.type.dtype.numpy)
    graph = Graph("gradient", (*inputs, weights), tuple(differentiate(loss, by)))
    return inline_calls(graph), values


def random_ones(count: int) -> list[Named]:
    """Random graphs, every other one a step that updates state."""
    named = []
    for seed in range(count):
        rng = random.Random(seed)
        graph = bind(random_graph(rng, 40, calls=False), SIZES)
        if seed % 2:
            graph = as_state(graph, rng)
        named.append((f"graph {seed}", graph, arrays(graph)))
    return named


@emulated
@pytest.mark.slow
def test_random_graphs() -> None:
    check(random_ones(60))
