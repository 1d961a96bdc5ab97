"""TVM's runtime, the library, without its Python package, which takes seconds to import.

It is the very file that the package loads.
"""

from __future__ import annotations

import ctypes
from functools import cache

from weft.backends.tvm import packages


@cache
def library() -> ctypes.CDLL:
    """The runtime; what it needs comes first."""
    ctypes.CDLL(str(packages.library("tvm_ffi", "tvm_ffi")), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(packages.library("tvm", "tvm_runtime")))
