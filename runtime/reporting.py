"""What a training run tells while it works: plain records, handed to a reporter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from weft.compiler.errors import Diagnostic

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Start:
    """Training begins at `step` (0, or where a resumed run stood) and ends at `steps`."""

    name: str
    folder: Path
    backend: str
    step: int
    steps: int
    steps_per_epoch: int
    parameters: int
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def epochs(self) -> int:
        """The number of epochs, the last of which may be cut short."""
        return -(-self.steps // self.steps_per_epoch)


@dataclass(frozen=True)
class Compiling:
    """Code is made for batches of these sizes: those that train, and those of evaluation."""

    train: tuple[int, ...]
    evaluation: tuple[int, ...]


@dataclass(frozen=True)
class Progress:
    """Somewhere in an epoch (counted from 1): means of the metrics since it began, and the pace."""

    step: int
    epoch: int
    metrics: Metrics
    steps_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Epoch:
    """An epoch (counted from 1) is over. `best` tells whether its parameters are the best yet."""

    epoch: int
    step: int
    train: Metrics
    valid: Metrics
    best: bool
    seconds: float


@dataclass(frozen=True)
class Result:
    """How a run ended: `train` and `valid` at the kept parameters' epoch, `test` with them."""

    steps: int
    epochs: int
    best_step: int
    best_epoch: int
    stopped_early: bool
    train: Metrics
    valid: Metrics
    test: Metrics


class Reporter(Protocol):
    """Hears of a run. `on_step` is called a few times a second, the others at their events."""

    def on_start(self, start: Start) -> None: ...

    def on_compile(self, compiling: Compiling) -> None: ...

    def on_step(self, progress: Progress) -> None: ...

    def on_epoch(self, epoch: Epoch) -> None: ...

    def on_end(self, result: Result) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def on_start(self, start: Start) -> None:
        pass

    def on_compile(self, compiling: Compiling) -> None:
        pass

    def on_step(self, progress: Progress) -> None:
        pass

    def on_epoch(self, epoch: Epoch) -> None:
        pass

    def on_end(self, result: Result) -> None:
        pass
