"""What takes how long in printed code, and what NumPy does at its best on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns

import numpy as np

from weft.backends.base import Part, Peaks, Timing
from weft.backends.clock import fastest, frequency
from weft.backends.numpy import blas
from weft.compiler.graph import Node
from weft.compiler.passes.fuse import Group
from weft.compiler.plan import Plan
from weft.compiler.types import DType

PRODUCT = 256  # rows and columns of each thread's matrices
COPIES = tuple(1 << power for power in range(16, 29, 2))  # bytes that a timed copy touches
SECONDS = 0.15  # for which each peak is looked for
PIECE = 1 << 20  # bytes that are copied at once, at most


@dataclass(eq=False)
class Clock:
    """Hears from printed code when the lines of a part are done: a part has the time before it."""

    parts: list[Part] = field(default_factory=list)
    _last: int = 0
    _nanoseconds: list[int] = field(default_factory=list)
    _calls: list[int] = field(default_factory=list)

    def part(self, plan: Plan, group: Group, number: str, lines: Sequence[Node]) -> int:
        """A new part, for nodes that are lines of a group."""
        from weft.compiler.costs import Cost, node_cost  # not for code that nobody times

        cost = sum((node_cost(plan, n) for n in lines if n.op.name != "scan"), Cost())
        self.parts.append(Part(f"group {number}", group.kind, group.nodes, cost))
        self._nanoseconds.append(0)
        self._calls.append(0)
        return len(self.parts) - 1

    def begin(self) -> None:
        """A step begins."""
        for number in range(len(self.parts)):
            self._nanoseconds[number] = self._calls[number] = 0
        self._last = perf_counter_ns()

    def mark(self, number: int) -> None:
        """A part is done."""
        now = perf_counter_ns()
        self._nanoseconds[number] += now - self._last
        self._calls[number] += 1
        self._last = perf_counter_ns()

    def taken(self) -> Timing:
        """The times of the last step."""
        return Timing(np.array(self._nanoseconds), np.array(self._calls))


def peaks(dtype: DType) -> Peaks:
    """A product on as many threads as NumPy's BLAS has, and copies on one."""
    count = blas.threads()
    matrices = np.ones((count, 2, PRODUCT, PRODUCT), dtype.numpy)
    with blas.one_thread():
        products = frequency(SECONDS, [partial(np.matmul, a, a, out=b) for a, b in matrices])
    copies = []
    for size in COPIES:
        piece = min(size // 2, PIECE)
        source, target = np.ones((2, size // 2 // piece, piece), np.uint8)
        work = [partial(np.copyto, t, s) for t, s in zip(target, source, strict=True)]
        copies.append((size, 2 * piece / fastest(SECONDS, work)))
    return Peaks(2 * PRODUCT**3 * products, tuple(copies))
