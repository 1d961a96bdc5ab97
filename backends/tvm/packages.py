"""The shared libraries of installed packages, by path: importing the packages takes seconds."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

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
