"""Laws of examples: a batch is its examples, where the spec says so.

Where a loss is the mean of the losses of single examples, its gradient is the mean of theirs.
Whether it is can be seen: where a layer mixes examples, as batch normalisation does, or draws for
each place in the batch, as dropout does, the losses themselves differ, and the law says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import differentiate
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.program import Objective
from weft.compiler.training import inlined
from weft.runtime.verification.report import Check, Tally, number
from weft.runtime.verification.rounding import bounded
from weft.runtime.verification.rules import changed
from weft.runtime.verification.subject import Arrays, Subject, opened, widened

EQUAL = 1e-10  # two ways of adding the same numbers in double precision differ by less


def examples(subject: Subject) -> Check:
    """The gradient of a batch against the mean of the gradients of its examples."""
    tally = Tally("examples", "the gradient of a batch against the mean of those of its examples")
    forward = inlined(subject.wide.experiment.forward, frozenset(), changed(subject))
    known = widened(subject.state)
    for objective in forward.objectives:
        _objective(tally, subject, objective, known)
        known |= {n.name: known[name] for name, n in objective.after.items()}
    return tally.check()


def _objective(tally: Tally, subject: Subject, objective: Objective, known: Arrays) -> None:
    fields = widened(subject.fields(subject.few))
    nodes = differentiate(objective.loss, list(objective.before.values()))
    losses = {"": objective.loss}
    gradients = dict(zip(objective.before, nodes, strict=True))
    if subject.few < 2 or not _is_mean(losses, known, fields, objective):
        tally.notes.append(f"`{objective.name}` is no mean over single examples")
        return
    graph, values = _graph(gradients, {**known, **fields})
    whole = bounded(graph, values)
    parts = [_evaluated(gradients, {**known, **one}) for one in _single(fields)]
    for name, value in whole.exact.items():
        judged = whole.judge(name, np.mean([part[name] for part in parts], axis=0), EQUAL)
        what = f"`{name}` of `{objective.name}`"
        if not tally.add(what, judged.error, judged.bound, value.size):
            tally.fault(
                f"the gradient of `{objective.name}` by `{name}` is not the mean over its examples",
                subject.wide.program.states[name].span,
                f"{number(judged.found)} at {list(judged.place)}",
                number(judged.expected),
            )


def _is_mean(loss: Mapping[str, Node], known: Arrays, fields: Arrays, objective: Objective) -> bool:
    """Whether the loss is the mean of its examples' losses, here and at a place nearby."""
    rng = np.random.default_rng(23)
    near = dict(known)
    for node in objective.before.values():
        near[node.name] = known[node.name] * (
            1 + 0.01 * rng.standard_normal(known[node.name].shape)
        )
    for at in (known, near):
        whole = float(_evaluated(loss, {**at, **fields})[""])
        parts = [float(_evaluated(loss, {**at, **one})[""]) for one in _single(fields)]
        if not abs(whole - np.mean(parts)) <= EQUAL * max(1e-300, *map(abs, parts)):
            return False
    return True


def _single(fields: Mapping[str, np.ndarray]) -> list[Arrays]:
    count = min((len(v) for v in fields.values()), default=0)
    return [{n: v[i : i + 1] for n, v in fields.items()} for i in range(count)]


def _evaluated(nodes: Mapping[str, Node], values: Arrays) -> Arrays:
    return evaluate(*_graph(nodes, values))


def _graph(nodes: Mapping[str, Node], values: Arrays) -> tuple[Graph, Arrays]:
    """Nodes of the forward pass as a graph, for as many examples as there are values of."""
    inputs = tuple(n for n in topological(nodes.values()) if n.op.name == "input")
    sizes = [len(values[n.name]) for n in inputs if "batch" in map(str, n.type.shape[:1])]
    graph = opened(Graph("law", inputs, tuple(nodes.values()), tuple(nodes)), max(sizes, default=1))
    return graph, {n.name: values[n.name] for n in inputs}
