"""State that lives on the device: arrays of the host that are brought up to date when read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from weft.backends.base import Arrays, Held
from weft.backends.cupy.device import Device, Memory


class DeviceState(Held):
    """Arrays by name, each with memory on the device; the newer of the two counts."""

    def __init__(self, device: Device, arrays: Arrays) -> None:
        self._arrays = dict(arrays)
        self._device = device
        self._memory: dict[str, Memory] = {}
        self._to_send = set(self._arrays)
        self._to_fetch: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        if name in self._to_fetch:
            self._to_fetch.discard(name)
            self._memory[name].read(array)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def changed(self) -> None:
        self._to_send = set(self._arrays)

    # -- for steps --------------------------------------------------------------------------------

    def memory(self, name: str) -> Memory:
        if name not in self._memory:
            self._memory[name] = self._device.allocate(self._arrays[name].nbytes)
        return self._memory[name]

    def send(self, names: Iterable[str]) -> None:
        """Bring the device up to date before a step that has these states."""
        for name in self._to_send & set(names):
            self.memory(name).write(self._arrays[name])
            self._to_send.discard(name)

    def written(self, names: Iterable[str]) -> None:
        """A step has new values for these."""
        self._to_fetch.update(names)
