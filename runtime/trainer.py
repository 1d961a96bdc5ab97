"""The training loop: steps, epochs, the best parameters, checkpoints, and an exact resume.

    window of batches -> step, step, step -> ... -> epoch: evaluate, reset the sums, log, save

The state after step n is a function of the spec and n alone. A checkpoint holds all of it, the
metric sums of an epoch begun among it, so that it can be made at any step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from weft.backends.base import Backend
from weft.compiler.errors import Diagnostic, RunError
from weft.compiler.types import static_shape
from weft.runtime import executables
from weft.runtime.checkpoint import Checkpoint, checkpoint_path, latest, load, rotate, save
from weft.runtime.data.batches import BatchPlan, sizes
from weft.runtime.evaluation import evaluate
from weft.runtime.feed import Feed, Rows
from weft.runtime.ledger import Ledger, criterion
from weft.runtime.loading import Loaded
from weft.runtime.nonfinite import failure, origin
from weft.runtime.reporting import Compiling, Epoch, Progress, Reporter, Result, Start
from weft.runtime.run_folder import RunFolder, environment
from weft.runtime.session import session_for
from weft.runtime.signals import Interrupted, noted

REPORT_SECONDS = 0.1
KEPT_CHECKPOINTS = 2
COPY_STEPS = 256  # a copy of the state at most this often, to search from for a wrong number
COPY_BYTES = 64 << 20  # larger states are searched from the last checkpoint

Metrics = dict[str, float]


def here(backend: Backend) -> dict[str, object]:
    """What the last bits of a run depend on: versions, machine, backend."""
    return {**environment(backend.packages), "backend": backend.name, **backend.traits}


@dataclass(eq=False)
class Trainer:
    """One run, in a folder that `begin` has been called on and that this process has locked."""

    loaded: Loaded
    backend: Backend
    folder: RunFolder
    reporter: Reporter
    checkpoint_every: int | None = None
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        experiment, parts = self.loaded.experiment, self.loaded.parts
        self.settings = experiment.settings
        self.session = session_for(self.loaded, self.backend)
        assert experiment.data is not None  # `loaded.parts` has seen to it
        plan = BatchPlan(
            parts["train"],
            self.settings.batch,
            self.settings.shuffle,
            self.settings.seed,
            f"{experiment.data.name}.order",
            self.settings.drop_last,
        )
        fields, session = self.loaded.fields, self.session
        self.feed = Feed(fields, plan, session.fields("train_step"), self.backend)
        self.rows = Rows(fields, session.fields("eval_step"), self.backend)
        self.losses = tuple(o.name for o in experiment.forward.objectives)
        self.rule = criterion(experiment, parts)
        watched = {"valid"} | ({self.rule.split} if self.rule else set())
        watched |= {name.partition(".")[0] for name in self.session.fields("epoch_end")}
        self.evaluated = [name for name in parts if name in watched and name != "train"]
        self.step = 0
        self._saved = -1  # the step of the last checkpoint
        self._copy: tuple[int, dict[str, np.ndarray]] | None = None
        self._signals: list[int] = []

    # -- the run ----------------------------------------------------------------------------------

    def run(self) -> Result:
        """Train to the end, from the last checkpoint where there is one.

        Raises Interrupted after a signal, with the state saved; RunError for a loss that is not
        finite.
        """
        with noted() as self._signals, np.errstate(all="ignore"):
            warnings = self._begin()
            self.reporter.on_start(self._start(warnings))
            self._compile()
            self._began, self._from = time.perf_counter(), self.step
            self._epoch_began = self._began
            while not self.ledger.stopped:
                if self._epoch_pending:
                    self._end_epoch()
                elif self.step < self.settings.steps:
                    self._advance(self._next_event())
                    self._save_if_due()
                else:
                    break
                self._leave_if_asked()
            result = self._end()
        self.reporter.on_end(result)
        return result

    def _begin(self) -> tuple[Diagnostic, ...]:
        found = latest(self.folder.checkpoints)
        warnings = [
            Diagnostic(
                f"the checkpoint `{path.name}` is passed over", found=why, severity="warning"
            )
            for path, why in found.skipped
        ]
        if found.checkpoint is None:
            self.session.initialise(self.settings.seed)
        else:
            self._resume(found.checkpoint)
            warnings += [
                Diagnostic(
                    "the run began elsewhere: its numbers may differ in their last bits",
                    found=difference,
                    severity="warning",
                )
                for difference in self.folder.moved(here(self.backend))
            ]
        self.folder.metrics.keep(self.step - 1 if self._epoch_pending else self.step)
        return (*self.loaded.warnings, *warnings, *executables.warnings(self.backend))

    def _compile(self) -> None:
        """Make all code that the run will need, so that no step waits for a compiler."""
        measured = [*self.evaluated, *({"test"} & self.loaded.parts.keys() - {*self.evaluated})]
        batch = self.settings.batch
        found = {size: None for s in measured for size in sizes(self.loaded.parts[s], batch)}
        self.reporter.on_compile(Compiling(self.feed.sizes, tuple(found)))
        self.feed.compile()
        self.rows.compile(found)
        for size in self.feed.sizes:
            self.session.step("train_step", size)
        for size in found:
            self.session.step("eval_step", size)
        self.session.step("epoch_end")

    def _resume(self, checkpoint: Checkpoint) -> None:
        self.session.load(checkpoint.tensors)
        self.ledger = Ledger.from_json(checkpoint.metadata.get("ledger", ""))
        self.step = self._saved = int(checkpoint.tensors["step"])

    def _start(self, warnings: tuple[Diagnostic, ...]) -> Start:
        program = self.session.program
        sizes = (s.type for s in program.states.values() if s.role == "parameter")
        return Start(
            name=program.name,
            folder=self.folder.path,
            backend=self.backend.name,
            step=self.step,
            steps=self.settings.steps,
            steps_per_epoch=self.settings.steps_per_epoch,
            parameters=sum(math.prod(static_shape(t.shape)) for t in sizes),
            warnings=warnings,
        )

    # -- steps ------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the last step, counted from 1."""
        return max(1, -(-self.step // self.settings.steps_per_epoch))

    @property
    def _epoch_pending(self) -> bool:
        """Whether the last step ended an epoch whose sums are not yet taken."""
        at_end = self.step == self.settings.steps or not self.step % self.settings.steps_per_epoch
        return at_end and float(self.session.state["metrics.count"]) > 0

    def _next_event(self) -> int:
        """The step up to which nothing but steps happens."""
        per_epoch = self.settings.steps_per_epoch
        events = [self.settings.steps, (self.step // per_epoch + 1) * per_epoch]
        if self.checkpoint_every:
            events.append((self.step // self.checkpoint_every + 1) * self.checkpoint_every)
        return min(events)

    def _advance(self, until: int) -> None:
        """Steps up to `until`, or until a signal comes. All that a step costs here is this loop."""
        signals, clock = self._signals, time.perf_counter
        due = clock() + REPORT_SECONDS
        while self.step < until and not signals:
            self._remember()
            size, batches = self.feed.window(self.step, until)
            call, step = self.session.step("train_step", size), self.step
            for inputs in batches:
                call(inputs)
                step += 1
                if clock() < due and not signals:
                    continue
                if signals:
                    break
                self.step = step
                self._report()
                due = clock() + REPORT_SECONDS
            self.step = step
            self._check_losses()

    def _report(self) -> None:
        seconds = time.perf_counter() - self._began
        pace = (self.step - self._from) / max(seconds, 1e-9)
        left = (self.settings.steps - self.step) / max(pace, 1e-9)
        self.reporter.on_step(Progress(self.step, self.epoch, self._means(), pace, left))

    def _means(self) -> Metrics:
        """Means since the epoch began."""
        state = self.session.state
        count = max(float(state["metrics.count"]), 1.0)
        names = self.session.program.metrics
        return {name: float(state[f"metrics.{name}"]) / count for name in names}

    # -- epochs -----------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        """Evaluate, take the sums, log and save. Killed anywhere in it, it is done again whole."""
        others = {split: self._evaluate(split) for split in self.evaluated}
        seen = {f"{s}.{n}": np.array(v) for s, ms in others.items() for n, v in ms.items()}
        means = self.session.run("epoch_end", seen)
        measured = {"train": {n: float(v) for n, v in means.items()}, **others}
        self.ledger = self.ledger.after(self.rule, self.step, self.epoch, measured)
        flat = {f"{part}.{n}": v for part, values in measured.items() for n, v in values.items()}
        self.folder.metrics.append({"step": self.step, "epoch": self.epoch, **flat})
        self._save()
        now = time.perf_counter()
        seconds, self._epoch_began = now - self._epoch_began, now
        self.folder.timings.append({"step": self.step, "epoch": self.epoch, "seconds": seconds})
        best = self.ledger.kept is not None and self.ledger.kept.step == self.step
        valid = measured.get("valid", {})
        self.reporter.on_epoch(
            Epoch(self.epoch, self.step, measured["train"], valid, best, seconds)
        )

    def _evaluate(self, split: str) -> Metrics:
        part = self.loaded.parts[split]
        return evaluate(self.session, part, self.settings.batch, self.rows)

    def _end(self) -> Result:
        """Measure the test part with the kept parameters, and record how the run ended."""
        kept = self.ledger.kept
        assert kept is not None  # the last step ends an epoch
        test: Mapping[str, float] = {}
        if "test" in self.loaded.parts:
            if kept.step != self.step:
                path = checkpoint_path(self.folder.checkpoints, kept.step)
                self.session.load(_checkpoint(path).tensors)
            test = self._evaluate("test")
        result = Result(
            steps=self.step,
            epochs=self.epoch,
            best_step=kept.step,
            best_epoch=kept.epoch,
            stopped_early=self.ledger.stopped,
            train=kept.metrics["train"],
            valid=kept.metrics.get("valid", {}),
            test=test,
        )
        self.folder.end(asdict(result))
        return result

    # -- checkpoints ------------------------------------------------------------------------------

    def _save(self) -> None:
        self._check_parameters()
        folder = self.folder.checkpoints
        metadata = {"ledger": self.ledger.to_json(), "backend": self.backend.name}
        save(checkpoint_path(folder, self.step), self.session.tensors(), metadata)
        self._saved = self.step
        spare = frozenset({self.ledger.kept.step} if self.ledger.kept else ())
        rotate(folder, KEPT_CHECKPOINTS, spare)

    def _save_if_due(self) -> None:
        every = self.checkpoint_every
        if every and self.step % every == 0 and not self._epoch_pending:
            self._save()

    def _leave_if_asked(self) -> None:
        if self._signals:
            if self._saved != self.step or self._epoch_pending:
                self._save()
            raise Interrupted(self._signals[0], self.step, str(self.folder.path))

    # -- numbers that are not finite --------------------------------------------------------------

    def _remember(self) -> None:
        """A copy of the state now and then, where that is cheap."""
        if self.session.bytes > COPY_BYTES:
            return
        if self._copy is None or self.step - self._copy[0] >= COPY_STEPS:
            self._copy = self.step, self.session.copy()

    def _check_losses(self) -> None:
        """A loss that was not finite since the epoch began still shows in its sum."""
        state = self.session.state
        if not all(math.isfinite(float(state[f"metrics.{name}"])) for name in self.losses):
            self._diagnose("the loss")

    def _check_parameters(self) -> None:
        if not all(_finite(self.session.state[name]) for name in self._parameters):
            self._diagnose("a parameter")

    @property
    def _parameters(self) -> list[str]:
        """The arenas and tensors of the state that hold parameters."""
        roles = {name: s.role for name, s in self.session.program.states.items()}
        arenas = {a.name: roles[a.members[0].name] for a in self.session.arenas}
        return [n for n in self.session.state if {**roles, **arenas}[n] == "parameter"]

    def _diagnose(self, what: str) -> None:
        """Find the step and the operation, from the last good state on; raises RunError."""
        end = self.step
        bad = self._first_bad(end)
        if bad is None:
            raise failure(end, what, None, {})
        self._rewind()
        while self.step < bad:
            self._one()
        size, (inputs, *_) = self.feed.window(self.step, self.step + 1)
        before = {name: array.copy() for name, array in self.session.tensors().items()}
        losses = self._one()
        wrong = next((n for n in self.losses if not math.isfinite(float(losses[n]))), None)
        what = "a parameter" if wrong is None else f"the loss `{wrong}`".replace(" `loss`", "")
        found = origin(self.session.program.train_step, {**before, **inputs}, size, self.losses)
        places = {field.name: field.span for field in self.loaded.fields.spec.fields}
        raise failure(bad + 1, what, found, places)

    def _first_bad(self, end: int) -> int | None:
        """The step, counted from 0, that first left something not finite."""
        self._rewind()
        while self.step < end:
            losses = self._one()
            good = all(math.isfinite(float(losses[name])) for name in self.losses)
            if not good or not all(_finite(self.session.state[n]) for n in self._parameters):
                return self.step - 1
        return None

    def _one(self) -> Mapping[str, np.ndarray]:
        size, (inputs, *_) = self.feed.window(self.step, self.step + 1)
        self.step += 1
        return self.session.step("train_step", size)(inputs)

    def _rewind(self) -> None:
        """Back to the last copy, else to the last checkpoint, else to the start."""
        if self._copy is not None and self._copy[0] >= self._saved:
            self.step = self._copy[0]
            self.session.restore(self._copy[1])
        elif self._saved >= 0:
            checkpoint = _checkpoint(checkpoint_path(self.folder.checkpoints, self._saved))
            self.session.load(checkpoint.tensors)
            self.step = self._saved
        else:
            self.session.initialise(self.settings.seed)
            self.step = 0


def _finite(array: np.ndarray) -> bool:
    if array.dtype.kind != "f" or not array.size:
        return True
    # Both hand a NaN on, and neither needs memory.
    return bool(np.isfinite(array.max()) and np.isfinite(array.min()))


def _checkpoint(path: Path) -> Checkpoint:
    try:
        return load(path)
    except RunError as error:
        d = error.diagnostic
        raise RunError(
            d.message, found=d.found, hint="begin a new run: this one's checkpoint is lost"
        ) from error
