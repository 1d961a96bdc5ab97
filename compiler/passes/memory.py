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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from weft.compiler.errors import InternalError
from weft.compiler.graph import Graph, Node
from weft.compiler.ops import Kind
from weft.compiler.passes.fuse import Group
from weft.compiler.passes.schedule import schedule
from weft.compiler.passes.views import Layout, contiguous, view
from weft.compiler.plan import ALIGNMENT, Abilities, Buffer, Place, Plan, Store
from weft.compiler.types import DType, static_shape


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


@dataclass(eq=False, slots=True)
class _Slot:
    """A buffer while its users are still being found."""

    name: str
    kind: str
    dtype: DType
    size: int
    nodes: list[Node] = field(default_factory=list)
    first: int = 0
    last: int = 0
    offset: int = 0

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.bytes


@dataclass(frozen=True)
class _Target:
    """A wish to have a value written at a place that only step `floor` and earlier ones read."""

    slot: _Slot
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
        self.home_group = {node: group for group in self.groups for node in group.nodes}
        if abilities.kernels:
            self.end = len(self.groups)
            self.time = {n: i for i, group in enumerate(self.groups) for n in group.nodes}
        else:
            self.end = len(self.order)
            self.time = {node: i for i, node in enumerate(self.order)}
        self.hidden: set[Node] = set()  # never in memory
        self.root: dict[Node, Node] = {}
        self.layout: dict[Node, Layout] = {}  # within the root's own elements
        self.registers: set[Node] = set()
        self.views: set[Node] = set()
        self.reads: dict[Node, list[int]] = {}
        self.home: dict[Node, tuple[_Slot, Layout]] = {}  # of roots
        self.slots: list[_Slot] = []
        self.state: dict[str, _Slot] = {}
        self.results: set[Node] = set()  # roots of outputs

    def run(self) -> Plan:
        self._find_views()
        self._find_reads()
        self._place_leaves()
        self._place_updates()
        self._place_joined()
        self._place_rest()
        stores = self._stores()
        scratch = self._lifetimes()
        arena = _pack([s for s in self.slots if s.kind in ("arena", "scratch")])
        return self._finish(stores, scratch, arena)

    # -- what is a view, and who reads what --------------------------------------------------

    def _is_leaf(self, node: Node) -> bool:
        return node.op.name == "input" or node.op.name in self.abilities.folded

    def _find_views(self) -> None:
        for node in self.graph.nodes:
            self.root[node] = node
            self.layout[node] = contiguous(static_shape(node.type.shape))
            self.reads[node] = []
            if self._is_leaf(node):
                continue
            if self.abilities.registers and node.type.rank == 0:
                self.registers.add(node)
            elif node.op.name in self.abilities.views and node.inputs[0] not in self.hidden:
                found = view(node, self.layout[node.inputs[0]])
                if found is not None and (self.abilities.strided or found.is_contiguous):
                    self.views.add(node)
                    self.layout[node] = found
                    self.root[node] = self.root[node.inputs[0]]
            if self._is_hidden(node):
                self.hidden.add(node)

    def _is_hidden(self, node: Node) -> bool:
        """Whether a value exists only inside of a kernel."""
        return (
            self.abilities.kernels
            and node not in self.views
            and node not in self.home_group[node].outputs
        )

    def _find_reads(self) -> None:
        for node in self.order:
            if node not in self.views:
                for operand in node.inputs:
                    if not self._early(operand):
                        self.reads[self.root[operand]].append(self.time[node])
        for name, node in self.graph.named_outputs.items():
            root = self.root[node]
            self.results.add(root)
            other = root.op.name == "input" and not (root.name == name and self._whole(node))
            if other or name not in self.bound:
                self.reads[root].append(self.end)

    def _early(self, node: Node) -> bool:
        """Scalars that come in are taken into registers before anything runs."""
        return self.abilities.registers and node.op.name == "input" and node.type.rank == 0

    def _whole(self, node: Node) -> bool:
        """Whether the value is all of its root, in its order: the root itself, or reshaped."""
        layout = self.layout[node]
        size = self.layout[self.root[node]].size
        return layout.offset == 0 and layout.is_contiguous and layout.size == size

    # -- places decided from what a value becomes ---------------------------------------------

    def _place_leaves(self) -> None:
        for node in self.graph.nodes:
            if node.op.name == "input":
                kind = "state" if node.name in self.bound else "input"
                slot = self._slot(node.name, kind, node)
                if kind == "state":
                    self.state[node.name] = slot
            elif self._is_leaf(node):
                self._slot(f"c{len(self.slots)}", "constant", node)
            elif node in self.registers:
                self._slot(f"s{self.time[node]}", "register", node)

    def _slot(self, name: str, kind: str, node: Node) -> _Slot:
        layout = contiguous(static_shape(node.type.shape))
        slot = _Slot(name, kind, node.type.dtype, layout.size, [node])
        self.slots.append(slot)
        self.home[node] = (slot, layout)
        return slot

    def _place_updates(self) -> None:
        """New values of states into the states' own memory, where no reader is disturbed."""
        for name, node in self.graph.named_outputs.items():
            root = self.root[node]
            if name not in self.state or root in self.home or not self._whole(node):
                continue
            old = self.graph.named_inputs[name]
            slot, _ = self.home[old]
            if slot.size:
                floor = self._floor(old, root)
                self._aim(root, _Target(slot, self.layout[root], floor, old))

    def _floor(self, old: Node, writer: Node) -> int:
        """The last step that reads the old state, but for `writer` keeping its parts in place."""
        times = list(self.reads[old])
        if writer.op.name == "concat":
            for operand, part in zip(writer.inputs, _parts(writer), strict=True):
                if self.root[operand] is old and _same(self.layout[operand], part):
                    times.remove(self.time[writer])
        return max(times, default=-1)

    def _place_joined(self) -> None:
        """Operands of a concatenation into its memory; outer concatenations first."""
        for node in reversed(self.order):
            if node.op.name == "concat" and node not in self.home and node not in self.registers:
                slot = _Slot(
                    f"t{self.time[node]}", "arena", node.type.dtype, self.layout[node].size
                )
                self.slots.append(slot)
                self._aim(node, _Target(slot, self.layout[node], -1, None))

    def _aim(self, node: Node, target: _Target) -> bool:
        """Place a root at the target if that is safe, and what it is made from as well."""
        time = self.time[node]
        if time < target.floor or (time == target.floor and not self._over_old(node, target)):
            return False
        self.home[node] = (target.slot, target.layout)
        target.slot.nodes.append(node)
        if node.op.name == "concat" and target.layout.is_contiguous:
            for operand, part in zip(node.inputs, _parts(node), strict=True):
                self._aim_part(operand, part.shifted(target.layout.offset), target)
        elif self._may_overwrite(node):
            self._aim_operand(node, target)
        return True

    def _over_old(self, node: Node, target: _Target) -> bool:
        """Whether the node may write over the old state that it is itself the last to read."""
        return self._may_overwrite(node) and all(
            self.root[i] is not target.old
            or (_same(self.layout[i], target.layout) and self._reads_alike(reader, i, node))
            for reader, i in self._operands(node)
        )

    def _may_overwrite(self, node: Node) -> bool:
        """Whether a value may be written over an operand that has its layout."""
        if self.abilities.kernels:
            kind = self.home_group[node].kind
            return kind in ("elementwise", "contraction") or node.op.name == "scatter_add"
        return node.op.name in self.abilities.in_place

    def _operands(self, node: Node) -> list[tuple[Node, Node]]:
        """(reader, operand) for all that is read from memory where the node is computed."""
        if not self.abilities.kernels:
            return [(node, operand) for operand in node.inputs]
        group = self.home_group[node]
        return [
            (reader, operand)
            for reader in group.nodes
            if reader not in self.views
            for operand in reader.inputs
            if operand not in group.members or operand in self.views
        ]

    def _reads_alike(self, reader: Node, operand: Node, node: Node) -> bool:
        """Whether the reader takes of its operand no element but the one that is written."""
        if not self.abilities.kernels:
            return True
        if reader.op.name == "scatter_add":
            return operand is reader.inputs[0] and operand not in reader.inputs[1:]
        return reader.op.kind is Kind.ELEMENTWISE and reader.type.shape == node.type.shape

    def _aim_part(self, operand: Node, part: Layout, target: _Target) -> None:
        root = self.root[operand]
        if root in self.home or not self._whole(operand) or not part.size:
            return
        if part.is_contiguous:
            self._aim(root, _Target(target.slot, part.like(root), target.floor, target.old))
        elif root is operand and self._may_be_strided(root):
            self._aim(root, _Target(target.slot, part, target.floor, target.old))

    def _aim_operand(self, node: Node, target: _Target) -> None:
        """Have an operand that dies here computed where the result goes."""
        for reader, operand in self._operands(node):
            if (
                operand not in self.home
                and self._reads_alike(reader, operand, node)
                and self._dies(operand, node)
                and (target.layout.is_contiguous or self._may_be_strided(operand))
                and self._aim(operand, target)
            ):
                return

    def _may_be_strided(self, root: Node) -> bool:
        return (
            self.abilities.strided
            and (
                root.op.kind is Kind.ELEMENTWISE
                if self.abilities.kernels
                else root.op.name in self.abilities.in_place
            )
            and not any(
                user in self.views or user.op.kind is Kind.LOOP for user in self.graph.users[root]
            )
        )

    def _dies(self, operand: Node, node: Node) -> bool:
        """Whether `operand` is a computed value of the node's type that nobody needs later."""
        return (
            self.root[operand] is operand
            and operand.type == node.type
            and not self._needed(operand, self.time[node])
            and all(
                i is operand and self._reads_alike(reader, i, node)
                for reader, i in self._operands(node)
                if self.root[i] is operand
            )
        )

    # -- everything else ------------------------------------------------------------------------

    def _place_rest(self) -> None:
        for node in self.order:
            if node in self.views or node in self.home or node in self.hidden:
                continue
            if not self._may_overwrite(node) or not self._take_over(node):
                slot = self._slot(f"t{self.time[node]}", "arena", node)
                slot.first = self.time[node]

    def _take_over(self, node: Node) -> bool:
        """Write over an operand whose memory nobody needs after this step."""
        now = self.time[node]
        for reader, operand in self._operands(node):
            root = self.root[operand]
            if not self._reads_alike(reader, operand, node):
                continue
            slot, layout = self.home[root]
            if (
                slot.kind == "arena"
                and slot.size == self.layout[node].size
                and slot.dtype == node.type.dtype
                and _same(self.layout[operand], self.layout[node])
                and _same(layout.like(node), self.layout[node])
                and all(not self._needed(other, now) for other in slot.nodes)
                and all(
                    self.home[self.root[i]][0] is not slot
                    or (
                        _same(self.place(i), self.layout[node])
                        and self._reads_alike(other, i, node)
                    )
                    for other, i in self._operands(node)
                )
            ):
                self.home[node] = (slot, self.layout[node])
                slot.nodes.append(node)
                return True
        return False

    def _needed(self, root: Node, after: int) -> bool:
        return max(self.reads[root], default=0) > after or root in self.results

    def place(self, node: Node) -> Layout:
        """The elements of the root's buffer that the value occupies."""
        _, base = self.home[self.root[node]]
        if node is self.root[node]:
            return base
        return self.layout[node].shifted(base.offset)

    def _stores(self) -> list[Store]:
        stores = []
        for name, node in self.graph.named_outputs.items():
            if name not in self.state:
                continue
            slot, root = self.state[name], self.root[node]
            if self.home[root][0] is slot and _same_run(self.place(node), slot.size):
                continue  # already there
            old = root.op.name == "input" and root.name in self.state
            stores.append(Store(name, node, early=old))
            self.reads[root].append(self.end)
        return stores

    def _lifetimes(self) -> dict[Node, _Slot]:
        for slot in self.slots:
            if slot.kind == "arena":
                slot.first = min(self.time[n] for n in slot.nodes)
                slot.last = max(max(self.reads[n], default=self.time[n]) for n in slot.nodes)
                slot.last = max(slot.last, *(self.time[n] for n in slot.nodes), slot.first)
            else:
                slot.first, slot.last = 0, self.end
        scratch = {}
        last = {id(self.home_group[n]): n for n in self.order if n.op.kind is Kind.LOOP}
        for node in self.order:
            if node in self.views or last.get(id(self.home_group[node]), node) is not node:
                continue  # of a loop, the last result works for all
            size = self.abilities.scratch(node)
            if size:
                at = self.time[node]
                slot = _Slot(f"w{at}", "scratch", _BYTE, size, [node], at, at)
                scratch[node] = slot
                self.slots.append(slot)
        return scratch

    def _finish(self, stores: list[Store], scratch: dict[Node, _Slot], arena: int) -> Plan:
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
                node: Place(buffers[id(self.home[self.root[node]][0])], self.place(node))
                for node in self.graph.nodes
                if node not in self.hidden
            },
            views=frozenset(self.views),
            registers=frozenset(self.registers),
            stores=tuple(stores),
            scratch={node: buffers[id(slot)] for node, slot in scratch.items()},
            buffers=tuple(buffers.values()),
            arena_bytes=arena,
        )


_BYTE = DType("u8", "uint", 8)


def _same(a: Layout, b: Layout) -> bool:
    """The same elements in the same order, told apart from a reshape by shape and strides."""
    return a.offset == b.offset and a.shape == b.shape and a.steps == b.steps


def _same_run(layout: Layout, size: int) -> bool:
    return layout.offset == 0 and layout.is_contiguous and layout.size == size


def _parts(concat: Node) -> list[Layout]:
    """Where the operands of a concatenation lie within its result."""
    whole = contiguous(static_shape(concat.type.shape))
    axis, start, parts = concat.attributes["axis"], 0, []
    for operand in concat.inputs:
        shape = static_shape(operand.type.shape)
        offset = start * whole.strides[axis] if whole.strides else 0
        parts.append(Layout(offset, shape, whole.strides))
        start += shape[axis]
    return parts


def _pack(slots: Sequence[_Slot]) -> int:
    """Give offsets to slots, big ones first, into the tightest gap; return the arena's size."""
    ordered = sorted(slots, key=lambda s: (-s.bytes, s.first, s.name))
    # Of each slot that has a place, by offset: first and last step, offset, aligned end.
    placed = np.zeros((4, len(slots)), np.int64)
    count = total = 0
    for slot in ordered:
        size = slot.bytes
        first, last, offsets, ends = placed[:, :count]
        meets = ((first <= slot.last) & (last >= slot.first)).nonzero()[0]
        rivals = offsets[meets]
        free = np.zeros(len(meets) + 1, np.int64)  # where the space before each rival begins
        np.maximum.accumulate(ends[meets], out=free[1:])
        gaps = rivals - free[:-1]
        fits = (gaps >= size).nonzero()[0]
        slot.offset = int(free[fits[gaps[fits].argmin()]] if fits.size else free[-1])
        total = max(total, slot.offset + size)
        if not size:
            continue  # takes no place, so it meets nothing
        place = int(np.searchsorted(offsets, slot.offset, side="right"))
        placed[:, place + 1 : count + 1] = placed[:, place:count]
        placed[:, place] = slot.first, slot.last, slot.offset, _aligned(slot.offset + size)
        count += 1
    return _aligned(total)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
