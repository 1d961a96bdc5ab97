"""The TVM backend: compiles a plan to one native function.

TVM's Python package takes seconds to import, so it is imported where a plan is compiled, with all
that only compiling needs: a process that finds its steps compiled does without.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from weft.backends.tvm import blas
from weft.backends.tvm.executable import TvmExecutable
from weft.backends.tvm.keeper import TvmKeeper
from weft.compiler.composites import bodies
from weft.compiler.errors import RunError
from weft.compiler.graph import Node
from weft.compiler.ops import OPS
from weft.compiler.plan import Abilities, Plan


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

    @cached_property
    def ops(self) -> frozenset[str]:
        return frozenset(OPS.keys() - {"call"})

    def compile(self, plan: Plan) -> TvmExecutable:
        """Kernels from the plan's groups, and native code from them."""
        blas.load()
        from weft.backends.tvm import native, target
        from weft.backends.tvm.program import Program
        from weft.compiler.kernel_text import text
        from weft.compiler.passes.kernels import kernels

        for node in (n for part in (plan.graph, *bodies(plan.graph)) for n in part.nodes):
            if node.type.dtype.name in ("f16", "bf16"):
                raise RunError(
                    "the tvm backend computes in f32 and f64",
                    node.span,
                    found=f"`{node.type}`",
                    hint="train with `precision = f32`",
                )
        made = kernels(plan, self.abilities)
        program = Program(made)
        module = native.compiled(program.module(), target.host())
        source = "\n".join(text(kernel) for kernel in made)
        return TvmExecutable(plan, program, module, source)


BACKEND = TvmBackend()
