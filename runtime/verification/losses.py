"""The objectives of a spec in double precision, and their gradients as the step has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from weft.compiler import builder as b
from weft.compiler.composites import bodies
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import differentiate
from weft.compiler.graph import Graph, Node, make, topological, transform
from weft.compiler.loops import Loop, loop_key, unrolled
from weft.compiler.program import Forward, Objective
from weft.compiler.training import inlined
from weft.runtime.verification.subject import Arrays, Subject, opened, widened

NOISE = 0.01  # by which fields are moved off ties, as a share of their size


@dataclass(eq=False)
class Losses:
    """The objectives of a spec in double precision, at the subject's point."""

    subject: Subject
    forward: Forward

    @staticmethod
    def of(subject: Subject, plain: frozenset[str] = frozenset()) -> Losses:
        """The losses as they are differentiated; `plain` functions as their bodies are."""
        forward = inlined(subject.wide.experiment.forward, frozenset(), plain)
        return Losses(subject, forward)

    @cached_property
    def values(self) -> Arrays:
        """Values of the inputs: states, fields, and parameters as earlier objectives left them.

        What the model reads is moved a little: of places that look the same, a pool's choice would
        depend on rounding, and with it where an unpooling puts the value.
        """
        subject = self.subject
        known = {**subject.state, **subject.fields(subject.few)}
        found = {n.name: known[n.name] for n in self.forward.inputs if n.name in known}
        for objective in self.forward.objectives:
            found |= {n.name: known[name] for name, n in objective.after.items()}
        wide = widened(found)
        read = {n.name for n in subject.wide.experiment.predict_inputs}
        rng = np.random.default_rng(31)
        for name in sorted(read & subject.fields(subject.few).keys() & wide.keys()):
            wide[name] = _off_ties(wide[name], rng)
        return wide

    @cached_property
    def graph(self) -> Graph:
        """All losses, opened."""
        outputs = {o.name: o.loss for o in self.forward.objectives}
        return self.opened(outputs)

    def opened(self, outputs: Mapping[str, Node]) -> Graph:
        """Nodes of the forward pass as a graph of known sizes, over the inputs that they read."""
        inputs = tuple(n for n in topological(outputs.values()) if n.op.name == "input")
        whole = Graph("losses", inputs, tuple(outputs.values()), tuple(outputs))
        return opened(whole, self.subject.few)

    def evaluated(
        self, outputs: Mapping[str, Node], also: Mapping[str, np.ndarray] | None = None
    ) -> Arrays:
        """Nodes of the forward pass, evaluated; `also` has further inputs."""
        graph = self.opened(outputs)
        values = {**self.values, **(also or {})}
        return evaluate(graph, {n.name: values[n.name] for n in graph.inputs})

    def gradients(self, objective: Objective) -> Arrays:
        """The gradient by each parameter, as the training step is made of them."""
        return self.evaluated(self.slopes(objective))

    def slopes(self, objective: Objective) -> dict[str, Node]:
        """The same as nodes."""
        nodes = differentiate(objective.loss, list(objective.before.values()))
        return dict(zip(objective.before, nodes, strict=True))


def _off_ties(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if x.dtype.kind != "f" or not x.size:
        return x
    size = float(np.sqrt(np.mean(np.square(x)))) or 1.0
    return np.asarray(x + NOISE * size * rng.standard_normal(x.shape))


def direction_of(name: str) -> str:
    """The name of the input that stands for a parameter's part of a direction."""
    return f"direction/{name}"


def hessian_times(objective: Objective, names: Sequence[str]) -> dict[str, Node]:
    """The Hessian by these parameters, times a direction: the gradient of the slope along it."""
    before = [objective.before[n] for n in names]
    total = b.zeros(objective.loss.type)
    for name, part in zip(names, differentiate(objective.loss, before), strict=True):
        total = total + b.reduce_sum(part * b.input_(direction_of(name), part.type))
    return dict(zip(names, differentiate(total, before), strict=True))


def pinned(graph: Graph, values: Arrays) -> Graph:
    """The graph with the values at this point in place of what `stop_gradient` marks."""
    graph = _unrolled(graph)
    marked = [n for n in graph.nodes if n.op.name == "stop_gradient"]
    if not marked:
        return graph
    names = tuple(str(i) for i in range(len(marked)))
    used = {n.name: values[n.name] for n in graph.inputs}
    held = evaluate(Graph("held", graph.inputs, tuple(marked), names), used)
    constants = dict(zip(marked, held.values(), strict=True))

    def replace(node: Node, operands: tuple[Node, ...]) -> Node | None:
        if node not in constants:
            return None
        value = constants[node]
        flat = tuple(value.ravel().tolist())
        if not value.shape:
            return make("constant", value=flat[0], dtype=node.type.dtype, shape=())
        return make("constant", value=flat, dtype=node.type.dtype, shape=value.shape)

    return transform(graph, replace)


def _unrolled(graph: Graph) -> Graph:
    """Loops that hold something fixed turn by turn, without the loop."""
    made: dict[object, list[Node]] = {}

    def marks(body: Graph) -> bool:
        return any(n.op.name == "stop_gradient" for g in (body, *bodies(body)) for n in g.nodes)

    def replace(node: Node, operands: tuple[Node, ...]) -> Node | None:
        if node.op.name != "scan" or not marks(node.attributes["body"]):
            return None
        key = loop_key(node)
        if key not in made:
            made[key] = unrolled(Loop.of(node, operands))
        return made[key][node.attributes["result"]]

    return transform(graph, replace)
