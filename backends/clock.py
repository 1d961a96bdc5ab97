"""How long a piece of work takes when nothing else comes in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from time import perf_counter

Work = Callable[[], object]


def fastest(seconds: float, work: Sequence[Work]) -> float:
    """The least that one of these equal pieces of work took, in so many seconds of doing them."""
    for piece in work:  # so that its memory is there
        piece()
    best, end = float("inf"), perf_counter() + seconds
    for piece in cycle(work):
        begun = perf_counter()
        piece()
        now = perf_counter()
        best = min(best, now - begun)
        if now > end:
            return best
    raise ValueError("no work")


def frequency(seconds: float, work: Sequence[Work]) -> float:
    """How many pieces a second are done, each in a thread of its own, while all are at work.

    The sum of what each does at its best: threads that other processes interrupt are not waited
    for.
    """
    with ThreadPoolExecutor(len(work)) as pool:
        return sum(1 / best for best in pool.map(lambda piece: fastest(seconds, [piece]), work))
