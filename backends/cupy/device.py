"""What the backend needs of a device: memory, functions, products, and replaying what was recorded.

The same code drives a GPU (`gpu.py`) and, in the tests, an emulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from weft.compiler.types import DType


class Memory(Protocol):
    """Bytes on the device, from an address that is a multiple of 256."""

    @property
    def address(self) -> int: ...

    def write(self, array: np.ndarray) -> None:
        """A C-contiguous array of the host to the memory's beginning."""
        ...

    def read(self, into: np.ndarray, offset: int = 0) -> None:
        """Bytes from an offset on into a C-contiguous array of the host."""
        ...


class Device(Protocol):
    def allocate(self, size: int) -> Memory:
        """Zero bytes."""
        ...

    def load(self, headers: str, functions: Mapping[str, str]) -> Mapping[str, Any]:
        """Compiles functions by name; gives what `launch` takes."""
        ...

    def launch(
        self, function: Any, grid: tuple[int, int, int], threads: int, addresses: Sequence[int]
    ) -> None: ...

    def gemm(
        self,
        dtype: DType,
        sizes: tuple[int, int, int],
        addresses: tuple[int, int, int],
        steps: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
        count: int,
        batch: tuple[int, int, int],
    ) -> None:
        """See `code.Gemm`."""
        ...

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """What launches the same work again with as little delay as the device allows."""
        ...
