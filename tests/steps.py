"""Training steps for tests: a spec over arrays given here, run by the reference interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weft.compiler.errors import Source
from weft.compiler.evaluate import evaluate
from weft.compiler.philox import seed_words
from weft.compiler.program import Experiment, Program
from weft.compiler.training import build
from weft.compiler.types import TensorType, dtype_of
from weft.frontends.dsl.data import Opened
from weft.frontends.dsl.elaborate import elaborate


@dataclass
class Arrays:
    """A data provider over arrays: every source has them as its columns."""

    columns: Mapping[str, np.ndarray]
    examples: Mapping[str, int] = field(default_factory=dict)

    def open(
        self,
        data: str,
        source: str,
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
        split: Mapping[str, float | int],
    ) -> Opened:
        types = {n: TensorType(dtype_of(a), a.shape[1:]) for n, a in self.columns.items()}
        size = len(next(iter(self.columns.values())))
        return Opened(types, dict(self.examples) or dict.fromkeys(split, size))


@dataclass
class Steps:
    """A program and its state, stepped by `evaluate` on whole batches."""

    experiment: Experiment
    program: Program
    state: dict[str, np.ndarray]

    @classmethod
    def of(cls, text: str, columns: Mapping[str, np.ndarray], **overrides: Any) -> Steps:
        experiment = elaborate(Source("spec.weft", text), Arrays(columns), Path(), overrides)
        program = build(experiment)
        seed = seed_words(experiment.settings.seed)
        return cls(experiment, program, dict(evaluate(program.init, {"seed": seed})))

    def step(self, **fields: np.ndarray) -> dict[str, np.ndarray]:
        """One update on a batch; the other outputs, such as the loss."""
        graph = self.program.train_step
        known = {**self.state, **fields}
        batch = len(next(iter(fields.values())))
        inputs = {n.name: known[n.name] for n in graph.inputs}
        outputs = evaluate(graph, inputs, {"batch": batch})
        self.state |= {k: v for k, v in outputs.items() if k in self.state}
        return {k: v for k, v in outputs.items() if k not in self.state}
