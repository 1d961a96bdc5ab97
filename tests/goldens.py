"""Golden files: texts that a test must reproduce, kept where a reviewer can read the change."""

from __future__ import annotations

import difflib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest


@dataclass(frozen=True)
class Golden:
    """Compares texts with the files of a folder, or writes the files when `update` is set.

    A file ends with one line break whether or not its text does; apart from that, every
    character counts.
    """

    folder: Path
    update: bool

    def __call__(self, name: str, text: str) -> None:
        """Fail unless `text` is what the file `name`, a path below the folder, holds."""
        path = self._path(name)
        found = text.removesuffix("\n") + "\n"
        if self.update:
            _write(path, found)
        elif not path.exists():
            pytest.fail(f"no golden `{name}`: create it with --update-golden", pytrace=False)
        elif (expected := path.read_bytes().decode()) != found:
            pytest.fail(_difference(name, expected, found), pytrace=False)

    def _path(self, name: str) -> Path:
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.suffix:
            raise ValueError(f"`{name}` is not a relative path with an extension")
        return self.folder / relative


def _write(path: Path, text: str) -> None:
    """Replace the file in one step: tests in other processes may be reading or writing it."""
    data = text.encode()
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with open(handle, "wb") as file:
        file.write(data)
    # mkstemp makes a private file; a golden is as readable as any other source.
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def _difference(name: str, expected: str, found: str) -> str:
    lines = difflib.unified_diff(
        expected.split("\n"), found.split("\n"), "expected", "found", lineterm=""
    )
    return "\n".join(
        [f"golden `{name}` differs; if the change is meant, run with --update-golden", *lines]
    )
