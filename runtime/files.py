"""Writing files so that a process killed at any moment leaves the old content or the new."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from weft.compiler.errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path` (`.NAME.tmp`), reaches the disk, then takes its place by renaming.

    Two processes must not write the same file. Raises RunError when the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"`{path}` cannot be written", found=error.strerror or str(error)) from error


def _sync_folder(folder: Path) -> None:
    """Makes a renaming in the folder lasting, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
