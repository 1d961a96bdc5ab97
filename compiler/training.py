"""The training step as one graph: differentiate, clip, update, constrain, average, accumulate.

For each `minimize` in order:

    loss -> gradients -> [pack -> clip -> optimiser -> unpack] -> constrain -> next `minimize`

Parameters with the same elementwise equations are laid end to end, so that their update is a
handful of operations; the `pack` pass makes that layout the one that state lives in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from weft.compiler import builder as b
from weft.compiler.collector import no_cycles
from weft.compiler.composites import bodies
from weft.compiler.gradient import differentiate
from weft.compiler.graph import Graph, Node, locate, substitute, topological
from weft.compiler.moves import Block, Move, blocks
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.passes.pack import Arena, layout, pack_values, unpack_values
from weft.compiler.program import Experiment, Forward, Objective, Program, State
from weft.compiler.types import F64, U32, TensorType, symbol

SEED, STEP, COUNT = "seed", "step", "metrics.count"
BATCH = symbol("batch")


@no_cycles()
def build(experiment: Experiment, keep: frozenset[str] = frozenset()) -> Program:
    """All graphs of an experiment.

    `keep` names composites that are not opened before differentiation; those with a stated
    gradient never are.
    """
    step = _Step(inlined(experiment.forward, keep))
    train_step = step.build()
    return Program(
        name=experiment.name,
        states=step.states,
        init=_init(step.states),
        train_step=train_step,
        eval_step=_graph("eval_step", experiment.eval_inputs, experiment.eval_metrics),
        predict=_graph("predict", experiment.predict_inputs, experiment.predict_outputs),
        epoch_end=_epoch_end(step, tuple(experiment.forward.metrics)),
        metrics=tuple(experiment.forward.metrics),
        groups=tuple(step.groups),
    )


def forward_graph(forward: Forward) -> Graph:
    """The forward pass as one graph: objectives, metrics and state updates, composites whole."""
    placeholders = [n for o in forward.objectives for n in o.after.values()]
    outputs = {**{o.name: o.loss for o in forward.objectives}, **forward.metrics, **forward.updates}
    return Graph(
        "forward", (*forward.inputs, *placeholders), tuple(outputs.values()), tuple(outputs)
    )


def inlined(forward: Forward, keep: frozenset[str], plain: frozenset[str] = frozenset()) -> Forward:
    """The forward pass with composites opened, except the kept and those that state a gradient.

    Of the `plain` ones the stated gradient is left out.
    """
    graph = forward_graph(forward)
    stated = {
        str(n.attributes["name"])
        for part in (graph, *bodies(graph))
        for n in part.nodes
        if n.op.name == "call" and n.attributes["gradient"] is not None
    }
    opened = inline_calls(graph, keep | (stated - plain))
    nodes = dict(zip(opened.output_names, opened.outputs, strict=True))
    return replace(
        forward,
        objectives=tuple(replace(o, loss=nodes[o.name]) for o in forward.objectives),
        metrics={name: nodes[name] for name in forward.metrics},
        updates={name: nodes[name] for name in forward.updates},
    )


def _graph(name: str, inputs: Sequence[Node], outputs: Mapping[str, Node]) -> Graph:
    return Graph(name, tuple(inputs), tuple(outputs.values()), tuple(outputs))


_Directions = tuple[str, tuple[str, ...]]  # an objective, and parameters that it moves
_Bend = tuple[dict[str, Node], list[Node]]  # a direction by parameter, and the Hessian times it


@dataclass
class _Step:
    """The step being built: new values of states, and the substitutions for later objectives."""

    forward: Forward
    states: dict[str, State] = field(default_factory=dict)
    values: dict[str, Node] = field(default_factory=dict)
    groups: list[tuple[str, ...]] = field(default_factory=list)
    later: dict[Node, Node] = field(default_factory=dict)
    bends: dict[_Directions, _Bend] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states = dict(self.forward.states)
        self.inputs = {n.name: n for n in self.forward.inputs}

    def state(self, state: State) -> Node:
        """Add a state to those of the forward pass; its node as this step finds it."""
        self.states[state.name] = state
        return self.inputs.setdefault(state.name, b.input_(state.name, state.type))

    def build(self) -> Graph:
        forward = self.forward
        for objective in forward.objectives:
            self._objective(objective)
        names, nodes = [*forward.updates], [*forward.updates.values()]
        for name, node in zip(names, substitute(nodes, self.later), strict=True):
            self.values[name] = node
        metrics = dict(
            zip(
                forward.metrics,
                substitute(forward.metrics.values(), self.later),
                strict=True,
            )
        )
        self._accumulate(metrics)
        step = self.inputs[STEP]
        self.values[STEP] = step + 1
        order = [n for n in self.states if n in self.values]
        outputs = {**metrics, **{n: self.values[n] for n in order}}
        reached = set(topological(outputs.values()))
        fields = [n for n in forward.inputs if n.name not in self.states]
        # A state that is only written is an input too: by that its new value is known as one.
        inputs = [self.inputs[n] for n in self.states if n in order or self.inputs[n] in reached]
        inputs += [n for n in fields if n in reached]
        return _graph("train_step", inputs, outputs)

    def _objective(self, objective: Objective) -> None:
        before = list(objective.before.values())
        raw = dict(zip(objective.before, _gradients(objective, before), strict=True))
        theta = dict(zip(objective.before, substitute(before, self.later), strict=True))
        parts = blocks(objective, theta)
        moves = [move for block in parts for move in block.moves]
        self._gradients(objective, parts, raw, {}, "grad")
        for move in moves:
            move.values["theta"] = move.pack([theta[n] for n in move.names])
            move.values |= {name: self.inputs[name] for name in move.others}
            self._slots(move)
        for place in range(max(len(move.update.exchanges) for move in moves)):
            self._exchange(objective, parts, raw, theta, place)
        for move in moves:
            self._finish(move)
        for block in parts:
            new = [self.values[n] for n in block.names]
            if self.forward.constrain is not None:
                new = [_constrained(self.forward.constrain, value) for value in new]
                self.values |= zip(block.names, new, strict=True)
            self.groups += [group for move in block.moves for group in move.slot_groups]
            self.groups.append(block.names)
            for name, value in zip(block.names, new, strict=True):
                locate(value, objective.span)
                self.later[objective.after[name]] = value
            if self.forward.average is not None:
                self._average(self.forward.average, block.arena, list(block.names), new, objective)

    def _gradients(
        self,
        objective: Objective,
        parts: Sequence[Block],
        raw: Mapping[str, Node],
        points: Mapping[Node, Node],
        name: str,
    ) -> None:
        """Give every move the gradient at these points (else: the parameters) under a name."""
        values = substitute(raw.values(), {**self.later, **points})
        gradients = dict(zip(raw, values, strict=True))
        for dtype in dict.fromkeys(part.arena.dtype for part in parts):
            same = [part for part in parts if part.arena.dtype == dtype]
            if objective.clip is not None:
                members = [(m.name, m.shape) for part in same for m in part.arena.members]
                whole = layout(objective.name, dtype, members)
                flat = inline(
                    objective.clip(pack_values([gradients[n] for n, _ in members], whole))
                )
                gradients |= zip(whole.by_name, unpack_values(flat, whole), strict=True)
                start = 0
                for part in same:
                    end = start + part.arena.size
                    part.give(name, gradients, b.slice_(flat, (start,), (end,)))
                    start = end
            else:
                for part in same:
                    part.give(name, gradients, None)

    def _slots(self, move: Move) -> None:
        """The states of the slots, each with the first value that the equations state."""
        for slot in move.update.initial:
            nodes = []
            for name, owner in move.slot_states(slot).items():
                parameter = self.states[owner]
                first = move.initial(slot, owner, parameter.init)
                state = State(name, first.type, "slot", first, parameter.span, owner)
                nodes.append(self.state(state))
            move.values[slot] = move.pack(nodes, slot)

    def _exchange(
        self,
        objective: Objective,
        parts: Sequence[Block],
        raw: Mapping[str, Node],
        theta: Mapping[str, Node],
        place: int,
    ) -> None:
        """The exchange at this place of each update that has one."""
        moves = [m for part in parts for m in part.moves if len(m.update.exchanges) > place]
        together = [m for m in moves if m.update.exchanges[place].kind == "together"]
        for optimizer in dict.fromkeys(m.optimizer for m in together):
            group = [m for m in together if m.optimizer is optimizer]
            sent = [v for m in group for v in m.unpack(m.result(m.update.exchanges[place].sent))]
            everything = b.concat([b.flatten(v) for v in sent], 0)
            for move in group:
                move.receive(move.update.exchanges[place].received, everything)
        asking = [m for m in moves if m.update.exchanges[place].kind == "gradient"]
        if asking:
            points = dict(theta)
            for move in asking:
                found = move.unpack(move.result(move.update.exchanges[place].sent))
                points |= zip(move.names, found, strict=True)
            at = {objective.before[n]: point for n, point in points.items()}
            self._gradients(objective, parts, raw, at, f"gradient {place}")
            for move in asking:
                received = move.update.exchanges[place].received
                move.values[received] = move.values[f"gradient {place}"]
        bending = [m for m in moves if m.update.exchanges[place].kind == "hessian"]
        for optimizer in dict.fromkeys(m.optimizer for m in bending):
            group = [m for m in bending if m.optimizer is optimizer]
            along: dict[str, Node] = {}
            for move in group:
                found = move.unpack(move.result(move.update.exchanges[place].sent))
                along |= zip(move.names, found, strict=True)
            products = self._hessian_times(objective, raw, along)
            for move in group:
                received = move.update.exchanges[place].received
                move.values[received] = move.pack([products[n] for n in move.names])

    def _hessian_times(
        self, objective: Objective, raw: Mapping[str, Node], along: Mapping[str, Node]
    ) -> dict[str, Node]:
        """The Hessian by the parameters of `along`, times it: the gradient of its slope there."""
        names = tuple(along)
        if (objective.name, names) not in self.bends:
            places = {n: b.input_(f"along/{n}", along[n].type) for n in names}
            slope = b.zeros(objective.loss.type)
            for name, place in places.items():
                part = b.reduce_sum(raw[name] * place)
                slope = slope + b.cast(part, slope.type.dtype)
            bend = differentiate(slope, [objective.before[n] for n in names])
            self.bends[objective.name, names] = places, bend
        places, bend = self.bends[objective.name, names]
        known = {places[n]: direction for n, direction in along.items()}
        return dict(zip(names, substitute(bend, {**self.later, **known}), strict=True))

    def _finish(self, move: Move) -> None:
        self.values |= zip(move.names, move.unpack(move.result("theta")), strict=True)
        for slot in move.update.initial:
            parts = move.unpack(move.result(slot), slot)
            self.values |= zip(move.slot_states(slot), parts, strict=True)

    def _average(
        self,
        average: Callable[[Node, Node], Node],
        arena: Arena,
        names: list[str],
        new: list[Node],
        objective: Objective,
    ) -> None:
        members = [f"average/{n}" for n in names]
        old = [
            self.state(
                State(m, self.states[n].type, "average", self.states[n].init, objective.span, n)
            )
            for m, n in zip(members, names, strict=True)
        ]
        flat = inline(average(pack_values(old, arena), pack_values(new, arena)))
        self.groups.append(tuple(members))
        self.values |= dict(zip(members, unpack_values(flat, arena), strict=True))

    def _accumulate(self, metrics: Mapping[str, Node]) -> None:
        """Sums over the epoch, weighted by the examples of each batch, in double precision."""
        scalar = TensorType(F64)
        size = b.size_of([BATCH], F64)
        for name, value in {**metrics, "count": None}.items():
            state = f"metrics.{name}"
            old = self.state(State(state, scalar, "metric", b.zeros(scalar)))
            self.values[state] = old + (size if value is None else b.cast(value, F64) * size)


def _gradients(objective: Objective, before: Sequence[Node]) -> list[Node]:
    if objective.scale == 1:
        return differentiate(objective.loss, before)
    scaled = differentiate(objective.loss * objective.scale, before)
    return [gradient * (1 / objective.scale) for gradient in scaled]


def inline(node: Node) -> Node:
    """A node with every composite below it opened."""
    inputs = tuple(n for n in topological([node]) if n.op.name == "input")
    return inline_calls(Graph("rule", inputs, (node,)), frozenset()).outputs[0]


def _constrained(rule: Callable[[Node], Node], value: Node) -> Node:
    """The rule, opened on its own, at a new value of a parameter."""
    theta = b.input_("theta", value.type)
    return substitute([inline(rule(theta))], {theta: value})[0]


def _init(states: Mapping[str, State]) -> Graph:
    seed = b.input_(SEED, TensorType(U32, (2,)))
    first = [state.init for state in states.values()]
    values = substitute(first, {n: seed for n in topological(first) if n.op.name == "input"})
    return inline_calls(Graph("init", (seed,), tuple(values), tuple(states)), frozenset())


def _epoch_end(step: _Step, metrics: tuple[str, ...]) -> Graph:
    """Means of the metrics over the epoch, their sums back at zero, and what changes by epoch.

    Metrics of other parts of the data are inputs, such as `valid.loss`.
    """
    forward = step.forward
    sums = {n: b.input_(n, s.type) for n, s in step.states.items() if s.role == "metric"}
    means = {m: sums[f"metrics.{m}"] / sums[COUNT] for m in metrics}
    known = {f"train.{m}": mean for m, mean in means.items()}
    changed = list(forward.epoch_updates.values())
    free = [n for n in topological(changed) if n.op.name == "input"]
    values = substitute(changed, {n: known[n.name] for n in free if n.name in known})
    outputs = {**means, **{n: b.zeros(node.type) for n, node in sums.items()}}
    outputs |= zip(forward.epoch_updates, values, strict=True)
    inputs = (*sums.values(), *(n for n in free if n.name not in known))
    return _graph("epoch_end", inputs, outputs)
