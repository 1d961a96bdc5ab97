"""Compiled steps as files: a shared library, and what binds it to arrays.

A process that finds them needs neither TVM's Python package nor LLVM.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weft.backends.base import Compiled, NotKept
from weft.backends.tvm import library, packages
from weft.backends.tvm.executable import Kept, TvmExecutable
from weft.backends.tvm.image import from_bytes, to_bytes
from weft.backends.tvm.processor import processor

_LIBRARY, _IMAGE = "step.so", "image"


@dataclass(frozen=True)
class TvmKeeper:
    """See `Keeper`."""

    def identity(self) -> str:
        """This processor, TVM's compiler, and NumPy, which works out constants."""
        compiler = packages.library("tvm", "tvm_compiler").stat()
        return "\n".join(
            [
                f"tvm {compiler.st_size} {compiler.st_mtime_ns}",
                f"numpy {np.__version__}",
                f"{platform.system()} {processor()}",
            ]
        )

    def save(self, compiled: Compiled, folder: Path) -> None:
        """See `Keeper.save`."""
        assert isinstance(compiled, TvmExecutable)
        (folder / _LIBRARY).write_bytes(compiled.library())
        (folder / _IMAGE).write_bytes(to_bytes(compiled.image))

    def load(self, folder: Path) -> Kept:
        """See `Keeper.load`."""
        try:
            image = from_bytes((folder / _IMAGE).read_bytes())
            return Kept(image, library.load(folder / _LIBRARY))
        except OSError as error:
            raise NotKept(str(error)) from error
