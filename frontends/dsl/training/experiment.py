"""A `train` block as what the compiler takes: an `Experiment`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from weft.compiler import builder as b
from weft.compiler.errors import CompileError
from weft.compiler.graph import Node, topological
from weft.compiler.program import Experiment, Forward
from weft.frontends.dsl.copies import follow
from weft.frontends.dsl.registry import SEED, STEP, Registry
from weft.frontends.dsl.training.block import Block
from weft.frontends.dsl.training.objectives import minimised
from weft.frontends.dsl.training.passes import Pass
from weft.frontends.dsl.training.settings import batches, loss_scale, precision, settings
from weft.frontends.dsl.training.stopping import early_stop


def experiment(block: Block, name: str) -> Experiment:
    """The block's two passes, one to train and one to evaluate, over the same states."""
    registry = block.registry
    floats = precision(block)
    registry.float_type = floats.states
    registry.narrow_type = floats.models
    registry.factors = floats.factors
    scale = loss_scale(block, floats)
    data = batches(block)
    counts = settings(block, data)
    registry.steps, registry.steps_per_epoch = counts.steps, counts.steps_per_epoch
    run = Pass(block, data, training=True)
    forward = minimised(run, scale)
    check = Pass(block, data, training=False)
    updated = [n for objective in forward.objectives for n in objective.before]
    if forward.average is not None:
        for parameter in updated:
            average = b.input_(f"average/{parameter}", registry.states[parameter].type)
            check.interpreter.current[parameter] = average
    losses = check.losses()
    metrics = check.metrics()
    outputs = check.predictions()
    stop = early_stop(block, data, (*losses, *metrics))
    _all_updated(registry, updated)
    return Experiment(
        name=name,
        data=data.dataset.spec,
        settings=replace(counts, stop=stop),
        forward=_with_copies(run, forward),
        eval_inputs=_inputs(check, [*losses.values(), *metrics.values()]),
        eval_metrics={**losses, **metrics},
        predict_inputs=_inputs(check, list(outputs.values())),
        predict_outputs=outputs,
        warnings=tuple(registry.warnings),
    )


def _all_updated(registry: Registry, updated: Collection[str]) -> None:
    for name, state in registry.states.items():
        if state.role == "parameter" and name not in updated:
            model = name.split(".")[0]
            raise CompileError(
                f"no `minimize` updates the parameter `{name}`",
                state.span,
                expected="every parameter in the `over` of one `minimize`",
                hint=f"add `{model}` to an `over`; `over {model} with frozen` keeps it as it is",
            )


def _with_copies(run: Pass, forward: Forward) -> Forward:
    """The same with models that follow others, which evaluation may be the first to call."""
    registry = run.block.registry
    follow(run.interpreter, registry.copies)
    return replace(
        forward,
        states=dict(registry.states),
        inputs=(*registry.inputs.values(), *run.fields.values()),
        updates=dict(run.interpreter.updates),
    )


def _inputs(run: Pass, outputs: Sequence[Node]) -> tuple[Node, ...]:
    """The input nodes that the outputs need: states first, then fields, in their order."""
    reached = [n for n in topological(outputs) if n.op.name == "input"]
    order = {n: i for i, n in enumerate([SEED, STEP, *run.block.registry.states])}
    fields = {node: i for i, node in enumerate(run.fields.values())}

    def rank(node: Node) -> tuple[int, int]:
        if node in fields:
            return 1, fields[node]
        return 0, order.get(node.name.removeprefix("average/"), -1)

    return tuple(sorted(reached, key=rank))
