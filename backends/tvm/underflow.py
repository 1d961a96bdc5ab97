"""Results too small for a normal number come as 0 during a step, where the machine has a switch.

The moments of a weight that gets no gradients any more fade until nothing is smaller, and stay
there: 0.9 times the smallest number is rounded to itself. Each time the processor computes with
such a number, it takes many times as long.
"""

from __future__ import annotations

import platform

from weft.backends.tvm import tir

_MACHINES = ("x86_64", "amd64")
# Bit 15 of MXCSR: flush to zero. What comes into a computation is taken as it is.
_SWITCH = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

define i32 @weft_flush() {
  %place = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %place)
  %before = load i32, ptr %place
  %after = or i32 %before, 32768
  store i32 %after, ptr %place
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  ret i32 %before
}

define i32 @weft_restore(i32 %mode) {
  %place = alloca i32
  store i32 %mode, ptr %place
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  ret i32 0
}
"""
_NONE = """
define i32 @weft_flush() {
  ret i32 0
}

define i32 @weft_restore(i32 %mode) {
  ret i32 0
}
"""


def code() -> str:
    """LLVM's text."""
    return _SWITCH if platform.machine().lower() in _MACHINES else _NONE


def flushed(body: list[tir.Stmt]) -> list[tir.Stmt]:
    """The statements, under the switch; what it was before comes back after them."""
    before, ask = tir.bind("before", tir.call("weft_flush"))
    return [ask, *body, tir.external("weft_restore", before)]
