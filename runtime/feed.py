"""What the training steps read: windows of batches, gathered together into buffers used again.

step -> rows (a pure function) -> one gather a window -> a list of inputs, one entry a step
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from weft.backends.base import Backend, Step
from weft.runtime.data.batches import BatchPlan, gather
from weft.runtime.data.columns import Array
from weft.runtime.fields import Fields
from weft.runtime.permutation import Indices
from weft.runtime.session import aligned_zeros, compiled

WINDOW_BYTES = 4 << 20
WINDOW_STEPS = 256

Inputs = Mapping[str, Array]


@dataclass(eq=False)
class Feed:
    """The inputs `names` of the steps of a plan, from the prepared fields."""

    fields: Fields
    plan: BatchPlan
    names: frozenset[str]
    backend: Backend
    _buffers: dict[str, Array] = field(default_factory=dict)  # whole windows, row after row
    _full: list[Inputs] = field(default_factory=list)  # views: one entry a batch of the window
    _ragged: Inputs = field(default_factory=dict)
    _steps: int = 1

    def __post_init__(self) -> None:
        batch = self.plan.batch
        self._prepare = Prepare(self.fields, self.names, self.backend)
        if self.fields.mapped:
            types = [(a.shape[1:], a.dtype) for a in self.fields.columns.arrays.values()]
            self._steps = _window(batch, types)
            return
        arrays = {n: a for n, a in self.fields.arrays.items() if n in self.names}
        self._steps = _window(batch, [(a.shape[1:], a.dtype) for a in arrays.values()])
        self._steps = min(self._steps, self.plan.steps_per_epoch)
        for name, array in arrays.items():
            shape = (self._steps * batch, *array.shape[1:])
            self._buffers[name] = aligned_zeros(shape, array.dtype)
        for start in range(0, self._steps * batch, batch):
            self._full.append({n: a[start : start + batch] for n, a in self._buffers.items()})
        rest = self.plan.part.size % batch
        self._ragged = {n: a[:rest] for n, a in self._buffers.items()}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that come: the full one, and that of an epoch's last batch if smaller."""
        plan = self.plan
        found = {plan.size(0): None, plan.size(plan.steps_per_epoch - 1): None}
        return tuple(found)

    def compile(self) -> None:
        """Make now what batches of these sizes will need."""
        for size in self.sizes if self.fields.mapped else ():
            self._prepare.compile(size)

    def window(self, step: int, limit: int) -> tuple[int, list[Inputs]]:
        """The batch size and the inputs of `step` and some steps after it, below `limit`.

        They hold until the next call. All are of one epoch and of one size.
        """
        batch = self.plan.batch
        rows = self.plan.run(step, min(limit - step, self._steps))
        size, count = min(batch, len(rows)), -(-len(rows) // batch)
        if self.fields.mapped:
            columns = self.fields.raw(rows)
            return size, [
                self._prepare({n: a[i : i + size] for n, a in columns.items()}, size)
                for i in range(0, len(rows), size)
            ]
        gather({n: self.fields.arrays[n] for n in self._buffers}, rows, self._buffers)
        return size, self._full[:count] if size == batch else [self._ragged]


@dataclass(eq=False)
class Rows:
    """The named fields of any rows, as new arrays."""

    fields: Fields
    names: frozenset[str]
    backend: Backend

    def __post_init__(self) -> None:
        self._prepare = Prepare(self.fields, self.names, self.backend)
        whole = {} if self.fields.mapped else self.fields.arrays
        self._arrays = {name: array for name, array in whole.items() if name in self.names}

    def __call__(self, indices: Indices) -> Mapping[str, Array]:
        if self.fields.mapped:
            return self._prepare(self.fields.raw(indices), len(indices))
        return gather(self._arrays, indices)

    def compile(self, sizes: Iterable[int]) -> None:
        """Make now what so many rows at once will need."""
        for size in sizes if self.fields.mapped else ():
            self._prepare.compile(size)


@dataclass(eq=False)
class Prepare:
    """`prepare` of the data, compiled for the batch sizes that come; gives the fields `names`."""

    fields: Fields
    names: frozenset[str]
    backend: Backend
    _steps: dict[int, Step] = field(default_factory=dict)

    def __call__(self, columns: Inputs, size: int) -> Inputs:
        return self.compile(size)({**columns, **self.fields.fitted})

    def compile(self, size: int) -> Step:
        """The code for so many rows; made once."""
        if size not in self._steps:
            graph = self.fields.prepare
            outputs = {n: node for n, node in graph.named_outputs.items() if n in self.names}
            self._steps[size] = compiled(graph.with_outputs(outputs), self.backend, {"batch": size})
        return self._steps[size]


def _window(batch: int, types: list[tuple[tuple[int, ...], np.dtype]]) -> int:
    """How many batches a window holds: at most so many bytes and steps, at least one."""
    row = sum(dtype.itemsize * int(np.prod(shape)) for shape, dtype in types)
    return max(1, min(WINDOW_STEPS, WINDOW_BYTES // max(1, row * batch)))
