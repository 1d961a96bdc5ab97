"""Loops as kernels: the kernels of one turn, and where its memory is as the turns go on."""

from __future__ import annotations

from collections.abc import Callable

from weft.compiler.graph import Node
from weft.compiler.index import Axis, along, flat
from weft.compiler.kernel import Kernel, Nest, Port, Stage, Store, Track, Turns
from weft.compiler.loops import Loop
from weft.compiler.passes.fuse import Group
from weft.compiler.passes.turn import Room, Turn, room_of, turn_of
from weft.compiler.passes.views import Layout, contiguous, view
from weft.compiler.plan import Abilities, Buffer, Place, Plan
from weft.compiler.scalar import Load
from weft.compiler.types import TensorType, static_shape

_MAPS = frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "reverse", "stop_gradient"})


def turn_kernels(
    plan: Plan, group: Group, abilities: Abilities, lower: Callable[[Plan], tuple[Kernel, ...]]
) -> list[Kernel]:
    """The loop of a group; `lower` gives the kernels of a turn's plan."""
    return _Loop(plan, group, abilities).run(lower)


def loop_scratch(node: Node, abilities: Abilities) -> int:
    """Bytes of working memory that a loop takes."""
    loop = Loop.of(node)
    return _room(loop, turn_of(loop, abilities)).bytes


def copied(source: Place, target: Place, nodes: tuple[Node, ...]) -> Nest:
    """Elements from one place to another, of the same shape."""
    ports = (
        Port(source.buffer, source.layout.offset),
        Port(target.buffer, target.layout.offset),
    )
    axes = tuple(Axis(size) for size in target.layout.shape)
    at = tuple(along(axis) for axis in axes)
    value = Load(source.buffer.dtype, 0, flat(at, source.layout.strides))
    store = Store(1, flat(at, target.layout.strides), value)
    return Nest(ports, (), (Stage(axes, (), (store,)),), nodes)


def _room(loop: Loop, turn: Turn) -> Room:
    copies = []
    for number, value in enumerate((*loop.steps, *loop.fixed), len(loop.start)):
        fits = _in_pieces if number < len(loop.start) + len(loop.steps) else _in_one_piece
        if not all(fits(layout) for layout in _layouts(value)):
            copies.append(number)
    return room_of(loop, turn, copies, turn.stacks)


def _layouts(value: Node) -> list[Layout]:
    """How a value may lie in memory: any of the values it is made from by movement may be there."""
    chain = [value]
    while chain[-1].op.name in _MAPS:
        chain.append(chain[-1].inputs[0])
    found = []
    for start in range(len(chain)):
        layout: Layout | None = contiguous(static_shape(chain[start].type.shape))
        for node in reversed(chain[:start]):
            layout = view(node, layout) if layout is not None else None
        if layout is not None:
            found.append(layout)
    return found


def _in_one_piece(layout: Layout) -> bool:
    return layout.is_contiguous


def _in_pieces(layout: Layout) -> bool:
    """Whether each part along axis 0 lies in one piece."""
    return _part(layout, 0).is_contiguous


def _part(layout: Layout, position: int) -> Layout:
    start = layout.offset + position * layout.strides[0]
    return Layout(start, layout.shape[1:], layout.strides[1:])


class _Loop:
    def __init__(self, plan: Plan, group: Group, abilities: Abilities) -> None:
        self.plan, self.group = plan, group
        self.results = {node.attributes["result"]: node for node in group.nodes}
        self.node = next(node for node in group.nodes if node in plan.scratch)
        self.memory = plan.scratch[self.node]
        self.loop = Loop.of(self.node)
        self.turn = turn_of(self.loop, abilities)
        self.room = _room(self.loop, self.turn)
        (self.length,) = static_shape((self.loop.length,))
        self.ports: list[Port] = []
        self.before: list[Kernel] = []
        self.after: list[Kernel] = []

    def run(self, lower: Callable[[Plan], tuple[Kernel, ...]]) -> list[Kernel]:
        if not self.length:
            return [
                self._copied(self.plan.places[value], self.plan.places[self.results[j]])
                for j, value in enumerate(self.loop.start)
                if j in self.results
            ]
        names = [n.name for n in self.loop.body.inputs]
        count = len(self.loop.start)
        tracks: dict[str, Track] = {}
        for j in range(count):
            tracks[names[j]], tracks[self.turn.after[j]] = self._carried(j)
        for i, value in enumerate(self.loop.steps, count):
            tracks[names[i]] = self._along(self._steady(i, value, _in_pieces))
        for i, value in enumerate(self.loop.fixed, count + len(self.loop.steps)):
            tracks[names[i]] = self._still(self._steady(i, value, _in_one_piece))
        for k, name in self.turn.stacks.items():
            if count + k in self.results:
                tracks[name] = self._along(self.plan.places[self.results[count + k]])
            else:
                place = self._place(self.room.parts[k], self.loop.stacked[k].type)
                tracks[name] = self._still(place)
        inside = {b.name: b for b in self.turn.plan.buffers if b.kind == "state"}
        arena = self._port(Place(self.memory, contiguous((self.memory.size,))))
        turns = Turns(
            tuple(self.ports),
            self.length,
            arena,
            {inside[name]: track for name, track in tracks.items()},
            (*lower(self.turn.plan), *self._stores()),
            self.group.nodes,
        )
        return [*self.before, turns, *self.after]

    def _stores(self) -> list[Kernel]:
        """What a turn gives that is not in its place: what came in, or what another output is."""
        plan = self.turn.plan
        found: list[Kernel] = []
        for store in plan.stores:
            target = plan.places[plan.graph.named_inputs[store.name]]
            if target.layout.size:
                found.append(copied(plan.places[store.source], target, self.group.nodes))
        return found

    # -- where things are -------------------------------------------------------------------------

    def _carried(self, j: int) -> tuple[Track, Track]:
        """A carried value as it comes in, and as it goes out."""
        count, value = len(self.loop.start), self.loop.start[j]
        first, second = (self._place(offset, value.type) for offset in self.room.carried[j])
        start, end = self.plan.places[value], self.results.get(j)
        last = first if end is None else self.plan.places[end]
        before = self.results.get(count + self.turn.before.get(j, -1 - count))
        behind = self.results.get(count + self.turn.behind.get(j, -1 - count))
        if before is not None:
            stack = self.plan.places[before]
            self.before.append(self._copied(start, self._at(stack, 0)))
            track = self._along(stack)
            return track, self._along(stack, 1, last=self._port(last))
        if not start.layout.is_contiguous:
            self.before.append(self._copied(start, first))
            start = first
        if behind is not None:
            stack = self.plan.places[behind]
            if end is not None:
                self.after.append(self._copied(self._at(stack, self.length - 1), last))
            return self._along(stack, -1, first=self._port(start)), self._along(stack)
        step = (second.buffer.offset - first.buffer.offset) // value.type.dtype.bytes
        ends = None if end is None else self._port(last)
        here, there = self._port(first), self._port(second)
        return Track(here, step, 2, first=self._port(start)), Track(there, -step, 2, last=ends)

    def _along(
        self, stack: Place, ahead: int = 0, first: int | None = None, last: int | None = None
    ) -> Track:
        """A stack's part of each turn, or of the turn `ahead` of it."""
        step = stack.layout.strides[0] * (-1 if self.loop.reverse else 1)
        start = self._at(stack, 0).layout.offset + ahead * step
        port = self._port(Place(stack.buffer, Layout(start, (), ())))
        return Track(port, step, first=first, last=last)

    def _still(self, place: Place) -> Track:
        return Track(self._port(place))

    def _at(self, stack: Place, turn: int) -> Place:
        position = self.length - 1 - turn if self.loop.reverse else turn
        return Place(stack.buffer, _part(stack.layout, position))

    def _steady(self, number: int, value: Node, fits: Callable[[Layout], bool]) -> Place:
        """An operand in memory that a turn can read."""
        place = self.plan.places[value]
        if fits(place.layout):
            return place
        copy = self._place(self.room.copies[number], value.type)
        self.before.append(self._copied(place, copy))
        return copy

    def _place(self, offset: int, type: TensorType) -> Place:
        """Working memory for a value."""
        shape = static_shape(type.shape)
        layout, all_ = contiguous(shape), self.memory
        start = all_.offset + offset
        buffer = Buffer(
            f"{all_.name}_{offset}", "scratch", type.dtype, layout.size, all_.first, all_.last,
            (self.node,), start,
        )  # fmt: skip
        return Place(buffer, layout)

    def _copied(self, source: Place, target: Place) -> Kernel:
        return copied(source, target, self.group.nodes)

    def _port(self, place: Place) -> int:
        port = Port(place.buffer, place.layout.offset)
        if port not in self.ports:
            self.ports.append(port)
        return self.ports.index(port)
