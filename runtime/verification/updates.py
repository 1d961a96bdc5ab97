"""The training step against its parts: gradients and equations, one parameter at a time.

The step lays parameters end to end, clips and updates them as one vector, and keeps slots in
arenas. Here each parameter's new value is worked out on its own, from the gradient by the rules and
the optimiser's equations for its own shape; the step has to give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from weft.compiler import builder as b
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import differentiate
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.program import Forward, Objective, Update
from weft.compiler.training import inlined
from weft.compiler.types import F64, TensorType
from weft.runtime.verification.losses import direction_of, hessian_times
from weft.runtime.verification.report import Check, Tally, number
from weft.runtime.verification.rounding import bounded
from weft.runtime.verification.subject import Arrays, Subject, widened

CANCELLED = 1e-9  # the share of a tensor's largest number that two ways of adding may differ by


def updates(subject: Subject) -> Check:
    """New parameters, slots, averages and sums of metrics."""
    tally = Tally("updates", "each new state against its equations alone")
    program, few = subject.wide.program, subject.few
    graph = subject.wide_graph("train_step")
    known = widened({**subject.state, **subject.fields(few)})
    step = bounded(graph, {n.name: known[n.name] for n in graph.inputs}, {"batch": few})
    alone = _Alone(subject, known).run()
    for name, expected in alone.items():
        found = step.judge(name, expected, CANCELLED)
        if not tally.add(f"`{name}`", found.error, found.bound, expected.size):
            state = program.states[name]
            owner = program.states[state.owner] if state.owner is not None else state
            tally.fault(
                f"the step gives `{name}` another value than its equations",
                state.span or owner.span,
                f"{number(found.found)} at {list(found.place)}, from the gradient and the "
                "equations for this tensor alone",
                number(found.expected),
            )
    return tally.check()


class _Alone:
    """The step, worked out tensor by tensor."""

    def __init__(self, subject: Subject, known: Arrays) -> None:
        self.subject, self.known = subject, known
        self.forward: Forward = inlined(subject.wide.experiment.forward, frozenset())
        self.after: Arrays = {}  # parameters by the names of their placeholders
        self.new: Arrays = {}
        self.few = subject.few

    def run(self) -> Arrays:
        for objective in self.forward.objectives:
            self._objective(objective)
        metrics = self._evaluated(self.forward.metrics)
        count = float(self.few)
        for name, value in {**metrics, "count": np.array(1.0)}.items():
            self.new[f"metrics.{name}"] = self.known[f"metrics.{name}"] + value * count
        self.new |= self._evaluated(self.forward.updates)
        return {n: v for n, v in self.new.items() if v.dtype.kind == "f"}

    def _evaluated(
        self, nodes: Mapping[str, Node], at: Mapping[str, np.ndarray] | None = None
    ) -> Arrays:
        """Nodes of the forward pass, with earlier objectives' parameters as they are by now."""
        inputs = tuple(n for n in topological(nodes.values()) if n.op.name == "input")
        graph = Graph("alone", inputs, tuple(nodes.values()), tuple(nodes))
        values = {**self.known, **self.after, **(at or {})}
        return evaluate(graph, {n.name: values[n.name] for n in inputs}, {"batch": self.few})

    def _gradients(self, objective: Objective, at: Mapping[str, np.ndarray]) -> Arrays:
        """By parameter, clipped; `at` has the points by parameter."""
        nodes = differentiate(objective.loss, list(objective.before.values()))
        points = {objective.before[name].name: value for name, value in at.items()}
        found = self._evaluated(dict(zip(objective.before, nodes, strict=True)), points)
        if objective.clip is None:
            return found
        flat = np.concatenate([g.ravel() for g in found.values()])
        clipped = self._ruled(objective.clip, flat)
        ends = np.cumsum([g.size for g in found.values()])[:-1]
        parts = np.split(clipped, ends)
        return {n: p.reshape(g.shape) for (n, g), p in zip(found.items(), parts, strict=True)}

    def _ruled(self, rule: Callable[..., Node], *values: np.ndarray) -> np.ndarray:
        """A rule such as clipping, applied to arrays."""
        inputs = [b.input_(f"value{i}", TensorType(F64, v.shape)) for i, v in enumerate(values)]
        node = rule(*inputs)
        reads = tuple(n for n in topological([node]) if n.op.name == "input")
        given = {f"value{i}": v for i, v in enumerate(values)}
        known = {**self.known, **given}
        return evaluate(
            Graph("rule", reads, (node,)),
            {n.name: known[n.name] for n in reads},
            {"batch": self.few},
        )["out"]

    def _objective(self, objective: Objective) -> None:
        theta = {
            name: {**self.known, **self.after}[node.name] for name, node in objective.before.items()
        }
        found = self._gradients(objective, theta)
        every = {name: self._equations(objective, name) for name in theta}
        values: dict[str, Arrays] = {
            name: {
                **{n.name: self.known[n.name] for n in e.graph.inputs if n.name in self.known},
                **{slot: self._slot(objective, name, slot) for slot in e.initial},
                "theta": theta[name],
                "grad": found[name],
            }
            for name, e in every.items()
        }
        for place in range(max(len(e.exchanges) for e in every.values())):
            self._exchange(objective, every, values, theta, place)
        for name, update in every.items():
            self._finish(objective, name, update, values[name])
        for name, node in objective.after.items():
            self.after[node.name] = self.new[name]

    def _equations(self, objective: Objective, name: str) -> Update:
        rule = objective.optimizers[name].rule(objective.before[name].type)
        return Update(inline_calls(rule.graph, frozenset()), rule.initial, rule.exchanges)

    def _slot(self, objective: Objective, name: str, slot: str) -> np.ndarray:
        """The slot of this parameter, or the one that its whole group shares."""
        prefix = f"{objective.optimizers[name].name}.{slot}/"
        if prefix + name in self.known:
            return self.known[prefix + name]
        kin = [n for n in objective.before if prefix + n in self.known]
        return self.known[prefix + kin[0]]

    def _output(self, update: Update, name: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
        node = update.graph.named_outputs[name]
        reads = tuple(n for n in topological([node]) if n.op.name == "input")
        graph = Graph("equation", reads, (node,))
        return evaluate(graph, {n.name: values[n.name] for n in reads})["out"]

    def _exchange(
        self,
        objective: Objective,
        every: Mapping[str, Update],
        values: Mapping[str, Arrays],
        theta: Mapping[str, np.ndarray],
        place: int,
    ) -> None:
        asking = {n: e for n, e in every.items() if len(e.exchanges) > place}
        kinds = {n: e.exchanges[place].kind for n, e in asking.items()}
        sent = {n: self._output(e, e.exchanges[place].sent, values[n]) for n, e in asking.items()}

        def receive(names: Sequence[str], results: Mapping[str, np.ndarray]) -> None:
            for name in names:
                values[name][asking[name].exchanges[place].received] = results[name]

        points = [n for n in asking if kinds[n] == "gradient"]
        if points:
            receive(points, self._gradients(objective, {**theta, **{n: sent[n] for n in points}}))
        for optimizer in dict.fromkeys(objective.optimizers[n] for n in asking):
            mine = [n for n in asking if objective.optimizers[n] is optimizer]
            joined = [n for n in mine if kinds[n] == "together"]
            if joined:
                whole = np.concatenate([sent[n].ravel() for n in joined])
                receive(joined, dict.fromkeys(joined, whole))
            bent = [n for n in mine if kinds[n] == "hessian"]
            if bent:
                nodes = hessian_times(objective, bent)
                along = {direction_of(n): sent[n] for n in bent}
                receive(bent, self._evaluated(nodes, along))

    def _finish(
        self, objective: Objective, name: str, update: Update, values: Mapping[str, np.ndarray]
    ) -> None:
        new = self._output(update, "theta", values)
        if self.forward.constrain is not None:
            new = self._ruled(self.forward.constrain, new)
        self.new[name] = new
        for slot in update.initial:
            state = f"{objective.optimizers[name].name}.{slot}/{name}"
            if state in self.known:
                self.new[state] = self._output(update, slot, values)
        if self.forward.average is not None:
            old = self.known[f"average/{name}"]
            self.new[f"average/{name}"] = self._ruled(self.forward.average, old, new)
