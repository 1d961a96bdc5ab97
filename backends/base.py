"""What a backend is: the operations it can say, and how it makes a planned graph callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from weft.compiler.plan import Abilities, Plan

Arrays = Mapping[str, np.ndarray]
Step = Callable[[Arrays], dict[str, np.ndarray]]


class Executable(Protocol):
    """A graph as code, ready to be bound to arrays."""

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """A step over these arrays of the plan's bound inputs, which it updates in place.

        The step takes the other inputs by name and returns the other outputs by name. With
        `quiet` the caller promises to have silenced floating-point warnings around the calls.
        """
        ...


class Compiled(Executable, Protocol):
    """What a backend has just made of a plan."""

    @property
    def plan(self) -> Plan: ...

    @property
    def source(self) -> str:
        """The generated code, for people."""
        ...


class NotKept(Exception):
    """Why compiled code can't be kept for another process, and what would help."""

    def __init__(self, found: str, hint: str | None = None) -> None:
        super().__init__(found)
        self.found, self.hint = found, hint


class Keeper(Protocol):
    """How executables become files, and come back without being compiled."""

    def identity(self) -> str:
        """All that code depends on beside the plan and Weft itself: machine and versions."""
        ...

    def save(self, compiled: Compiled, folder: Path) -> None:
        """Write the files. Raises NotKept where this machine can't."""
        ...

    def load(self, folder: Path) -> Executable:
        """What `save` wrote. Raises NotKept for what can't be loaded."""
        ...


class Backend(Protocol):
    """Turns planned graphs into executables."""

    @property
    def name(self) -> str: ...

    @property
    def ops(self) -> frozenset[str]:
        """The primitives that it can say."""
        ...

    @property
    def composites(self) -> frozenset[str]:
        """The library functions that it takes whole instead of their bodies."""
        ...

    @property
    def abilities(self) -> Abilities: ...

    def compile(self, plan: Plan) -> Compiled:
        """Raises RunError for what the backend can't say."""
        ...


@runtime_checkable
class Keeping(Backend, Protocol):
    """A backend that takes longer to compile than to load what was compiled before."""

    @property
    def keeper(self) -> Keeper: ...
