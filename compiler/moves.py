"""The parameters of an objective sorted by how they are updated: as one vector, or one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weft.compiler.graph import Node, substitute
from weft.compiler.passes.bind import bind
from weft.compiler.passes.pack import Arena, layout, pack_values, unpack_values
from weft.compiler.program import PARAMETERS, Objective, Optimizer, Update
from weft.compiler.types import DType, TensorType
from weft.compiler.updates import equations, flattened


@dataclass(eq=False)
class Move:
    """One update: of a single parameter, or of all of an arena as one vector.

    `values` are the arguments of the update's graph by name, as far as they are known.
    """

    optimizer: Optimizer
    update: Update
    names: tuple[str, ...]
    arena: Arena | None
    first: Mapping[str, Update]  # each parameter's own equations, for the first values of slots
    values: dict[str, Node] = field(default_factory=dict)

    @property
    def others(self) -> list[str]:
        """What the graph reads beside the parameter: the step, states of schedules."""
        own = {"theta", "grad", *self.update.initial, *(e.received for e in self.update.exchanges)}
        return [n.name for n in self.update.graph.inputs if n.name not in own]

    def shared(self, slot: str) -> bool:
        """Whether one scalar is this slot for all parameters of the vector."""
        return self.arena is not None and self.update.graph.named_inputs[slot].type.rank == 0

    def pack(self, nodes: Sequence[Node], slot: str | None = None) -> Node:
        """A value of each parameter as the update takes it."""
        if self.arena is None or (slot is not None and self.shared(slot)):
            return nodes[0]
        return pack_values(nodes, self.arena)

    def unpack(self, value: Node, slot: str | None = None) -> tuple[Node, ...]:
        """The inverse of `pack`."""
        if self.arena is None or (slot is not None and self.shared(slot)):
            return (value,)
        return unpack_values(value, self.arena)

    def slot_states(self, slot: str) -> dict[str, str]:
        """The names of a slot's states, and the parameters that they belong to."""
        owners = self.names[:1] if self.shared(slot) else self.names
        return {f"{self.optimizer.name}.{slot}/{n}": n for n in owners}

    @property
    def slot_groups(self) -> list[tuple[str, ...]]:
        return [tuple(self.slot_states(slot)) for slot in self.update.initial]

    def initial(self, slot: str, owner: str, parameter: Node) -> Node:
        """A slot's first value for a parameter that has this first value itself."""
        own = self.first[owner]
        theta = own.graph.named_inputs["theta"]
        return substitute([own.initial[slot]], {theta: parameter})[0]

    def receive(self, name: str, everything: Node) -> None:
        """Take what has come together of all parameters; its size is known from now on."""
        sizes = {PARAMETERS: everything.type.shape[0]}
        self.update = Update(
            bind(self.update.graph, sizes), self.update.initial, self.update.exchanges
        )
        self.values[name] = everything

    def result(self, name: str) -> Node:
        """An output of the update, from the values that are known."""
        graph = self.update.graph
        known = {n: self.values[n.name] for n in graph.inputs if n.name in self.values}
        return substitute([graph.named_outputs[name]], known)[0]


@dataclass(eq=False)
class Block:
    """Parameters that lie end to end in one arena."""

    arena: Arena
    names: tuple[str, ...]
    moves: list[Move]

    def give(self, name: str, values: Mapping[str, Node], flat: Node | None) -> None:
        """Every move its part of a value of all parameters; `flat` is the block's, if known."""
        for move in self.moves:
            if move.arena is not None and flat is not None:
                move.values[name] = flat
            else:
                move.values[name] = move.pack([values[n] for n in move.names])


def blocks(objective: Objective, theta: Mapping[str, Node]) -> list[Block]:
    """The objective's parameters by element type, optimiser and equations, in order of appearance.

    Those whose equations are not element by element are updated one by one, but lie in an arena
    too: a norm over all of them, or their average, is one operation.
    """
    groups: dict[tuple[DType, Optimizer | None, str | None], list[str]] = {}
    texts: dict[tuple[Optimizer, TensorType], str | None] = {}
    for name, node in theta.items():
        optimizer = objective.optimizers[name]
        if (optimizer, node.type) not in texts:
            texts[optimizer, node.type] = equations(optimizer.rule(node.type))
        text = texts[optimizer, node.type]
        key = (node.type.dtype, optimizer if text is not None else None, text)
        groups.setdefault(key, []).append(name)
    return [
        _block(objective, theta, tuple(names), text is not None)
        for (_, _, text), names in groups.items()
    ]


def _block(
    objective: Objective, theta: Mapping[str, Node], names: tuple[str, ...], whole: bool
) -> Block:
    types = {n: theta[n].type for n in names}
    arena = layout(objective.name, types[names[0]].dtype, [(n, types[n].shape) for n in names])
    rules = {n: objective.optimizers[n].rule(types[n]) for n in names}
    if not whole:
        alone = [Move(objective.optimizers[n], rules[n], (n,), None, {n: rules[n]}) for n in names]
        return Block(arena, names, alone)
    flat = flattened(rules[names[0]], arena.size)
    assert flat is not None
    return Block(arena, names, [Move(objective.optimizers[names[0]], flat, names, arena, rules)])
