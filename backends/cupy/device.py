"""What the backend needs of a device: memory, functions, products, and replaying what was recorded.

The same code drives a GPU (`gpu.py`) and, in the tests, an emulator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from weft.backends.cupy.code import Gemm


class Memory(Protocol):
    """Bytes on the device, from an address that is a multiple of 256."""

    @property
    def address(self) -> int: ...

    def write(self, array: np.ndarray) -> None:
        """A C-contiguous array of the host to the memory's beginning."""
        ...

    def read(self, into: np.ndarray) -> None:
        """The memory's beginning into a C-contiguous array of the host, after all work."""
        ...


@dataclass(frozen=True)
class Span:
    """Elements in memory that the host wants to have."""

    memory: Memory
    offset: int  # bytes
    dtype: np.dtype
    count: int


Waiting = Callable[[], Sequence[np.ndarray]]
"""Waits for work, and gives the spans that it left."""

Replay = Callable[[Sequence[np.ndarray]], Waiting]
"""Starts recorded work on these arrays, which may be written again as soon as it returns."""


class Device(Protocol):
    @property
    def name(self) -> str: ...

    def allocate(self, size: int) -> Memory:
        """Zero bytes."""
        ...

    def load(self, headers: str, functions: Mapping[str, str]) -> Mapping[str, Any]:
        """Compiles functions by name; gives what `launch` takes."""
        ...

    def launch(
        self, function: Any, grid: tuple[int, int, int], threads: int, addresses: Sequence[int]
    ) -> None: ...

    def gemm(self, gemm: Gemm, addresses: tuple[int, int, int]) -> None: ...

    def recorded(
        self, work: Callable[[], None], inputs: Sequence[Memory], outputs: Sequence[Span]
    ) -> Replay:
        """Launches, to be done again and again with as little delay as the device allows."""
        ...

    def timed(self, pieces: Sequence[Callable[[], None]]) -> Sequence[float]:
        """Nanoseconds of each piece of work, one after the other."""
        ...
