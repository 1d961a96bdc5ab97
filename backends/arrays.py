"""Arrays as backends want them: aligned, and of the type that a plan says."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from weft.backends.base import Arrays
from weft.compiler.errors import RunError
from weft.compiler.plan import ALIGNMENT, Plan
from weft.compiler.types import TensorType


def aligned(size: int) -> np.ndarray:
    """`size` zero bytes that start on a 64-byte boundary."""
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    skip = -address(raw) % ALIGNMENT
    return raw[skip : skip + size]


def address(array: np.ndarray) -> int:
    """Of an array's first element. NumPy itself takes microseconds to say it."""
    memory: Any = array  # has a buffer, which its type does not say
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(memory))
    except (TypeError, ValueError):  # read-only, not contiguous, or empty
        found: int = array.__array_interface__["data"][0]
        return found


def checked_state(name: str, plan: Plan, state: Arrays) -> np.ndarray:
    """The caller's array of a bound input of the plan, if it can be updated in place."""
    return checked_array(name, plan.graph.named_inputs[name].type, state)


def checked_array(name: str, type: TensorType, state: Arrays) -> np.ndarray:
    """The caller's array of a bound input of that type, if it can be updated in place."""
    if name not in state:
        raise RunError(f"state `{name}` is missing", expected=f"an array of type `{type}`")
    array = state[name]
    if array.dtype != type.dtype.numpy or array.shape != type.shape:
        raise RunError(
            f"state `{name}` has another type",
            expected=f"`{type}`",
            found=f"{array.dtype} of shape {array.shape}",
        )
    if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
        raise RunError(
            f"state `{name}` can't be updated in place",
            expected="a writeable, aligned, C-contiguous array",
        )
    return array
