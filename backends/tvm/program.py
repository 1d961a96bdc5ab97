"""A plan as one module: a function a distinct kernel, and `step`, which calls them in order.

    step(table)    the table holds addresses: the arena's, then those of all other buffers

A loop calls the kernels of a turn with addresses that it works out at the beginning of the turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from weft.backends.tvm.tir import Expr, Stmt
from weft.compiler.kernel import Convolution, Kernel, Nest, Product, Special, Track, Turns
from weft.compiler.kernel_text import text
from weft.compiler.plan import Buffer

ARENA = "arena"
_ADDRESS = "int64"

# TVM tells LLVM that what is behind two names is never the same memory. That holds within a
# kernel; once kernels are inlined one after another it does not. Nothing moves over this function.
_BARRIER = "weft_barrier"
_BARRIER_CODE = f"""
define i32 @{_BARRIER}() {{
  call void asm sideeffect "", "~{{memory}}"()
  ret i32 0
}}
"""


@dataclass(frozen=True)
class _Scope:
    """Where buffers are: addresses of some, and of the arena that all others are in."""

    arena: Expr
    places: Mapping[Buffer, Expr]

    def address(self, buffer: Buffer, offset: int) -> Expr:
        start = offset * buffer.dtype.bytes
        if buffer in self.places:
            return self.places[buffer] + _bytes(start)
        return self.arena + _bytes(buffer.offset + start)


@dataclass(eq=False)
class Program:
    """Functions by the text of their kernel, and the slots of the table."""

    kernels: Sequence[Kernel]
    slots: dict[Buffer | str, int] = field(default_factory=lambda: {ARENA: 0})
    functions: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._collect(self.kernels, frozenset())

    def _collect(self, kernels: Sequence[Kernel], known: frozenset[Buffer]) -> None:
        """Slots for buffers that no loop around tells the place of."""
        for kernel in kernels:
            for port in kernel.ports:
                if port.buffer.kind not in ("arena", "scratch") and port.buffer not in known:
                    self.slots.setdefault(port.buffer, len(self.slots))
            if isinstance(kernel, Turns):
                self._collect(kernel.kernels, frozenset(kernel.tracks))

    def module(self) -> Any:
        table = tir.pointer("table", _ADDRESS)
        memory, declare = tir.memory("addresses", _ADDRESS, len(self.slots), table)
        body, found = [declare], {}
        for buffer, slot in self.slots.items():
            found[buffer], statement = tir.bind(f"a{slot}", tir.load(memory, tir.number(slot)))
            body.append(statement)
        places = {buffer: place for buffer, place in found.items() if isinstance(buffer, Buffer)}
        body += self._calls(self.kernels, _Scope(found[ARENA], places))
        whole = s.AttrStmt(
            ir.StringImm("default"),
            "pragma_import_llvm",
            ir.StringImm(_BARRIER_CODE),
            tir.sequence(body),
        )
        step = tirx.PrimFunc([table], whole).with_attr({"global_symbol": "step"})
        return tvm.IRModule({**dict(self.functions.values()), "step": step})

    def _calls(self, kernels: Sequence[Kernel], scope: _Scope) -> list[Stmt]:
        found: list[Stmt] = []
        for kernel in kernels:
            if isinstance(kernel, Turns):
                found.append(self._turns(kernel, scope))
            else:
                found += [self._call(kernel, scope), tir.external(_BARRIER)]
        return found

    def _call(self, kernel: Kernel, scope: _Scope) -> Stmt:
        """A call of the kernel's function, printed if none like it was."""
        key = text(kernel)
        if key not in self.functions:
            name = ir.GlobalVar(f"kernel_{len(self.functions)}")
            self.functions[key] = name, print_kernel(kernel)
        name, _ = self.functions[key]
        pointers = []
        for port in kernel.ports:
            type = ir.PointerType(ir.PrimType(tir.stored(port.dtype)), "global")
            pointers.append(tirx.reinterpret(type, scope.address(port.buffer, port.offset)))
        return s.Evaluate(ir.Call(name, pointers, ret_ty=ir.PrimType("int32")))

    def _turns(self, turns: Turns, scope: _Scope) -> Stmt:
        """A loop; what moves has its addresses at the beginning of each turn."""
        starts = [scope.address(port.buffer, port.offset) for port in turns.ports]

        def turn(k: Expr) -> list[Stmt]:
            places, body = {}, []
            for number, (buffer, track) in enumerate(turns.tracks.items()):
                place = _moved(starts, track, k, buffer.dtype.bytes, turns.length)
                places[buffer], statement = tir.bind(f"at{number}", place)
                body.append(statement)
            constants = {b: place for b, place in scope.places.items() if b.kind == "constant"}
            inside = _Scope(starts[turns.arena], {**constants, **places})
            return [*body, *self._calls(turns.kernels, inside)]

        return tir.loop(turns.length, turn, name="turn")


def _moved(starts: Sequence[Expr], track: Track, k: Expr, size: int, length: int) -> Expr:
    """Where a track is in turn `k`, for elements of that size."""
    found = starts[track.port]
    if track.step:
        count = k if track.period is None else tirx.truncmod(k, tir.number(track.period))
        found = found + count.astype(_ADDRESS) * _bytes(track.step * size)
    for turn, port in ((0, track.first), (length - 1, track.last)):
        if port is not None:
            found = tirx.Select(k.equal(tir.number(turn)), starts[port], found)
    return found


def _bytes(count: int) -> Expr:
    return tirx.const(count, _ADDRESS)


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
    raise AssertionError(kernel)
