"""What a run remembers besides its tensors: the best epoch so far, and its patience."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from weft.compiler.errors import RunError
from weft.compiler.program import EarlyStop, Experiment

Metrics = dict[str, float]


@dataclass(frozen=True)
class Criterion:
    """Which epoch is best: by a metric of a part of the data."""

    split: str
    metric: str
    mode: str
    patience: int | None = None

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best so far; one that is not finite never is."""
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        return value < best if self.mode == "min" else value > best


def criterion(experiment: Experiment, splits: Mapping[str, Any]) -> Criterion | None:
    """That of `stop`; else the loss on `valid`; None, where there is neither: the last epoch."""
    stop: EarlyStop | None = experiment.settings.stop
    if stop is not None:
        return Criterion(stop.split, stop.metric, stop.mode, stop.patience)
    if "valid" in splits and "loss" in experiment.eval_metrics:
        return Criterion("valid", "loss", "min")
    return None


@dataclass(frozen=True)
class Kept:
    """The epoch whose parameters are the run's: its last step, and what it measured."""

    step: int
    epoch: int
    value: float | None
    metrics: Mapping[str, Metrics]  # by part of the data


@dataclass(frozen=True)
class Ledger:
    """Changes once an epoch. `waited` counts the epochs since the best one."""

    kept: Kept | None = None
    waited: int = 0
    stopped: bool = False

    def after(
        self, rule: Criterion | None, step: int, epoch: int, metrics: Mapping[str, Metrics]
    ) -> Ledger:
        """The ledger after an epoch that measured `metrics`."""
        value = metrics[rule.split][rule.metric] if rule else None
        best = self.kept.value if self.kept else None
        if rule is None or value is None or rule.improves(value, best):
            return Ledger(Kept(step, epoch, value, metrics))
        if self.kept is None:
            # Nothing finite yet: hold what there is, and let any finite value replace it.
            return Ledger(Kept(step, epoch, None, metrics), 1, rule.patience == 1)
        waited = self.waited + 1
        stopped = rule.patience is not None and waited >= rule.patience
        return replace(self, waited=waited, stopped=stopped)

    def to_json(self) -> str:
        """As text, with numbers to the last bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """The ledger that `to_json` wrote; RunError for any other text."""
        try:
            record = json.loads(text)
            kept = record["kept"]
            return cls(
                Kept(**kept) if kept is not None else None,
                int(record["waited"]),
                bool(record["stopped"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RunError("a checkpoint has no record of the run", found=str(error)) from error
