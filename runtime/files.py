"""Writing files so that a process killed at any moment leaves the old content or the new."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from weft.compiler.errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path` (`.NAME.tmp`), reaches the disk, then takes its place by renaming.

    A link stays one, to the file that is replaced, and the new file has the mode of the old. What
    is no file, such as `/dev/null` or a pipe, is written into. Two processes must not write the
    same file. Raises RunError when the file cannot be written.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as device:
                device.write(content)
            return
    except OSError as error:
        raise _unwritten(path, error) from error
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> RunError:
    return RunError(f"`{path}` cannot be written", found=error.strerror or str(error))


def _sync_folder(folder: Path) -> None:
    """Makes a renaming in the folder lasting, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
