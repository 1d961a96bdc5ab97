"""Native code on its way, as text: kernels, tensor IR, LLVM's IR, assembly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from weft.backends.tvm import native, target
from weft.backends.tvm.program import Program
from weft.compiler.kernel_text import program_text


def _kernel(program: Program) -> str:
    return program_text(program.name, program.kernels)


def _tir(program: Program) -> str:
    script: str = program.module().script()
    return script.rstrip("\n") + "\n"


def _inspected(form: str) -> Callable[[Program], str]:
    """What LLVM gives for the module."""

    def listing(program: Program) -> str:
        found: str = native.compiled(program.module(), target.host()).inspect_source(form)
        return found

    return listing


FORMS: Mapping[str, Callable[[Program], str]] = {
    "kernel": _kernel,
    "tir": _tir,
    "llvm": _inspected("ll"),
    "asm": _inspected("asm"),
}
