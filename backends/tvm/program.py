"""A plan as one module: a function a distinct kernel, and `step`, which calls them in order.

    step(table)    the table holds addresses: the arena's, then those of all other buffers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import ir, tirx
from tvm.tirx import stmt as s

from weft.backends.tvm import tir
from weft.backends.tvm.convolutions import print_convolution
from weft.backends.tvm.nests import print_nest
from weft.backends.tvm.products import print_product
from weft.backends.tvm.special import print_special
from weft.compiler.errors import RunError
from weft.compiler.kernel import Convolution, Kernel, Nest, Product, Special
from weft.compiler.kernel_text import text
from weft.compiler.plan import Buffer, Plan

ARENA = "arena"


@dataclass(eq=False)
class Program:
    """Functions by the text of their kernel, and the calls that make a step."""

    slots: dict[Buffer | str, int] = field(default_factory=lambda: {ARENA: 0})
    functions: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    calls: list[Any] = field(default_factory=list)

    def add(self, kernel: Kernel) -> None:
        """A call of the kernel, printed if none like it was."""
        key = text(kernel)
        if key not in self.functions:
            name = ir.GlobalVar(f"kernel_{len(self.functions)}")
            self.functions[key] = name, print_kernel(kernel)
        name, _ = self.functions[key]
        arguments = [self._address(port.buffer, port.offset) for port in kernel.ports]
        self.calls.append((name, arguments))

    def _address(self, buffer: Buffer, offset: int) -> tuple[int, int, str]:
        """The slot of the table, bytes from there, and the element type."""
        start = offset * buffer.dtype.bytes
        if buffer.kind in ("arena", "scratch"):
            return 0, buffer.offset + start, tir.stored(buffer.dtype)
        slot = self.slots.setdefault(buffer, len(self.slots))
        return slot, start, tir.stored(buffer.dtype)

    def module(self) -> Any:
        table = tir.pointer("table", "uint64")
        memory, declare = tir.memory("addresses", "uint64", max(1, len(self.slots)), table)
        body: list[Any] = [declare]
        for name, arguments in self.calls:
            values = [
                tirx.reinterpret(
                    ir.PointerType(ir.PrimType(dtype), "global"),
                    memory[tir.number(slot)] + tirx.const(start, "uint64"),
                )
                for slot, start, dtype in arguments
            ]
            body.append(s.Evaluate(ir.Call(name, values, ret_ty=ir.PrimType("int32"))))
        step = tirx.PrimFunc([table], tir.sequence(body)).with_attr({"global_symbol": "step"})
        return tvm.IRModule({**{n: f for n, f in self.functions.values()}, "step": step})


def print_kernel(kernel: Kernel) -> Any:
    """A kernel as a function of pointers to its ports."""
    pointers, buffers, declared = [], [], []
    for number, port in enumerate(kernel.ports):
        dtype = tir.stored(port.dtype)
        data = tir.pointer(f"p{number}", dtype)
        buffer, declare = tir.memory(f"b{number}", dtype, max(1, port.buffer.size), data)
        pointers.append(data)
        buffers.append(buffer)
        declared.append(declare)
    return tir.function(pointers, [*declared, *_body(kernel, buffers)])


def _body(kernel: Kernel, buffers: list[Any]) -> Sequence[Any]:
    match kernel:
        case Nest():
            return print_nest(kernel, buffers)
        case Product():
            return print_product(kernel, buffers)
        case Convolution():
            return print_convolution(kernel, buffers)
        case Special():
            return print_special(kernel, buffers)
    node = kernel.nodes[0]
    raise RunError(f"the tvm backend has no rule for `{node.op.name}`", node.span)


def build(plan: Plan, kernels: Sequence[Kernel]) -> Program:
    program = Program()
    for kernel in kernels:
        program.add(kernel)
    return program
