"""Whether this machine has an NVIDIA GPU: the driver itself is asked, and no package imported."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@cache
def missing() -> str | None:
    """What a machine lacks, in words; None where there is a GPU."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return "no NVIDIA driver"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "an NVIDIA driver, but no GPU"
    return None
