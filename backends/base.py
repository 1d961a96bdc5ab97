"""What a backend is: the operations it can say, and how it makes a planned graph callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from weft.compiler.plan import Abilities, Plan

Arrays = Mapping[str, np.ndarray]
Step = Callable[[Arrays], dict[str, np.ndarray]]


class Executable(Protocol):
    """A compiled graph."""

    @property
    def plan(self) -> Plan: ...

    @property
    def source(self) -> str:
        """The generated code, for people."""
        ...

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """A step over these arrays of the plan's bound inputs, which it updates in place.

        The step takes the other inputs by name and returns the other outputs by name. With
        `quiet` the caller promises to have silenced floating-point warnings around the calls.
        """
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

    def compile(self, plan: Plan) -> Executable:
        """Raises RunError for what the backend can't say."""
        ...
