"""Fewer loops for a nest: neighbouring axes as one where every index steps evenly over both."""

from __future__ import annotations

from dataclasses import replace

from weft.compiler.index import Axis, along
from weft.compiler.kernel import Nest, Stage, stage_indices
from weft.compiler.scalar import Rewriter


def collapsed(nest: Nest) -> Nest:
    """Neighbouring axes as one where every index steps evenly over both; axes of one step gone."""
    stages, rows = list(nest.stages), nest.rows
    rows, stages = _merge(rows, stages)
    for i, stage in enumerate(stages):
        axes, (stage,) = _merge(stage.axes, [stage])
        stages[i] = replace(stage, axes=axes)
    return replace(nest, rows=rows, stages=tuple(stages))


def _merge(axes: tuple[Axis, ...], stages: list[Stage]) -> tuple[tuple[Axis, ...], list[Stage]]:
    axes = tuple(a for a in axes if a.extent != 1)
    i = len(axes) - 2
    while i >= 0:
        first, second = axes[i], axes[i + 1]
        indices = [index for stage in stages for index in stage_indices(stage)]
        if all(_even(index.factor(first), index.factor(second), second) for index in indices):
            both = Axis(first.extent * second.extent)
            rewriter = Rewriter({first: along(Axis(1)), second: along(both)})
            stages = [stage.over(stage.axes, rewriter) for stage in stages]
            axes = (*axes[:i], both, *axes[i + 2 :])
        i -= 1
    return axes, stages


def _even(outer: int | None, inner: int | None, axis: Axis) -> bool:
    return outer is not None and inner is not None and outer == inner * axis.extent
