"""What a training step does: losses in order, each with its optimisers, and the step's rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Note
from weft.compiler.graph import Node
from weft.compiler.program import Forward, Objective, Optimizer
from weft.compiler.types import TensorType, symbol
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.optimizers import optimizer
from weft.frontends.dsl.registry import Registry
from weft.frontends.dsl.rules import Rule
from weft.frontends.dsl.training.groups import groups
from weft.frontends.dsl.training.passes import Pass
from weft.frontends.dsl.values import Label, Splits, Tensor, Value, unlabelled


def minimised(run: Pass, scale: float) -> Forward:
    """The training pass; gradients of its losses go back multiplied by `scale`."""
    block, registry = run.block, run.block.registry
    registry.metrics = [*block.loss_names, *block.metric_names]
    clip = _clip(run)
    objectives: list[Objective] = []
    metrics: dict[str, Node] = {}
    for name, minimize in zip(block.loss_names, block.objectives, strict=True):
        loss = run.loss(name, minimize).node
        if not objectives:
            metrics = run.metrics()
        objectives.append(_objective(run, name, minimize, loss, objectives, clip, scale))
    constrain, average = _constrain(run), _average(run)
    return Forward(
        states=dict(registry.states),
        inputs=(*registry.inputs.values(), *run.fields.values()),
        objectives=tuple(objectives),
        metrics={**{o.name: o.loss for o in objectives}, **metrics},
        updates=dict(run.interpreter.updates),
        average=average,
        epoch_updates=dict(registry.epoch_updates),
        constrain=constrain,
    )


def _objective(
    run: Pass,
    name: str,
    minimize: s.Minimize,
    loss: Node,
    earlier: Sequence[Objective],
    clip: Callable[[Node], Node] | None,
    scale: float,
) -> Objective:
    """One `minimize`; what the pass evaluates from here on sees the parameters that it moved."""
    interpreter, block = run.interpreter, run.block
    current = {
        n: interpreter.read(n) for n, st in block.registry.states.items() if st.role == "parameter"
    }
    moved = groups(run, minimize, loss, current)
    _moved_once(minimize, [n for group in moved for n in group], earlier)
    # Metrics of the parts of the data, such as `valid.loss`, can be watched by a schedule.
    parts: dict[str, Value] = {p: Splits(p) for p in run.parts}
    scope = Scope(block.module, parts, run.scope)
    optimizers: dict[str, Optimizer] = {}
    for move, group in zip(minimize.moves, moved, strict=True):
        value = interpreter.evaluate(move.optimizer, scope)
        types = [current[n].type for n in group]
        rule = optimizer(value, interpreter, move.optimizer.span, types)
        optimizers |= dict.fromkeys(group, rule)
    before = {n: current[n] for n in current if n in optimizers}
    after = {n: b.input_(f"{n}@{name}", current[n].type) for n in before}
    interpreter.current.update(after)
    run.forget(frozenset(before.values()))
    return Objective(name, loss, before, after, optimizers, clip, minimize.span, scale)


def _moved_once(minimize: s.Minimize, names: Sequence[str], earlier: Sequence[Objective]) -> None:
    moved = {n: objective for objective in earlier for n in objective.before}
    for n in names:
        if n in moved:
            raise CompileError(
                f"two `minimize` statements update `{n}`",
                minimize.span,
                expected="each parameter in one `minimize`",
                hint=f"say which: `minimize ... over {n.split('.')[0]} with ...`",
                notes=[Note("the first one", moved[n].span)],
            )


def _clip(run: Pass) -> Callable[[Node], Node] | None:
    rule = _rule(run, "clip", "such as `global_norm(1.0)`")
    if rule is None:
        return None

    def clip(gradient: Node) -> Node:
        return rule(run.interpreter, unlabelled(gradient))

    clip(b.input_("grad", _probe(run.block.registry)))
    return clip


def _constrain(run: Pass) -> Callable[[Node], Node] | None:
    rule = _rule(run, "constrain", "such as `max_norm(3)`")
    if rule is None:
        return None

    def constrain(theta: Node) -> Node:
        labels = tuple(Label(f"axis{i}") for i in range(theta.type.rank))
        return rule(run.interpreter, Tensor(theta, labels))

    for shape in ((16,), (4, 4)):
        constrain(b.input_("theta", TensorType(run.block.registry.float_type, shape)))
    return constrain


def _average(run: Pass) -> Callable[[Node, Node], Node] | None:
    rule = _rule(run, "average", "such as `ema(0.999)`")
    if rule is None:
        return None

    def average(old: Node, theta: Node) -> Node:
        return rule(run.interpreter, unlabelled(old), unlabelled(theta))

    probe = _probe(run.block.registry)
    average(b.input_("average", probe), b.input_("theta", probe))
    return average


def _rule(run: Pass, key: str, example: str) -> Rule | None:
    """A setting that names a function and its further arguments."""
    setting = run.block.keys.get(key)
    if setting is None:
        return None
    return Rule.of(run.interpreter, key, setting.value, run.scope, example)


def _probe(registry: Registry) -> TensorType:
    """A type that a rule must take: that of all parameters laid end to end."""
    return TensorType(registry.float_type, (symbol("parameters"),))
