"""A device that compiles a function once, whoever asks for it: programs share one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.backends.cupy.device import Device


class Keeping:
    """The device inside, but for what it loads."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.loaded: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def load(self, headers: str, functions: Mapping[str, str]) -> Mapping[str, Any]:
        new = {name: source for name, source in functions.items() if name not in self.loaded}
        if new:
            self.loaded.update(self.device.load(headers, new))
        return {name: self.loaded[name] for name in functions}
