"""Loops made smaller: what is read twice is run once, and what no turn needs is not in the loop.

`join` makes loops over the same operands one loop, as a loop and the wider one that its gradient
asks for. `trim` drops results that nobody reads, carried values that no result needs, and operands
that are constants, repeated, or the same in every turn.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node, rebuild, substitute, topological, transform
from weft.compiler.loops import Loop, fresh, loop_key, loops_of, turning
from weft.compiler.passes.cleanup import cse
from weft.compiler.passes.same import unless_same
from weft.compiler.passes.vectorise import repeat
from weft.compiler.types import Shape

Results = Callable[[int], Node]
"""What each result of a loop became."""

_VIEWS = frozenset({"transpose", "broadcast_in_dim"})


def rewrite_loops(graph: Graph, change: Callable[[Loop, frozenset[int]], Results | None]) -> Graph:
    """The graph with each loop changed; `change` sees which results are read, None keeps it."""
    used = {
        loop_key(loop[0]): frozenset(n.attributes["result"] for n in loop)
        for loop in loops_of(graph.nodes)
    }
    if not used:
        return graph
    made: dict[Hashable, Results | None] = {}

    def swap(node: Node, operands: tuple[Node, ...]) -> Node | None:
        if node.op.name != "scan":
            return None
        key = loop_key(node)
        if key not in made:
            made[key] = change(Loop.of(node, operands), used[key])
        results = made[key]
        return None if results is None else results(node.attributes["result"])

    return unless_same(graph, transform(graph, swap))


@dataclass(eq=False)
class Remade:
    """A loop's results, each made once."""

    loop: Loop
    nodes: dict[int, Node] = field(default_factory=dict)

    def __call__(self, number: int) -> Node:
        if number not in self.nodes:
            self.nodes[number] = self.loop.result(number)
        return self.nodes[number]


# -- join -----------------------------------------------------------------------------------------


def join(graph: Graph) -> Graph:
    """The graph with one loop for those that have the same operands and carry the same on.

    Requires a verified graph; ensures the same signature, types and values to the bit.
    """
    families: dict[Hashable, list[Loop]] = {}
    for nodes in loops_of(graph.nodes):
        operands, _, *rest = _parts(nodes[0])
        families.setdefault((operands, *rest), []).append(Loop.of(nodes[0]))
    wider: dict[tuple[Hashable, Graph], tuple[Graph, Sequence[int]]] = {}
    for key, loops in families.items():
        if len(loops) > 1:
            wider |= {(key, body): found for body, found in _joined(loops).items()}
    if not wider:
        return graph

    def swap(node: Node, operands: tuple[Node, ...]) -> Node | None:
        if node.op.name != "scan":
            return None
        keys, _, *rest = _parts(node)
        found = wider.get(((keys, *rest), node.attributes["body"]))
        if found is None:
            return None
        body, places = found
        return replace(Loop.of(node, operands), body=body).result(places[node.attributes["result"]])

    return unless_same(graph, transform(graph, swap))


def _parts(node: Node) -> tuple[Hashable, ...]:
    key = loop_key(node)
    assert isinstance(key, tuple)
    return key


def _joined(loops: Sequence[Loop]) -> dict[Graph, tuple[Graph, Sequence[int]]]:
    """For each body the wider one, and where its outputs are in there."""
    first, count = loops[0], len(loops[0].start)
    outputs: list[Node] = []
    starts: list[int] = []
    for loop in loops:
        starts.append(len(outputs))
        values = dict(zip(loop.body.inputs, first.body.inputs, strict=True))
        outputs += substitute(loop.body.outputs, values)
    whole = cse(Graph(first.body.name, first.body.inputs, tuple(outputs)))
    carry = whole.outputs[:count]
    kept = list(carry)
    found: dict[Graph, list[int]] = {}
    for loop, start in zip(loops, starts, strict=True):
        own = whole.outputs[start : start + len(loop.body.outputs)]
        if own[:count] != carry:
            continue
        places = list(range(count))
        for node in own[count:]:
            if node not in kept[count:]:
                kept.append(node)
            places.append(kept.index(node, count))
        found[loop.body] = places
    if len(found) < 2:
        return {}
    body = Graph(first.body.name, first.body.inputs, tuple(kept))
    return {old: (body, places) for old, places in found.items()}


# -- trim -----------------------------------------------------------------------------------------


def trim(graph: Graph) -> Graph:
    """The graph with nothing in its loops that no result needs.

    Requires a verified graph; ensures the same signature, types and values to the bit.
    """
    return rewrite_loops(graph, _trim)


def _trim(loop: Loop, used: frozenset[int]) -> Results | None:
    return _Trim(loop, used).run()


class _Trim:
    def __init__(self, loop: Loop, used: frozenset[int]) -> None:
        self.loop, self.used = loop, used
        self.count = len(loop.start)
        self.taken = {n.name for n in loop.body.inputs}
        self.changed = False
        self.inner: dict[Node, Node] = {}  # what an old input of the body became
        self.start: dict[Node, Node] = {}  # new inputs of the body, with their operands
        self.steps: dict[Node, Node] = {}
        self.fixed: dict[Node, Node] = {}

    def run(self) -> Results | None:
        loop = self.loop
        if loop.length == 0:
            stacks = [b.zeros(n.type.with_shape((0, *n.type.shape))) for n in loop.stacked]
            return [*loop.start, *stacks].__getitem__
        if loop.length == 1:
            return _once(loop)
        needed = self._needed()
        same = [n for n, c in zip(loop.next, loop.carried, strict=True) if n is c]
        for place, value in zip(loop.carried, loop.start, strict=True):
            if place in same:
                self.changed = True
                self._shared(place, value)
            elif place in needed:
                self.inner[place] = place
                self.start[place] = value
            else:
                self.changed = True
        for place, value in zip(loop.stepped, loop.steps, strict=True):
            if place in needed:
                self._stepped(place, value)
            else:
                self.changed = True
        for place, value in zip(loop.shared, loop.fixed, strict=True):
            if place in needed:
                self._shared(place, value)
            else:
                self.changed = True
        return self._remade()

    def _needed(self) -> set[Node]:
        """The body's nodes that the results read, through any number of turns."""
        loop, wanted = self.loop, [self.loop.body.outputs[i] for i in sorted(self.used)]
        after = dict(zip(loop.carried, loop.next, strict=True))
        seen: set[Node] = set()
        size = -1
        for place, i in zip(loop.carried, range(self.count), strict=True):
            if i in self.used:
                seen.add(place)
        while len(seen) != size:
            size = len(seen)
            seen |= set(topological(wanted))
            wanted = [after[c] for c in loop.carried if c in seen]
        return seen

    def _stepped(self, place: Node, value: Node) -> None:
        dims = value.attributes["dims"] if value.op.name == "broadcast_in_dim" else (0,)
        if 0 not in dims:  # the same in every turn
            self.changed = True
            source = value.inputs[0]
            here = self._inside(place, source)
            self.inner[place] = b.broadcast(here, place.type.shape, [d - 1 for d in dims])
            return
        self.inner[place] = self._input(place, value, value.type.shape[1:], self.steps)

    def _shared(self, place: Node, value: Node) -> None:
        self.inner[place] = self._inside(place, value)

    def _inside(self, place: Node, value: Node) -> Node:
        """The value of a fixed operand inside: an input, or what makes it out of one."""
        if not value.inputs and value.op.name != "input":
            self.changed = True
            return value
        if value.op.name in _VIEWS:
            self.changed = True
            return rebuild(value, (self._inside(place, value.inputs[0]),))
        return self._input(place, value, value.type.shape, self.fixed)

    def _input(self, place: Node, value: Node, shape: Shape, into: dict[Node, Node]) -> Node:
        """The body's input for an operand: one for each distinct operand."""
        for known, other in into.items():
            if other is value:
                self.changed = True
                return known
        if place.type.shape != shape:
            place = b.input_(fresh(place.name, self.taken), value.type.with_shape(shape))
        into[place] = value
        return place

    def _remade(self) -> Results | None:
        loop, inner = self.loop, self.inner
        numbers = [i for i, c in enumerate(loop.carried) if c in self.start]
        stacks = [i for i in range(self.count, len(loop.body.outputs)) if i in self.used]
        made = dict(
            zip(
                (*numbers, *stacks),
                substitute([loop.body.outputs[i] for i in (*numbers, *stacks)], inner),
                strict=True,
            )
        )
        new = [made[i] for i in numbers]
        places = {i: k for k, i in enumerate(numbers)}
        outside: dict[int, Node] = {
            i: loop.start[i] for i, c in enumerate(loop.carried) if c not in self.start
        }
        turns = turning((*self.start, *self.steps), made.values())
        for i in stacks:
            node = made[i]
            if node in self.steps:
                outside[i] = self.steps[node]
            elif node not in turns:
                outside[i] = repeat(substitute([node], self.fixed)[0], loop.length)
            else:
                if node not in new[len(numbers) :]:
                    new.append(node)
                places[i] = new.index(node, len(numbers))
        less = len(new) < len(loop.body.outputs)
        if not (self.changed or less or any(i in outside for i in stacks)):
            return None
        body = Graph(loop.body.name, (*self.start, *self.steps, *self.fixed), tuple(new))
        remade = Remade(
            Loop(
                tuple(self.start.values()),
                tuple(self.steps.values()),
                tuple(self.fixed.values()),
                body,
                loop.length,
                loop.reverse,
                loop.span,
            )
        )
        return lambda i: outside[i] if i in outside else remade(places[i])


def _once(loop: Loop) -> Results:
    """The results of a loop of one turn: its body."""
    now = [b.reshape(x, x.type.shape[1:]) for x in loop.steps]
    values = dict(zip(loop.body.inputs, (*loop.start, *now, *loop.fixed), strict=True))
    made = substitute(loop.body.outputs, values)
    for i in range(len(loop.start), len(made)):
        made[i] = b.reshape(made[i], (1, *made[i].type.shape))
    return made.__getitem__
