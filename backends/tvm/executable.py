"""Native code of a plan: as TVM has just made it, and as an earlier process kept it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from weft.backends.base import Arrays, Step
from weft.backends.tvm.binding import Bound, Run
from weft.backends.tvm.image import Image, image
from weft.compiler.plan import Plan

if TYPE_CHECKING:
    from weft.backends.tvm.program import Program


@dataclass(frozen=True, eq=False)
class TvmExecutable:
    """A plan as a module of TVM's, which makes machine code when it is first called."""

    plan: Plan
    program: Program
    module: Any
    source: str

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
