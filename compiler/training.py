"""The training step as one graph: differentiate, clip, update, constrain, average, accumulate.

For each `minimize` in order:

    loss -> gradients -> [pack -> clip -> optimiser -> unpack] -> constrain -> next `minimize`

All parameters of an objective are laid end to end for clipping and for an elementwise optimiser,
which so is a handful of operations; the `pack` pass makes that layout the one that state lives in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from weft.compiler import builder as b
from weft.compiler.composites import bodies
from weft.compiler.gradient import differentiate
from weft.compiler.graph import Graph, Node, locate, substitute, topological
from weft.compiler.ops import Kind
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.passes.pack import Arena, layout, pack_values, unpack_values
from weft.compiler.program import Experiment, Forward, Objective, Program, State, Update
from weft.compiler.types import F64, U32, TensorType, symbol

SEED, STEP, COUNT = "seed", "step", "metrics.count"
BATCH = symbol("batch")


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
        epoch_end=_epoch_end(step.states, tuple(experiment.forward.metrics)),
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


def inlined(forward: Forward, keep: frozenset[str]) -> Forward:
    """The forward pass with composites opened, except the kept and those that state a gradient."""
    graph = forward_graph(forward)
    stated = {
        str(n.attributes["name"])
        for part in (graph, *bodies(graph))
        for n in part.nodes
        if n.op.name == "call" and n.attributes["gradient"] is not None
    }
    opened = inline_calls(graph, keep | stated)
    nodes = dict(zip(opened.output_names, opened.outputs, strict=True))
    return Forward(
        states=forward.states,
        inputs=forward.inputs,
        objectives=tuple(
            Objective(o.name, nodes[o.name], o.before, o.after, o.optimizer, o.clip, o.span)
            for o in forward.objectives
        ),
        metrics={name: nodes[name] for name in forward.metrics},
        updates={name: nodes[name] for name in forward.updates},
        average=forward.average,
        constrain=forward.constrain,
    )


def _graph(name: str, inputs: Sequence[Node], outputs: Mapping[str, Node]) -> Graph:
    return Graph(name, tuple(inputs), tuple(outputs.values()), tuple(outputs))


@dataclass
class _Step:
    """The step being built: new values of states, and the substitutions for later objectives."""

    forward: Forward
    states: dict[str, State] = field(default_factory=dict)
    values: dict[str, Node] = field(default_factory=dict)
    groups: list[tuple[str, ...]] = field(default_factory=list)
    later: dict[Node, Node] = field(default_factory=dict)

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
        names = list(objective.before)
        gradients = differentiate(objective.loss, list(objective.before.values()))
        gradients = substitute(gradients, self.later)
        theta = substitute(objective.before.values(), self.later)
        for arena, places in _by_dtype(objective.name, names, theta):
            self._group(
                objective,
                arena,
                [names[i] for i in places],
                [theta[i] for i in places],
                [gradients[i] for i in places],
            )

    def _group(
        self,
        objective: Objective,
        arena: Arena,
        names: list[str],
        theta: list[Node],
        gradients: list[Node],
    ) -> None:
        flat = pack_values(gradients, arena)
        if objective.clip is not None:
            flat = inline(objective.clip(flat))
        whole = objective.optimizer.rule(arena.type)
        if elementwise(whole.graph):
            new = self._update(objective, whole, names, pack_values(theta, arena), flat, arena)
        else:
            new = []
            for name, old, gradient in zip(names, theta, unpack_values(flat, arena), strict=True):
                update = objective.optimizer.rule(old.type)
                new += self._update(objective, update, [name], old, gradient, None)
        if self.forward.constrain is not None:
            new = [_constrained(self.forward.constrain, value) for value in new]
        self.groups.append(tuple(names))
        for name, value in zip(names, new, strict=True):
            locate(value, objective.span)
            self.values[name] = value
            self.later[objective.after[name]] = value
        if self.forward.average is not None:
            self._average(self.forward.average, arena, names, new, objective)

    def _update(
        self,
        objective: Objective,
        update: Update,
        names: list[str],
        theta: Node,
        gradient: Node,
        arena: Arena | None,
    ) -> list[Node]:
        """Apply an update graph to one value, or to an arena's; the new values by member."""
        graph = update.graph
        arguments = {"theta": theta, "grad": gradient, **self._common()}
        members: dict[str, list[str]] = {}
        for slot, initial in update.initial.items():
            members[slot] = [f"{objective.optimizer.name}.{slot}/{n}" for n in names]
            nodes = [
                self._slot(member, owner, initial, graph)
                for member, owner in zip(members[slot], names, strict=True)
            ]
            arguments[slot] = pack_values(nodes, arena) if arena else nodes[0]
        values = {node: arguments[node.name] for node in graph.inputs}
        results = dict(zip(graph.output_names, substitute(graph.outputs, values), strict=True))
        for slot in update.initial:
            self.groups.append(tuple(members[slot]))
            flat = results[slot]
            parts = unpack_values(flat, arena) if arena else (flat,)
            self.values |= dict(zip(members[slot], parts, strict=True))
        theta = results["theta"]
        return list(unpack_values(theta, arena)) if arena else [theta]

    def _common(self) -> dict[str, Node]:
        return {STEP: self.inputs[STEP], SEED: self.inputs[SEED]}

    def _slot(self, name: str, owner: str, initial: Node, graph: Graph) -> Node:
        """A slot's state for one parameter; its first value, as the equations state it."""
        parameter = self.states[owner]
        first = _resized(initial, graph.inputs[0], parameter)
        return self.state(State(name, parameter.type, "slot", first, parameter.span, owner))

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


def _by_dtype(
    name: str, names: Sequence[str], nodes: Sequence[Node]
) -> list[tuple[Arena, list[int]]]:
    """One arena for each element type among the parameters (almost always one)."""
    kinds = list(dict.fromkeys(n.type.dtype for n in nodes))
    result = []
    for dtype in kinds:
        places = [i for i, n in enumerate(nodes) if n.type.dtype == dtype]
        members = [(names[i], nodes[i].type.shape) for i in places]
        result.append((layout(name, dtype, members), places))
    return result


def inline(node: Node) -> Node:
    """A node with every composite below it opened."""
    inputs = tuple(n for n in topological([node]) if n.op.name == "input")
    return inline_calls(Graph("rule", inputs, (node,)), frozenset()).outputs[0]


def _constrained(rule: Callable[[Node], Node], value: Node) -> Node:
    """The rule, opened on its own, at a new value of a parameter."""
    theta = b.input_("theta", value.type)
    return substitute([inline(rule(theta))], {theta: value})[0]


def elementwise(graph: Graph) -> bool:
    """Whether each element of the outputs depends on the same element of the inputs alone."""
    graph = inline_calls(graph, frozenset())
    for node in graph.nodes:
        if node.type.rank == 0 and all(i.type.rank == 0 for i in node.inputs):
            continue
        if node.op.name == "broadcast_in_dim" and node.inputs[0].type.rank == 0:
            continue
        if node.op.kind is not Kind.ELEMENTWISE and node.op.name != "input":
            return False
    return True


def _resized(initial: Node, theta: Node, parameter: State) -> Node:
    """A slot's first value, stated for the arena's type, for one parameter."""
    if initial.type == parameter.type:
        return substitute([initial], {theta: parameter.init})[0]
    done: dict[Node, Node] = {theta: parameter.init}
    for node in topological([initial]):
        if node in done:
            continue
        if node.op.name == "broadcast_in_dim" and node.inputs[0].type.rank == 0:
            done[node] = b.broadcast(done[node.inputs[0]], parameter.type.shape, ())
        else:
            done[node] = substitute([node], {i: done[i] for i in node.inputs})[0]
    return done[initial]


def _init(states: Mapping[str, State]) -> Graph:
    seed = b.input_(SEED, TensorType(U32, (2,)))
    values = []
    for state in states.values():
        free = {n: seed for n in topological([state.init]) if n.op.name == "input"}
        values.append(substitute([state.init], free)[0])
    return inline_calls(Graph("init", (seed,), tuple(values), tuple(states)), frozenset())


def _epoch_end(states: Mapping[str, State], metrics: tuple[str, ...]) -> Graph:
    """Means of the metrics over the epoch, and their sums back at zero."""
    inputs = {n: b.input_(n, s.type) for n, s in states.items() if s.role == "metric"}
    count = inputs[COUNT]
    outputs = {m: inputs[f"metrics.{m}"] / count for m in metrics}
    outputs |= {n: b.zeros(node.type) for n, node in inputs.items()}
    return _graph("epoch_end", tuple(inputs.values()), outputs)
