"""Compiled code kept between processes: entries of a folder, each by the hash of what it is of.

    ~/.cache/weft/compiled/
      3f0c...a2/            an entry: what a backend's keeper wrote
        manifest.json       size and checksum of each other file
      .new-k2j5xq/          an entry being written

An entry appears whole, by one renaming, and never changes. One that a process was killed over, or
that is damaged, is no entry; what removes one renames it away first. So any number of processes
share the folder without locks.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from tempfile import mkdtemp

from weft.backends.base import NotKept

LIMIT = 2_000_000_000  # bytes; past it, what was not used for longest goes
_MANIFEST = "manifest.json"
_NEW, _OLD = ".new-", ".old-"
_ABANDONED = 86_400  # seconds after which an entry being written is of a process that is gone


@dataclass(eq=False)
class Cache:
    """The entries of a folder that is this user's alone. `problem` says why it keeps nothing."""

    root: Path
    limit: int = LIMIT
    problem: NotKept | None = field(default=None, init=False)

    def get(self, key: str) -> Path | None:
        """The folder of a whole, undamaged entry."""
        folder = self.root / key
        if not self._usable() or not folder.is_dir():
            return None
        if not _is_whole(folder):
            self.drop(key)
            return None
        with suppress(OSError):
            os.utime(folder)
        return folder

    def put(self, key: str, write: Callable[[Path], None]) -> Path | None:
        """A new entry, of the files that `write` puts into the folder that it is given.

        None, with `problem` set, where nothing can be kept.
        """
        if not self._usable():
            return None
        try:
            new = Path(mkdtemp(prefix=_NEW, dir=self.root))
            try:
                write(new)
                (new / _MANIFEST).write_text(json.dumps(_manifest(new)), encoding="utf-8")
                with suppress(OSError):  # another process was first: its entry is as good
                    new.rename(self.root / key)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        except NotKept as problem:
            self.problem = problem
            return None
        except OSError as error:
            self.problem = NotKept(f"`{self.root}`: {error.strerror or error}")
            return None
        self._trim()
        return self.get(key)

    def drop(self, key: str) -> None:
        """Remove an entry, if it is there; who has it open goes on with it."""
        with suppress(OSError):
            old = Path(mkdtemp(prefix=_OLD, dir=self.root))
            with suppress(OSError):
                (self.root / key).rename(old / key)
            shutil.rmtree(old, ignore_errors=True)

    def clear(self) -> None:
        """Remove all entries."""
        for folder, _, _ in self._entries():
            self.drop(folder.name)

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, size, _ in self._entries())

    @property
    def count(self) -> int:
        return sum(1 for _ in self._entries())

    def _entries(self) -> Iterator[tuple[Path, int, float]]:
        """Each entry with its size and when it was last used."""
        with suppress(OSError):
            for folder in self.root.iterdir():
                with suppress(OSError):
                    if folder.name.startswith("."):
                        continue
                    size = sum(file.stat().st_size for file in folder.iterdir())
                    yield folder, size, folder.stat().st_mtime

    def _trim(self) -> None:
        """Remove the entries not used for longest, down to the limit, and what was abandoned."""
        entries = sorted(self._entries(), key=lambda entry: entry[2])
        total = sum(size for _, size, _ in entries)
        for folder, size, _ in entries[:-1]:
            if total <= self.limit:
                break
            self.drop(folder.name)
            total -= size
        with suppress(OSError):
            for folder in self.root.glob(".*"):
                with suppress(OSError):
                    if folder.stat().st_mtime < time.time() - _ABANDONED:
                        shutil.rmtree(folder, ignore_errors=True)

    def _usable(self) -> bool:
        """Whether the folder is there, or could be made, and is nobody else's: its code is run."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.root.stat()
        except OSError as error:
            self.problem = NotKept(f"`{self.root}`: {error.strerror or error}")
            return False
        if os.name == "posix" and found.st_uid != os.getuid():
            self.problem = NotKept(f"`{self.root}` belongs to another user")
            return False
        if os.name == "posix" and stat.S_IMODE(found.st_mode) & 0o022:
            self.problem = NotKept(
                f"others may write to `{self.root}`", f"chmod go-w '{self.root}'"
            )
            return False
        return True


@cache
def user_cache() -> Cache:
    """The one of this user."""
    import platformdirs

    return Cache(platformdirs.user_cache_path("weft") / "compiled")


def _manifest(folder: Path) -> dict[str, list[object]]:
    found = {}
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        found[file.name] = [len(content), _checksum(content)]
    return found


def _is_whole(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            content = (folder / name).read_bytes()
            if [len(content), _checksum(content)] != expected:
                return False
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _checksum(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
