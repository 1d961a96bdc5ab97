"""What a backend is: the operations it can say, and how it makes a planned graph callable."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np

from weft.compiler.plan import Abilities, Plan

Arrays = Mapping[str, np.ndarray]
Step = Callable[[Arrays], Arrays]


class Held(Mapping[str, np.ndarray]):
    """The arrays of a state, wherever a backend keeps it between steps.

    An array that is read here is what the last step left. Who writes into arrays calls `changed`
    before the next step.
    """

    @abstractmethod
    def changed(self) -> None: ...


class HostState(Held):
    """A state that lies in the host's arrays and nowhere else."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def changed(self) -> None:
        pass


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

        Arrays that the backend holds (`Backend.hold`) stay where it keeps them. The step takes
        the other inputs by name and returns the other outputs by name. With `quiet` the caller
        promises to have silenced floating-point warnings around the calls.
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

    def hold(self, arrays: Arrays) -> Held:
        """These arrays as state for many steps of several executables."""
        ...

    def compile(self, plan: Plan) -> Executable:
        """Raises RunError for what the backend can't say."""
        ...
