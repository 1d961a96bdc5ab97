"""`stop = early(valid.loss)`: when to end before the last step."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from weft.compiler.errors import CompileError, Span, did_you_mean, one_of
from weft.compiler.program import EarlyStop
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.data import SPLITS
from weft.frontends.dsl.diagnostics import unknown_argument
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.training.block import Block
from weft.frontends.dsl.values import Batches, Metric, Splits, Value, describe

_WANTED = "such as `early(valid.loss, patience = 5)`"
_ARGUMENTS = ("metric", "patience", "mode")


def early_stop(block: Block, batches: Batches, metrics: Sequence[str]) -> EarlyStop | None:
    """The rule of the setting `stop`; `metrics` is what it can watch."""
    if "stop" not in block.keys:
        return None
    call = block.keys["stop"].value
    given = _given(block, call, batches.dataset.examples)
    metric, place = given.get("metric", (None, call.span))
    if not isinstance(metric, Metric):
        raise CompileError(
            "`early` watches a metric of a part of the data",
            place,
            expected=_WANTED,
            found=describe(metric),
        )
    if metric.name not in metrics:
        raise CompileError(
            f"there is no metric `{metric.name}`",
            place,
            expected=one_of(metrics),
            hint=did_you_mean(metric.name, metrics),
        )
    patience, place = given.get("patience", (5, call.span))
    if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
        raise CompileError(
            "`patience` is a number of epochs, at least 1", place, found=describe(patience)
        )
    mode, place = given.get("mode", (None, call.span))
    if mode is None and not metric.name.startswith("loss"):
        raise CompileError(
            f"`early` can't tell whether a large `{metric.name}` is good",
            given["metric"][1],
            expected='a further argument, `mode = "max"` or `mode = "min"`',
        )
    if mode not in (None, "min", "max"):
        raise CompileError('`mode` is "min" or "max"', place, found=describe(mode))
    return EarlyStop(metric.split, metric.name, patience, mode or "min")


def _given(
    block: Block, call: s.Expression, parts: Collection[str]
) -> dict[str, tuple[Value, Span]]:
    """The arguments of `early` by name, each with its place."""
    if not (
        isinstance(call, s.Call)
        and isinstance(call.function, s.Name)
        and call.function.identifier == "early"
    ):
        raise CompileError("`stop` is a rule for stopping", call.span, expected=_WANTED)
    for part in (n for n in s.walk(call) if isinstance(n, s.Attribute)):
        owner = part.value.identifier if isinstance(part.value, s.Name) else ""
        if owner in SPLITS and owner not in parts:
            raise CompileError(
                f"the data has no part `{owner}`",
                part.value.span,
                expected=one_of(parts),
                hint=f"divide it in `data`: `split = {{ train: 80%, {owner}: 20% }}`",
            )
    interpreter = block.interpreter()
    scope = Scope(block.module, {p: Splits(p) for p in parts})
    given: dict[str, tuple[Value, Span]] = {}
    for i, argument in enumerate(call.arguments):
        key = argument.name or _ARGUMENTS[min(i, 2)]
        if key not in _ARGUMENTS:
            place = argument.name_span or argument.span
            raise unknown_argument("early", key, _ARGUMENTS, place)
        given[key] = interpreter.evaluate(argument.value, scope), argument.value.span
    return given
