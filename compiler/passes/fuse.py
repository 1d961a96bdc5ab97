"""Fusion as a partition: which nodes share one kernel, in an order in which the groups can run.

    group kind     holds
    elementwise    elementwise nodes (and random bits) of one shape
    reduction      elementwise prologues of the operand's shape, reductions over the same axes,
                   elementwise epilogues of the result's shape
    contraction    one product and elementwise epilogues of its shape
    movement       one index map or concatenation that no single group takes in
    loop             all results of one loop
    attention        a part of attention that was set apart (`attention.py`)
    window, indexing, order, call, source      one node

An index map folds into the group that alone reads it, unless it is a factor of a product, which is
wanted in memory. Groups are convex: no path leaves one and comes back, so that each can be one
kernel.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from weft.compiler.graph import Graph, Node
from weft.compiler.loops import loop_key
from weft.compiler.ops import Kind
from weft.compiler.types import Shape

LEAVES = frozenset({"input", "constant"})
MAPS = frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "reverse", "pad"})
_FOLDABLE = MAPS | {"iota", "dim_size"}
_LOOPS = frozenset({"elementwise", "reduction", "contraction", "movement"})


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes that one kernel computes, operands first. Inputs and constants are in no group."""

    kind: str
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]

    @cached_property
    def members(self) -> frozenset[Node]:
        return frozenset(self.nodes)

    @cached_property
    def before(self) -> frozenset[Node]:
        """What its reductions are made from, element by element."""
        found: set[Node] = set()
        for node in reversed(self.nodes):
            if node in found or node.op.kind is Kind.REDUCTION:
                found.update(self.members.intersection(node.inputs))
        return frozenset(found)

    def __repr__(self) -> str:
        return f"<{self.kind} group: {' '.join(n.op.name for n in self.nodes)}>"


def fuse(graph: Graph, regions: Sequence[Sequence[Node]] = ()) -> tuple[Group, ...]:
    """The graph's nodes, leaves aside, as convex groups in topological order.

    `regions` are groups that are given: convex sets of nodes, operands first.
    """
    home = {node: region for region in regions for node in region}
    order = _order(graph, home)
    place = {node: i for i, node in enumerate(order)}
    partition = _Partition(place)
    for node in order:
        if node not in home:
            partition.add(node)
        elif node is home[node][0]:
            partition.add_region(home[node])
    partition.fold(graph)
    return _finish(graph, place, partition.home)


def _order(graph: Graph, home: Mapping[Node, Sequence[Node]]) -> Sequence[Node]:
    """The graph's nodes, operands first, with the nodes of a region one after the other."""
    if not home:
        return graph.nodes
    order: list[Node] = []
    done: set[Node] = set()
    stack = list(reversed(graph.nodes))
    while stack:
        node = stack[-1]
        unit = home.get(node, (node,))
        if node in done:
            stack.pop()
            continue
        waiting = [o for n in unit for o in n.inputs if o not in done and o not in unit]
        if waiting:
            stack += waiting
        else:
            stack.pop()
            order += unit
            done.update(unit)
    return order


@dataclass(eq=False, slots=True)
class _Draft:
    """A group while it grows: it loops over `space` and leaves `result`.

    Sets of drafts are bit sets; a draft that swallowed others answers to all their bits.
    """

    bits: int
    kind: str
    space: Shape
    result: Shape
    axes: tuple[int, ...] = ()
    nodes: list[Node] = field(default_factory=list)
    before: int = 0  # everything that this draft needs, transitively
    apart: int = 0  # what it reads through movement: never the same kernel
    read: bool = False  # whether another draft needs it


class _Partition:
    """Grows drafts node by node, operands first, keeping the drafts' graph free of cycles."""

    def __init__(self, place: dict[Node, int]) -> None:
        self.place = place
        self.home: dict[Node, _Draft] = {}
        self.drafts: list[_Draft] = []
        self.numbers = count()  # one a draft: its bit
        self.loops: dict[Hashable, Node] = {}  # the first result of each
        self._behind: dict[Node, frozenset[Node]] = {}  # what movement reads, looked through

    def add(self, node: Node) -> None:
        if node.op.name in LEAVES:
            return
        if node.op.kind is Kind.MOVEMENT or node.op.name in _FOLDABLE:
            self._behind[node] = frozenset().union(*(self._sources(i) for i in node.inputs))
            return
        direct = [self.home[i] for i in node.inputs if i in self.home]
        moved = [self.home[s] for i in node.inputs for s in self._behind.get(i, ())]
        draft = self._loop(node)
        for candidate in self._candidates(node, direct):
            if draft is None:
                if self._joins(candidate, direct, moved):
                    draft = candidate
            elif candidate is not draft and _fits(draft, candidate):
                draft = self._merge(draft, candidate)
        if draft is None:
            draft = _open(node, next(self.numbers))
            self.drafts.append(draft)
        elif node.op.kind is Kind.REDUCTION:
            draft.kind, draft.axes, draft.result = "reduction", _axes(node), node.type.shape
        draft.nodes.append(node)
        self.home[node] = draft
        for need in moved:
            draft.apart |= need.bits
        self._need(draft, [d for d in (*direct, *moved) if d.bits & draft.bits == 0])

    def add_region(self, nodes: Sequence[Node]) -> None:
        """A draft that is complete, once all that it needs is there."""
        draft = _Draft(1 << next(self.numbers), "attention", (), ())
        draft.nodes += nodes
        self.drafts.append(draft)
        outside = {o: None for node in nodes for o in node.inputs if o not in set(nodes)}
        for node in nodes:
            self.home[node] = draft
        needs = [self.home[s] for o in outside for s in self._sources(o)]
        self._need(draft, list({id(need): need for need in needs}.values()))

    def _loop(self, node: Node) -> _Draft | None:
        """The draft of another result of this loop. It reads the same, so no cycle can close."""
        if node.op.kind is not Kind.LOOP:
            return None
        key = loop_key(node)
        first = self.loops.setdefault(key, node)
        return None if first is node else self.home[first]

    def _sources(self, node: Node) -> frozenset[Node]:
        if node in self._behind:
            return self._behind[node]
        return frozenset((node,)) if node in self.home else frozenset()

    def _candidates(self, node: Node, direct: list[_Draft]) -> list[_Draft]:
        """The drafts that could take the node in, the best one first."""
        shape = node.type.shape
        if node.op.kind is Kind.ELEMENTWISE:
            found = [
                d for d in direct
                if (d.kind == "elementwise" and d.space == shape)
                or (d.kind == "reduction" and shape in (d.space, d.result))
                or (d.kind == "contraction" and d.result == shape)
            ]  # fmt: skip
        elif node.op.kind is Kind.REDUCTION:
            space = node.inputs[0].type.shape
            found = [
                d for d in direct
                if (d.kind == "elementwise" and d.space == space)
                or (d.kind == "reduction" and d.space == space and d.axes == _axes(node) != ())
            ]  # fmt: skip
        else:
            return []
        order = {"contraction": 0, "reduction": 1, "elementwise": 2}
        unique = {d.bits: d for d in found}.values()
        return sorted(unique, key=lambda d: (order[d.kind], -self.place[d.nodes[0]]))

    @staticmethod
    def _joins(draft: _Draft, direct: Iterable[_Draft], moved: Iterable[_Draft]) -> bool:
        """Whether a new reader of these drafts may enter `draft` without closing a cycle."""
        if any(need is draft for need in moved):
            return False
        return not any(n is not draft and n.before & draft.bits for n in (*direct, *moved))

    def _merge(self, a: _Draft, b: _Draft) -> _Draft:
        """One draft of both where that is legal, else `a` unchanged."""
        if a.apart & b.bits or b.apart & a.bits:
            return a
        for first, last in ((a, b), (b, a)):
            if last.before & first.bits and any(
                d is not a and d is not b and d.before & first.bits and last.before & d.bits
                for d in self.drafts
            ):
                return a
        self.drafts.remove(b)
        for node in b.nodes:
            self.home[node] = a
        a.nodes += b.nodes
        a.bits |= b.bits
        a.apart |= b.apart
        a.read |= b.read
        a.before = (a.before | b.before) & ~a.bits
        self._hand_on(a)
        return a

    def _need(self, draft: _Draft, needs: Iterable[_Draft]) -> None:
        """Let `draft` come after `needs`, and everything after it too."""
        more = 0
        for need in needs:
            need.read = True
            more |= need.bits | need.before
        more &= ~(draft.before | draft.bits)
        if not more:
            return
        draft.before |= more
        self._hand_on(draft)

    def _hand_on(self, draft: _Draft) -> None:
        """What comes after a draft comes after all that the draft needs."""
        for other in self.drafts if draft.read else ():
            if other.before & draft.bits:
                other.before |= draft.before | draft.bits

    def fold(self, graph: Graph) -> None:
        """Put each index map into the only draft that reads it, else into one of its own."""
        kept = set(graph.outputs)
        for node in reversed(graph.nodes):
            if node not in self._behind:
                continue
            readers = {id(self.home[user]): self.home[user] for user in graph.users[node]}
            draft = next(iter(readers.values())) if len(readers) == 1 else None
            if draft is None or not (
                node.op.name in _FOLDABLE
                and draft.kind in _LOOPS
                and node not in kept
                and all(user.op.kind is not Kind.CONTRACTION for user in graph.users[node])
            ):
                draft = _open(node, next(self.numbers))
            draft.nodes.append(node)
            self.home[node] = draft


def _fits(draft: _Draft, other: _Draft) -> bool:
    """Whether the elementwise draft `other` could be a prologue or epilogue of `draft`."""
    if other.kind != "elementwise":
        return False
    if draft.kind == "elementwise":
        return other.space == draft.space
    if other.space == draft.result:
        return not draft.before & other.bits
    return (
        draft.kind == "reduction" and other.space == draft.space and not other.before & draft.bits
    )


def _axes(node: Node) -> tuple[int, ...]:
    if "axes" in node.attributes:
        axes: tuple[int, ...] = node.attributes["axes"]
        return axes
    return (node.attributes["axis"],)


def _open(node: Node, number: int) -> _Draft:
    kind, shape = node.op.kind, node.type.shape
    if node.op.name == "random_bits":
        return _Draft(1 << number, "elementwise", shape, shape)
    if kind is Kind.REDUCTION:
        return _Draft(1 << number, "reduction", node.inputs[0].type.shape, shape, _axes(node))
    return _Draft(1 << number, kind.value, shape, shape)


def _finish(graph: Graph, place: dict[Node, int], home: dict[Node, _Draft]) -> tuple[Group, ...]:
    """Drafts as groups: each as soon as it can run, in the order of their last nodes."""
    drafts = list({id(draft): draft for draft in home.values()}.values())
    number = {id(draft): i for i, draft in enumerate(drafts)}
    for draft in drafts:
        draft.nodes.sort(key=place.__getitem__)
    after: list[set[int]] = [set() for _ in drafts]
    waits = [0] * len(drafts)
    for i, draft in enumerate(drafts):
        needs = {number[id(home[o])] for n in draft.nodes for o in n.inputs if o in home} - {i}
        waits[i] = len(needs)
        for need in needs:
            after[need].add(i)
    ready = [(place[d.nodes[-1]], i) for i, d in enumerate(drafts) if not waits[i]]
    heapq.heapify(ready)
    groups = []
    kept = set(graph.outputs)
    while ready:
        _, i = heapq.heappop(ready)
        groups.append(_group(graph, drafts[i].kind, drafts[i].nodes, kept))
        for j in after[i]:
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, (place[drafts[j].nodes[-1]], j))
    assert len(groups) == len(drafts), "fusion closed a cycle"
    return tuple(groups)


def regrouped(graph: Graph, parts: Iterable[tuple[str, Sequence[Node]]]) -> tuple[Group, ...]:
    """Groups of these kinds and nodes, but for nodes that the graph does not have."""
    there, kept = set(graph.nodes), set(graph.outputs)
    found = []
    for kind, nodes in parts:
        nodes = [node for node in nodes if node in there]
        if nodes:
            found.append(_group(graph, kind, nodes, kept))
    return tuple(found)


def _group(graph: Graph, kind: str, nodes: Sequence[Node], kept: set[Node]) -> Group:
    inside = set(nodes)
    inputs = {o: None for node in nodes for o in node.inputs if o not in inside}
    outputs = [
        node
        for node in nodes
        if node in kept or any(user not in inside for user in graph.users[node])
    ]
    return Group(kind, tuple(nodes), tuple(inputs), tuple(outputs))
