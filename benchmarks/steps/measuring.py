"""Measures workloads: starts the frameworks, holds them to the same losses, has them take turns.

cold start -> warm start -> losses, which must agree -> turn, turn, turn, ... -> peak of memory
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from processes import Machine, Worker
from workloads import BATCHES, Settings, Suite, prepared, suite_for

LOSSES = 8  # so many steps must have the same losses
TURN = 0.1  # seconds that a turn lasts, unless one step is longer
ROUNDS = 5, 400  # at least and at most


@dataclass
class Measured:
    """One framework on one workload. Times are seconds, memory is bytes."""

    imported: float  # from the start of the process until the framework is there
    cold: float  # then, the inputs read, to the first loss, with nothing compiled before
    warm: float  # the same in another process, with what the first one has kept on disk
    first: float  # of `warm`, the first step itself, in which frameworks other than Weft compile
    base: int  # resident after the import; on a GPU nothing is
    losses: list[float]
    peak: int = 0  # resident at most, in the second process; on a GPU, taken of its memory
    steps: list[float] = field(default_factory=list)  # seconds a step, by turn
    busy: list[float] = field(default_factory=list)  # the same beside a busy process

    @property
    def ready(self) -> float:
        """When the first step of a warm start begins."""
        return self.warm - self.first

    @property
    def step(self) -> float:
        return median(self.steps)

    @property
    def slowdown(self) -> float:
        """Of a step beside a busy process."""
        return median(self.busy) / self.step


Found = Mapping[str, Measured]  # by framework


@dataclass(frozen=True)
class Bench:
    """What to measure with, and for how long."""

    machine: Machine
    backend: str
    frameworks: Sequence[str]
    seconds: float  # of turns, for a workload
    busy: bool = False
    precision: str = "f32"

    @property
    def suite(self) -> Suite:
        return suite_for(self.machine.device, self.precision)

    def measure(self, name: str) -> dict[str, Measured]:
        """All frameworks on one workload."""
        given = self.suite.workloads[name].given
        with ExitStack() as stack:
            found, workers = {}, []
            for framework in self.frameworks:
                worker, measured = self._begun(stack, framework, name, given)
                workers.append(worker)
                found[framework] = measured
            agree(name, found, self.suite.tolerance)
            self._take_turns(workers, list(found.values()))
        return found

    def scale(self, name: str, setting: str, values: Sequence[int]) -> list[Measured]:
        """Weft's step for each value of a setting of the spec; these take turns too."""
        with ExitStack() as stack:
            given = self.suite.workloads[name].given
            begun = [
                self._begun(stack, "weft", name, {**given, setting: value}) for value in values
            ]
            workers, found = map(list, zip(*begun, strict=True))
            self._take_turns(workers, found)
        return found

    def profile(self, name: str) -> dict[str, Any]:
        """What `weft profile --json` prints of a workload."""
        given = self.suite.workloads[name].given
        found: dict[str, Any] = Worker.once(self.machine, self._job("profile", name, given))
        return found

    def _job(self, kind: str, name: str, settings: Settings) -> dict[str, Any]:
        return {
            "kind": kind,
            "spec": self.suite.spec(name),
            "settings": settings,
            "backend": self.backend,
        }

    def _begun(
        self, stack: ExitStack, framework: str, name: str, settings: Settings
    ) -> tuple[Worker, Measured]:
        """A worker that has trained LOSSES steps, after another one that has filled the cache."""
        varied = "".join(f"-{key}-{value}" for key, value in settings.items())
        start = self.machine.folder / f"{name}{varied}.npz"
        if not start.exists():
            prepared(self.suite.spec(name), settings).save(start)
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.machine.folder)))
        row = self.suite.workloads[name]
        job: Mapping[str, Any] = {
            **self._job("train", name, settings),
            "framework": framework,
            "optimiser": (row.optimiser, row.rate),
            "start": str(start),
            "batches": BATCHES,
        }
        first = Worker(self.machine, cache, job)
        cold = first.answer()
        first.close()
        with self.machine.watched() as seen:
            worker = Worker(self.machine, cache, job)
            stack.callback(worker.close)
            warm = worker.answer()
            losses = [warm["loss"], *worker.ask("losses", LOSSES - 1)]
        return worker, Measured(
            imported=min(cold["imported"], warm["imported"]),
            cold=cold["start"],
            warm=warm["start"],
            first=warm["step"],
            base=warm["base"] if seen is None else 0,
            losses=losses,
            peak=seen.most if seen is not None else 0,
        )

    def _take_turns(self, workers: Sequence[Worker], found: Sequence[Measured]) -> None:
        """One turn each in every round, which each time begins with another one."""
        pace = [worker.ask("time", 1, 2) / 2 for worker in workers]
        steps = [max(1, round(TURN / seconds)) for seconds in pace]
        # A step before those that count: others have had the caches since.
        before = [int(count > 1) for count in steps]
        one = sum(p * (n + b) for p, n, b in zip(pace, steps, before, strict=True))
        rounds = min(max(round(self.seconds / one / (1 + self.busy)), ROUNDS[0]), ROUNDS[1])

        def turn(k: int) -> float:
            seconds: float = workers[k].ask("time", before[k], steps[k])
            return seconds / steps[k]

        with self._busy_process() as other:
            for i in range(rounds):
                for k in range(len(workers)):
                    k = (i + k) % len(workers)
                    found[k].steps.append(turn(k))
                    if other is not None:
                        other.ask("work")
                        found[k].busy.append(turn(k))
                        other.ask("rest")
        if self.machine.gpu is None:
            for worker, measured in zip(workers, found, strict=True):
                measured.peak = worker.ask("peak")

    @contextmanager
    def _busy_process(self) -> Iterator[Worker | None]:
        """A process that keeps all cores busy when it is told to, if that is asked for."""
        if not self.busy:
            yield None
            return
        other = Worker(self.machine, self.machine.folder, {"kind": "busy"})
        try:
            yield other
        finally:
            other.close()


def agree(name: str, found: Found, tolerance: float) -> None:
    """Leave unless all losses are those of the first framework, but for rounding."""
    (first, truth), *others = found.items()
    for framework, measured in others:
        for i, (a, b) in enumerate(zip(truth.losses, measured.losses, strict=True)):
            if not abs(a - b) <= tolerance * abs(a):
                sys.exit(
                    f"{name}: {framework} computes something else than {first}: "
                    f"its loss is {b}, not {a}, after {i} updates"
                )


def apart(found: Found) -> float:
    """The largest relative difference of a loss from that of the first framework."""
    truth, *others = (measured.losses for measured in found.values())
    pairs = [pair for other in others for pair in zip(truth, other, strict=True)]
    return max((abs(a - b) / abs(a) for a, b in pairs), default=0.0)
