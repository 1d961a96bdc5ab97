"""Whether this machine has an NVIDIA GPU: the driver itself is asked, and no package imported."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CUDA = 13  # of CuPy and the libraries
_CAPABILITY = 7, 5  # of the oldest GPUs that its compiler knows
_NO_DEVICE = 100  # what the driver answers where there is none
_MAJOR, _MINOR = 75, 76  # numbers of a GPU's attributes


@cache
def missing() -> str | None:
    """What a machine lacks, in words; None where there is a GPU. The first GPU is asked: that is
    the one in use, and CUDA_VISIBLE_DEVICES says which one is the first.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return "no NVIDIA driver"
    if (status := driver.cuInit(0)) not in (0, _NO_DEVICE):
        return f"an NVIDIA driver that does not start: its error {status}"
    if status or not _number(driver.cuDeviceGetCount):
        return "an NVIDIA driver, but no GPU"
    version = _number(driver.cuDriverGetVersion)
    if version < 1_000 * _CUDA:
        known = f"{version // 1_000}.{version % 1_000 // 10}"
        return f"an NVIDIA driver for CUDA {known}: update it to one for CUDA {_CUDA}"
    gpu = _number(driver.cuDeviceGet, 0)
    capability = tuple(_number(driver.cuDeviceGetAttribute, a, gpu) for a in (_MAJOR, _MINOR))
    if capability < _CAPABILITY:
        found, needed = (".".join(map(str, numbers)) for numbers in (capability, _CAPABILITY))
        return f"a GPU of compute capability {found}: CUDA {_CUDA} begins with {needed}"
    return None


def _number(function: Callable[..., int], *arguments: int) -> int:
    """What a function of the driver writes to its first argument; 0 where it fails."""
    found = ctypes.c_int()
    return 0 if function(ctypes.byref(found), *arguments) else found.value
