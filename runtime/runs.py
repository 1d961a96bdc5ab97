"""Runs in their folders: begun, gone on with, opened again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import Any

from weft.backends.base import Backend
from weft.compiler.errors import RunError
from weft.frontends.dsl.parser import read_source
from weft.runtime.checkpoint import Checkpoint, checkpoint_path, latest, load
from weft.runtime.data.outside import Given
from weft.runtime.digest import data_digest
from weft.runtime.ledger import Ledger
from weft.runtime.loading import Loaded, assemble
from weft.runtime.provider import Opener, Recorded, record
from weft.runtime.reporting import Reporter, Result
from weft.runtime.resolved import resolved
from weft.runtime.run_folder import RunFolder
from weft.runtime.trainer import Trainer, here

RUNS = Path("runs")


def run(
    loaded: Loaded,
    backend: Backend,
    reporter: Reporter,
    out: Path | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
) -> RunFolder:
    """Train to the end in a folder: a new one, or with `resume` one that a run began in.

    Raises RunError: see `Experiment.train`.
    """
    _ = loaded.columns  # before there is a folder: without examples there is no run
    if resume and out is None:
        raise RunError("which run is to go on?", expected="its folder, as `out`")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise RunError("`checkpoint_every` is a number of steps", found=f"{checkpoint_every}")
    if out is not None and resume and RunFolder(out).begun:
        folder = RunFolder.open(out)
    else:
        folder = RunFolder.create(RUNS, loaded.experiment.name, out)
    with folder.locked():
        if folder.begun and not resume:  # by a process that was faster
            raise RunError(f"`{folder.path}` holds another run")
        if folder.begun:
            _require_same(folder, loaded)
        else:
            _begin(folder, loaded, backend)
        if folder.result is None:
            Trainer(loaded, backend, folder, reporter, checkpoint_every).run()
        else:
            reporter.on_end(result(folder))
    return folder


def begun_on(out: Path | None) -> str | None:
    """The backend of the run in a folder; None where none has begun."""
    if out is None or not RunFolder(out).begun:
        return None
    found: str | None = RunFolder.open(out).record.get("backend")
    return found


def _begin(folder: RunFolder, loaded: Loaded, backend: Backend) -> None:
    standing = resolved(loaded.source, loaded.base)
    assert loaded.experiment.data is not None  # else `loaded.columns` has raised
    folder.begin(
        standing.text,
        loaded.fingerprint,
        asdict(loaded.experiment.settings),
        _plain(loaded.overrides),
        here(backend),
        standing.imports,
        loaded.fields.fitted,
        name=loaded.experiment.name,
        base=_from(folder.path, loaded.opener.base),
        backend=backend.name,
        data=record(loaded.experiment.data.name, loaded.data),
        digest=data_digest(loaded.columns),
        outside={
            name: _from(folder.path, Path(given))
            for name, given in loaded.opener.outside.items()
            if not isinstance(given, Mapping)
        },
    )


def _require_same(folder: RunFolder, loaded: Loaded) -> None:
    folder.require_spec(loaded.fingerprint, _plain(loaded.overrides))
    if folder.record.get("digest") != data_digest(loaded.columns):
        raise RunError(
            f"the data have changed since the run at `{folder.path}` began",
            expected="the same data, so that the run ends as if it had never stopped",
            hint="begin a new run",
        )


def _from(folder: Path, base: Path) -> str:
    """The path from the run's folder to another place, so that both can move together."""
    try:
        return Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return base.resolve().as_posix()


def _plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides as JSON knows them; RunError for a value that it has no word for."""

    def known(value: Any) -> bool:
        if isinstance(value, list):
            return all(map(known, value))
        return isinstance(value, bool | int | float | str)

    for name, value in overrides.items():
        if not known(value):
            raise RunError(
                f"`{name}` can't be recorded",
                expected="a number, a truth value, a list of them, or text as in a spec",
                found=type(value).__name__,
            )
    return dict(overrides)


def reopen(folder: RunFolder, outside: Mapping[str, Given] | None = None) -> Loaded:
    """The spec of a run, from its folder alone; its data are opened where they are needed.

    `outside` says where data without a source are now, if not where they were.

    Raises RunError for a spec that was edited there and means something else now: the parameters
    are not its own.
    """
    record = folder.record
    were = {name: folder.path / path for name, path in record.get("outside", {}).items()}
    loaded = assemble(
        read_source(folder.spec_path),
        folder.path,
        record.get("overrides", {}),
        Recorded(record.get("data", {})),
        Opener(folder.path / record.get("base", "."), {**were, **(outside or {})}),
        record.get("name"),
    )
    edited = folder.edited
    if edited and loaded.fingerprint != record.get("hash"):
        raise RunError(
            f"`{folder.path / edited[0]}` was edited since the run began",
            expected=f"the spec with hash `{record.get('hash')}`",
            found=f"`{loaded.fingerprint}`",
            hint="put it back as it was; to try a change, train a spec of your own anew",
        )
    return replace(loaded, fitted=folder.fitted)


def kept(folder: RunFolder) -> tuple[Checkpoint, Ledger]:
    """The checkpoint of the best step so far. Raises RunError for a run that has none yet.

    Of a run that has ended it is the one that the result names, and no other will do.
    """
    ended = folder.result
    if ended is not None:
        best = load(checkpoint_path(folder.checkpoints, int(ended["best_step"])))
        return best, Ledger.from_json(best.metadata.get("ledger", ""))
    found = latest(folder.checkpoints)
    newest, skipped = found.checkpoint, found.skipped
    if newest is None and skipped:
        raise RunError(
            f"no checkpoint of the run at `{folder.path}` is whole",
            found=f"damage in {', '.join(f'`{path.name}`' for path, _ in skipped)}",
            hint=f"begin again: `weft train --resume {quote(str(folder.path))}`",
        )
    if newest is None:
        raise RunError(
            f"the run at `{folder.path}` has no parameters yet",
            hint=f"train on: `weft train --resume {quote(str(folder.path))}`",
        )
    ledger = Ledger.from_json(newest.metadata.get("ledger", ""))
    if ledger.kept is None or checkpoint_path(folder.checkpoints, ledger.kept.step) == newest.path:
        return newest, ledger
    return load(checkpoint_path(folder.checkpoints, ledger.kept.step)), ledger


def result(folder: RunFolder) -> Result:
    """How the run ended; for one that hasn't, where it stands, without measures of `test`."""
    ended = folder.result
    if ended is not None:
        return Result(**ended)
    newest = latest(folder.checkpoints).checkpoint
    if newest is None:
        return Result(0, 0, 0, 0, False, {}, {}, {})
    ledger = Ledger.from_json(newest.metadata.get("ledger", ""))
    per_epoch = int(folder.record["settings"]["steps_per_epoch"])
    step, best = int(newest.tensors["step"]), ledger.kept
    return Result(
        steps=step,
        epochs=-(-step // per_epoch),
        best_step=best.step if best else step,
        best_epoch=best.epoch if best else -(-step // per_epoch),
        stopped_early=ledger.stopped,
        train=best.metrics["train"] if best else {},
        valid=best.metrics.get("valid", {}) if best else {},
        test={},
    )
