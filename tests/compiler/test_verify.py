"""Every broken invariant is found, and the message names the node, the rule and the place."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings

from goldens import Golden
from random_graphs import graphs
from weft.compiler import builder as b
from weft.compiler.errors import InternalError, Source, Span
from weft.compiler.graph import Graph, Node, make
from weft.compiler.ops import OPS
from weft.compiler.types import BOOL, F32, I32, TensorType
from weft.compiler.verify import verify

X = TensorType(F32, (2, 3))
SOURCE = Source("digits.weft", "let y = relu(x)\n")


def raw(op: str, *inputs: Node, type: TensorType = X, **attributes: Any) -> Node:
    """A node that no rule has checked."""
    span = Span(SOURCE, 8, 15)
    return Node(OPS[op], inputs, MappingProxyType(attributes), type, span)


def returning(*outputs: Node, inputs: tuple[Node, ...] = (), names: tuple[str, ...] = ()) -> Graph:
    return Graph("step", inputs, outputs, names)


def call(body: Graph, *arguments: Node, gradient: Graph | None = None) -> Node:
    return raw("call", *arguments, name="f", body=body, config=(), gradient=gradient)


def broken() -> dict[str, Graph]:
    x, y = b.input_("x", X), b.input_("y", X)
    flag, n = b.input_("flag", TensorType(BOOL, (2, 3))), b.input_("n", TensorType(I32, (2, 3)))
    inner = b.input_("x", X)
    body = returning(-inner, inputs=(inner,))
    bad_body = returning(raw("add", inner, type=X), inputs=(inner,))
    return {
        "type": returning(raw("negate", x, type=TensorType(F32, (3, 2))), inputs=(x,)),
        "rule": returning(raw("add", x, n), inputs=(x, n)),
        "operands": returning(raw("add", x), inputs=(x,)),
        "missing attribute": returning(raw("sort", x, axis=1), inputs=(x,)),
        "attribute kind": returning(raw("sort", x, axis=1.0, descending=True), inputs=(x,)),
        "attribute without text": returning(raw("sort", x, axis={}, descending=True), inputs=(x,)),
        "attribute order": returning(raw("sort", x, descending=True, axis=1), inputs=(x,)),
        "config": returning(
            raw("call", x, name="f", body=body, config={}, gradient=None), inputs=(x,)
        ),
        "negative axis": returning(raw("sort", x, axis=-1, descending=True), inputs=(x,)),
        "foreign input": returning(x + y, inputs=(x,)),
        "returned foreign input": returning(y, inputs=(x,)),
        "input is a node": returning(x + x, inputs=(x, x * x)),
        "two inputs of a name": returning(x, inputs=(x, b.input_("x", X))),
        "input twice": returning(x, inputs=(x, x)),
        "two outputs of a name": returning(x, x, inputs=(x,), names=("a", "a")),
        "nameless output": returning(x, inputs=(x,), names=("",)),
        "state": returning(flag, inputs=(x, flag), names=("x",)),
        "body": returning(call(bad_body, x), inputs=(x,)),
        "body's arguments": returning(call(body, n), inputs=(n,)),
        "gradient's inputs": returning(call(body, x, gradient=body), inputs=(x,)),
        "gradient's outputs": returning(
            call(body, x, gradient=returning(x, y, inputs=(x, y))), inputs=(x,)
        ),
        "unknown op": returning(
            Node(type(OPS["abs"])(**{**OPS["abs"].__dict__, "name": "abs"}), (x,), {}, X, None),
            inputs=(x,),
        ),
    }


def test_broken_graphs(golden: Golden) -> None:
    messages = []
    for name, graph in broken().items():
        with pytest.raises(InternalError) as caught:
            verify(graph)
        messages.append(f"--- {name}\n{caught.value}")
    golden("graph/verify.txt", "\n".join(messages))


@settings(max_examples=50)
@given(graphs())
def test_random_graphs_are_well_formed(graph: Graph) -> None:
    verify(graph)


def test_a_stated_gradient() -> None:
    x, ct = b.input_("x", X), b.input_("ct", X)
    body = Graph("f", (x,), (-x,))
    gradient = Graph("f'", (x, ct), (-ct,))
    verify(returning(call(body, x, gradient=gradient), inputs=(x,)))


def test_state_keeps_its_type() -> None:
    x = b.input_("x", X)
    verify(returning(x * 2, inputs=(x,), names=("x",)))


def test_no_arguments() -> None:
    body = Graph("zero", (), (b.zeros(X),))
    verify(Graph("g", (), (make("call", name="zero", body=body, config=(), gradient=None),)))
