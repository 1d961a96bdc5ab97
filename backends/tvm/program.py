"""A plan as modules: a function a distinct kernel, and `step`, which calls them in order.

    kernel_0(p0, p1, ...)    a kernel, of the addresses of its ports
    weft_step(table)         the table holds addresses: the arena's, that of the pool of threads,
                             then those of all other buffers
    step                     the same, for callers by TVM's conventions

Each module compiles by itself; functions of one call those of another by name. A loop
calls the kernels of a turn with addresses that it works out at the beginning of the turn.

A timed program reads a clock after each call and adds up, in a table of its own, the nanoseconds
and the number of each kernel's calls:

    clock          | now | unused | time, calls of part 0 | time, calls of part 1 | ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, starmap
from typing import Any

import tvm
from tvm import ir, tirx
from tvm.tirx import stmt as s

from weft.backends.tvm import threads, tir, underflow
from weft.backends.tvm.convolutions import print_convolution
from weft.backends.tvm.image import ARENA, CLOCK, THREADS
from weft.backends.tvm.library import STEP
from weft.backends.tvm.products import print_product
from weft.backends.tvm.schedule import print_nest
from weft.backends.tvm.special import print_special
from weft.backends.tvm.tir import Expr, Stmt
from weft.compiler.kernel import Convolution, Kernel, Nest, Product, Special, Track, Turns
from weft.compiler.kernel_text import text
from weft.compiler.plan import Buffer

TOGETHER = 4  # kernels of a module
_ADDRESS = "int64"
_PLAIN = 2  # the convention of functions whose arguments TVM leaves as they are

# TVM tells LLVM that what is behind two names is never the same memory. That holds within a
# kernel; once kernels are inlined one after another it does not. Nothing moves over this function.
_BARRIER = "weft_barrier"
_BARRIER_CODE = f"""
define i32 @{_BARRIER}() {{
  call void asm sideeffect "", "~{{memory}}"()
  ret i32 0
}}
"""

_MOST = 1 << 30  # numbers in the clock's table, more than there are
_NOW = "weft_now"
_NOW_CODE = """
define i64 @{now}() {{
  %time = alloca [2 x i64]
  %failed = call i32 @clock_gettime(i32 {clock}, ptr %time)
  %seconds = load i64, ptr %time
  %place = getelementptr i64, ptr %time, i64 1
  %rest = load i64, ptr %place
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %rest
  ret i64 %now
}}
declare i32 @clock_gettime(i32, ptr)
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
    """Distinct kernels by their text, with their functions' names, and the slots of the table.

    `calls` are the kernels as they stand in the code, those of a loop once, with those names.
    """

    kernels: Sequence[Kernel]
    name: str
    timed: bool = False
    slots: dict[Buffer | str, int] = field(default_factory=lambda: {ARENA.kind: 0, THREADS.kind: 1})
    functions: dict[str, tuple[str, Kernel]] = field(default_factory=dict)
    calls: list[tuple[str, Kernel]] = field(default_factory=list)
    _clock: Any = None

    def __post_init__(self) -> None:
        if self.timed:
            self.slots[CLOCK.kind] = len(self.slots)
        self._collect(self.kernels, frozenset())

    def _collect(self, kernels: Sequence[Kernel], known: frozenset[Buffer]) -> None:
        """Slots for buffers that no loop around tells the place of, and names of functions."""
        for kernel in kernels:
            for port in kernel.ports:
                if port.buffer.kind not in ("arena", "scratch") and port.buffer not in known:
                    self.slots.setdefault(port.buffer, len(self.slots))
            if isinstance(kernel, Turns):
                self._collect(kernel.kernels, frozenset(kernel.tracks))
                continue
            name = f"kernel_{len(self.functions)}"
            name, _ = self.functions.setdefault(text(kernel), (name, kernel))
            self.calls.append((name, kernel))

    def module(self) -> Any:
        """All of it in one module."""
        return tvm.IRModule({name: made for part in self._parts() for name, made in part.items()})

    def modules(self) -> Iterator[Any]:
        """Modules to be linked, each made when it is asked for: some kernels each, then the step.

        Which kernels are together depends on the kernels alone.
        """
        return map(tvm.IRModule, self._parts())

    def _parts(self) -> Iterator[dict[Any, Any]]:
        kernels, shared = list(self.functions.values()), False
        for begin in range(0, len(kernels), TOGETHER):
            with tir.parallel_loops() as found:
                part = dict(starmap(_function, kernels[begin : begin + TOGETHER]))
            shared = shared or bool(found)
            yield part
        yield self._step(shared)

    def _step(self, shared: bool) -> dict[Any, Any]:
        """What calls the kernels; `shared`: threads share loops of theirs."""
        table = tir.pointer("table", _ADDRESS)
        memory, declare = tir.memory("addresses", _ADDRESS, len(self.slots), table)
        body, found = [declare], {}
        for buffer, slot in self.slots.items():
            found[buffer], statement = tir.bind(f"a{slot}", tir.load(memory, tir.number(slot)))
            body.append(statement)
        places = {buffer: place for buffer, place in found.items() if isinstance(buffer, Buffer)}
        outside = [_BARRIER_CODE, underflow.code()]
        if self.timed:
            outside.append(_NOW_CODE.format(now=_NOW, clock=time.CLOCK_MONOTONIC))
            body += self._begin(found[CLOCK.kind])
        calls = self._calls(self.kernels, _Scope(found[ARENA.kind], places), count(2, 2))
        functions: dict[Any, Any] = {}
        if shared:
            body.append(threads.enter(tirx.reinterpret(_pointer("int8"), found[THREADS.kind])))
            outside.append(threads.code())
            functions.update(threads.functions())
        whole = tir.beside("".join(outside), tir.sequence(underflow.flushed([*body, *calls])))
        functions[ir.GlobalVar(STEP)] = tirx.PrimFunc([table], whole).with_attr(
            {"global_symbol": STEP, "calling_conv": _PLAIN}
        )
        called = tir.pointer("table", _ADDRESS)
        call = s.Evaluate(tirx.call_extern("void", STEP, called))
        functions[ir.GlobalVar("step")] = tirx.PrimFunc([called], call).with_attr(
            {"global_symbol": "step"}
        )
        return functions

    def _calls(self, kernels: Sequence[Kernel], scope: _Scope, parts: Iterator[int]) -> list[Stmt]:
        """Calls in order; `parts` are the places of further ones in the clock's table."""
        found: list[Stmt] = []
        for kernel in kernels:
            if isinstance(kernel, Turns):
                found.append(self._turns(kernel, scope, parts))
            else:
                found += [self._call(kernel, scope), tir.external(_BARRIER)]
                if self.timed:
                    found += self._mark(next(parts))
        return found

    def _begin(self, address: Expr) -> list[Stmt]:
        """The clock's table, and the time at which the step begins."""
        pointer, bound = tir.bind("clock", tirx.reinterpret(_pointer("int64"), address))
        self._clock, declare = tir.memory("clock", "int64", _MOST, pointer)
        return [bound, declare, tir.store(self._clock, tir.number(0), _now())]

    def _mark(self, place: int) -> list[Stmt]:
        """A call is done: its part has the time since the last mark."""
        last, spent, count = (tir.number(i) for i in (0, place, place + 1))
        clock = self._clock
        now, ask = tir.bind("now", _now())
        total = tir.load(clock, spent) + now - tir.load(clock, last)
        return [
            ask,
            tir.store(clock, spent, total),
            tir.store(clock, count, tir.load(clock, count) + tirx.const(1, "int64")),
            tir.store(clock, last, _now()),
        ]

    def _call(self, kernel: Kernel, scope: _Scope) -> Stmt:
        """A call of the kernel's function."""
        name, _ = self.functions[text(kernel)]
        pointers = []
        for port in kernel.ports:
            type = _pointer(tir.stored(port.dtype))
            pointers.append(tirx.reinterpret(type, scope.address(port.buffer, port.offset)))
        return tir.external(name, *pointers)

    def _turns(self, turns: Turns, scope: _Scope, parts: Iterator[int]) -> Stmt:
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
            return [*body, *self._calls(turns.kernels, inside, parts)]

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


def _pointer(dtype: str) -> Any:
    return ir.PointerType(ir.PrimType(dtype), "global")


def _now() -> Expr:
    """Nanoseconds of a clock that only goes forward."""
    return tirx.call_extern("int64", _NOW)


def _bytes(count: int) -> Expr:
    return tirx.const(count, _ADDRESS)


def _function(name: str, kernel: Kernel) -> tuple[Any, Any]:
    made = print_kernel(kernel).with_attr({"global_symbol": name, "calling_conv": _PLAIN})
    return ir.GlobalVar(name), made


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
