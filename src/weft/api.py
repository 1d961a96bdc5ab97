"""The objects of the Python API: an experiment that can be checked and trained, and its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.compiler.errors import Diagnostic, RunError, one_of
from weft.runtime.backends import AUTO, backend_named
from weft.runtime.loading import Loaded, load_spec, read
from weft.runtime.reporting import Reporter, Result, Silent
from weft.runtime.session import Session, session_for

if TYPE_CHECKING:
    from weft.backends.base import Backend
    from weft.compiler.analysis import Report
    from weft.compiler.types import TensorType
    from weft.runtime.data.outside import Given
    from weft.runtime.profile import Profile
    from weft.runtime.verification.report import Verification

Arrays = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Experiment:
    """A spec that compiles: its graphs, its settings and its data."""

    loaded: Loaded

    @classmethod
    def load(
        cls,
        path_or_text: str | Path,
        overrides: Mapping[str, Any],
        data: Mapping[str, Given] | None = None,
    ) -> Experiment:
        """See `weft.load`."""
        source, base = read(path_or_text)
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in overrides.items()}
        return cls(load_spec(source, base, plain, data))

    @property
    def name(self) -> str:
        return self.loaded.experiment.name

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """What is allowed but probably not meant, in the spec and in its data."""
        return self.loaded.warnings

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The names of the classes of those columns that hold class numbers, in their order.

        Of a text, they are its characters.
        """
        return classes_of(self.loaded)

    @property
    def fingerprint(self) -> str:
        """A hash of what the spec means; comments and white space don't change it."""
        return self.loaded.fingerprint

    def check(self, backend: str = "numpy") -> Report:
        """Parameters, operations and memory, in all and by source line, before anything runs."""
        from weft.compiler.analysis import analyse

        session = session_for(self.loaded, self._backend(backend))
        batch = self.loaded.experiment.settings.batch
        plan = session.plan("train_step", batch)
        report = analyse(self.loaded.experiment, session.program, plan)
        return replace(report, warnings=self.warnings)

    def profile(
        self, backend: str = "auto", graph: str = "train_step", steps: int | None = None
    ) -> Profile:
        """Time a graph on full batches, whole and by kernel, beside what the machine can do.

        Without `steps`, for about two seconds. Data that is not at hand is made up.
        """
        from weft.runtime.profile import profile

        return profile(self.loaded, self._backend(backend), graph, steps)

    def verify(self, backend: str = "numpy") -> Verification:
        """Hold the experiment to its mathematics, and the backend to the reference.

        Gradients against slopes, updates against their equations, passes, plans and kernels
        against what they stand for, random bits bit for bit. Raises RunError for a spec that is
        too large for the reference.
        """
        from weft.runtime.verification.checks import verify

        return verify(self.loaded, self._backend(backend))

    def _backend(self, name: str) -> Backend:
        return backend_named(name, self.loaded.program.types)

    def train(
        self,
        backend: str | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        reporter: Reporter | None = None,
        checkpoint_every: int | None = None,
    ) -> Run:
        """Train to the end and return the run, which lives in a folder.

        `backend`: `auto`, the fastest that can run here, unless the run began on another.
        `out`: the run's folder; else the next free one of `runs/NAME-001`, ... `resume` goes on
        with the run in `out` where it was killed (or begins it, when it never began), and ends
        with the same bytes as one that was never killed. `checkpoint_every` saves after that many
        steps too, not only after each epoch.

        Raises RunError: the folder holds another run, another process trains in it, or a loss is
        not finite; Interrupted (a RunError) after a state was saved for SIGINT or SIGTERM.
        """
        from weft.runtime.runs import begun_on, run

        out = Path(out) if out is not None else None
        chosen = backend_named(
            backend or (begun_on(out) if resume else None) or AUTO, self.loaded.program.types
        )
        folder = run(
            self.loaded,
            chosen,
            reporter or Silent(),
            out,
            resume,
            checkpoint_every,
        )
        return Run(folder.path, self.loaded, chosen.name)


@dataclass(frozen=True, eq=False)
class Run:
    """A run in its folder, with the best parameters it has found so far."""

    folder: Path
    loaded: Loaded
    backend: str = "numpy"

    @classmethod
    def open(
        cls,
        folder: Path,
        data: Mapping[str, Given] | None = None,
        backend: str | None = None,
    ) -> Run:
        """See `weft.open_run`."""
        from weft.runtime.run_folder import RunFolder
        from weft.runtime.runs import reopen

        found = RunFolder.open(folder)
        loaded = reopen(found, data)
        if backend:
            chosen = backend_named(backend, loaded.program.types).name
        else:
            chosen = found.record.get("backend", "numpy")
        return cls(folder, loaded, chosen)

    def resume(
        self,
        backend: str | None = None,
        reporter: Reporter | None = None,
        checkpoint_every: int | None = None,
    ) -> Run:
        """Train on to the end, where it isn't reached; see `Experiment.train`."""
        return Experiment(self.loaded).train(
            backend or self.backend, self.folder, True, reporter, checkpoint_every
        )

    @cached_property
    def result(self) -> Result:
        """Steps, the kept step and epoch, and the metrics of each part.

        Of a run that hasn't ended: where its last checkpoint stands.
        """
        from weft.runtime.run_folder import RunFolder
        from weft.runtime.runs import result

        return result(RunFolder.open(self.folder))

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Under `train`, `valid` and `test` (those that are measured): each metric by name.

        Those of `train` are means over the epoch of the kept parameters, made while it ran.
        """
        found = {"train": self.result.train, "valid": self.result.valid, "test": self.result.test}
        return {part: dict(values) for part, values in found.items() if values}

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return self.result.steps

    @property
    def fields(self) -> dict[str, TensorType]:
        """What the model reads: fields of the data by name, with the batch as the first axis."""
        program = self.loaded.program
        inputs = program.predict.inputs
        return {n.name: n.type for n in inputs if n.name not in program.states}

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """As `Experiment.classes`; the data need not be there."""
        return classes_of(self.loaded)

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """The kept state by name: parameters, averages, running statistics, and the rest."""
        from weft.runtime.run_folder import RunFolder
        from weft.runtime.runs import kept

        return kept(RunFolder.open(self.folder))[0].tensors

    def predict(
        self, arrays: Arrays | np.ndarray | None = None, rows: int | None = None
    ) -> dict[str, np.ndarray]:
        """The model's outputs by name, for fields by name as in the data block (prepared values).

        A single array will do where the model reads one field. Any number of rows. A model that
        reads no field, such as a generator that draws its own noise, takes `rows` instead. Raises
        RunError for a field that is missing, unknown, or of another shape or type.
        """
        from weft.runtime.evaluation import checked, draw, predict

        session, fields = self._session, self.fields
        types = {name: type.with_shape(type.shape[1:]) for name, type in fields.items()}
        if not session.graph("predict").outputs:
            raise RunError(
                "the spec says nothing about prediction",
                expected="a line in `train` such as `predict = net(x)`",
            )
        if not types:
            return draw(session, arrays, rows)
        if rows is not None or arrays is None:
            raise RunError(
                f"the model reads {one_of(types)}",
                expected="arrays, whose first axis says how many rows there are",
                found="a number of rows" if rows is not None else "nothing",
            )
        if not isinstance(arrays, Mapping):
            if len(types) != 1:
                raise RunError(
                    "the model reads several fields", expected=f"arrays for {one_of(types)} by name"
                )
            arrays = {next(iter(types)): arrays}
        ready = checked(arrays, types)
        return predict(session, ready, len(next(iter(ready.values()))))

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Losses and metrics on a part of the data, as evaluation sees them, with the kept state.

        Raises RunError when the data has no such part, or isn't where the spec says.
        """
        from weft.runtime.evaluation import evaluate
        from weft.runtime.feed import Rows

        loaded, session = self.loaded, self._session
        if split not in loaded.parts:
            raise RunError(f"the data has no part `{split}`", expected=one_of(loaded.parts))
        rows = Rows(loaded.fields, session.fields("eval_step"), session.backend)
        batch = loaded.experiment.settings.batch
        return evaluate(session, loaded.parts[split], batch, rows)

    def export_onnx(self, path: str | Path, opset: int = 21, raw: bool = False) -> Path:
        """Write the trained model as ONNX: evaluation semantics, a symbolic batch.

        Inputs are the fields that the model reads; with `raw` they are the columns of the data
        source, which the model then prepares itself as the data block says. Raises RunError for
        what ONNX can't say.
        """
        from weft.backends.onnx.export import export_predict
        from weft.runtime.files import write_atomically
        from weft.runtime.fitted import from_columns

        about = {"spec": self.loaded.fingerprint, "step": str(self.result.best_step)}
        program, fitted = self.loaded.program, None
        if raw:
            prepare, fitted = self.loaded.preparation
            program = replace(program, predict=from_columns(program.predict, prepare))
        model = export_predict(program, self.tensors, constants=fitted, opset=opset, metadata=about)
        write_atomically(Path(path), model.SerializeToString())
        return Path(path)

    @cached_property
    def _session(self) -> Session:
        session = session_for(self.loaded, backend_named(self.backend, self.loaded.program.types))
        session.load(self.tensors)
        return session


def classes_of(loaded: Loaded) -> dict[str, tuple[str, ...]]:
    """The names of classes, by column."""
    data = loaded.experiment.data
    return dict(data.classes) if data is not None else {}
