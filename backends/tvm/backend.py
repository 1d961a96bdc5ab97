"""The TVM backend: compiles a plan to one native function.

TVM's Python package takes seconds to import, so it is imported where a plan is compiled, with all
that only compiling needs: a process that finds its steps compiled does without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from weft.backends.base import Arrays, Held, HostState, Peaks
from weft.backends.tvm import packages
from weft.backends.tvm.executable import TvmExecutable, TvmTimed
from weft.backends.tvm.keeper import TvmKeeper
from weft.backends.tvm.pool import POOL
from weft.backends.tvm.processor import processor
from weft.compiler.composites import bodies
from weft.compiler.errors import RunError
from weft.compiler.graph import Node
from weft.compiler.ops import OPS
from weft.compiler.plan import Abilities, Plan
from weft.compiler.types import DType

if TYPE_CHECKING:
    from weft.backends.tvm.program import Program


def _scratch(node: Node) -> int:
    if node.op.name != "scan":
        return 0
    from weft.compiler.passes.turn_kernels import loop_scratch

    return loop_scratch(node, _ABILITIES)


_ABILITIES = Abilities(
    views=frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "reverse"}),
    strided=True,
    folded=frozenset({"constant"}),
    kernels=True,
    scratch=_scratch,
)
_KEEPER = TvmKeeper()


@dataclass(frozen=True)
class TvmBackend:
    """Native code for the CPU, in f32 and f64."""

    name: str = "tvm"
    composites: frozenset[str] = frozenset()
    abilities: Abilities = _ABILITIES
    keeper: TvmKeeper = _KEEPER
    packages: tuple[str, ...] = ("apache-tvm",)
    forms: tuple[str, ...] = ("kernel", "tir", "llvm", "asm")

    @cached_property
    def ops(self) -> frozenset[str]:
        return frozenset(OPS.keys() - {"call"})

    def hold(self, arrays: Arrays) -> Held:
        return HostState(arrays)

    @property
    def threads(self) -> int:
        return POOL.width

    @property
    def traits(self) -> Mapping[str, object]:
        """The processor that code is made for. How many threads there are does not matter."""
        return {"processor": processor()}

    def compile(self, plan: Plan) -> TvmExecutable:
        """Kernels from the plan's groups, and native code from them."""
        return self._compile(plan)

    def listing(self, plan: Plan, form: str) -> str:
        """See `Backend.listing`."""
        program = self._program(plan)
        from weft.backends.tvm.listing import FORMS

        return FORMS[form](program)

    def timed(self, plan: Plan) -> TvmTimed:
        """See `Backend.timed`: a part is a call of a kernel, as it stands in the code."""
        return TvmTimed(self._compile(plan, timed=True))

    def peaks(self, dtype: DType) -> Peaks:
        """See `Backend.peaks`."""
        packages.import_tvm()
        from weft.backends.tvm.peaks import peaks

        return peaks(dtype)

    def _compile(self, plan: Plan, timed: bool = False) -> TvmExecutable:
        program = self._program(plan, timed)
        from weft.compiler.kernel_text import program_text

        return TvmExecutable(plan, program, program_text(program.name, program.kernels))

    def _program(self, plan: Plan, timed: bool = False) -> Program:
        """Raises RunError for types that there is no code for."""
        for node in (n for part in (plan.graph, *bodies(plan.graph)) for n in part.nodes):
            if node.type.dtype.is_narrow:
                raise RunError(
                    "the tvm backend computes in f32 and f64",
                    node.span,
                    found=f"`{node.type}`",
                    hint="train with `precision = f32`",
                )
        packages.import_tvm()
        from weft.backends.tvm.program import Program
        from weft.compiler.passes.kernels import kernels

        return Program(kernels(plan, self.abilities), plan.graph.name, timed)


BACKEND = TvmBackend()
