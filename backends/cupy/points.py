"""Points as functions: each thread takes a few neighbours, and goes on by the whole grid."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from weft.backends.cupy.code import THREADS, Launch, launch
from weft.backends.cupy.emit import Emitter, Namer
from weft.compiler.index import Axis
from weft.compiler.kernel import Port, Stage, stage_indices, walk
from weft.compiler.scalar import Apply, Guard, Literal, Load, Scalar
from weft.compiler.types import F32

VECTOR = 16  # bytes that a thread reads at once
MOST_BLOCKS = 8_192  # of a grid over points; threads then go on by the whole grid


def print_points(
    ports: Sequence[Port],
    stage: Stage,
    aligned: frozenset[int],
    stem: str = "points",
) -> Launch:
    """A stage without folds: every point by itself."""
    axes = stage.axes
    lanes = lanes_of(stage, axes[-1] if axes else None, aligned)
    count = prod(a.extent for a in axes) // lanes
    emitter = Emitter({}, Namer(), index_type([stage], count), aligned=aligned)
    start = "blockIdx.x * blockDim.x + threadIdx.x"
    step = "gridDim.x * blockDim.x"
    type = emitter.index_type
    if type != "int":
        start = start.replace("blockIdx.x", f"({type})blockIdx.x")
    with emitter.block(f"for ({type} i = {start}; i < {count}; i += {step})"):
        spread(emitter, "i", axes, lanes)
        emitter.stores(stage.stores)
    blocks = min(-(-count // THREADS), MOST_BLOCKS)
    threads = min(THREADS, -(-count // 32) * 32)
    return launch(stem, ports, emitter.lines, (blocks, 1, 1), threads)


def spread(emitter: Emitter, number: str, axes: Sequence[Axis], lanes: int = 1) -> None:
    """Give each axis its value, for the number of a point (of `lanes` of the last axis)."""
    step, last = 1, len(axes) - 1
    for i in range(last, -1, -1):
        axis = axes[i]
        extent = axis.extent // lanes if i == last else axis.extent
        place = number if step == 1 else f"{number} / {step}"
        if i > 0:
            place = f"{place} % {extent}"
        if i == last and lanes > 1:
            place = f"({place}) * {lanes}"
        emitter.axes[axis] = emitter.let(emitter.index_type, place, "i")
        step *= extent
    emitter.vector = axes[-1] if axes else None
    emitter.lanes = lanes


# -- what a stage is like -------------------------------------------------------------------------


def index_type(stages: Sequence[Stage], count: int) -> str:
    """`int` where every number that indices go through fits."""
    most = count
    for stage in stages:
        for index in stage_indices(stage):
            most = max(most, *(abs(end) for end in index.bounds))
    return "int" if most < 1 << 30 else "long long"


def lanes_of(stage: Stage, axis: Axis | None, aligned: frozenset[int]) -> int:
    """How many neighbours a thread takes: 16 bytes of the widest type, where memory allows.

    Of floats of 16 bits, the f32 that they are computed in does not count.
    """
    if axis is None:
        return 1
    found: list[Scalar] = []
    walk(stage, found.append)
    stored = [store.value.dtype for store in stage.stores]
    narrow = any(dtype.is_narrow for dtype in (*stored, *(value.dtype for value in found)))
    counted = [
        value.dtype
        for value in found
        if not isinstance(value, Literal)
        and not (narrow and isinstance(value, Apply) and value.dtype == F32)
    ]
    widest = max((dtype.bytes for dtype in (*stored, *counted)), default=1)
    fits = not any(
        isinstance(value, Guard) and any(axis in i.axes for i in value.tests) for value in found
    )
    lanes = min(8, VECTOR // widest)
    while lanes > 1 and axis.extent % lanes:
        lanes //= 2
    if not fits or lanes == 1:
        return 1
    emitter = Emitter({}, Namer(), vector=axis, lanes=lanes)
    return lanes if _runs(stage, emitter, aligned) else 1


def _runs(stage: Stage, emitter: Emitter, aligned: frozenset[int]) -> bool:
    """Whether any memory is read or written in whole vectors."""
    found = any(s.port in aligned and emitter.is_run(s.index) for s in stage.stores)

    def visit(value: Scalar) -> None:
        nonlocal found
        if isinstance(value, Load) and value.port in aligned and emitter.is_run(value.index):
            found = True

    walk(stage, visit)
    return found
