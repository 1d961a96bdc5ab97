"""Sources of data as tests write them, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weft.compiler.errors import RunError
from weft.runtime.data.sources import load


def fails(name: str, *arguments: Any, base: Path, **options: Any) -> str:
    """The message of the RunError that loading gives."""
    with pytest.raises(RunError) as caught:
        load(name, arguments, options, base)
    return str(caught.value)


def write(folder: Path, name: str, text: str | bytes) -> str:
    """The name of a file in the folder that holds this."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name
