"""What the backend needs of installed packages: shared libraries by path, and TVM to compile with.

Importing packages takes seconds, so a step that is compiled does with their libraries.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import get_ident

from weft.compiler.errors import RunError

_SUFFIX = "dylib" if sys.platform == "darwin" else "so"


def library(package: str, name: str) -> Path:
    """The library of this name. Raises RunError where the package isn't installed whole."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "lib", f"lib{name}.{_SUFFIX}")
        if path.exists():
            return path
    raise RunError(
        "the tvm backend isn't installed",
        expected="the package `apache-tvm`",
        found=f"no library `{name}` of a package `{package}`",
        hint="pip install 'weft[tvm]'",
    )


def import_tvm() -> None:
    """Import TVM, but not PyTorch, which it would take along where that is installed.

    It asks for it to pass tensors between them, which Weft does not, and PyTorch takes longer to
    import than TVM does.
    """
    hidden = _Hidden("torch", get_ident())
    sys.meta_path.insert(0, hidden)
    try:
        import tvm  # noqa: F401
    finally:
        with suppress(ValueError):
            sys.meta_path.remove(hidden)


@dataclass(frozen=True)
class _Hidden:
    """A package that one thread can't find."""

    package: str
    thread: int

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self.package and get_ident() == self.thread:
            raise ModuleNotFoundError(f"`{name}` is hidden", name=name)
