"""The folder of a run: what was run, where, what it measured, and what it needs to go on.

runs/digits_mlp-001/
  spec.weft          the spec as run, imports and settings resolved
  spec.json          its hash, settings and overrides; written last, it marks a run
  environment.json   versions, platform, threads
  fitted.npz         what fields of the data take from all examples that train, if they do
  metrics.jsonl      what each epoch measured: one JSON object a line
  timings.jsonl      how long each took: the only file that two equal runs differ in
  result.json        how it ended; only there once it has
  checkpoints/       see checkpoint.py
  imports/           copies of the files that the spec imports
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.compiler.errors import RunError
from weft.runtime.data.sources import FAULTS
from weft.runtime.files import write_atomically
from weft.runtime.metrics_log import MetricsLog

_SPEC, _MARK, _ENVIRONMENT, _METRICS = "spec.weft", "spec.json", "environment.json", "metrics.jsonl"
_CHECKPOINTS, _IMPORTS, _LOCK = "checkpoints", "imports", ".lock"
_TIMINGS, _RESULT, _FITTED = "timings.jsonl", "result.json", "fitted.npz"
_SEAL = "checksum"
_PACKAGES = ("weft", "numpy", "lark", "networkx", "onnx", "safetensors")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder; made by `create`, found again by `open`."""

    path: Path

    @classmethod
    def create(cls, runs: Path, name: str, path: Path | None = None) -> RunFolder:
        """A new folder: `path` when given, else `runs/<name>-NNN` with the next free number.

        Two processes that do this at once get two folders. Raises RunError when `path` holds
        another run or other files, and when no folder can be made.
        """
        try:
            if path is not None:
                _claim(path)
                return cls(path)
            runs.mkdir(parents=True, exist_ok=True)
            while True:
                candidate = runs / f"{name}-{_next_number(runs, name):03d}"
                try:
                    candidate.mkdir()
                except FileExistsError:
                    continue  # another process was first
                return cls(candidate)
        except OSError as error:
            raise RunError(
                f"no folder for the run can be made at `{path or runs}`",
                found=error.strerror or str(error),
            ) from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that began; RunError when there is none at `path`."""
        if not cls(path).begun:
            raise RunError(
                f"there is no run at `{path}`",
                expected="the folder that `weft train` made, such as `runs/digits-001`",
                found=_instead(path),
            )
        return cls(path)

    @property
    def begun(self) -> bool:
        """Whether `begin` has been here."""
        return (self.path / _MARK).is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The folder for this process alone; RunError when another one has it.

        The lock goes with the process, however that ends. Systems without `fcntl` have none.
        """
        try:
            import fcntl
        except ImportError:
            yield
            return
        with (self.path / _LOCK).open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    f"another process is training in `{self.path}`",
                    hint="wait for it, or name another folder",
                ) from error
            yield

    def begin(
        self,
        spec: str,
        spec_hash: str,
        settings: Mapping[str, Any],
        overrides: Mapping[str, Any],
        environment: Mapping[str, Any],
        imports: Mapping[str, str] | None = None,
        fitted: Mapping[str, np.ndarray] | None = None,
        **more: Any,
    ) -> None:
        """Records what is run and where. From here on the folder can be opened.

        `imports` are the texts of imported files by the names that `spec` has for them, `fitted`
        are statistics of the data, `more` is added to the record.
        """
        (self.path / _CHECKPOINTS).mkdir(exist_ok=True)
        for name, text in (imports or {}).items():
            (self.path / name).parent.mkdir(exist_ok=True)
            write_atomically(self.path / name, text.encode())
        if fitted:
            stream = io.BytesIO()
            np.savez(stream, allow_pickle=False, **fitted)
            write_atomically(self.path / _FITTED, stream.getvalue())
        write_atomically(self.path / _SPEC, spec.encode())
        write_atomically(self.path / _ENVIRONMENT, _json(environment))
        known = {"hash": spec_hash, "settings": dict(settings), "overrides": dict(overrides)}
        known["texts"] = self._texts([_SPEC, *(imports or {})])
        write_atomically(self.path / _MARK, _json(_sealed({**more, **known})))

    def end(self, result: Mapping[str, Any]) -> None:
        """Records how the run ended."""
        write_atomically(
            self.path / _RESULT, (json.dumps(_sealed(result), indent=2) + "\n").encode()
        )

    @property
    def result(self) -> dict[str, Any] | None:
        """What `end` recorded; None for a run that has not ended."""
        path = self.path / _RESULT
        return _read_json(path) if path.is_file() else None

    @property
    def fitted(self) -> dict[str, np.ndarray]:
        """The statistics of the data that `begin` was given."""
        path = self.path / _FITTED
        if not path.is_file():
            return {}
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        except FAULTS as error:
            raise RunError(f"`{path}` cannot be read", found=str(error)) from error

    @property
    def timings(self) -> MetricsLog:
        """The log of how long its epochs took."""
        return MetricsLog(self.path / _TIMINGS)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / _CHECKPOINTS

    @property
    def metrics(self) -> MetricsLog:
        """The log of what the run measured."""
        return MetricsLog(self.path / _METRICS)

    @property
    def spec_path(self) -> Path:
        """The file of the spec as it was run."""
        return self.path / _SPEC

    @property
    def spec(self) -> str:
        """The text of the spec as it was run."""
        return _read(self.spec_path)

    @property
    def record(self) -> dict[str, Any]:
        """`hash`, `settings` and `overrides` of the spec, and what else `begin` was given."""
        return _read_json(self.path / _MARK)

    @property
    def environment(self) -> dict[str, Any]:
        """Where the run began, as `environment()` tells."""
        return _read_json(self.path / _ENVIRONMENT)

    @property
    def edited(self) -> list[str]:
        """The files of the spec that are not as the run began with them."""
        begun = self.record.get("texts", {})
        now = self._texts(begun)
        return [name for name in begun if now[name] != begun[name]]

    def _texts(self, names: Iterable[str]) -> dict[str, str]:
        """Hashes of the spec's files as they are now."""
        return {
            name: hashlib.blake2b(_read(self.path / name).encode(), digest_size=16).hexdigest()
            for name in names
        }

    def require_spec(self, spec_hash: str, overrides: Mapping[str, Any] | None = None) -> None:
        """RunError unless the run is of the spec with this hash, which `overrides` has set so."""
        begun, set_then = self.record.get("hash"), self.record.get("overrides", {})
        if begun == spec_hash:
            return
        if overrides is not None and set_then != overrides:
            raise RunError(
                f"the run at `{self.path}` began with other settings",
                expected=f"{_settings(set_then)}, as it began",
                found=_settings(overrides),
                hint="resume with the same settings, or begin a new run",
            )
        raise RunError(
            f"the run at `{self.path}` is of another spec",
            expected=f"the spec with hash `{begun}`, kept there as `{_SPEC}`",
            found=f"`{spec_hash}`",
            hint="resume with that spec, or begin a new run",
        )

    def moved(self, now: Mapping[str, Any]) -> list[str]:
        """What differs between where the run began and `now`, each as `key: then -> now`.

        A resumed run is exact to the byte only where this is empty.
        """
        then, current = _flat(self.environment), _flat(now)
        keys = [key for key in sorted(then | current) if then.get(key) != current.get(key)]
        return [f"{key}: {then.get(key, 'none')} -> {current.get(key, 'none')}" for key in keys]


def _settings(overrides: Mapping[str, Any]) -> str:
    return " ".join(f"`--set {key}={value}`" for key, value in overrides.items()) or "no `--set`"


def environment(packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a run's numbers can depend on: versions and machine.

    `packages` adds to the core ones, for what a backend needs. It holds no names of people or
    machines, and no time.
    """
    versions: dict[str, str] = {}
    for package in (*_PACKAGES, *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "packages": versions,
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def _claim(path: Path) -> None:
    """Makes the folder, or takes one that is empty or where a run died before it began."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        if not path.is_dir():
            raise RunError(f"`{path}` is a file", expected="a folder for the run") from None
        if (path / _MARK).exists():
            raise RunError(
                f"`{path}` holds another run",
                hint="resume it (`--resume`), or name a folder that does not exist",
            ) from None
        ours = {_SPEC, _ENVIRONMENT, _CHECKPOINTS, _IMPORTS, _LOCK}
        strange = [p.name for p in path.iterdir() if p.name not in ours and p.suffix != ".tmp"]
        if strange:
            raise RunError(
                f"`{path}` is not empty",
                expected="a new or an empty folder for the run",
                found=f"`{min(strange)}`",
            ) from None


def _instead(path: Path) -> str:
    if path.is_dir():
        return f"no `{_MARK}` in it"
    return "a file" if path.exists() else "no such folder"


def _next_number(runs: Path, name: str) -> int:
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    matches = (pattern.fullmatch(entry.name) for entry in runs.iterdir())
    return 1 + max((int(match[1]) for match in matches if match), default=0)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A record with a hash of itself, by which damage is found."""
    text = json.dumps(value, sort_keys=True)
    return {**value, _SEAL: hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"`{path}` cannot be read", found=str(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read(path))
    except ValueError as error:
        raise RunError(f"`{path}` is damaged", expected="JSON", found=str(error)) from error
    if not isinstance(value, dict):
        raise RunError(f"`{path}` is damaged", expected="a JSON object")
    seal = value.pop(_SEAL, None)
    if seal is not None and seal != _sealed(value)[_SEAL]:
        raise RunError(f"`{path}` is damaged", expected="what the run wrote", found="other values")
    return value


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found
