"""Slopes that are claimed, against slopes that are measured along random lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from weft.compiler.errors import Span
from weft.runtime.verification.differences import Slope, slope
from weft.runtime.verification.report import Check, Tally, number
from weft.runtime.verification.subject import Arrays

DRAWS = 3  # lines at most for one slope, where kinks lie on the first
LINES = 2  # slopes for each thing that is checked
SHARP = 1e-6  # a slope may be wrong by this share of what slopes along such lines measure
KNOWN = 1e-4  # a slope that is less sure than this share of it says nothing
LEVEL = 1e-9  # a slope that is this sure, as a share of the value, says that there is none
UNDECIDED = 0.2  # of all slopes, that kinks may leave undecided

Line = Callable[[float], float]


@dataclass(eq=False)
class Slopes:
    """A check of slopes: its tally, its lines, and how many of those nobody could measure."""

    tally: Tally
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    undecided: int = 0

    def agrees(
        self, what: str, draw: Callable[[np.random.Generator], tuple[Line, float, float]]
    ) -> tuple[float, Slope] | None:
        """None where the claimed slope is the measured one; else both.

        `draw` gives a line, the slope that is claimed for it, and the size of such slopes.
        """
        for _ in range(DRAWS):
            line, claimed, size = draw(self.rng)
            with np.errstate(all="ignore"):
                found = slope(line, size)
                value = abs(line(0.0))
            level = LEVEL * max(1.0, value)
            if np.isfinite(found.error) and found.error <= max(
                KNOWN * max(size, abs(found.value)), level
            ):
                error = abs(claimed - found.value)
                bound = 10 * found.error + SHARP * max(size, abs(found.value))
                return None if self.tally.add(what, error, bound) else (claimed, found)
        self.undecided += 1
        return None

    def hold(
        self,
        what: str,
        draw: Callable[[np.random.Generator], tuple[Line, float, float]],
        message: str,
        span: Span | None,
        of: str = "",
        hint: str | None = None,
    ) -> bool:
        """Whether a few slopes agree; the first that doesn't is a fault: a slope `of` something."""
        for _ in range(LINES):
            wrong = self.agrees(what, draw)
            if wrong is not None:
                claimed, measured = wrong
                value, error = number(measured.value), number(measured.error)
                expected = f"the slope {value}{of}, give or take {error}"
                self.tally.fault(message, span, expected, number(claimed), hint)
                return False
        return True

    def check(self) -> Check:
        """The check; a fault of its own where kinks left too much undecided."""
        total = self.tally.count + self.undecided
        if self.undecided:
            self.tally.notes.append(f"{self.undecided} of {total} slopes lie across kinks")
        if self.undecided > max(1.0, UNDECIDED * total):
            self.tally.fault(
                "too many slopes can't be measured",
                None,
                f"at most {UNDECIDED:.0%} of {total} across kinks or jumps",
                f"{self.undecided}",
            )
        return self.tally.check()


def dot(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """The sum of products, and the size that such sums have for random signs."""
    total, squares = 0.0, 0.0
    for name, value in a.items():
        products = np.asarray(value * b[name], np.float64)
        total += float(products.sum())
        squares += float(np.square(products).sum())
    return total, float(np.sqrt(squares))


def along(
    values: Mapping[str, np.ndarray], direction: Mapping[str, np.ndarray], h: float
) -> Arrays:
    return {**values, **{name: values[name] + h * d for name, d in direction.items()}}
