"""Ctrl-C and SIGTERM while a run trains: noted, so that the step ends and the state is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote
from types import FrameType

from weft.compiler.errors import RunError


class Interrupted(RunError):
    """A run left early, with its state saved, because a signal asked for it.

    `exit_code` is what a process says that ended by that signal: 130 or 143.
    """

    def __init__(self, number: int, step: int, folder: str) -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after step {step}; everything is saved",
            hint=f"go on with `weft train --resume {quote(folder)}`",
        )
        self.number = number
        self.step = step
        self.exit_code = 128 + number


@contextmanager
def noted() -> Iterator[list[int]]:
    """The signals that came, as a list that grows; a second Ctrl-C stops at once.

    Only the main thread hears signals; in others the list stays empty.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(number: int, frame: FrameType | None) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
