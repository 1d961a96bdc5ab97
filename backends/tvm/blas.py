"""OpenBLAS for generated code: loaded where its symbols are found, and kept to one thread."""

from __future__ import annotations

import ctypes
from functools import cache

from weft.backends.tvm import packages


@cache
def load() -> ctypes.CDLL:
    """The library. Its own threads would fight with TVM's, so it has none."""
    path = packages.library("scipy_openblas32", "scipy_openblas")
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.scipy_openblas_set_num_threads(1)
    return library
