"""The backends against the reference: every primitive's cases, and random graphs."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.backends import INSTALLED, backend, compare, compiled, run
from conformance.cases import Case, cases
from random_graphs import SIZES, arrays, random_graph
from weft.compiler import builder as b
from weft.compiler.errors import RunError
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph
from weft.compiler.ops import OPS
from weft.compiler.passes.bind import bind
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.types import BF16, F16, F32, F64, DType, TensorType
from weft.runtime.backends import BACKENDS

everywhere = pytest.mark.parametrize("name", INSTALLED)
WITHOUT_NARROW = [name for name in INSTALLED if not BACKENDS[name].narrow]


def has_narrow(case: Case, dtype: DType = F64) -> bool:
    """Whether there are floats of 16 bits in a case of this type."""
    types = (dtype, *(v for v in case.attributes.values() if isinstance(v, DType)))
    return any(t.is_narrow for t in types)


@everywhere
def test_every_primitive_has_a_row(name: str) -> None:
    assert backend(name).ops == OPS.keys() - {"call"}


def variants() -> Iterator[tuple[Case, DType]]:
    """Every case in every type of floats."""
    for case in cases():
        for dtype in (F64, F32, F16, BF16) if case.has_float else (F64,):
            yield case, dtype


@pytest.mark.parametrize(
    ("case", "dtype", "name"),
    [
        pytest.param(case, dtype, name, id=f"{case.id}-{dtype}-{name}")
        for case, dtype in variants()
        for name in INSTALLED
        if name not in WITHOUT_NARROW or not has_narrow(case, dtype)
    ],
)
def test_primitive(case: Case, dtype: DType, name: str) -> None:
    graph, values = case.graph(dtype)
    graph = inline_calls(graph)
    compare(run(name, graph, values), evaluate(graph, values))


@everywhere
@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), with_state=st.booleans())
def test_random_graph(name: str, seed: int, with_state: bool) -> None:
    rng = random.Random(seed)
    graph = bind(random_graph(rng, 40, calls=False), SIZES)
    if with_state:
        graph = as_state(graph, rng)
    values = arrays(graph)
    compare(run(name, graph, values), evaluate(graph, values))


def as_state(graph: Graph, rng: random.Random) -> Graph:
    """Outputs renamed to inputs of their type: a step that updates state."""
    outputs = {}
    for name, node in graph.named_outputs.items():
        names = [i.name for i in graph.inputs if i.type == node.type and i.name not in outputs]
        outputs[rng.choice(names) if names else name] = node
    pool = list(graph.nodes)
    for state in graph.inputs:
        if state.name not in outputs and rng.random() < 0.7:
            outputs[state.name] = rng.choice([n for n in pool if n.type == state.type])
    return graph.with_outputs(outputs)


@pytest.mark.parametrize("name", WITHOUT_NARROW)
def test_half_precision_is_refused(name: str) -> None:
    case = next(c for c in cases() if has_narrow(c))
    graph, _ = case.graph()
    with pytest.raises(RunError, match="computes in f32 and f64"):
        compiled(name, graph)


@everywhere
def test_inputs_may_have_the_names_of_what_the_code_calls(name: str) -> None:
    names = ("sin", "abs", "add", "f64", "s3", "maximum", "range", "view", "dot", "k")
    inputs = [b.input_(word, TensorType(F64, (3,))) for word in names]
    total = inputs[0]
    for node in inputs[1:]:
        total = b.maximum(b.unary("sin", total) + node, 0.25)
    outputs = {"total": total, "dot": b.dot_general(total, inputs[4], ((0,), (0,)))}
    outputs |= {"abs of a number": b.unary("abs", outputs.pop("dot"))}
    graph = Graph("g", tuple(inputs), tuple(outputs.values()), tuple(outputs))
    values = arrays(graph)
    compare(run(name, graph, values), evaluate(graph, values))
