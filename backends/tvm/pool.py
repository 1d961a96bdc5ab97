"""The threads of native code: how many there are, and that they may run on any core.

TVM has a pool for each thread that calls into it, takes half of the cores for hyperthreads, and
ties every worker to a core of its own, and the caller to their number. Tied threads wait for their
core when another process has it, even beside idle ones.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from weft.backends.cores import cores
from weft.backends.tvm import runtime

_ANY_CORE = -3  # TVM's mode for threads that share the cores of a list


@dataclass(eq=False)
class Pool:
    """The width of the pools of all threads that run steps."""

    _width: int = 0
    _made: threading.local = field(default_factory=threading.local)

    def use(self, count: int) -> None:
        """So many threads, the caller among them, from the next step on."""
        self._width = count

    @property
    def width(self) -> int:
        """How many threads a step uses: as many as there are cores, unless told otherwise."""
        if not self._width:
            self._width = cores()
        return self._width

    def prepare(self) -> None:
        """Give the calling thread's pool its width. It costs nothing where it has it."""
        count = self.width
        if getattr(self._made, "width", 0) != count:
            with _untied():
                runtime.call("runtime.config_threadpool", _ANY_CORE, count, ["0"] * count)
            self._made.width = count


POOL = Pool()


@contextmanager
def _untied() -> Iterator[None]:
    """TVM asks the environment whether to tie threads to cores; it has no other switch."""
    before = os.environ.get("TVM_BIND_THREADS")
    os.environ["TVM_BIND_THREADS"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TVM_BIND_THREADS"]
        else:
            os.environ["TVM_BIND_THREADS"] = before
