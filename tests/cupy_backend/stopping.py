"""A run that ends too early, for tests of going on."""

from __future__ import annotations

from weft.runtime.reporting import Epoch, Silent


class Killed(Exception):
    pass


class Killing(Silent):
    """Ends a run after its first epoch."""

    def on_epoch(self, epoch: Epoch) -> None:
        raise Killed
