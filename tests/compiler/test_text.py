"""The text of graphs: its form, its way back, its stability and its speed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings

from goldens import Golden
from random_graphs import graphs, random_graph
from weft.compiler import builder as b
from weft.compiler.errors import CompileError, InternalError
from weft.compiler.graph import Graph, Node, locate, make
from weft.compiler.text import graph_hash, parse_graph, print_graph, print_node
from weft.compiler.types import BOOL, F32, F64, I64, U32, SymDim, TensorType, symbol

BATCH = symbol("batch")
X = TensorType(F32, (BATCH, 64))


def square(name: str, type: TensorType, times: int = 1) -> Graph:
    x = b.input_("x", type)
    y = x
    for _ in range(times):
        y = y * x
    return Graph(name, (x,), (y,))


def call(body: Graph, *arguments: Node, gradient: Graph | None = None, config: tuple = ()) -> Node:
    return make("call", *arguments, name=body.name, body=body, config=config, gradient=gradient)


def every_attribute() -> Graph:
    """A graph with each kind of attribute, odd names, and composites in composites."""
    x, w = b.input_("x", X), b.input_("net.dense/w 1", TensorType(F32, (64, 10)))
    seed, step = b.input_("seed", TensorType(U32, (2,))), b.input_("step", TensorType(U32))
    odd = symbol('a "b"') * symbol("f32") + 1
    assert isinstance(odd, SymDim)
    nodes = [b.matmul(x, w) * 0.1]
    nodes += [b.constant(value, F32) for value in (-0.0, float("inf"), float("-inf"), 1e-30)]
    nodes += [b.constant(float("nan"), F64), b.constant(True, BOOL), b.constant(-3, I64)]
    nodes.append(make("constant", value=(1.0, 2.5), dtype=F32, shape=(1, 2)))
    nodes.append(make("dim_size", dim=odd, dtype=I64))
    nodes.append(make("dim_size", dim=(BATCH * 2 - 1) // 3 * BATCH - 7, dtype=I64))
    nodes.append(b.zeros(TensorType(F32, (BATCH // 2, -BATCH * -1))))
    nodes.append(make("random_bits", seed, step, shape=(BATCH,), stream='a.b "c"\n'))
    nodes.append(make("sort", x, axis=1, descending=False))
    nodes.append(
        make(
            "reduce_window", x, reducer="max", window=(2,), strides=(2,),
            padding=((0, 1),), dilation=(1,),
        )
    )  # fmt: skip
    inner = square("square", X)
    outer_x = b.input_("x", X)
    outer = Graph("twice", (outer_x,), (call(inner, call(square("square", X), outer_x)),))
    gx, ct = b.input_("x", X), b.input_("ct", X)
    gradient = Graph("twice gradient", (gx, ct), (ct * gx,), ("x",))
    config = (("k", 1), ("rate", 0.5), ("of", (F32, X, BATCH, None)), ("mode", "same"))
    nodes.append(call(outer, x, gradient=gradient, config=config))
    nodes.append(call(square("square", X, 2), x))
    names = tuple(f"{i} out" if i % 2 else f"o{i}" for i in range(len(nodes)))
    return Graph("every", (x, w, seed, step), tuple(nodes), names)


def test_golden(golden: Golden) -> None:
    golden("graph/every.txt", print_graph(every_attribute()))


def test_every_attribute_comes_back() -> None:
    text = print_graph(every_attribute())
    again = parse_graph(text)
    assert print_graph(again) == text
    assert str(again.named_outputs["1 out"].span) == "<graph>:28:3"
    assert again.outputs[-2].attributes["config"][2] == ("of", (F32, X, BATCH, None))


@settings(max_examples=150)
@given(graphs())
def test_random_graphs_come_back(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    for before, after in zip(graph.nodes, again.nodes, strict=True):
        assert before.type == after.type


def test_empty_graphs() -> None:
    for text in ("graph a() {\n  return\n}\n", "graph b(x: f32[]) {\n  return x=x\n}\n"):
        assert print_graph(parse_graph(text)) == text


def test_places_do_not_matter() -> None:
    graph = square("f", X)
    before = print_graph(graph), graph_hash(graph)
    span = parse_graph("graph a(x: f32[]) {\n  return y=x\n}").inputs[0].span
    locate(graph.outputs[0], span)
    assert (print_graph(graph), graph_hash(graph)) == before
    assert len(before[1]) == 32


def test_one_body_for_equal_ones() -> None:
    x = b.input_("x", X)
    y = call(square("f", X), call(square("f", X), x))
    assert print_graph(Graph("g", (x,), (y,))).count("graph ") == 2


def test_bodies_of_one_name_are_told_apart() -> None:
    x = b.input_("x", X)
    y = call(square("g", X, 2), call(square("g", X), x))
    text = print_graph(Graph("g", (x,), (y,)))
    assert [line.split("(")[0] for line in text.splitlines() if line.startswith("graph")] == [
        "graph g.1",
        "graph g.2",
        "graph g",
    ]
    assert print_graph(parse_graph(text)) == text


def test_two_processes_agree() -> None:
    script = (
        "import random, sys; from random_graphs import random_graph;"
        "from weft.compiler.passes.simplify import simplify;"
        "from weft.compiler.passes.fold import fold;"
        "from weft.compiler.passes.cleanup import cse;"
        "from weft.compiler.text import print_graph;"
        "g = random_graph(random.Random(7), 200);"
        "sys.stdout.write(print_graph(g) + print_graph(cse(fold(simplify(g)))))"
    )
    texts = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, check=True
        )
        texts.add(done.stdout)
    assert len(texts) == 1
    assert texts.pop().startswith(b"graph ")


def test_deep_graphs() -> None:
    graph = parse_graph(print_graph(square("deep", TensorType(F32), 5000)))
    assert len(graph.nodes) == 5001


def test_deep_calls() -> None:
    body = square("f", TensorType(F32))
    for _ in range(1500):
        x = b.input_("x", TensorType(F32))
        body = Graph("f", (x,), (call(body, x),))
    text = print_graph(body)
    assert text.count("graph ") == 1501
    assert print_graph(parse_graph(text)) == text


def test_printing_is_fast() -> None:
    graph = random_graph(random.Random(1), 5000, calls=False, outputs=3000)
    print_graph(graph)
    started = time.perf_counter()
    print_graph(graph)
    # 0.1 s for 5,000 nodes; the rest is for a machine that is busy with other things.
    assert time.perf_counter() - started < 0.6 * len(graph.nodes) / 5000


def test_a_line_for_messages() -> None:
    graph = every_attribute()
    assert print_node(graph, graph.inputs[1]) == '"net.dense/w 1": f32[64, 10]'
    assert print_node(graph, graph.outputs[1]).endswith(
        "= constant() value=-0.0 dtype=f32 shape=() : f32[]"
    )


def test_unprintable_attribute() -> None:
    x = b.input_("x", X)
    with pytest.raises(InternalError, match="can't say"):
        print_graph(Graph("g", (x,), (make("sort", x, axis=1, descending=object()),)))


LINE = "graph g(x: f32[2, n]) {{\n  {}\n  return y=%0\n}}\n"
BROKEN = {
    "empty": "",
    "binary": "graph g(\x00",
    "not a graph": "model net = mlp()",
    "unknown op": LINE.format("%0 = tahn(x) : f32[2, n]"),
    "unknown operand": LINE.format("%0 = tanh(z) : f32[2, n]"),
    "operand below": LINE.format("%0 = tanh(%1) : f32[2, n]"),
    "arity": LINE.format("%0 = add(x) : f32[2, n]"),
    "wrong type": LINE.format("%0 = tanh(x) : f32[2, m]"),
    "type rule": LINE.format("%0 = reduce_sum(x) axes=(3,) : f32[n]"),
    "missing attribute": LINE.format("%0 = reduce_sum(x) : f32[n]"),
    "unknown attribute": LINE.format("%0 = tanh(x) axis=1 : f32[2, n]"),
    "attribute kind": LINE.format("%0 = reduce_sum(x) axes=1 : f32[n]"),
    "constant kind": LINE.format("%0 = constant() value=1 dtype=f32 shape=() : f32[]"),
    "constant range": LINE.format("%0 = constant() value=300 dtype=u8 shape=() : u8[]"),
    "unknown body": LINE.format('%0 = call(x) name="f" body=@f config=() gradient=none : f32[]'),
    "text as size": LINE.format('%0 = tanh(x) : f32["a"]'),
    "divided by zero": LINE.format("%0 = tanh(x) : f32[(n // 0)]"),
    "negated text": LINE.format('%0 = sort(x) axis=-"a" descending=true : f32[2, n]'),
    "deep": LINE.format("%0 = reduce_sum(x) axes=" + "(" * 5000),
    "long number": LINE.format(f"%0 = reduce_sum(x) axes=({'9' * 5000},) : f32[n]"),
    "twice defined": LINE.format("%0 = tanh(x) : f32[2, n]\n  %0 = tanh(x) : f32[2, n]"),
    "bad string": LINE.format('%0 = random_bits(x, x) stream="\\x" : f32[2, n]'),
    "two inputs": "graph g(x: f32[], x: f32[]) {\n  return\n}",
    "nameless input": 'graph g("": f32[]) {\n  return\n}',
    "two outputs": "graph g(x: f32[]) {\n  return y=x, y=x\n}",
    "two graphs": "graph g() {\n  return\n}\ngraph g() {\n  return\n}",
    "unused graph": "graph f() {\n  return\n}\ngraph g() {\n  return\n}",
    "no end": "graph g(x: f32[]) {\n  return y=x",
    "no type": "graph g(x: f33[2]) {\n  return\n}",
}


def test_broken_texts(golden: Golden) -> None:
    messages = []
    for name, text in BROKEN.items():
        with pytest.raises(CompileError) as caught:
            parse_graph(text, "bad.txt")
        messages.append(f"--- {name}\n{caught.value}")
    golden("graph/broken.txt", "\n".join(messages))
