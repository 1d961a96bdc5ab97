"""Checkpoints: safetensors files that appear whole or not at all, and are checked when read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from weft.compiler.errors import RunError
from weft.runtime.files import write_atomically

Tensors = dict[str, NDArray[Any]]

# One key for all: the library writes several keys in a random order.
_KEY = "weft"
_NAME = re.compile(r"step-(\d+)\.safetensors")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_TYPES = frozenset((*_INTEGERS, "bool", "float16", "float32", "float64"))


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file: its tensors and its text metadata, both by name."""

    path: Path
    tensors: Tensors
    metadata: dict[str, str]


@dataclass(frozen=True)
class Latest:
    """The newest checkpoint that is whole, if any, and the newer ones that are not, with why."""

    checkpoint: Checkpoint | None
    skipped: tuple[tuple[Path, str], ...]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies: `step-000000120.safetensors`."""
    return folder / f"step-{step:09d}.safetensors"


def step_of(path: Path) -> int | None:
    """The step of a checkpoint's file name, or None for any other file."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def save(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a checkpoint: a process killed at any moment leaves the old file or the new one.

    Equal content gives equal bytes. Raises RunError when the file cannot be written.
    """
    ready: Tensors = {}
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        if array.dtype.name not in _TYPES or not array.dtype.isnative:
            raise RunError(f"`{name}` cannot be saved", found=f"type `{array.dtype}`")
        ready[name] = np.ascontiguousarray(array).reshape(array.shape)
    described = dict(metadata or {})
    record = {"checksum": _checksum(ready, described), "metadata": described}
    write_atomically(path, to_bytes(ready, {_KEY: json.dumps(record, sort_keys=True)}))


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks that it is as it was written.

    Raises RunError for a file that is missing, cut off, damaged or not a checkpoint of Weft.
    """
    try:
        with safe_open(path, framework="np") as file:  # type: ignore[no-untyped-call]
            stated = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except FileNotFoundError as error:
        raise RunError(f"there is no checkpoint `{path}`") from error
    except OSError as error:
        raise RunError(f"the checkpoint `{path}` cannot be read", found=str(error)) from error
    except (SafetensorError, TypeError, ValueError, KeyError) as error:
        raise RunError(
            f"the checkpoint `{path}` is cut off, damaged or of another kind",
            expected="a whole safetensors file",
            found=str(error),
        ) from error
    if stated is None:
        raise RunError(
            f"`{path}` is not a checkpoint that Weft wrote", found="no checksum in its metadata"
        )
    metadata = _verified(stated, tensors)
    if metadata is None:
        raise RunError(
            f"the checkpoint `{path}` is damaged", found="content that differs from its checksum"
        )
    return Checkpoint(path, tensors, metadata)


def _verified(stated: str, tensors: Tensors) -> dict[str, str] | None:
    """The metadata, when what is stated about the tensors and it is true."""
    try:
        record = json.loads(stated)
        metadata = {str(key): str(value) for key, value in record["metadata"].items()}
        return metadata if record["checksum"] == _checksum(tensors, metadata) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(tensors: Tensors, metadata: Mapping[str, str]) -> str:
    """BLAKE2b-256 of metadata, names, types, shapes and bytes (contiguous arrays), in hex."""
    names = sorted(tensors)
    header = [[n, tensors[n].dtype.str, list(tensors[n].shape)] for n in names]
    digest = hashlib.blake2b(digest_size=32)
    digest.update(json.dumps([sorted(metadata.items()), header]).encode())
    for name in names:
        digest.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints by step, the newest first; no temporary or other files."""
    if not folder.is_dir():
        return []
    found = [(step, path) for path in folder.iterdir() if (step := step_of(path)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def latest(folder: Path) -> Latest:
    """The newest whole checkpoint of a folder; damaged ones are passed over and reported."""
    skipped: list[tuple[Path, str]] = []
    for path in checkpoints(folder):
        try:
            return Latest(load(path), tuple(skipped))
        except RunError as error:
            skipped.append((path, str(error)))
    return Latest(None, tuple(skipped))


def rotate(folder: Path, keep: int, spare: frozenset[int] = frozenset()) -> list[Path]:
    """Removes all but the newest `keep` checkpoints (at least one) and what killed writers left.

    Those of the steps `spare` stay. When none of the newest is whole, the newest older one that is
    whole stays too. Returns what was removed. Only the process that writes the folder may call it.
    """
    if not folder.is_dir():
        return []
    found = checkpoints(folder)
    kept, old = found[: max(1, keep)], found[max(1, keep) :]
    if old and not any(map(_is_whole, kept)):
        spared = next(filter(_is_whole, old), None)
        old = [path for path in old if path != spared]
    old = [path for path in old if step_of(path) not in spare]
    leftovers = sorted(path for path in folder.iterdir() if path.name.endswith(".tmp"))
    for path in old + leftovers:
        path.unlink(missing_ok=True)
    return old + leftovers


def _is_whole(path: Path) -> bool:
    try:
        load(path)
    except RunError:
        return False
    return True
