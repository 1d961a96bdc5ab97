"""The memory plan: where every value lives, which values are views, what is written in place.

    bound inputs (state)   the caller's arrays, kept between steps and updated in place
    other inputs           the caller's arrays of one call, only read
    constants              made once
    registers              scalars that a backend keeps out of memory
    arena                  everything else, at byte offsets shared by values of different times

A value is written where it ends up when that is safe: into its slice of a concatenation, over an
operand that dies, into the state that it becomes. The old value of a state stays intact until
its last reader has run; where that can't be, the new one waits and is copied at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from weft.compiler.errors import InternalError
from weft.compiler.graph import Graph, Node
from weft.compiler.ops import Kind
from weft.compiler.passes.arena import Slot, pack
from weft.compiler.passes.fuse import Group
from weft.compiler.passes.schedule import schedule
from weft.compiler.passes.uses import Uses
from weft.compiler.passes.views import Layout, parts
from weft.compiler.plan import Abilities, Buffer, Place, Plan, Store
from weft.compiler.types import U8


def plan(
    graph: Graph,
    groups: Iterable[Group],
    abilities: Abilities,
    bound: Iterable[str] | None = None,
) -> Plan:
    """Order, places and lifetimes for a graph whose sizes are all known.

    `bound` names the inputs whose arrays are known before the first call; without it those that
    the graph updates. A state update of an input outside `bound` is an ordinary output.
    """
    for node in graph.nodes:
        if not node.type.is_static:
            raise InternalError(f"a memory plan needs numbers for the sizes of {node.type}")
    names = graph.named_inputs.keys()
    keep = set(graph.output_names) & names if bound is None else set(bound) & names
    return _Planner(graph, tuple(groups), abilities, frozenset(keep)).run()


@dataclass(frozen=True)
class _Target:
    """A wish to have a value written at a place that only step `floor` and earlier ones read."""

    slot: Slot
    layout: Layout
    floor: int
    old: Node | None  # the state's input, whose old value is there until then


class _Planner:
    def __init__(
        self,
        graph: Graph,
        groups: tuple[Group, ...],
        abilities: Abilities,
        bound: frozenset[str],
    ) -> None:
        self.graph, self.abilities, self.bound = graph, abilities, bound
        self.groups, self.order = schedule(graph, groups, bound)
        self.uses = Uses(graph, self.groups, self.order, abilities, bound)
        self.home: dict[Node, tuple[Slot, Layout]] = {}  # of roots
        self.slots: list[Slot] = []
        self.state: dict[str, Slot] = {}

    def run(self) -> Plan:
        self._place_leaves()
        self._place_updates()
        self._place_joined()
        self._place_rest()
        stores = self._stores()
        scratch = self._lifetimes()
        arena = pack([s for s in self.slots if s.kind in ("arena", "scratch")])
        return self._finish(stores, scratch, arena)

    # -- places decided from what a value becomes ---------------------------------------------

    def _place_leaves(self) -> None:
        for node in self.graph.nodes:
            if node.op.name == "input":
                kind = "state" if node.name in self.bound else "input"
                slot = self._slot(node.name, kind, node)
                if kind == "state":
                    self.state[node.name] = slot
            elif self.uses.is_leaf(node):
                self._slot(f"c{len(self.slots)}", "constant", node)
            elif node in self.uses.registers:
                self._slot(f"s{self.uses.time[node]}", "register", node)

    def _slot(self, name: str, kind: str, node: Node) -> Slot:
        layout = self.uses.layout[node]
        slot = Slot(name, kind, node.type.dtype, layout.size, [node])
        self.slots.append(slot)
        self.home[node] = (slot, layout)
        return slot

    def _place_updates(self) -> None:
        """New values of states into the states' own memory, where no reader is disturbed."""
        for name, node in self.graph.named_outputs.items():
            root = self.uses.root[node]
            if name not in self.state or root in self.home or not self.uses.whole(node):
                continue
            old = self.graph.named_inputs[name]
            slot, _ = self.home[old]
            if slot.size:
                floor = self._floor(old, root)
                self._aim(root, _Target(slot, self.uses.layout[root], floor, old))

    def _floor(self, old: Node, writer: Node) -> int:
        """The last step that reads the old state, but for `writer` keeping its parts in place."""
        times = list(self.uses.reads[old])
        if writer.op.name == "concat":
            for operand, part in zip(writer.inputs, parts(writer), strict=True):
                if self.uses.root[operand] is old and self.uses.layout[operand].matches(part):
                    times.remove(self.uses.time[writer])
        return max(times, default=-1)

    def _place_joined(self) -> None:
        """Operands of a concatenation into its memory; outer concatenations first."""
        for node in reversed(self.order):
            if (
                node.op.name == "concat"
                and node not in self.home
                and node not in self.uses.registers
            ):
                slot = Slot(
                    f"t{self.uses.time[node]}",
                    "arena",
                    node.type.dtype,
                    self.uses.layout[node].size,
                )
                self.slots.append(slot)
                self._aim(node, _Target(slot, self.uses.layout[node], -1, None))

    def _aim(self, node: Node, target: _Target) -> bool:
        """Place a root at the target if that is safe, and what it is made from as well."""
        time = self.uses.time[node]
        if not self.uses.layout[node].is_contiguous:
            return False  # its views count on where its elements are
        if time < target.floor or (time == target.floor and not self._over_old(node, target)):
            return False
        self.home[node] = (target.slot, target.layout)
        target.slot.nodes.append(node)
        if node.op.name == "concat" and target.layout.is_contiguous:
            for operand, part in zip(node.inputs, parts(node), strict=True):
                self._aim_part(operand, part.shifted(target.layout.offset), target)
        elif self.uses.may_overwrite(node):
            self._aim_operand(node, target)
        return True

    def _over_old(self, node: Node, target: _Target) -> bool:
        """Whether the node may write over the old state that it is itself the last to read."""
        return self.uses.may_overwrite(node) and all(
            self.uses.root[i] is not target.old
            or (
                self.uses.layout[i].matches(target.layout)
                and self.uses.reads_alike(reader, i, node)
            )
            for reader, i in self.uses.operands(node)
        )

    def _aim_part(self, operand: Node, part: Layout, target: _Target) -> None:
        root = self.uses.root[operand]
        if root in self.home or not self.uses.whole(operand) or not part.size:
            return
        if part.is_contiguous:
            self._aim(root, _Target(target.slot, part.like(root), target.floor, target.old))
        elif root is operand and self.uses.may_be_strided(root):
            self._aim(root, _Target(target.slot, part, target.floor, target.old))

    def _aim_operand(self, node: Node, target: _Target) -> None:
        """Have an operand that dies here computed where the result goes."""
        for reader, operand in self.uses.operands(node):
            if (
                operand not in self.home
                and self.uses.reads_alike(reader, operand, node)
                and self.uses.dies(operand, node)
                and (target.layout.is_contiguous or self.uses.may_be_strided(operand))
                and self._aim(operand, target)
            ):
                return

    # -- everything else ------------------------------------------------------------------------

    def _place_rest(self) -> None:
        for node in self.order:
            if node in self.uses.views or node in self.home or node in self.uses.hidden:
                continue
            if not self.uses.may_overwrite(node) or not self._take_over(node):
                slot = self._slot(f"t{self.uses.time[node]}", "arena", node)
                slot.first = self.uses.time[node]

    def _take_over(self, node: Node) -> bool:
        """Write over an operand whose memory nobody needs after this step."""
        now = self.uses.time[node]
        for reader, operand in self.uses.operands(node):
            root = self.uses.root[operand]
            if not self.uses.reads_alike(reader, operand, node):
                continue
            slot, layout = self.home[root]
            if (
                slot.kind == "arena"
                and slot.size == self.uses.layout[node].size
                and slot.dtype == node.type.dtype
                and self.uses.layout[operand].matches(self.uses.layout[node])
                and layout.like(node).matches(self.uses.layout[node])
                and self._until(slot) <= now
                and all(
                    self.home[self.uses.root[i]][0] is not slot
                    or (
                        self.place(i).matches(self.uses.layout[node])
                        and self.uses.reads_alike(other, i, node)
                    )
                    for other, i in self.uses.operands(node)
                )
            ):
                self.home[node] = (slot, self.uses.layout[node])
                slot.nodes.append(node)
                return True
        return False

    def _until(self, slot: Slot) -> float:
        """The last time that a value in this memory is needed, counted on from the last call."""
        for node in slot.nodes[slot.counted :]:
            slot.until = max(slot.until, self.uses.until(node))
        slot.counted = len(slot.nodes)
        return slot.until

    def place(self, node: Node) -> Layout:
        """The elements of the root's buffer that the value occupies."""
        _, base = self.home[self.uses.root[node]]
        if node is self.uses.root[node]:
            return base
        return self.uses.layout[node].shifted(base.offset)

    def _stores(self) -> list[Store]:
        stores = []
        for name, node in self.graph.named_outputs.items():
            if name not in self.state:
                continue
            slot, root = self.state[name], self.uses.root[node]
            if self.home[root][0] is slot and self.place(node).spans(slot.size):
                continue  # already there
            old = root.op.name == "input" and root.name in self.state
            stores.append(Store(name, node, early=old))
            self.uses.reads[root].append(self.uses.end)
        return stores

    def _lifetimes(self) -> dict[Node, Slot]:
        for slot in self.slots:
            if slot.kind == "arena":
                slot.first = min(self.uses.time[n] for n in slot.nodes)
                slot.last = max(
                    max(self.uses.reads[n], default=self.uses.time[n]) for n in slot.nodes
                )
                slot.last = max(slot.last, *(self.uses.time[n] for n in slot.nodes), slot.first)
            else:
                slot.first, slot.last = 0, self.uses.end
        scratch = {}
        last = {id(self.uses.home_group[n]): n for n in self.order if n.op.kind is Kind.LOOP}
        for node in self.order:
            if (
                node in self.uses.views
                or last.get(id(self.uses.home_group[node]), node) is not node
            ):
                continue  # of a loop, the last result works for all
            size = self.abilities.scratch(node)
            if size:
                at = self.uses.time[node]
                slot = Slot(f"w{at}", "scratch", U8, size, [node], at, at)
                scratch[node] = slot
                self.slots.append(slot)
        return scratch

    def _finish(self, stores: list[Store], scratch: dict[Node, Slot], arena: int) -> Plan:
        buffers = {
            id(s): Buffer(
                s.name, s.kind, s.dtype, s.size, s.first, s.last, tuple(s.nodes), s.offset
            )
            for s in self.slots
        }
        return Plan(
            graph=self.graph,
            groups=self.groups,
            order=self.order,
            bound=self.bound,
            places={
                node: Place(buffers[id(self.home[self.uses.root[node]][0])], self.place(node))
                for node in self.graph.nodes
                if node not in self.uses.hidden
            },
            views=frozenset(self.uses.views),
            registers=frozenset(self.uses.registers),
            stores=tuple(stores),
            scratch={node: buffers[id(slot)] for node, slot in scratch.items()},
            buffers=tuple(buffers.values()),
            arena_bytes=arena,
        )
