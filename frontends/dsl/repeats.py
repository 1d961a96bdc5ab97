"""Calls of a layer that are like an earlier one: its nodes are copied, its body doesn't run again.

    block(x)    12 times in a row: the body is evaluated once; each further call is a copy of its
                nodes, over its own arguments and parameters, with its own streams of draws

What a body builds depends on the types of its arguments and on static values alone, never on the
nodes that it is given. So where those are equal, only names differ: those of its states, which are
below the layer's path, and those of its draws. What a body does beyond building nodes, declaring
states, drawing and updating its own states is counted (`Interpreter.effects`), and then there is no
copy: warnings, calls of models, loops, values from outside of the body.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from weft.compiler.composites import bodies, carried
from weft.compiler.errors import Span
from weft.compiler.graph import Graph, Node, below
from weft.compiler.program import State
from weft.compiler.types import DType, SymDim
from weft.frontends.dsl.arguments import Given
from weft.frontends.dsl.modules import Frame
from weft.frontends.dsl.registry import SEED, STEP
from weft.frontends.dsl.values import (
    ABSENT,
    Axis,
    Builtin,
    Closure,
    Label,
    Partial,
    Quantity,
    Tensor,
    Value,
)

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter

_PLAIN = frozenset((bool, int, str, type(None), SymDim, DType))


@dataclass(eq=False)
class Arguments:
    """The arguments of a call: `key` is the same for calls whose bodies build the same.

    Nodes and labels are numbered in the order in which the arguments hold them: which are the same
    matters to a body, and no more of them does.
    """

    nodes: dict[Node, int] = field(default_factory=dict)
    labels: dict[Label, int] = field(default_factory=dict)
    key: Hashable = None  # None: nobody knows what the body takes from them

    @staticmethod
    def of(
        interpreter: Interpreter, function: Closure, given: list[Given], span: Span
    ) -> Arguments:
        found = Arguments()
        place = interpreter.site or (span if function.module.is_library else None)
        site = place and (id(place.source), place.start, place.end)
        try:
            values = tuple([(g.name, found._seen(g.value)) for g in given])
        except _Unknown:
            return found
        found.key = (id(function.decl), id(function.module), site, interpreter.in_model, values)
        return found

    def _seen(self, value: Value) -> Hashable:
        kind = type(value)
        if kind is Tensor:
            number = self.nodes.setdefault(value.node, len(self.nodes))
            axes = tuple([self._numbered(label) for label in value.axes])
            return (kind, number, value.node.type, axes, value.classes)
        if kind in _PLAIN:
            return (kind, value)
        if kind is float or kind is Quantity:
            return (kind, repr(value))  # 0.0 and -0.0 are equal
        if kind is list or kind is tuple:
            return (kind, *map(self._seen, value))
        if kind is Axis:
            return (kind, self._numbered(value.label), value.size)
        if kind is Closure:
            return (kind, id(value.decl), id(value.module))
        if kind is Partial:
            settings = [(name, self._seen(v)) for name, v in value.arguments.items()]
            return (kind, self._seen(value.function), *settings)
        if kind is Builtin or value is ABSENT:
            return (kind, id(value))
        raise _Unknown

    def _numbered(self, label: Label | None) -> int | None:
        return None if label is None else self.labels.setdefault(label, len(self.labels))


class _Unknown(Exception):
    """A value of which nobody knows what a body does with it."""


@dataclass(frozen=True)
class Before:
    """The interpreter before the body runs."""

    effects: int
    warnings: int
    declared: int
    states: int
    drawn: int
    draws: int
    written: int

    @staticmethod
    def of(interpreter: Interpreter) -> Before:
        registry = interpreter.registry
        return Before(
            interpreter.effects,
            len(registry.warnings),
            len(interpreter.declared),
            len(registry.states),
            interpreter.drawn,
            len(interpreter.draws),
            interpreter.written,
        )


def repeatable(interpreter: Interpreter) -> bool:
    """Whether calls are such that a copy can stand for them: not in rules or loops."""
    return (
        interpreter.init is None
        and interpreter.slot_type is None
        and interpreter.epoch_end is None
        and SEED not in interpreter.current
        and STEP not in interpreter.current
    )


@dataclass(eq=False)
class Original:
    """A call whose body has run: what it gave, declared, drew and updated."""

    frame: Frame
    arguments: Arguments
    value: Value
    states: Mapping[str, State]
    inputs: Mapping[str, Node]  # of the states, and of seed and step
    new: bool  # whether the states are new with this call, and not known from an earlier pass
    draws: Mapping[str, int]
    updates: Mapping[str, Node]
    unplaced: frozenset[Node]  # nodes that get their places from whoever called

    @staticmethod
    def of(
        interpreter: Interpreter, frame: Frame, arguments: Arguments, value: Value, before: Before
    ) -> Original | None:
        """The call that has just ended, if nothing but names depends on where it was."""
        registry, now = interpreter.registry, Before.of(interpreter)
        if now.effects != before.effects or now.warnings != before.warnings:
            return None
        names = interpreter.declared[before.declared :]
        added = now.states - before.states
        draws = dict(list(interpreter.draws.items())[before.draws :])
        updates = {n: interpreter.updates[n] for n in names if n in interpreter.updates}
        if (
            added not in (0, len(names))
            or not all(n.startswith(f"{frame.path}.") for n in names)
            or sum(draws.values()) != now.drawn - before.drawn
            or len(updates) != now.written - before.written
            or not _is_known(value, arguments)
        ):
            return None
        roots = [*_nodes_of(value), *updates.values()]
        return Original(
            frame,
            arguments,
            value,
            {n: registry.states[n] for n in names},
            {n: registry.inputs[n] for n in (*names, SEED, STEP)},
            added == len(names),
            draws,
            updates,
            _unplaced(roots, arguments),
        )

    def copied(
        self, interpreter: Interpreter, frame: Frame, arguments: Arguments
    ) -> tuple[Value] | None:
        """What a call gives that is like this one, with all that it does; None: its body must run.

        Nothing has happened then.
        """
        registry = interpreter.registry
        renamed = _Renamed(self.frame, frame)
        names = {name: renamed(name) for name in self.states}
        draws = {renamed(key): count for key, count in self.draws.items()}
        taken = any(n in interpreter.current for n in names.values()) or any(
            key in interpreter.draws for key in draws
        )
        if self._recipe is None or taken:
            return None
        for old, new in names.items():
            known = registry.states.get(new)
            if (known is None) is not self.new:
                return None
            if known is not None and known.type != self.states[old].type:
                return None
        if self.new:
            inits = self._initial.made({self.inputs[SEED]: self.inputs[SEED]}, renamed)
        done = dict(zip(self.arguments.nodes, arguments.nodes, strict=True))
        for old, new in names.items():
            state = self.states[old]
            if self.new:
                state = replace(state, name=new, init=inits[state.init])
            done[self.inputs[old]] = registry.add(state) if self.new else registry.inputs[new]
            if new not in frame.model.states:
                frame.model.states.append(new)
        for name in (SEED, STEP):
            done[self.inputs[name]] = self.inputs[name]
        done = self._recipe.made(done, renamed)
        interpreter.declared += names.values()
        interpreter.draws |= draws
        interpreter.drawn += sum(draws.values())
        for old, node in self.updates.items():
            interpreter.current[names[old]] = interpreter.updates[names[old]] = done[node]
            interpreter.written += 1
        labels = dict(zip(self.arguments.labels, arguments.labels, strict=True))
        return (_carried_over(self.value, done, labels),)

    @cached_property
    def _recipe(self) -> _Recipe | None:
        """The nodes that the body made; None where a copy of them would be something else."""
        known = {*self.arguments.nodes, *self.inputs.values()}
        roots = [*_nodes_of(self.value), *self.updates.values()]
        found = _Recipe.of(roots, known, self.unplaced)
        return None if any(self._holds(node) for node in found.nodes) else found

    @cached_property
    def _initial(self) -> _Recipe:
        """The nodes that draw the initial values."""
        inits = [state.init for state in self.states.values()]
        return _Recipe.of(inits, {self.inputs[SEED]}, frozenset())

    def _holds(self, node: Node) -> bool:
        """Whether a node comes from elsewhere, or its body has a name of this call in it."""
        if node.op.name == "input":
            return True
        inner = carried(node)
        for graph in inner and (*inner, *(g for i in inner for g in bodies(i))):
            for part in graph.nodes:
                if part.op.name == "random_bits":
                    return True
                if part.op.name == "input" and part.name.startswith(f"{self.frame.path}."):
                    return True
        return False


@dataclass(frozen=True, eq=False)
class _Recipe:
    """Nodes in order, operands first, each with the place that its copies begin with."""

    steps: tuple[tuple[Node, Span | None], ...]

    @staticmethod
    def of(roots: list[Node], known: set[Node], unplaced: frozenset[Node]) -> _Recipe:
        outer = dict.fromkeys(known, roots[0]) if roots else {}
        order = below([r for r in roots if r not in known], outer)
        return _Recipe(tuple([(n, None if n in unplaced else n.span) for n in order]))

    @property
    def nodes(self) -> list[Node]:
        return [node for node, _ in self.steps]

    def made(self, known: dict[Node, Node], renamed: Callable[[str], str]) -> dict[Node, Node]:
        """The copies over what `known` says for what the nodes are made of."""
        done = dict(known)
        for node, span in self.steps:
            attributes = node.attributes
            if node.op.name == "random_bits":
                stream = renamed(attributes["stream"])
                attributes = MappingProxyType({**attributes, "stream": stream})
            elif node.op.name == "call":
                attributes = MappingProxyType({**attributes, **_own(attributes)})
            inputs = tuple([done[i] for i in node.inputs])
            done[node] = Node(node.op, inputs, attributes, node.type, span)
        return done


def _own(attributes: Mapping[str, Any]) -> dict[str, Graph]:
    """A call's body and gradient with constants that no other call has."""
    graphs: dict[str, Graph] = {
        name: attributes[name] for name in ("body", "gradient") if attributes[name] is not None
    }
    nodes = dict.fromkeys(node for graph in graphs.values() for node in graph.nodes)
    inputs = {node: node for node in nodes if node.op.name == "input"}
    steps = tuple([(node, node.span) for node in nodes if node not in inputs])
    done = _Recipe(steps).made(inputs, lambda stream: stream)
    return {
        name: graph.with_outputs({n: done[o] for n, o in graph.named_outputs.items()})
        for name, graph in graphs.items()
    }


@dataclass(frozen=True)
class _Renamed:
    """Names of states and streams below one call of a layer, below another one."""

    old: Frame
    new: Frame

    def __call__(self, name: str) -> str:
        for old, new in ((self.old.stream, self.new.stream), (self.old.path, self.new.path)):
            if name == old or name.startswith(f"{old}."):
                return new + name[len(old) :]
        return name


def _nodes_of(value: Value) -> list[Node]:
    if isinstance(value, Tensor):
        return [value.node]
    return [node for part in value for node in _nodes_of(part)]


def _is_known(value: Value, arguments: Arguments) -> bool:
    """Whether a value is of tensors alone, with no axes but those of the arguments."""
    if isinstance(value, Tensor):
        return all(a is None or a in arguments.labels for a in value.axes)
    return isinstance(value, list | tuple) and all(_is_known(v, arguments) for v in value)


def _unplaced(roots: list[Node], arguments: Arguments) -> frozenset[Node]:
    """What `locate` would give a place to."""
    found: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        free = node.span is None and node.op.name != "input"
        if free and node not in found and node not in arguments.nodes:
            found.add(node)
            stack += node.inputs
    return frozenset(found)


def _carried_over(value: Value, nodes: Mapping[Node, Node], labels: Mapping[Label, Label]) -> Value:
    if isinstance(value, Tensor):
        axes = tuple([None if a is None else labels[a] for a in value.axes])
        return Tensor(nodes[value.node], axes, value.classes)
    return type(value)([_carried_over(part, nodes, labels) for part in value])
