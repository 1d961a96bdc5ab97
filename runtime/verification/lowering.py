"""The way from a graph to a plan: passes keep values, plans keep them until they are read.

passes     each graph after all passes gives what it gave before, in double precision
memory     each plan, played out element by element: nothing is overwritten that is still read
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import as_strided

from weft.compiler.errors import InternalError, Span
from weft.compiler.evaluate import evaluate, evaluate_node
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.ops import Kind
from weft.compiler.passes import simplify
from weft.compiler.passes.pack import gathered, views
from weft.compiler.pattern import Rules, rewrite
from weft.compiler.pipeline import PASSES, lower
from weft.compiler.plan import Abilities, Buffer, Plan, Target
from weft.compiler.text import print_node
from weft.compiler.types import static_shape
from weft.runtime.session import Session
from weft.runtime.verification.report import Check, Tally, number
from weft.runtime.verification.rounding import Bounded, bounded
from weft.runtime.verification.subject import GRAPHS, Arrays, Subject, widened

# -- passes ---------------------------------------------------------------------------------------


def passes(subject: Subject) -> Check:
    """Values of the optimised graphs against those of the graphs as they were built."""
    tally = Tally("passes", "each graph after all passes against the graph before them")
    session = Session(subject.wide.program, subject.backend)
    for name in GRAPHS:
        graph = subject.wide_graph(name)
        values = widened({**subject.state, **subject.inputs(name, subject.few)})
        given = {n.name: values[n.name] for n in graph.inputs}
        target = replace(session.target(name, subject.few), composites=frozenset())
        before = bounded(graph, given, {"batch": subject.few})
        way = _Way(session.graph(name), target, values, before)
        after = way.values(lower(session.graph(name), target))
        for output, value in before.exact.items():
            found = before.judge(output, after[output])
            if not tally.add(f"`{output}` of {name}", found.error, found.bound, value.size):
                tally.fault(
                    f"{way.culprit(output)} changes `{output}` of {name}",
                    _place(graph, output),
                    f"{number(found.expected)} at {list(found.place)}, as before",
                    number(found.found),
                )
    return tally.check()


def _place(graph: Graph, output: str) -> Span | None:
    spans = (n.span for n in reversed(topological([graph.named_outputs[output]])))
    return next((span for span in spans if span is not None), None)


@dataclass(eq=False)
class _Way:
    """A graph's way through the passes, gone again step by step where its end is wrong."""

    graph: Graph
    target: Target
    inputs: Mapping[str, np.ndarray]
    before: Bounded
    found: str | None = None

    def values(self, graph: Graph) -> Arrays:
        """The outputs by their own names, of a graph that may have its state in arenas."""
        arenas = {arena.name: arena for arena in self.target.arenas}
        given = {
            n.name: gathered(self.inputs, arenas[n.name])
            if n.name in arenas
            else self.inputs[n.name]
            for n in graph.inputs
        }
        sizes = {name: size for name, size in self.target.sizes.items() if isinstance(size, int)}
        results: Arrays = {}
        for name, value in evaluate(graph, given, sizes).items():
            results |= views(value, arenas[name]) if name in arenas else {name: value}
        return results

    def culprit(self, output: str) -> str:
        """The pass that first changes a value, and which of its rules; looked for once."""
        if self.found is None:
            self.found = self._search(output)
        return self.found

    def _search(self, output: str) -> str:
        previous = self.graph
        for step in PASSES:
            current = step.run(previous, self.target)
            if self._differs(current, output):
                rule = self._rule(previous, output) if step.name == "optimise" else None
                kind = f"the rule `{rule}` of " if rule is not None else ""
                return f"{kind}the pass `{step.name}`"
            previous = current
        return "the way through the passes"

    def _differs(self, graph: Graph, output: str) -> bool:
        return not self.before.judge(output, self.values(graph)[output]).within

    def _rule(self, graph: Graph, output: str) -> str | None:
        """The first rule that alone changes the value."""
        for rule in simplify.RULES.rows:
            try:
                changed = rewrite(graph, Rules(rule))
            except InternalError:
                continue
            if changed is not graph and self._differs(changed, output):
                return str(rule.pattern)
        return None


# -- memory ---------------------------------------------------------------------------------------


def memory(subject: Subject) -> Check:
    """Plans of all graphs: every operand is still there when it is read."""
    tally = Tally("memory", "each operand where its plan says, when it is read")
    session = subject.session
    for name in GRAPHS:
        size = subject.sizes_of(name)[0]
        plan = session.plan(name, size)
        arenas = {a.name: a for a in session.target(name, size).arenas}
        known = {**subject.state, **subject.inputs(name, size)}
        inputs = {
            n.name: gathered(known, arenas[n.name]) if n.name in arenas else known[n.name]
            for n in plan.graph.inputs
        }
        _Played(tally, name, plan, subject.backend.abilities, inputs).run()
    return tally.check()


_LOST = 0xA5  # what scratch memory is filled with


class _Played:
    """A plan carried out with the reference's values: reads are compared, bit for bit."""

    def __init__(
        self,
        tally: Tally,
        name: str,
        plan: Plan,
        abilities: Abilities,
        inputs: Mapping[str, np.ndarray],
    ) -> None:
        self.tally, self.name, self.plan, self.abilities = tally, name, plan, abilities
        self.values: dict[Node, np.ndarray] = {}  # what each node is, by the reference

        def keep(node: Node, value: np.ndarray) -> None:
            self.values[node] = np.ascontiguousarray(value).reshape(value.shape)

        evaluate(plan.graph, inputs, None, keep)
        self.arena = np.full(plan.arena_bytes, _LOST, np.uint8)
        self.arrays: dict[Buffer, np.ndarray] = {}
        self.kernels = abilities.kernels
        self.faulty = False

    def run(self) -> None:
        plan = self.plan
        for node in plan.graph.nodes:
            if self._is_leaf(node):
                self._write(node)
        self._groups()
        for nodes in [g.nodes for g in plan.groups] if self.kernels else [(n,) for n in plan.order]:
            self._unit([n for n in nodes if n not in plan.views and not self._is_leaf(n)])
        for output, node in plan.graph.named_outputs.items():
            if output not in plan.bound:
                self._compare(node, f"when the step ends, as `{output}`", node)
        saved = {s: self._array(s.source).copy() for s in plan.stores if s.early}
        for store in plan.stores:
            value = saved[store] if store.early else self._array(store.source)
            state = plan.graph.named_inputs[store.name]
            self._array(state)[...] = value.reshape(static_shape(state.type.shape))
        for output, node in plan.graph.named_outputs.items():
            if output in plan.bound:
                state = plan.graph.named_inputs[output]
                self._compare(node, f"when the step ends, in `{output}`", node, state)

    def _unit(self, nodes: Sequence[Node]) -> None:
        """What runs as one: all that it reads is there, and it disturbs nobody but itself."""
        inside = set(nodes)
        reads = [
            (reader, operand)
            for reader in nodes
            for operand in reader.inputs
            if self._root(operand) not in inside and not self._taken_before(operand)
        ]
        self._lose_scratch(nodes)
        for reader, operand in reads:
            self._compare(operand, f"when `{reader.op.name}` reads it", reader)
        written = [node for node in nodes if node in self.plan.places]
        for node in written:
            self._write(node)
        for reader, operand in reads:
            if not self._is_there(operand) and not self._gives_way(reader, operand, written):
                self._fault(operand, f"is overwritten while `{reader.op.name}` reads it", reader)
        self._lose_scratch(nodes)

    def _gives_way(self, reader: Node, operand: Node, written: Sequence[Node]) -> bool:
        """Whether an operand is overwritten element by element, each by what was made of it."""
        place = self.plan.places[operand]
        over = [n for n in written if self.plan.places[n].buffer is place.buffer]
        if reader.op.name == "scatter_add" and operand is reader.inputs[0]:
            return True
        return reader.op.kind is Kind.ELEMENTWISE and any(
            self.plan.places[n].layout.offset == place.layout.offset
            and self.plan.places[n].layout.steps == place.layout.steps
            and n.type.shape == reader.type.shape
            for n in over
        )

    def _root(self, node: Node) -> Node:
        """The value whose memory a view shows."""
        while node in self.plan.views:
            node = node.inputs[0]
        return node

    def _taken_before(self, node: Node) -> bool:
        """Scalars that come in are taken into registers before anything runs."""
        return self.abilities.registers and node.op.name == "input" and node.type.rank == 0

    def _is_leaf(self, node: Node) -> bool:
        return node.op.name == "input" or node.op.name in self.abilities.folded

    def _groups(self) -> None:
        """Each group finds what it reads among the results of the groups before it."""
        graph = self.plan.graph
        made = {n for n in graph.nodes if self._is_leaf(n) or n.op.name == "constant"}
        for group in self.plan.groups:
            reads = {i: n for n in group.nodes for i in n.inputs if i not in group.members}
            for operand, node in reads.items():
                self.tally.count += 1
                if operand not in made:
                    self._fault(operand, f"is no result of a group before `{node.op.name}`", node)
            made |= set(group.outputs)
        for output in graph.outputs:
            if output not in made:
                self._fault(output, "is an output, but no result of a group", output)

    def _array(self, node: Node) -> np.ndarray:
        place = self.plan.places[node]
        buffer, layout = place.buffer, place.layout
        if buffer.kind in ("arena", "scratch"):
            raw = self.arena[buffer.offset : buffer.offset + buffer.bytes]
            base = raw.view(buffer.dtype.numpy)
        else:
            if buffer not in self.arrays:
                self.arrays[buffer] = np.zeros(buffer.size, buffer.dtype.numpy)
            base = self.arrays[buffer]
        if 0 in layout.shape:
            return np.empty(layout.shape, base.dtype)
        strides = [s * base.itemsize for s in layout.strides]
        return as_strided(base[layout.offset :], layout.shape, strides)

    def _write(self, node: Node) -> None:
        value = self.values.get(node)
        if value is None:  # a folded source that only loops read
            value = evaluate_node(node, [])
        self._array(node)[...] = value

    def _lose_scratch(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if node in self.plan.scratch:
                buffer = self.plan.scratch[node]
                self.arena[buffer.offset : buffer.offset + buffer.bytes] = _LOST

    def _is_there(self, node: Node, at: Node | None = None) -> bool:
        found = np.ascontiguousarray(self._array(at or node))
        return found.tobytes() == self.values[node].tobytes()

    def _compare(self, node: Node, when: str, reader: Node, at: Node | None = None) -> None:
        same = self._is_there(node, at)
        what = f"`{node.op.name}` of {self.name}"
        if not self.tally.add(what, 0.0 if same else float("inf"), 0.0):
            self._fault(node, f"is not there any more {when}", reader)

    def _fault(self, node: Node, what: str, at: Node) -> None:
        if self.faulty:
            return  # one overwritten value is read by many
        self.faulty = True
        place = self.plan.places[node]
        self.tally.fault(
            f"a value of {self.name} {what}",
            node.span or at.span,
            f"the result of `{print_node(self.plan.graph, node)}`",
            f"other numbers at {place.buffer.kind} `{place.buffer.name}` "
            f"+ {place.layout.offset} elements",
        )
