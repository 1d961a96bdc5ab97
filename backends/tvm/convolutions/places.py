"""Where a convolution reads: along one axis, which elements each result needs, without zeros.

Result `q` takes, at tap `v`, element `q*stride + v*gap - padding` of an image that is spread out
with zeros between its elements. Spread by `s`, results `q = s*i + r` of one phase `r` meet the
same taps, every s-th one, and read neighbours of the image as it is:

    spread 2, window 3      phase 0: taps 1                phase 1: taps 0 and 2
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tvm import tirx

from weft.backends.tvm import tir
from weft.backends.tvm.tir import Expr
from weft.compiler.kernel import Convolution


@dataclass(frozen=True)
class Phase:
    """Results `first`, `first + spread`, ...: `count` of them, and their taps.

    A tap is its number in the window and the place that it reads for the phase's result 0.
    """

    first: int
    count: int
    taps: tuple[tuple[int, int], ...]

    @property
    def step(self) -> tuple[int, int]:
        """From one tap to the next: in the window, and in places."""
        if len(self.taps) < 2:
            return 0, 0
        (first, from_), (second, to) = self.taps[:2]
        return second - first, to - from_


@dataclass(frozen=True)
class Line:
    """One axis. Result `i` of a phase reads places `i*step + tap`; place 0 is element `shift`."""

    size: int  # of the image
    results: int
    spread: int
    step: int
    shift: int
    phases: tuple[Phase, ...]

    @cached_property
    def reach(self) -> int:
        """Places that the first result of each phase may read."""
        return 1 + max((place for phase in self.phases for _, place in phase.taps), default=0)

    @cached_property
    def count(self) -> int:
        """The results of the longest phase."""
        return max(phase.count for phase in self.phases)

    def places(self, count: int) -> int:
        """How many places so many results of each phase read."""
        return (count - 1) * self.step + self.reach

    def has(self, result: int, place: int) -> bool:
        """Whether a result of a phase finds an element there, rather than padding."""
        return 0 <= self.shift + result * self.step + place < self.size

    @cached_property
    def outside(self) -> float:
        """The share of all that is read which is padding."""
        reads = [
            self.has(result, place)
            for phase in self.phases
            for result in range(phase.count)
            for _, place in phase.taps
        ]
        return 1 - sum(reads) / max(1, len(reads))

    @property
    def is_inside(self) -> bool:
        """Whether every place is an element of the image."""
        return self.shift >= 0 and self.shift + self.places(self.count) <= self.size


def line(conv: Convolution, axis: int) -> Line:
    """Axis 0 of a convolution is y, axis 1 is x."""
    spread, gap = conv.lhs_dilation[axis], conv.rhs_dilation[axis]
    results, padding = conv.shape[2 + axis], conv.padding[axis][0]
    found = []
    for first in range(min(spread, results)):
        taps = [
            (v, (first + v * gap - padding) // spread)
            for v in range(conv.kernel.shape[2 + axis])
            if (first + v * gap - padding) % spread == 0
        ]
        found.append((first, -(-(results - first) // spread), taps))
    shift = min((place for _, _, taps in found for _, place in taps), default=0)
    phases = tuple(
        Phase(first, count, tuple((v, place - shift) for v, place in taps))
        for first, count, taps in found
    )
    step = conv.strides[axis]
    return Line(conv.x.shape[2 + axis], results, spread, step, shift, phases)


# -- counting --------------------------------------------------------------------------------------


def even_part(count: int, limit: int) -> int:
    """The largest divisor up to a limit."""
    return max(n for n in range(1, min(count, limit) + 1) if count % n == 0)


def some(wanted: int, count: int | Expr, first: Expr) -> int | Expr:
    """How many of `wanted` there are from the first one on; a number if always the same."""
    if isinstance(count, int) and count % wanted == 0:
        return wanted
    total = tir.number(count) if isinstance(count, int) else count
    return tirx.min(tir.number(wanted), total - first)


def parts(count: int | Expr, most: int, size: int) -> int | Expr:
    """Into how many parts of that size a count, at most `most`, is cut."""
    if isinstance(count, int):
        return -(-count // size)
    if most <= size:
        return 1
    return tirx.truncdiv(count + tir.number(size - 1), tir.number(size))


def pair(flat: Expr, size: int) -> tuple[Expr, Expr]:
    """Quotient and remainder."""
    if size == 1:
        return flat, tir.number(0)
    return tirx.truncdiv(flat, tir.number(size)), tirx.truncmod(flat, tir.number(size))
