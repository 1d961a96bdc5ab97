"""A slope by central differences, with an estimate of how wrong it is.

    D(h) = (f(h) - f(-h)) / 2h = slope + c h^2 + ...          f at points of a line, in double
    R(h) = (16 D(h/4) - D(h)) / 15 = slope + c h^4 + ...      Richardson's extrapolation
    S(h) = (f(h) - 2 f(0) + f(-h)) / h = c h + ...            the jump of a kink, if one lies at 0
    K(h) = (4 S(h/4) - S(h)) / 3 = c h^3 + ...                the same, extrapolated

Steps become shorter until two extrapolations agree and no kink is seen. Where they never do, as
where a kink lies nearer than the shortest step, there is no slope to compare with, and another
line has to be drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FIRST_STEP = 2.0**-12
STEPS = 8  # each a quarter of the one before
AGREED = 3e-7  # of the slope: near enough to stop early
_EPSILON = float(np.finfo(np.float64).eps)
_DIGITS_LOST = 8  # a value is wrong by so many units in its last place, before any cancellation


@dataclass(frozen=True)
class Slope:
    """A slope and what it may be wrong by."""

    value: float
    error: float


def slope(f: Callable[[float], float], scale: float) -> Slope:
    """The slope of `f` at 0; `scale` is a size that slopes of this kind have."""
    best = Slope(float("nan"), float("inf"))
    middle = f(0.0)
    central: list[float] = []
    jumps: list[float] = []
    slopes: list[float] = []
    step = FIRST_STEP
    for _ in range(STEPS):
        right, left = f(step), f(-step)
        central.append((right - left) / (2 * step))
        jumps.append((right - 2 * middle + left) / step)
        rounding = _DIGITS_LOST * _EPSILON * max(abs(right), abs(left)) / step
        if len(central) > 1:
            slopes.append((16 * central[-1] - central[-2]) / 15)
        if len(slopes) > 1:
            kink = (4 * jumps[-1] - jumps[-2]) / 3
            error = abs(slopes[-1] - slopes[-2]) + abs(kink) + 4 * rounding
            if error < best.error:
                best = Slope(slopes[-1], error)
            if best.error <= AGREED * max(scale, abs(best.value)):
                break
        step /= 4
    return best
