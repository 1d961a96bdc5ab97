"""What a backend is: the operations it can say, and how it makes a planned graph callable."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from weft.compiler.graph import Node
from weft.compiler.plan import Abilities, Plan
from weft.compiler.types import DType

if TYPE_CHECKING:
    from weft.compiler.costs import Cost

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
    """A graph as code, ready to be bound to arrays."""

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """A step over these arrays of the plan's bound inputs, which it updates in place.

        Arrays that the backend holds (`Backend.hold`) stay where it keeps them. The step takes
        the other inputs by name and returns the other outputs by name. With `quiet` the caller
        promises to have silenced floating-point warnings around the calls.
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


@dataclass(frozen=True)
class Part:
    """A piece of a step that is timed by itself. Pieces of one name are the same code."""

    name: str
    kind: str
    nodes: tuple[Node, ...]
    cost: Cost  # of a call


@dataclass(frozen=True)
class Timing:
    """What one run of a timed step took: for each part its nanoseconds, and how often it ran."""

    nanoseconds: np.ndarray
    calls: np.ndarray


class Timed(Protocol):
    """A compiled graph with a clock between its parts; otherwise the code of an `Executable`."""

    @property
    def parts(self) -> tuple[Part, ...]: ...

    def bind(self, state: Arrays) -> Callable[[Arrays], Timing]:
        """Like `Executable.bind`, but a run gives its times instead of the outputs."""
        ...


@dataclass(frozen=True)
class Peaks:
    """The best that a machine does, as measured, on as many threads as a step has.

    `flops`: operations a second of a large product of matrices; `copies`: for sizes in rising
    order, bytes that a copy reads and writes, and how many it moves a second.
    """

    flops: float
    copies: tuple[tuple[int, float], ...]

    @property
    def fastest_copy(self) -> tuple[int, float]:
        """Its size and its rate: that of memory close to the cores."""
        return max(self.copies, key=lambda copy: copy[1])

    def bandwidth(self, size: int) -> float:
        """Bytes a second of a copy that touches so many bytes."""
        sizes, rates = zip(*self.copies, strict=True)
        return float(np.interp(np.log2(max(size, 1)), np.log2(sizes), rates))

    def floor(self, cost: Cost) -> float:
        """Seconds that the operations or the memory of a cost take at least."""
        return max(cost.flops / self.flops, cost.bytes / self.bandwidth(cost.bytes))


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

    @property
    def threads(self) -> int:
        """How many threads its steps use at most: `backends/threads.py` says who sets it."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions, beside Weft's own, whose versions its results depend on."""
        ...

    @property
    def traits(self) -> Mapping[str, object]:
        """What the last bits of its results depend on, beside those versions."""
        ...

    def compile(self, plan: Plan) -> Compiled:
        """Raises RunError for what the backend can't say."""
        ...

    @property
    def forms(self) -> tuple[str, ...]:
        """What it can show of its code, for people: `python`, or `kernel`, `tir`, `llvm`, ..."""
        ...

    def listing(self, plan: Plan, form: str) -> str:
        """The code of a plan in one of its forms."""
        ...

    def timed(self, plan: Plan) -> Timed:
        """As `compile`, for a profile."""
        ...

    def peaks(self, dtype: DType) -> Peaks:
        """Measured anew each time: about a second."""
        ...


@runtime_checkable
class Keeping(Backend, Protocol):
    """A backend that takes longer to compile than to load what was compiled before."""

    @property
    def keeper(self) -> Keeper: ...
