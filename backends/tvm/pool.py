"""The threads of native code: their number and their memory; `pool.ll` is what they do.

TVM's own pool takes half of the cores, ties its threads to them, and spins for tenths of a second:
beside another process that keeps the cores busy, a step took a hundred times as long.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weft.backends.arrays import aligned
from weft.backends.cores import cores
from weft.backends.threads import THREADS

MOST = 1024  # threads
_BYTES = 64 * (7 + MOST)  # of a `%Pool` of pool.ll
_WIDTH, _STARTED, _FAULT = 49, 50, 53  # where its numbers are, of four bytes


@dataclass(eq=False)
class Pool:
    """The threads of this process. `memory` is that of a `%Pool`."""

    memory: np.ndarray = field(default_factory=lambda: aligned(_BYTES))
    incomplete: bool = True  # threads are still to be started, by the next step that runs
    _kept: list[Any] = field(default_factory=list)
    _started: int = 0  # workers whose code is kept

    def __post_init__(self) -> None:
        self.use(None)

    def use(self, count: int | None) -> None:
        """So many threads from the next step on, the caller among them; None for every core.

        More than `MOST` are as many as `MOST`.
        """
        self.memory.view(np.int32)[_WIDTH] = min(count or cores(), MOST)
        self.incomplete = True

    @property
    def width(self) -> int:
        """How many threads a step uses: as many as there are cores, unless told otherwise."""
        return int(self.memory.view(np.int32)[_WIDTH])

    def complete(self, run: Any) -> None:
        """After `run`: the workers that it has started run its code, so it stays.

        A step without parallel loops starts none.
        """
        started = int(self.memory.view(np.int32)[_STARTED])
        if started > self._started:
            self._kept.append(run)
            self._started = started
        self.incomplete = started + 1 < self.width

    @property
    def fault(self) -> ctypes.c_int32:
        """Not zero when a task has failed, for want of memory."""
        memory: Any = self.memory
        return ctypes.c_int32.from_buffer(memory, 4 * _FAULT)

    def forget(self) -> None:
        """In a child process, which has none of the threads."""
        width = self.width
        self.memory[...] = 0
        self._started = 0
        self.use(width)


POOL = Pool()
THREADS.follow(POOL.use)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.forget)
