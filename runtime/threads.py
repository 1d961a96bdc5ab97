"""How many threads NumPy's matrix products use: sums in another order end in other bits."""

from __future__ import annotations

import ctypes
import importlib
import os

_ASK = (
    "scipy_openblas_get_num_threads64_",
    "openblas_get_num_threads64_",
    "openblas_get_num_threads",
)


def threads() -> int:
    """The threads of the linear algebra library, or else the cores that this process may use."""
    core = importlib.import_module("numpy._core._multiarray_umath")
    try:
        library = ctypes.CDLL(str(core.__file__))
    except OSError:
        return _cores()
    for name in _ASK:
        ask = getattr(library, name, None)
        if ask is not None:
            return int(ask())
    return _cores()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
