"""What a run measured: a file of JSON objects, one a line, in the order of the steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.compiler.errors import RunError
from weft.runtime.files import write_atomically


@dataclass(frozen=True)
class MetricsLog:
    """The log at `path`; a record is a flat mapping with an integer `step`."""

    path: Path

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line, which other programs can read at once.

        JSON has no word for numbers that are not finite: they become null. A process killed here
        leaves at worst a torn last line, which `read` passes over and `keep` removes.
        """
        text = json.dumps({key: _plain(value) for key, value in record.items()}, allow_nan=False)
        try:
            with self.path.open("ab") as file:
                file.write(text.encode() + b"\n")
        except OSError as error:
            raise RunError(
                f"`{self.path}` cannot be written", found=error.strerror or str(error)
            ) from error

    def read(self) -> list[dict[str, Any]]:
        """The records, without lines that are not whole; none when there is no file."""
        return [record for _, record in self._lines() if record is not None]

    def keep(self, step: int) -> int:
        """Removes records of steps after `step`, and lines that are not whole.

        A run resumed from that step then writes each record once. Returns how many lines went.
        """
        lines = self._lines()
        kept = [
            line
            for line, record in lines
            if record is not None and isinstance(record.get("step"), int) and record["step"] <= step
        ]
        if len(kept) < len(lines):
            write_atomically(self.path, b"".join(line + b"\n" for line in kept))
        return len(lines) - len(kept)

    def _lines(self) -> list[tuple[bytes, dict[str, Any] | None]]:
        """Each line with its record, or None when it is torn or damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(
                f"`{self.path}` cannot be read", found=error.strerror or str(error)
            ) from error
        *whole, torn = content.split(b"\n")
        lines = [(line, _record(line)) for line in whole]
        return [*lines, (torn, None)] if torn else lines


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _plain(value: Any) -> Any:
    """A value as JSON knows it: NumPy's scalars as Python's, non-finite numbers as None."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
