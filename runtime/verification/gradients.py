"""The gradient of each objective by each parameter, against the slope of the whole loss.

A slope is taken along a random line through some parameters. What `stop_gradient` holds fixed stays
where it is on that line; where the line runs across a kink, another is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node
from weft.compiler.program import Objective, Optimizer
from weft.frontends.dsl.diagnostics import and_list
from weft.runtime.verification.differences import Slope
from weft.runtime.verification.losses import Losses, direction_of, hessian_times, pinned
from weft.runtime.verification.report import Check, Tally, number
from weft.runtime.verification.rules import changed
from weft.runtime.verification.slopes import LINES, Line, Slopes, along, dot
from weft.runtime.verification.subject import Arrays, Subject, work

SLOPES = 1.5e9  # what all slopes through the losses may cost, in FLOPs


def gradients(subject: Subject) -> Check:
    """Each objective's gradient by each parameter, through the whole loss."""
    losses = Losses.of(subject, changed(subject))
    tally = Tally("gradients", "each parameter's gradient against the slope of the loss")
    found = Slopes(tally)
    for objective in losses.forward.objectives:
        _objective(found, losses, objective)
        _curvature(found, losses, objective)
    return found.check()


def _objective(found: Slopes, losses: Losses, objective: Objective) -> None:
    claimed = losses.gradients(objective)
    graph = losses.opened({objective.name: objective.loss})
    line_of = pinned(graph, losses.values)
    cost = 2 * 4 * LINES * work(graph)
    groups = _groups(list(objective.before), max(1, int(SLOPES / cost)))
    if len(groups) < len(objective.before):
        found.tally.notes.append(
            f"the {len(objective.before)} parameters of `{objective.name}` are moved together, "
            f"{len(groups[0])} at a time"
        )
    known = {n.name for n in line_of.inputs}
    values = {name: v for name, v in losses.values.items() if name in known}
    place = {name: node.name for name, node in objective.before.items()}

    def measure(names: Sequence[str]) -> tuple[float, Slope] | None:
        what = f"`{names[0]}`" if len(names) == 1 else f"`{names[0]}` and {len(names) - 1} more"
        return found.agrees(
            f"{what} of `{objective.name}`",
            lambda rng: _through(line_of, values, {n: claimed[n] for n in names}, place, rng),
        )

    for names in groups:
        before = found.tally.count
        wrong = [w for w in (measure(names) for _ in range(LINES)) if w is not None]
        found.tally.count += (len(names) - 1) * (found.tally.count - before)
        if wrong:
            _blame(found, losses, objective, names, wrong[0], measure)


def _curvature(found: Slopes, losses: Losses, objective: Objective) -> None:
    """Where an optimiser asks for the Hessian: the slope of the gradient, against it."""
    names = [n for n, node in objective.before.items() if _bends(objective.optimizers[n], node)]
    if not names:
        return
    values, rng = losses.values, np.random.default_rng(29)
    place = {name: objective.before[name].name for name in names}
    weights = {n: rng.standard_normal(values[place[n]].shape) for n in names}
    slopes = {n: s for n, s in losses.slopes(objective).items() if n in names}
    gradient = pinned(losses.opened(slopes), values)
    used = {n.name: values[n.name] for n in gradient.inputs}

    def draw(rng: np.random.Generator) -> tuple[Line, float, float]:
        direction = {n: rng.standard_normal(w.shape) for n, w in weights.items()}
        inputs = {direction_of(n): d for n, d in direction.items()}
        bend = losses.evaluated(hessian_times(objective, names), inputs)
        moved = {place[n]: d for n, d in direction.items() if place[n] in used}

        def line(h: float) -> float:
            return dot(weights, evaluate(gradient, along(used, moved, h)))[0]

        return line, *dot(weights, bend)

    found.hold(
        f"the Hessian of `{objective.name}`",
        draw,
        f"the Hessian of `{objective.name}` is wrong",
        objective.span,
        " of its gradient",
    )


def _bends(optimizer: Optimizer, parameter: Node) -> bool:
    return any(e.kind == "hessian" for e in optimizer.rule(parameter.type).exchanges)


def _groups(names: list[str], count: int) -> list[list[str]]:
    """The names in at most `count` groups of neighbours."""
    size = -(-len(names) // count)
    return [names[i : i + size] for i in range(0, len(names), size)]


def _blame(
    found: Slopes,
    losses: Losses,
    objective: Objective,
    names: Sequence[str],
    wrong: tuple[float, Slope],
    measure: Callable[[Sequence[str]], tuple[float, Slope] | None],
) -> None:
    """Halve a group that is wrong until the parameters are found whose gradients are."""
    middle = len(names) // 2
    halves = [part for part in (names[:middle], names[middle:]) if 0 < len(part) < len(names)]
    blamed = [(part, half) for part in halves if (half := measure(part)) is not None]
    for part, half in blamed:
        _blame(found, losses, objective, part, half, measure)
    if blamed:
        return
    claimed, measured = wrong
    state = losses.subject.wide.program.states[names[0]]
    what = f"`{names[0]}`" if len(names) == 1 else f"one of {and_list(names)}"
    found.tally.fault(
        f"the gradient of `{objective.name}` by {what} is wrong",
        state.span or objective.span,
        f"the slope {number(measured.value)}, give or take {number(measured.error)}",
        number(claimed),
    )


def _through(
    graph: Graph,
    values: Arrays,
    claimed: Mapping[str, np.ndarray],
    place: Mapping[str, str],
    rng: np.random.Generator,
) -> tuple[Line, float, float]:
    """A line through some parameters, on which each of them counts about as much."""
    direction = {}
    for name, gradient in claimed.items():
        size = float(np.sqrt(np.mean(np.square(values[place[name]])))) or 1.0
        direction[name] = size * rng.standard_normal(gradient.shape)
    sizes = {n: float(np.linalg.norm(claimed[n] * d)) for n, d in direction.items()}
    middle = float(np.median(list(sizes.values()))) or 1.0
    for name, size in sizes.items():
        direction[name] = direction[name] * float(np.clip(middle / max(size, 1e-300), 0.01, 10))
    total, size = dot(claimed, direction)
    moved = {place[name]: d for name, d in direction.items() if place[name] in values}

    def line(h: float) -> float:
        return float(next(iter(evaluate(graph, along(values, moved, h)).values())))

    return line, total, size
