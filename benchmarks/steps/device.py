"""The GPU as its driver describes it: what it is called, and how much of its memory is in use."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
EVERY = 0.002  # seconds between two looks at the memory


class DriverError(Exception):
    """A call of the driver that failed."""


@dataclass
class Seen:
    """The most bytes that were in use at once, beside those at the beginning."""

    most: int = 0


@dataclass(eq=False)
class Gpu:
    """The first GPU that this process may use.

    The driver tells how much memory is free on the whole GPU (`cuMemGetInfo`), whoever has the
    rest: so every framework is measured in one way, with all that its process takes. This process
    needs a context of its own to ask, which is made first and so never counts.
    """

    driver: Any = field(default_factory=lambda: ctypes.CDLL(LIBRARY))

    def __post_init__(self) -> None:
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    @property
    def name(self) -> str:
        found = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", found, len(found), self._device)
        return found.value.decode()

    @property
    def cuda(self) -> str:
        """The newest CUDA that the driver knows."""
        found = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(found))
        return f"{found.value // 1000}.{found.value % 1000 // 10}"

    def memory(self) -> tuple[int, int]:
        """Bytes in use, and all bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuCtxSetCurrent", self._context)  # of this thread
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value, total.value

    @contextmanager
    def watched(self) -> Iterator[Seen]:
        """What the block takes at most: looked at again and again meanwhile."""
        seen, before, ended = Seen(), self.memory()[0], threading.Event()

        def look() -> None:
            seen.most = max(seen.most, self.memory()[0] - before)

        def watch() -> None:
            while not ended.wait(EVERY):
                look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            ended.set()
            thread.join()
        look()

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self.driver, name)(*arguments):
            raise DriverError(f"the NVIDIA driver: {name} gives error {status}")
