"""A step as a shared library: loaded without TVM's Python package, which takes seconds to import.

The library asks for memory from TVM's runtime, whose functions it finds in variables of its own:
`__TVMBackendAllocWorkspace` and its like. `pool.ll` is in it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from weft.backends.tvm import runtime
from weft.backends.tvm.binding import Run

STEP = "weft_step"
_ASKED = ("TVMBackendAllocWorkspace", "TVMBackendFreeWorkspace")


def load(path: Path) -> Run:
    """The step of a library that `native.library` made. Raises OSError where there is none."""
    shared = runtime.library()  # before the step, which asks for what is in it
    library = ctypes.CDLL(str(path))
    for name in _ASKED:
        try:
            asked = ctypes.c_void_p.in_dll(library, f"__{name}")
        except ValueError:
            continue  # this step doesn't ask for it
        asked.value = ctypes.cast(getattr(shared, name), ctypes.c_void_p).value
    try:
        step = library[STEP]
    except AttributeError as error:
        raise OSError(f"`{path}` has no `{STEP}`") from error
    step.restype, step.argtypes = None, [ctypes.c_void_p]
    return step
