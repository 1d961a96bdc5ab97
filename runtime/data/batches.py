"""Batches: which rows a step sees is a pure function of the step, so a resumed run sees the same.

epoch = step // steps_per_epoch      batch = step % steps_per_epoch
rows  = part(permutation of the epoch(batch * size_of_batch + 0, 1, 2, ...))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from weft.compiler.errors import RunError
from weft.runtime.data.columns import Array
from weft.runtime.data.splits import Part
from weft.runtime.permutation import Indices, Permutation, orders

_WINDOW = 16384  # positions worked out at once: one batch at a time would cost 20 times as much
_AHEAD = 64  # epochs worked out at once


@dataclass
class _Window:
    """The rows of some consecutive batches of an epoch: a cache of what `BatchPlan` computes.

    Of a small part: `ahead` holds whole epochs from `base` on, and `part` all its rows.
    """

    epoch: int = -1
    first: int = 0
    stop: int = 0
    rows: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    base: int = 0
    ahead: list[Indices] = field(default_factory=list)
    part: Indices | None = None


@dataclass(frozen=True)
class BatchPlan:
    """The batches of `part`, epoch after epoch, in a fresh order each when `shuffle`.

    The last batch of an epoch is smaller when the batch size does not divide the part, or is left
    out with `drop_last`. The order of an epoch comes from the stream `stream` of the seed. It
    takes the same small memory for every size. One object serves one thread.
    """

    part: Part
    batch: int
    shuffle: bool
    seed: int
    stream: str
    drop_last: bool = False
    _window: _Window = field(default_factory=_Window, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise RunError("a batch needs at least one example", found=f"{self.batch}")
        if not self.steps_per_epoch:
            raise RunError(
                "`drop_last` would drop every batch",
                expected=f"a batch of at most {self.part.size}, the number of examples",
                found=f"a batch of {self.batch}",
            )

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return self.part.size // self.batch if self.drop_last else -(-self.part.size // self.batch)

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of a step, and the number of its batch there, all counted from 0."""
        return divmod(step, self.steps_per_epoch)

    def size(self, step: int) -> int:
        """How many examples a step sees."""
        start = self.place(step)[1] * self.batch
        return min(self.batch, self.part.size - start)

    def indices(self, step: int) -> Indices:
        """The rows that a step sees: int64, read-only."""
        epoch, index = self.place(step)
        window = self._window
        if epoch != window.epoch or not window.first <= index < window.stop:
            self._fill(epoch, index)
        start = (index - window.first) * self.batch
        return window.rows[start : start + self.batch]

    def run(self, step: int, limit: int) -> Indices:
        """The rows of `step` and of the steps after it, end to end: int64, read-only.

        At most `limit` batches, all of the same size and of one epoch; often fewer, at least one.
        """
        first = self.indices(step)
        if len(first) < self.batch:
            return first
        window = self._window
        start = (self.place(step)[1] - window.first) * self.batch
        count = min(limit, (len(window.rows) - start) // self.batch)
        return window.rows[start : start + count * self.batch]

    def _fill(self, epoch: int, index: int) -> None:
        window = self._window
        if self.part.size * 2 <= _WINDOW:
            window.rows = self._whole(epoch)
            window.epoch, window.first, window.stop = epoch, 0, self.steps_per_epoch
            return
        batches = max(1, _WINDOW // self.batch)
        first = index // batches * batches
        stop = min(first + batches, self.steps_per_epoch)
        end = min(stop * self.batch, self.part.size)
        positions = np.arange(first * self.batch, end, dtype=np.int64)
        if self.shuffle:
            positions = Permutation(self.part.size, self.seed, self.stream, epoch)(positions)
        rows = self.part(positions)
        rows.flags.writeable = False
        window.epoch, window.first, window.stop, window.rows = epoch, first, stop, rows

    def _whole(self, epoch: int) -> Indices:
        """All rows of an epoch of a small part; several epochs are worked out together."""
        window, size = self._window, self.part.size
        if window.part is None:
            window.part = self.part.rows()
        if not window.base <= epoch < window.base + len(window.ahead):
            found = window.part[None]
            if self.shuffle:
                count = min(_WINDOW // size, _AHEAD)
                found = window.part[orders(size, self.seed, self.stream, epoch, count)]
            found.flags.writeable = False
            window.base, window.ahead = epoch, list(found)
        return window.ahead[epoch - window.base]


def sizes(part: Part, batch: int) -> tuple[int, ...]:
    """How many rows the batches of a sweep have: the full ones, and the last if it is smaller."""
    found = [batch] * (part.size >= batch) + [part.size % batch]
    return tuple(size for size in found if size)


def sweep(part: Part, batch: int) -> Iterator[Indices]:
    """The rows of a part once, in its order, in batches of which the last may be smaller."""
    for start in range(0, part.size, batch):
        yield part(np.arange(start, min(start + batch, part.size), dtype=np.int64))


def gather(
    arrays: Mapping[str, Array], rows: Indices, out: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """The given rows of each array, as new arrays or written into `out`.

    Arrays of `out` may have more rows, of which the first are used, and another type. The result
    holds arrays of exactly `len(rows)` rows.
    """
    taken: dict[str, Array] = {}
    for name, array in arrays.items():
        source = np.asarray(array)  # a plain view: a memory-mapped one would give its like
        if out is None:
            taken[name] = source[rows]
            continue
        target = taken[name] = out[name][: len(rows)]
        if source.dtype == target.dtype:
            # "clip" lets NumPy write straight into the target; no row is out of range.
            np.take(source, rows, axis=0, out=target, mode="clip")
        else:
            target[...] = source[rows]
    return taken
