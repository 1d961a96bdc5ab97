"""Loops in the graph: a `scan` taken apart, changed, and put together again.

    turn t         next..., stacked[t]... = body(carried..., stepped[t]..., shared...)
    carried        `start` in the first turn, then what the turn before gave as `next`
    results        the carried values after the last turn, then each `stacked` along a new axis 0

Every node has one result, a loop's too: a loop is the `scan` nodes that have the same operands and
the same body and differ in `result`. What nobody reads is no node, and so is gone; fusion puts the
nodes of a loop into one group, which is where backends have kernels of several results anyway.

With `reverse` the turns go from the last position to the first; stacks keep their positions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from weft.compiler import builder as b
from weft.compiler.composites import bodies
from weft.compiler.errors import Span
from weft.compiler.graph import Graph, Node, make, substitute, topological, transform
from weft.compiler.types import Dim, static_shape


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop: operands outside, a body whose inputs and outputs are in the same order."""

    start: tuple[Node, ...]
    steps: tuple[Node, ...]
    fixed: tuple[Node, ...]
    body: Graph
    length: Dim
    reverse: bool = False
    span: Span | None = None

    @staticmethod
    def of(node: Node, operands: tuple[Node, ...] | None = None) -> Loop:
        """The loop that a `scan` node is a result of, or the same one over other operands."""
        assert node.op.name == "scan", node
        values = node.inputs if operands is None else operands
        first = node.attributes["carried"]
        rest = first + node.attributes["stepped"]
        return Loop(
            values[:first],
            values[first:rest],
            values[rest:],
            node.attributes["body"],
            node.attributes["length"],
            node.attributes["reverse"],
            node.span,
        )

    @property
    def carried(self) -> tuple[Node, ...]:
        """The body's inputs that stand for the carried values."""
        return self.body.inputs[: len(self.start)]

    @property
    def stepped(self) -> tuple[Node, ...]:
        """The body's inputs that stand for this turn's part of `steps`."""
        return self.body.inputs[len(self.start) : len(self.start) + len(self.steps)]

    @property
    def shared(self) -> tuple[Node, ...]:
        """The body's inputs that stand for `fixed`."""
        return self.body.inputs[len(self.start) + len(self.steps) :]

    @property
    def next(self) -> tuple[Node, ...]:
        return self.body.outputs[: len(self.start)]

    @property
    def stacked(self) -> tuple[Node, ...]:
        return self.body.outputs[len(self.start) :]

    def result(self, number: int) -> Node:
        """The node of one result: a carried value's last, or a stack."""
        return make(
            "scan",
            *self.start,
            *self.steps,
            *self.fixed,
            body=self.body,
            carried=len(self.start),
            stepped=len(self.steps),
            length=self.length,
            reverse=self.reverse,
            result=number,
            span=self.span,
        )


def unrolled(loop: Loop) -> list[Node]:
    """All results of a loop with a known number of turns, without a loop."""
    (length,) = static_shape((loop.length,))
    carried = list(loop.start)
    parts: list[list[Node]] = [[] for _ in loop.stacked]
    for turn in reversed(range(length)) if loop.reverse else range(length):
        now = [b.reshape(b.slice_axis(x, 0, turn, turn + 1), x.type.shape[1:]) for x in loop.steps]
        values = dict(zip(loop.body.inputs, (*carried, *now, *loop.fixed), strict=True))
        made = substitute(loop.body.outputs, values)
        carried = made[: len(carried)]
        for stack, node in zip(parts, made[len(carried) :], strict=True):
            stack.append(b.reshape(node, (1, *node.type.shape)))
    stacks = []
    for stack, node in zip(parts, loop.stacked, strict=True):
        ordered = stack[::-1] if loop.reverse else stack
        type = node.type.with_shape((0, *node.type.shape))
        stacks.append(b.concat(ordered, 0) if ordered else b.zeros(type))
    return [*carried, *stacks]


def loop_key(node: Node) -> Hashable:
    """Equal for the nodes of one loop, within one graph."""
    a = node.attributes
    operands = tuple([id(i) for i in node.inputs])
    return operands, id(a["body"]), a["carried"], a["stepped"], a["length"], a["reverse"]


def loops_of(nodes: Iterable[Node]) -> list[list[Node]]:
    """The `scan` nodes, those of one loop together, in order."""
    found: dict[Hashable, list[Node]] = {}
    for node in nodes:
        if node.op.name == "scan":
            found.setdefault(loop_key(node), []).append(node)
    return list(found.values())


def turning(sources: Iterable[Node], outputs: Iterable[Node]) -> set[Node]:
    """These, and of what the outputs need the nodes that depend on them."""
    found = set(sources)
    for node in topological(outputs):
        if any(i in found for i in node.inputs):
            found.add(node)
    return found


def with_bodies(graph: Graph, change: Callable[[Graph], Graph]) -> Graph:
    """The graph with the bodies of its loops changed, innermost first, each distinct one once.

    `change` keeps the types of inputs and outputs.
    """
    inside = {n.attributes["body"] for n in graph.nodes if n.op.name == "scan"}
    if not inside:
        return graph
    made = {body: change(with_bodies(body, change)) for body in bodies(graph) if body in inside}

    def replace(node: Node, operands: tuple[Node, ...]) -> Node | None:
        if node.op.name != "scan" or made[node.attributes["body"]] is node.attributes["body"]:
            return None
        attributes = {**node.attributes, "body": made[node.attributes["body"]]}
        return make("scan", *operands, span=node.span, **attributes)

    if all(new is old for old, new in made.items()):
        return graph
    return transform(graph, replace)


def fresh(name: str, taken: set[str]) -> str:
    """The name, or with a number where it is taken; it is taken from now on."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found
