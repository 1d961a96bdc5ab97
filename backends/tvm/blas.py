"""OpenBLAS for generated code: loaded where its symbols are found, and kept to one thread."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path


@cache
def load() -> ctypes.CDLL:
    """The library. Its own threads would fight with TVM's, so it has none."""
    import scipy_openblas32

    folder = Path(scipy_openblas32.get_lib_dir())
    (path,) = sorted(folder.glob(f"lib{scipy_openblas32.get_library()}*.so*"))[:1]
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.scipy_openblas_set_num_threads(1)
    return library
