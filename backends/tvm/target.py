"""The machine that code is made for: this one, as LLVM sees it."""

from __future__ import annotations

from functools import cache

from tvm.target import Target
from tvm.target import codegen as llvm


@cache
def host() -> Target:
    """This machine's processor, by the name that LLVM has for it, with all that it can do.

    At the highest level LLVM takes twice as long, and no step gets faster for it.
    """
    return Target(
        {
            "kind": "llvm",
            "mtriple": llvm.llvm_get_system_triple(),
            "mcpu": llvm.llvm_get_system_cpu(),
            "opt-level": 2,
        }
    )


@cache
def vector_bytes() -> int:
    """The width of the host's vector registers: 16, 32 or 64 bytes; 16 where LLVM can't say."""
    width: int = llvm.llvm_get_vector_width(host())
    return max(16, width // 8)
