"""Computing again rather than keeping: fewer values of a kernel in memory for later kernels.

    forward kernel     h = x @ w + b    y = gelu(h)    keeps 1 + erf(h / sqrt 2) and exp(-h^2 / 2)
    backward kernel    dh = dy * ...                   reads both: 8 bytes an element

Both follow from h alone, so h is what is kept, and the backward kernel computes the two again: less
memory, and less time where memory is what a kernel waits for. What to keep is a minimum cut between
what a group reads, or cannot compute twice, and what later groups read of it; its capacities are
bytes. Groups keep their kinds and their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from weft.compiler.graph import Graph, Node, rebuild
from weft.compiler.ops import Kind
from weft.compiler.passes.fuse import MAPS, Group, regrouped
from weft.compiler.types import static_shape

if TYPE_CHECKING:
    import networkx

# What an operation on one element costs: tenths of bytes of memory traffic that take as long.
HEAVY = frozenset({
    "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "logistic", "erf", "power",
})  # fmt: skip
HEAVY_COST = 30
LIGHT_COST = 2


def recompute(graph: Graph, groups: Sequence[Group]) -> tuple[Graph, tuple[Group, ...]]:
    """The graph with some values computed again in the groups that read them, and its groups."""
    return _Again(graph, groups).run()


@dataclass(frozen=True)
class _Choice:
    """Of what a group leaves: what is not kept any more, and what is kept for it."""

    dropped: frozenset[Node]
    kept: frozenset[Node]


class _Again:
    def __init__(self, graph: Graph, groups: Sequence[Group]) -> None:
        self.graph, self.groups = graph, groups
        self.home = {node: group for group in groups for node in group.nodes}
        self.results = set(graph.outputs)
        self.when = {id(group): i for i, group in enumerate(groups)}

    def run(self) -> tuple[Graph, tuple[Group, ...]]:
        choices = [choice for group in self.groups if (choice := self._choice(group))]
        if not choices:
            return self.graph, tuple(self.groups)
        return self._rewritten(choices)

    # -- what to keep -----------------------------------------------------------------------------

    def _choice(self, group: Group) -> _Choice | None:
        """A cheaper set of values to keep, if there is one."""
        import networkx

        wanted = [node for node in group.outputs if self._may_drop(node, group)]
        if len(wanted) < 2 and not any(map(_is_widened, wanted)):
            return None
        needs = _cone(wanted, group.members)
        flow: networkx.DiGraph[object] = networkx.DiGraph()
        for node in needs:
            price = {} if _is_map(node, group.members) else {"capacity": self._price(node, group)}
            flow.add_edge((node, "in"), (node, "out"), **price)
            if not _is_light(node, group.members):
                flow.add_edge("source", (node, "in"))
            else:
                for operand in node.inputs:
                    flow.add_edge((operand, "out"), (node, "in"))
        for node in wanted:
            flow.add_edge((node, "out"), "sink")
        # Of several minimum cuts this is the last one: `late` is all that can reach the sink.
        _, (_, late) = networkx.minimum_cut(flow, "source", "sink")
        kept = {node for node in needs if (node, "in") not in late and (node, "out") in late}
        choice = _Choice(frozenset(set(wanted) - kept), frozenset(kept))
        return choice if self._pays(choice, group) else None

    def _price(self, node: Node, group: Group) -> int:
        """Bytes that keeping a value costs: none where something keeps it anyway."""
        if node in self.results or node.op.name in ("input", "constant"):
            return 0
        last = max((self.when[id(self.home[u])] for u in self.graph.users[node]), default=0)
        if node in group.members:
            stays = node in group.outputs and not self._may_drop(node, group)
        else:
            stays = last > self.when[id(group)]
        return 0 if stays else node.type.bytes

    def _may_drop(self, node: Node, group: Group) -> bool:
        """Whether every later reader could compute the value itself, element by element."""
        if group.kind == "attention" or node in self.results or not _is_light(node, group.members):
            return False
        for user in self.graph.users[node]:
            reader = self.home[user]
            if reader is group:
                continue
            if reader.kind not in ("elementwise", "reduction", "contraction"):
                return False
            if user.op.kind not in (Kind.ELEMENTWISE, Kind.REDUCTION):
                return False
        return True

    def _pays(self, choice: _Choice, group: Group) -> bool:
        """Whether the memory traffic that is saved outweighs the work that is done again."""
        if not choice.dropped:
            return False
        saved = 0
        readers: dict[int, list[Node]] = {}
        for node in choice.dropped:
            outside = {id(self.home[u]) for u in self.graph.users[node]} - {id(group)}
            saved += node.type.bytes * (1 + len(outside))
            for reader in outside:
                readers.setdefault(reader, []).append(node)
        work = 0
        for nodes in readers.values():
            for node in _cone(nodes, group.members, choice.kept):
                if node in choice.kept:
                    saved -= _read(node)
                elif node.op.kind is Kind.ELEMENTWISE:
                    work += _work(node)
        saved -= sum(self._price(node, group) for node in choice.kept)
        return 10 * saved > work

    # -- the new graph ----------------------------------------------------------------------------

    def _rewritten(self, choices: Sequence[_Choice]) -> tuple[Graph, tuple[Group, ...]]:
        """Every reader of a dropped value outside of its group gets nodes of its own."""
        dropped = frozenset[Node]().union(*(choice.dropped for choice in choices))
        kept = frozenset[Node]().union(*(choice.kept for choice in choices))
        new: dict[Node, Node] = {}
        copies: dict[tuple[int, Node], Node] = {}
        members: dict[int, list[Node]] = {id(group): [] for group in self.groups}

        def seen_by(group: Group, node: Node) -> Node:
            """The value as the group sees it: its own or in memory, else computed again."""
            home = self.home.get(node)
            in_memory = (
                home is None or node in kept or (node in home.outputs and node not in dropped)
            )
            if home is group or in_memory:
                return new[node]
            key = id(group), node
            if key not in copies:
                operands = tuple(seen_by(group, operand) for operand in node.inputs)
                copies[key] = Node(node.op, operands, node.attributes, node.type, node.span)
                members[id(group)].append(copies[key])
            return copies[key]

        for node in self.graph.nodes:
            group = self.home.get(node)
            if group is None:
                new[node] = node
                continue
            new[node] = rebuild(node, tuple(seen_by(group, operand) for operand in node.inputs))
            members[id(group)].append(new[node])
        outputs = tuple(new[node] for node in self.graph.outputs)
        graph = Graph(self.graph.name, self.graph.inputs, outputs, self.graph.output_names)
        return graph, regrouped(graph, [(g.kind, members[id(g)]) for g in self.groups])


def _is_light(node: Node, members: frozenset[Node]) -> bool:
    """Whether a value can be had again at each element from elements of its operands."""
    return node in members and (node.op.kind is Kind.ELEMENTWISE or _is_map(node, members))


def _is_widened(node: Node) -> bool:
    """Whether the value is a float of 16 bits, made wider: one value that is cheaper to keep."""
    return node.op.name == "cast" and node.inputs[0].type.dtype.is_narrow


def _is_map(node: Node, members: frozenset[Node]) -> bool:
    return node in members and node.op.name in MAPS


def _cone(
    wanted: Iterable[Node], members: frozenset[Node], stop: frozenset[Node] = frozenset()
) -> list[Node]:
    """What the values are computed from, element by element, and what that reads."""
    found: dict[Node, None] = {}
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found[node] = None
        if node not in stop and _is_light(node, members):
            stack.extend(node.inputs)
    return list(found)


def _read(node: Node) -> int:
    """Bytes to read; of a state, or of what is repeated, there is little."""
    return 0 if node.op.name in ("input", "constant", *MAPS) else node.type.bytes


def _work(node: Node) -> int:
    each = HEAVY_COST if node.op.name in HEAVY else LIGHT_COST
    return each * prod(static_shape(node.type.shape))
