"""What a verification found: a row for each check, and a diagnostic for each fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weft.compiler.errors import Diagnostic, Span

SHOWN = 4  # faults of one check that are told one by one


@dataclass(frozen=True)
class Worst:
    """The comparison that came nearest to its bound, or went furthest beyond it."""

    what: str
    error: float
    bound: float

    @property
    def share(self) -> float:
        """The error as a share of the bound: at most 1 where all is well."""
        return share(self.error, self.bound)


def share(error: float, bound: float) -> float:
    if error == 0:
        return 0.0
    return error / bound if bound else float("inf")


@dataclass(frozen=True)
class Check:
    """One row: what was compared, how often, the worst of it, and what is wrong.

    `notes` say what was left out, and why.
    """

    name: str
    of: str
    count: int
    worst: Worst | None
    faults: tuple[Diagnostic, ...]
    more: int = 0  # faults beyond those that are told
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.faults


@dataclass(frozen=True)
class Verification:
    """All checks of a spec on a backend. `sizes`: the batches, the one of most checks first."""

    name: str
    backend: str
    precision: str
    sizes: tuple[int, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that found a fault."""
        return tuple(check.name for check in self.checks if not check.passed)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)


@dataclass(eq=False)
class Tally:
    """A check in the making."""

    name: str
    of: str
    count: int = 0
    worst: Worst | None = None
    faults: list[Diagnostic] = field(default_factory=list)
    more: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, error: float, bound: float, times: int = 1) -> bool:
        """Count comparisons, of which the worst is this one; whether it is within its bound."""
        self.count += times
        found = Worst(what, error, bound)
        if self.worst is None or not found.share <= self.worst.share:
            self.worst = found
        return found.share <= 1

    def fault(
        self,
        message: str,
        span: Span | None,
        expected: str,
        found: str,
        hint: str | None = None,
    ) -> None:
        """Something is wrong."""
        if len(self.faults) < SHOWN:
            self.faults.append(Diagnostic(message, span, expected, found, hint))
        else:
            self.more += 1

    def check(self) -> Check:
        return Check(
            self.name,
            self.of,
            self.count,
            self.worst,
            tuple(self.faults),
            self.more,
            tuple(self.notes),
        )


def number(value: float) -> str:
    """A number as faults show it."""
    return f"{value:.6g}"


def facts(verification: Verification, fault: Any) -> Mapping[str, Any]:
    """The verification for machines; `fault` turns a diagnostic into such facts."""
    return {
        "spec": verification.name,
        "backend": verification.backend,
        "precision": verification.precision,
        "batches": list(verification.sizes),
        "passed": verification.passed,
        "checks": [
            {
                "name": check.name,
                "of": check.of,
                "count": check.count,
                "error": check.worst.error if check.worst else None,
                "bound": check.worst.bound if check.worst else None,
                "worst": check.worst.what if check.worst else None,
                "passed": check.passed,
                "faults": [fault(diagnostic) for diagnostic in check.faults],
                "more": check.more,
                "notes": list(check.notes),
            }
            for check in verification.checks
        ],
        "notes": list(verification.notes),
    }
