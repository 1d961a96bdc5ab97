"""Patterns, tables of rules and the driver."""

from __future__ import annotations

import pytest

from weft.compiler import builder as b
from weft.compiler.errors import InternalError, Source, Span
from weft.compiler.graph import Graph, Node, locate, make
from weft.compiler.pattern import Rule, Rules, const, number_of, op, rewrite, var
from weft.compiler.text import print_graph
from weft.compiler.types import BOOL, F32, I32, TensorType

X = TensorType(F32, (2, 3))


def result(node: Node, rules: Rules) -> Node:
    """The node after rewriting a graph that returns it."""
    return rewrite(Graph("g", tuple(_inputs(node)), (node,)), rules).outputs[0]


def _inputs(node: Node) -> list[Node]:
    order: list[Node] = []
    stack = [node]
    while stack:
        current = stack.pop()
        stack.extend(current.inputs)
        if current.op.name == "input" and current not in order:
            order.append(current)
    return sorted(order, key=lambda n: n.name)


@pytest.fixture
def x() -> Node:
    return b.input_("x", X)


@pytest.fixture
def y() -> Node:
    return b.input_("y", X)


def test_numbers_under_broadcasts(x: Node) -> None:
    rules = Rules(Rule(op("add", "x", const(0)), lambda x: x))
    assert result(x + 0, rules) is x
    assert result(0 + x, rules) is x
    assert result(x + 1, rules).op.name == "add"
    row = b.broadcast(b.zeros(TensorType(F32, (3,))), X.shape, (1,))
    assert result(x + row, rules) is x
    assert number_of(make("constant", value=(0.0,) * 3, dtype=F32, shape=(3,))) is None


def test_numbers_keep_their_kind(x: Node) -> None:
    flag = b.input_("flag", TensorType(BOOL, (2, 3)))
    rules = Rules(
        Rule(op("or", "x", const(0)), lambda x: x),
        Rule(op("add", "x", const(False)), lambda x: x),
    )
    assert result(make("or", flag, b.zeros(flag.type)), rules).op.name == "or"
    assert result(x + 0, rules).op.name == "add"


def test_one_name_is_one_node(x: Node, y: Node) -> None:
    rules = Rules(Rule(op("subtract", "x", "x"), lambda x: b.zeros(x.type)))
    assert number_of(result(x - x, rules)) == 0
    assert result(x - y, rules).op.name == "subtract"


def test_either_order_at_every_level(x: Node, y: Node) -> None:
    rules = Rules(
        Rule(op("add", op("multiply", "x", op("negate", "y")), "z"), lambda x, y, z: z - x * y)
    )
    for product in (x * -y, -y * x):
        for total in (product + x, x + product):
            assert result(total, rules).op.name == "subtract"
    assert result(x - y, rules).op.name == "subtract"


def test_ops_attributes_and_types(x: Node) -> None:
    n = b.input_("n", TensorType(I32, (2, 3)))
    rules = Rules(
        Rule(op(("reduce_max", "reduce_min"), "x", axes=()), lambda x: x),
        Rule(op("sort", var("x", lambda t: t.dtype == I32), axis=lambda a: a == 0), lambda x: x),
    )
    assert result(make("reduce_min", x, axes=()), rules) is x
    assert result(make("reduce_sum", x, axes=()), rules).op.name == "reduce_sum"
    assert result(make("reduce_max", x, axes=(0,)), rules).op.name == "reduce_max"
    for node, axis, kept in ((x, 0, True), (n, 0, False), (n, 1, True)):
        after = result(make("sort", node, axis=axis, descending=False), rules)
        assert (after is not node) is kept


def test_used_once(x: Node) -> None:
    rules = Rules(Rule(op("negate", op("exp", "x", used_once=True)), lambda x: x))
    e = b.exp(x)
    assert rewrite(Graph("g", (x,), (-e,)), rules).outputs == (x,)
    for outputs in ((-e, e), (-e, e * 2)):
        graph = Graph("g", (x,), outputs)
        assert rewrite(graph, rules) is graph


def test_what_no_rule_matched_is_looked_at_again_when_readers_go(x: Node) -> None:
    rules = Rules(Rule(op("negate", op("exp", "x", used_once=True)), lambda x: x))
    e = b.exp(x)
    tried: set[Node] = set()
    both = Graph("g", (x,), (-e, e))
    assert rewrite(both, rules, tried) is both
    one = Graph("g", (x,), both.outputs[:1])
    assert rewrite(one, rules, tried).outputs == (x,)


def test_what_no_rule_matched_is_not_tried_again(x: Node) -> None:
    asked: list[Node] = []

    def ask(x: Node) -> None:
        asked.append(x)

    rules = Rules(Rule(op("exp", "x"), ask))
    graph, tried = Graph("g", (x,), (b.exp(x),)), set[Node]()
    for _ in range(2):
        assert rewrite(graph, rules, tried) is graph
    assert asked == [x]


def test_first_rule_wins_and_none_passes(x: Node) -> None:
    first = Rules(Rule(op("exp", "x"), lambda x: None))
    second = Rules(Rule(op("exp", "x"), lambda x: x))
    third = Rules(Rule(op("exp", "x"), lambda x: -x))
    assert result(b.exp(x), first + second + third) is x
    assert result(b.exp(x), third + second).op.name == "negate"


def test_replacements_are_rewritten_too(x: Node) -> None:
    rules = Rules(
        Rule(op("tanh", "x"), lambda x: b.exp(b.log(x)) + 0),
        Rule(op("add", "x", const(0)), lambda x: x),
        Rule(op("log", "x"), lambda x: -x),
    )
    graph = rewrite(Graph("g", (x,), (b.unary("tanh", x),)), rules)
    assert [n.op.name for n in graph.nodes] == ["input", "negate", "exp"]


def test_replacements_are_placed(x: Node) -> None:
    span = Span(Source("a.weft", "tanh(x)"), 0, 7)
    rules = Rules(Rule(op("tanh", "x"), lambda x: b.exp(-x)))
    after = result(locate(b.unary("tanh", x), span), rules)
    assert after.span == span == after.inputs[0].span


def test_another_type_is_a_bug(x: Node) -> None:
    rules = Rules(Rule(op("exp", "x"), b.flatten))
    with pytest.raises(InternalError, match=r"rule exp\(x\) turned"):
        result(b.exp(x), rules)


def test_endless_rules_are_a_bug(x: Node) -> None:
    rules = Rules(Rule(op("exp", "x"), lambda x: b.exp(b.exp(x))))
    with pytest.raises(InternalError, match=r"does not end; the last rule was exp\(x\)"):
        result(b.exp(x), rules)


def test_a_pattern_must_begin_with_a_known_op() -> None:
    with pytest.raises(InternalError, match="which the op table lacks"):
        op("tahn", "x")
    with pytest.raises(InternalError, match="must begin with an op"):
        _ = Rules(Rule(var("x"), lambda x: x)).by_op


def test_nothing_to_do_is_the_same_graph(x: Node) -> None:
    graph = Graph("g", (x,), (b.exp(x),))
    assert rewrite(graph, Rules(Rule(op("log", "x"), lambda x: x))) is graph


def test_deep_graphs(x: Node) -> None:
    y = x
    for _ in range(5000):
        y = -(-y + 0)
    rules = Rules(
        Rule(op("add", "x", const(0)), lambda x: x),
        Rule(op("negate", op("negate", "x")), lambda x: x),
    )
    assert rewrite(Graph("g", (x,), (y,)), rules).outputs == (x,)


def test_outputs_keep_their_names(x: Node) -> None:
    graph = Graph("g", (x,), (x + 0, b.exp(x)), ("a", "x"))
    after = rewrite(graph, Rules(Rule(op("add", "x", const(0)), lambda x: x)))
    assert print_graph(after).count("return a=x, x=%0") == 1
