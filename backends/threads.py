"""How many threads steps use: a setting of the process, the only one that there is.

It can't belong to a session or to a backend: what it sets is the pool of native code and the BLAS
of NumPy, and a process has one of each. So does `torch.set_num_threads`. Whoever has such threads
follows `THREADS`; all else asks `Backend.threads`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from weft.compiler.errors import RunError


@dataclass(eq=False)
class Threads:
    """The number that somebody has set, None for one of each core; and those that obey it."""

    count: int | None = None
    _followers: list[Callable[[int | None], None]] = field(default_factory=list)

    def use(self, count: int | None) -> None:
        """So many threads from the next step on; None: one for each core."""
        if count is not None and count < 1:
            raise RunError(
                "a number of threads is a whole number, at least 1",
                found=f"`{count}`",
                hint="None: one for each core",
            )
        self.count = count
        for tell in self._followers:
            tell(count)

    def follow(self, tell: Callable[[int | None], None]) -> None:
        """Have `tell` called with each number from now on, and with one that was set before."""
        self._followers.append(tell)
        if self.count is not None:
            tell(self.count)


THREADS = Threads()
