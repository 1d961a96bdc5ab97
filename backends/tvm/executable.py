"""Native code of a plan: as TVM has just made it, and as an earlier process kept it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.backends.base import Arrays, Part, Step, Timing
from weft.backends.tvm.binding import Bound, Run
from weft.backends.tvm.image import CLOCK, Image, image
from weft.compiler.plan import Plan

if TYPE_CHECKING:
    from weft.backends.tvm.program import Program


@dataclass(frozen=True, eq=False)
class TvmExecutable:
    """A plan as a program, of which machine code is made when it is bound or kept."""

    plan: Plan
    program: Program
    source: str

    @cached_property
    def module(self) -> Any:
        """Code in this process."""
        from weft.backends.tvm import native, target

        return native.compiled(self.program.module(), target.host())

    def library(self) -> bytes:
        """Code as a file. Raises NotKept where the machine can't make one."""
        from weft.backends.tvm import native, target

        return native.library(self.program.modules(), target.host())

    @cached_property
    def image(self) -> Image:
        return image(self.plan, self.program.slots)

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """See `Executable.bind`."""
        return Bound(self.image, self.module["step"], state).step


@dataclass(frozen=True, eq=False)
class Kept:
    """A step as files hold it."""

    image: Image
    run: Run

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """See `Executable.bind`."""
        return Bound(self.image, self.run, state).step


@dataclass(frozen=True, eq=False)
class TvmTimed:
    """The same kernels, called by a step that reads a clock after each."""

    executable: TvmExecutable

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        from weft.compiler.costs import kernel_cost

        return tuple(
            Part(name, type(kernel).__name__.lower(), kernel.nodes, kernel_cost(kernel))
            for name, kernel in self.executable.program.calls
        )

    def bind(self, state: Arrays) -> Callable[[Arrays], Timing]:
        """See `Timed.bind`."""
        executable = self.executable
        bound = Bound(executable.image, executable.module["step"], state)
        clock = np.zeros((1 + len(self.parts), 2), np.int64)
        bound.place(CLOCK, clock)

        def run(inputs: Arrays) -> Timing:
            clock[...] = 0
            bound.step(inputs)
            return Timing(clock[1:, 0].copy(), clock[1:, 1].copy())

        return run
