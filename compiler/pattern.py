"""Rewrite rules as data: tables of (pattern, replacement), and the driver that applies them.

    RULES = Rules(
        Rule(op("add", "x", const(0)), lambda x: x),
        Rule(op("add", "x", op("negate", "y")), lambda x, y: x - y),
    )

A pattern is made of `op`, `const` and `var` (a plain string is `var`). It matches from a node down
through its operands; operands of commutative ops match in either order. What is named is passed to
the replacement by keyword; a name that occurs twice stands for one and the same node. The
replacement returns a node of the same type, or None for no match. Tables add with `+`; of several
rules that match, the first in the table wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from weft.compiler.errors import InternalError
from weft.compiler.graph import Graph, Node, Number, locate, rebuild
from weft.compiler.ops import OPS, Kind
from weft.compiler.types import TensorType

COMMUTATIVE = frozenset(
    {"add", "multiply", "maximum", "minimum", "and", "or", "xor", "equal", "not_equal"}
)
ELEMENTWISE = tuple(op.name for op in OPS.values() if op.kind is Kind.ELEMENTWISE)

_OF_NUMBERS = frozenset({"constant", "broadcast_in_dim"})  # what `number_of` looks through

# Rewrites of one sweep, per node of the graph: far above what a terminating table needs.
_REWRITES = 50
_SWEEPS = 32

TypeTest = Callable[[TensorType], bool]
Captures = dict[str, Node]
Uses = Mapping[Node, int]
Matcher = Callable[[Node, Captures, Uses], bool]


@dataclass(frozen=True)
class Pattern:
    """What a node must be. Made by `op`, `const` and `var`."""

    ops: tuple[str, ...] = ()
    operands: tuple[Pattern, ...] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    type: TypeTest | None = None
    number: Callable[[Number], bool] | None = None
    used_once: bool = False
    shown: str = "_"

    @cached_property
    def counts(self) -> bool:
        """Whether a match depends on how often nodes are read."""
        return self.used_once or any(operand.counts for operand in self.operands or ())

    def __str__(self) -> str:
        if not self.ops:
            return self.shown
        operands = ", ".join(map(str, self.operands)) if self.operands is not None else "..."
        return f"{'|'.join(self.ops)}({operands})"


PatternLike = Pattern | str


def var(name: str, type: TypeTest | None = None) -> Pattern:
    """Any node, under a name, whose type passes the test."""
    return Pattern(name=name, type=type, shown=name)


def const(value: Number | Callable[[Number], bool], name: str | None = None) -> Pattern:
    """A tensor with one known number everywhere: equal to `value`, or passing it as a test.

    Numbers match across int and float but not bool, so `const(1)` is not `const(True)`. `const(0)`
    matches -0.0 too.
    """
    if callable(value):
        return Pattern(name=name, number=value, shown=name or "const")
    logical = isinstance(value, bool)

    def test(found: Number) -> bool:
        return found == value and isinstance(found, bool) is logical

    return Pattern(name=name, number=test, shown=repr(value))


def op(
    ops: str | tuple[str, ...],
    *operands: PatternLike,
    name: str | None = None,
    type: TypeTest | None = None,
    used_once: bool = False,
    **attributes: Any,
) -> Pattern:
    """A node of one of the ops. No operands given: any operands.

    An attribute is a value to equal, or a test. `used_once`: nothing else reads the node.
    """
    names = (ops,) if isinstance(ops, str) else ops
    unknown = [n for n in names if n not in OPS]
    if unknown:
        raise InternalError(f"a pattern names {unknown}, which the op table lacks")
    inner = tuple(var(o) if isinstance(o, str) else o for o in operands) or None
    return Pattern(names, inner, attributes, name, type, None, used_once)


def number_of(node: Node) -> Number | None:
    """The number that a constant tensor holds everywhere, seen through broadcasts, or None."""
    while node.op.name == "broadcast_in_dim":
        node = node.inputs[0]
    if node.op.name != "constant":
        return None
    value = node.attributes["value"]
    return None if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Rule:
    """A pattern and what to put in its place; `replace` takes the captures by keyword."""

    pattern: Pattern
    replace: Callable[..., Node | None]


@dataclass(frozen=True, init=False)
class Rules:
    """A table of rules; the first that matches a node, and gives a node, wins."""

    rows: tuple[Rule, ...]

    def __init__(self, *rows: Rule) -> None:
        object.__setattr__(self, "rows", rows)

    def __add__(self, other: Rules) -> Rules:
        return Rules(*self.rows, *other.rows)

    @cached_property
    def by_op(self) -> Mapping[str, tuple[tuple[Pattern, Matcher, Rule], ...]]:
        """For each op the patterns to try, compiled, in the table's order."""
        table: dict[str, list[tuple[Pattern, Matcher, Rule]]] = {}
        for rule in self.rows:
            if not rule.pattern.ops:
                raise InternalError(f"pattern {rule.pattern} must begin with an op")
            rows = [(variant, _compile(variant), rule) for variant in _variants(rule.pattern)]
            for name in rule.pattern.ops:
                table.setdefault(name, []).extend(rows)
        return {name: tuple(rows) for name, rows in table.items()}

    @cached_property
    def counting(self) -> frozenset[str]:
        """The ops of nodes for which a match depends on how often others are read."""
        counting = [rule.pattern for rule in self.rows if rule.pattern.counts]
        return frozenset(name for pattern in counting for name in pattern.ops)

    @cached_property
    def _by_ops(self) -> dict[tuple[str, ...], tuple[tuple[Matcher, Rule], ...]]:
        """Those of `by_op` that the ops of a node's operands allow, filled in as nodes come."""
        return {}

    def _candidates(self, node: Node) -> tuple[tuple[Matcher, Rule], ...]:
        ops = (node.op.name, *[operand.op.name for operand in node.inputs])
        found = self._by_ops.get(ops)
        if found is None:
            rows = self.by_op.get(node.op.name, ())
            found = tuple((m, rule) for pattern, m, rule in rows if _allows(pattern, ops[1:]))
            self._by_ops[ops] = found
        return found

    def apply(self, node: Node, uses: Uses) -> tuple[Node, Rule] | None:
        """What the first matching rule puts in the node's place, placed where the node is."""
        for matcher, rule in self._candidates(node):
            found: Captures = {}
            if not matcher(node, found, uses):
                continue
            result = rule.replace(**found)
            if result is None or result is node:
                continue
            if result.type != node.type:
                raise InternalError(
                    f"rule {rule.pattern} turned {node!r} into {result!r}, of another type"
                )
            return locate(result, node.span), rule
        return None


def rewrite(graph: Graph, rules: Rules, tried: set[Node] | None = None) -> Graph:
    """Apply a table until nothing matches; the very same graph when nothing did.

    Requires a verified graph; ensures the same signature, names and types, and that no rule
    matches any more. Raises InternalError when the table does not come to an end. `tried` holds
    nodes that no rule of this table matched before (nodes don't change); others join it.
    """
    tried = set() if tried is None else tried
    for _ in range(_SWEEPS):
        after = _Sweep(graph, rules, tried).run()
        if after is graph:
            return graph
        graph = after
    raise InternalError(f"rewriting `{graph.name}` does not settle in {_SWEEPS} sweeps")


class _Sweep:
    """One walk, operands first, that also rewrites what its own replacements are made of."""

    def __init__(self, graph: Graph, rules: Rules, tried: set[Node]) -> None:
        self.graph = graph
        self.rules = rules
        self.tried = tried
        self.left = _REWRITES * (len(graph.nodes) + 20)
        # What a node became so far, and the end of that chain once it is known.
        self.became: dict[Node, Node] = {}
        self.final: dict[Node, Node] = {}
        self.uses: dict[Node, int] = {}

    def run(self) -> Graph:
        graph, uses, final = self.graph, self.uses, self.final
        counts = dict.fromkeys(graph.nodes, 0)
        for reader in graph.nodes:
            for operand in reader.inputs:
                counts[operand] += 1
        for output in graph.outputs:
            counts[output] += 1
        for node, count in counts.items():
            result = self.settle(node)
            uses[result] = uses.get(result, 0) + count
        if all(final[node] is node for node in graph.outputs):
            return graph
        outputs = tuple(final[node] for node in graph.outputs)
        return Graph(graph.name, graph.inputs, outputs, graph.output_names)

    def settle(self, start: Node) -> Node:
        final, became, tried, stack = self.final, self.became, self.tried, [start]
        counting = self.rules.counting
        while stack:
            node = stack.pop()
            if node in final:
                continue
            if node in became:
                target = became[node]
                if target in final:
                    final[node] = final[target]
                else:
                    stack += (node, target)
                continue
            try:
                operands = tuple([final[i] for i in node.inputs])
            except KeyError:
                stack.append(node)
                stack += [i for i in reversed(node.inputs) if i not in final]
                continue
            if operands != node.inputs:  # nodes are equal where they are the same
                became[node] = rebuild(node, operands)
            elif node in tried and node.op.name not in counting:
                final[node] = node
                continue
            elif (found := self.rules.apply(node, self.uses)) is None:
                tried.add(node)
                final[node] = node
                continue
            else:
                became[node], rule = found
                self.left -= 1
                if self.left < 0:
                    raise InternalError(f"rewriting does not end; the last rule was {rule.pattern}")
            stack += (node, became[node])
        return final[start]


# -- matching -------------------------------------------------------------------------------------


def _variants(pattern: Pattern) -> list[Pattern]:
    """The pattern with the operands of its commutative ops in every order, as written first."""
    if pattern.operands is None:
        return [pattern]
    choices = product(*[_variants(operand) for operand in pattern.operands])
    orders = [replace(pattern, operands=operands) for operands in choices]
    if len(pattern.operands) == 2 and set(pattern.ops) <= COMMUTATIVE:
        orders += [replace(p, operands=(p.operands or ())[::-1]) for p in orders]
    return orders


def _allows(pattern: Pattern, operands: tuple[str, ...]) -> bool:
    """Whether a node with operands of these ops could match."""
    if pattern.operands is None:
        return True
    return len(operands) == len(pattern.operands) and all(
        (not wanted.ops or op in wanted.ops) and (wanted.number is None or op in _OF_NUMBERS)
        for wanted, op in zip(pattern.operands, operands, strict=True)
    )


def _compile(pattern: Pattern) -> Matcher:
    """A pattern without choices as a function that fills in the captures."""
    tests = [
        *_test_op(pattern),
        *_test_number(pattern),
        *_test_type(pattern),
        *_test_attributes(pattern),
        *_capture(pattern),
        *_test_operands(pattern),
    ]
    if not tests:
        return lambda node, found, uses: True
    matcher = tests.pop()
    while tests:
        matcher = _both(tests.pop(), matcher)
    return matcher


def _both(first: Matcher, second: Matcher) -> Matcher:
    return lambda node, found, uses: first(node, found, uses) and second(node, found, uses)


def _test_op(pattern: Pattern) -> list[Matcher]:
    tests: list[Matcher] = []
    names = frozenset(pattern.ops)
    if names:
        tests.append(lambda node, found, uses: node.op.name in names)
    if pattern.used_once:
        tests.append(lambda node, found, uses: uses.get(node, 1) <= 1)
    return tests


def _test_number(pattern: Pattern) -> list[Matcher]:
    accepts = pattern.number
    if accepts is None:
        return []

    def test(node: Node, found: Captures, uses: Uses) -> bool:
        number = number_of(node)
        return number is not None and accepts(number)

    return [test]


def _test_type(pattern: Pattern) -> list[Matcher]:
    accepts = pattern.type
    return [] if accepts is None else [lambda node, found, uses: accepts(node.type)]


def _test_attributes(pattern: Pattern) -> list[Matcher]:
    tests: list[Matcher] = []
    for name, wanted in pattern.attributes.items():
        tests.append(_attribute_test(name, wanted))
    return tests


def _attribute_test(name: str, wanted: Any) -> Matcher:
    if callable(wanted):
        return lambda node, found, uses: bool(wanted(node.attributes[name]))
    return lambda node, found, uses: bool(node.attributes[name] == wanted)


def _capture(pattern: Pattern) -> list[Matcher]:
    name = pattern.name
    if name is None:
        return []
    return [lambda node, found, uses: found.setdefault(name, node) is node]


def _test_operands(pattern: Pattern) -> list[Matcher]:
    if pattern.operands is None:
        return []
    matchers = [_compile(operand) for operand in pattern.operands]
    count = len(matchers)

    def test(node: Node, found: Captures, uses: Uses) -> bool:
        inputs = node.inputs
        if len(inputs) != count:
            return False
        for matcher, operand in zip(matchers, inputs, strict=True):
            if not matcher(operand, found, uses):
                return False
        return True

    return [test]
