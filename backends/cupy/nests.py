"""Nests as functions: which threads work on which rows.

    points                 see `points.py`
    rows, along            a team of threads a row, neighbours next to each other in it
    rows, across           neighbouring threads on neighbouring rows, the team further apart
    few long rows          parts of them by many blocks, whose results a second function folds

Nothing here depends on the GPU: what is cut into parts is cut by its size, and folded in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from weft.backends.cupy import scalar
from weft.backends.cupy.code import THREADS, Launch, launch, scratch, stacked
from weft.backends.cupy.emit import Emitter, Namer
from weft.backends.cupy.points import index_type, lanes_of, print_points, spread
from weft.compiler.index import Axis, along, flat
from weft.compiler.kernel import Fold, Nest, Port, Stage, stage_indices
from weft.compiler.passes.collapse import collapsed
from weft.compiler.passes.kernels import identity
from weft.compiler.passes.views import contiguous
from weft.compiler.scalar import Guard, Load, Scalar
from weft.compiler.types import I64

ENOUGH_BLOCKS = 512  # with fewer, long rows are cut into parts
FEW_BLOCKS = 128  # that keep a GPU busy
FEW_TURNS = 16  # along a row, after which a team is done soon anyway
PART = 2_048  # elements of a row that make a part worth while

_FOLDS = {
    "sum": "Sum", "prod": "Prod", "max": "Max", "min": "Min", "and": "And", "or": "Or",
    "arg_max": "ArgMax", "arg_min": "ArgMin",
}  # fmt: skip


def print_nest(nest: Nest, aligned: frozenset[int], in_parts: bool = True) -> list[Launch]:
    """The launches of a nest; `aligned` are the ports that begin on a 16-byte boundary.

    A nest that reads scratch memory must not be cut `in_parts`, which need it themselves.
    """
    nest = collapsed(nest)
    if not nest.rows and len(nest.stages) == 1 and not nest.stages[0].folds:
        return [print_points(nest.ports, nest.stages[0], aligned)]
    return _Rows(nest, aligned, in_parts).run()


# -- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Teams:
    """How many threads share a row and how they lie in the block, and parts of a row."""

    team: int
    rows: int
    across: bool
    parts: int = 1

    @property
    def threads(self) -> int:
        return self.team * self.rows


def teams_for(nest: Nest, in_parts: bool) -> Teams:
    """By the sizes of the nest alone."""
    count = prod(a.extent for a in nest.rows)
    length = max(prod(a.extent for a in stage.axes) for stage in nest.stages)
    across = _goes_across(nest)
    if across:
        team = 1 if length <= 16 or count >= 1 << 17 else 8
    elif length <= 16:
        team = 1
    else:
        team = 32 if length <= 1_024 else THREADS
    rows = THREADS // team
    if rows > count:
        rows = 1 << max(0, (count - 1).bit_length())
        rows = max(rows, -(-32 // team))
    blocks = -(-count // rows)
    parts = 1
    if in_parts and _may_be_cut(nest) and blocks < ENOUGH_BLOCKS:
        parts = max(1, min(length * rows // PART, ENOUGH_BLOCKS // blocks))
    return Teams(team, rows, across, parts)


def keeps_busy(nest: Nest) -> bool:
    """Whether a nest whose rows can't be cut has rows enough, or next to nothing to do."""
    count = prod(a.extent for a in nest.rows)
    length = max(prod(a.extent for a in stage.axes) for stage in nest.stages)
    teams = teams_for(nest, in_parts=False)
    if teams.across:
        return False
    return count >= teams.rows * FEW_BLOCKS or length <= FEW_TURNS * teams.team


def _goes_across(nest: Nest) -> bool:
    """Whether neighbouring rows rather than neighbours in a row are neighbours in memory."""
    if not nest.rows:
        return False
    votes = 0
    for stage in nest.stages:
        if stage.axes:
            for index in stage_indices(stage):
                votes += index.factor(stage.axes[-1]) == 1
                votes -= index.factor(nest.rows[-1]) == 1
    return votes < 0


def _may_be_cut(nest: Nest) -> bool:
    """Whether the fold comes first, and only single values follow it."""
    first, *rest = nest.stages
    return bool(first.axes) and all(not stage.axes and not stage.folds for stage in rest)


class _Rows:
    """The functions of a nest over rows."""

    def __init__(self, nest: Nest, aligned: frozenset[int], in_parts: bool = True) -> None:
        self.nest, self.aligned = nest, aligned
        self.teams = teams_for(nest, in_parts)
        self.count = prod(a.extent for a in nest.rows)
        longest = max(prod(a.extent for a in stage.axes) for stage in nest.stages)
        type = index_type(nest.stages, max(self.count, longest))
        self.emitter = Emitter({}, Namer(), type, aligned=aligned)

    def run(self) -> list[Launch]:
        teams, emitter = self.teams, self.emitter
        self._begin()
        ports = self.nest.ports
        if teams.parts == 1:
            for number, stage in enumerate(self.nest.stages):
                self._stage(stage, number)
            return [self._launch("rows", ports)]
        first = self.nest.stages[0]
        self._stage(first, 0)
        kept = self._kept(first)
        ports = (*ports, *kept)
        with emitter.block("if (active && lane == 0)"):
            place = f"part * {self.count} + row"
            for number, name in enumerate(self._results(first), len(self.nest.ports)):
                emitter.line(f"p{number}[{place}] = {name};")
        return [self._launch("parts", ports), *self._finish(first, kept)]

    def _begin(self) -> None:
        """Which row, which lane of its team; and where the row is."""
        teams, emitter = self.teams, self.emitter
        slow, fast = ("lane", "slot") if teams.across else ("slot", "lane")
        width = teams.rows if teams.across else teams.team
        type = emitter.index_type
        emitter.line(f"const int {slow} = threadIdx.x / {width}, {fast} = threadIdx.x % {width};")
        emitter.line(f"const {type} here = ({type})blockIdx.x * {teams.rows} + slot;")
        emitter.line(f"const bool active = here < {self.count};")
        emitter.line(f"const {type} row = active ? here : 0;")
        if teams.parts > 1:
            emitter.line("const int part = blockIdx.y;")
        if teams.team > (1 if teams.across else 32):
            widest = max((_held(f) for s in self.nest.stages for f in s.folds), default=0)
            if widest:
                slots = teams.threads if teams.across else teams.threads // 32
                emitter.line(f"alignas(16) __shared__ char team_memory[{slots * widest}];")
        spread(emitter, "row", self.nest.rows)
        emitter.vector = None

    def _launch(self, stem: str, ports: Sequence[Port]) -> Launch:
        blocks = -(-self.count // self.teams.rows)
        grid = (blocks, self.teams.parts, 1)
        return launch(stem, ports, self.emitter.lines, grid, self.teams.threads)

    def _stage(self, stage: Stage, number: int) -> None:
        emitter = self.emitter
        if number and self.nest.stages[number - 1].stores and self.teams.team > 1:
            emitter.line("__syncthreads();")
        if not stage.axes and not stage.folds:
            with emitter.block("if (active && lane == 0)"):
                emitter.stores(stage.stores)
            return
        for fold in stage.folds:
            self._start(fold)
        length = prod(a.extent for a in stage.axes)
        if length:
            self._loop(stage, length)
        for fold in stage.folds:
            self._share(fold)

    def _loop(self, stage: Stage, length: int) -> None:
        """The lanes of the team take turns along the row, or along a part of it."""
        emitter, teams = self.emitter, self.teams
        axis = stage.axes[-1] if stage.axes else None
        vector = not teams.across and teams.team > 1
        lanes = lanes_of(stage, axis, self.aligned) if vector else 1
        count = length // lanes
        type, start, end = emitter.index_type, "lane", str(count)
        if teams.parts > 1:
            step = -(-count // teams.parts)
            start = f"part * {step} + lane"
            end = f"((part + 1) * {step} < {count} ? (part + 1) * {step} : {count})"
        self._hoist(stage)
        stop = emitter.let(type, f"active ? {end} : 0", "stop")
        head = f"for ({type} k = {start}; k < {stop}; k += {teams.team})"
        with emitter.block(head):
            spread(emitter, "k", stage.axes, lanes)
            for fold in stage.folds:
                self._join(fold)
            emitter.stores(stage.stores)
        emitter.vector, emitter.lanes = None, 1

    def _hoist(self, stage: Stage) -> None:
        """What is the same for the whole row, once before the loop."""
        inner = frozenset(stage.axes)

        def go(value: Scalar) -> None:
            if not value.axes & inner:
                self.emitter.value(value)
            elif not isinstance(value, Guard):
                for part in value.operands:
                    go(part)

        for value in (*(f.value for f in stage.folds), *(s.value for s in stage.stores)):
            go(value)

    def _start(self, fold: Fold) -> None:
        first = identity(fold.how.removeprefix("arg_"), fold.dtype)
        number = scalar.literal(first.value, fold.dtype)
        value = number if fold.place is None else f"{{{number}, -1}}"
        self.emitter.line(f"{_type(fold)} fold{fold.number} = {value};")

    def _join(self, fold: Fold) -> None:
        """The elements of one turn onto what the lane holds."""
        emitter = self.emitter
        values = emitter.value(fold.value)
        places = ("",) if fold.place is None else emitter.value(fold.place)
        name = f"fold{fold.number}"
        for i in range(emitter.lanes):
            value = values[i if len(values) > 1 else 0]
            if fold.place is not None:
                value = f"{_type(fold)}{{{value}, {places[i if len(places) > 1 else 0]}}}"
            emitter.line(f"{name} = fold::{_FOLDS[fold.how]}::join({name}, {value});")

    def _share(self, fold: Fold) -> None:
        teams, name = self.teams, f"fold{fold.number}"
        if teams.team > 1:
            where = "true" if teams.across else "false"
            memory = "team_memory" if teams.across or teams.team > 32 else "nullptr"
            self.emitter.line(
                f"{name} = fold::over_team<fold::{_FOLDS[fold.how]}, {teams.team}, {teams.rows}, "
                f"{where}>({name}, {memory});"
            )
        results = dict(self.emitter.results)
        results[fold.number] = name if fold.place is None else f"{name}.place"
        self.emitter.results = results

    # -- rows in parts ----------------------------------------------------------------------------

    def _kept(self, stage: Stage) -> list[Port]:
        """Memory for what the parts come to: values, and places of those that have one."""
        found = []
        for fold in stage.folds:
            size = self.count * self.teams.parts
            found.append(scratch(f"fold{fold.number}", fold.dtype, size))
            if fold.place is not None:
                found.append(scratch(f"place{fold.number}", I64, size))
        return stacked(found)

    def _results(self, stage: Stage) -> list[str]:
        found = []
        for fold in stage.folds:
            name = f"fold{fold.number}"
            found += [name] if fold.place is None else [f"{name}.value", f"{name}.place"]
        return found

    def _finish(self, first: Stage, kept: Sequence[Port]) -> list[Launch]:
        """The parts' results folded, and the stages that come after."""
        nest, part = self.nest, Axis(self.teams.parts)
        row = flat([along(a) for a in nest.rows], contiguous(_shape(nest.rows)).strides)
        at = row + along(part) * self.count
        port = len(nest.ports)
        folds = []
        for fold in first.folds:
            value = Load(fold.dtype, port, at)
            port += 1
            place: Scalar | None = None
            if fold.place is not None:
                place = Load(I64, port, at)
                port += 1
            folds.append(Fold(fold.number, fold.how, value, fold.dtype, place))
        rest = Nest(
            (*nest.ports, *kept), nest.rows, (Stage((part,), tuple(folds), ()), *nest.stages[1:]),
            nest.nodes,
        )  # fmt: skip
        return _Rows(rest, frozenset(), in_parts=False).run()


def _shape(axes: Sequence[Axis]) -> tuple[int, ...]:
    return tuple(a.extent for a in axes)


def _type(fold: Fold) -> str:
    name = scalar.type_name(fold.dtype)
    return name if fold.place is None else f"fold::Best<{name}>"


def _held(fold: Fold) -> int:
    """Bytes that a lane holds of a fold."""
    return fold.dtype.bytes if fold.place is None else 16
