"""Whole vectors as values: loads, stores, registers, and blocks turned round in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tvm import tirx
from tvm.tirx import stmt as s

from weft.backends.tvm import target, tir
from weft.backends.tvm.lines import fused
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.types import DType


def lanes_for(dtype: DType, wanted: int | None = None) -> int:
    """Elements in one of the machine's registers, or in the narrowest part that holds so many."""
    lanes = target.vector_bytes() // dtype.bytes
    while wanted is not None and lanes > 4 and wanted <= lanes // 2:
        lanes //= 2
    return lanes


def registers() -> int:
    """How many sums a loop can hold in registers, with some left for its operands."""
    return 24 if target.vector_bytes() == 64 else 12


def load(buffer: Buffer, start: Expr, lanes: int) -> Expr:
    """Neighbours in memory from an element on."""
    if lanes == 1:
        return tir.load(buffer, start)
    return tirx.BufferLoad(buffer, [tirx.Ramp(start, tir.number(1), lanes)])


def store(buffer: Buffer, start: Expr, value: Expr, lanes: int) -> Stmt:
    if lanes == 1:
        return tir.store(buffer, start, value)
    return s.BufferStore(buffer, value, [tirx.Ramp(start, tir.number(1), lanes)])


def fetch(buffer: Buffer, at: Expr, *, write: bool = False) -> Stmt:
    """Asks for an element's line of memory, so that it is there when it is needed.

    It may lie behind the end of the buffer: nothing is read.
    """
    place, to_level_1, of_data = tir.address(buffer, at), tir.number(3), tir.number(1)
    return s.Evaluate(
        tirx.call_llvm_intrin(
            "void", "llvm.prefetch.p0", place, tir.number(int(write)), to_level_1, of_data
        )
    )


def spread(value: Expr, lanes: int) -> Expr:
    """The same number in every lane."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


@dataclass(eq=False)
class Registers:
    """Vectors by name: memory that LLVM keeps in registers, made in the order of first use."""

    name: str  # of the elements' type
    lanes: int
    made: list[Stmt] = field(default_factory=list)

    def new(self) -> Register:
        buffer, make = tir.local(f"v{len(self.made)}", self.name, self.lanes)
        self.made.append(make)
        return Register(buffer, self.lanes)

    def zero(self) -> Expr:
        return spread(tirx.const(0.0, self.name), self.lanes)


@dataclass(frozen=True)
class Register:
    buffer: Buffer
    lanes: int

    @property
    def value(self) -> Expr:
        return load(self.buffer, tir.number(0), self.lanes)

    def set(self, value: Expr) -> Stmt:
        return store(self.buffer, tir.number(0), value, self.lanes)

    def add_product(self, a: Expr, b: Expr) -> Stmt:
        return self.set(fused(a, b, self.value))


def turned(
    registers: Registers, rows: Sequence[tuple[Buffer, Expr]], count: int
) -> tuple[list[Stmt], list[Register]]:
    """The first `count` elements in memory of as many rows as a vector has lanes, by columns."""
    lanes, found, current = registers.lanes, [], []
    for buffer, start in rows:
        value = load(buffer, start, count)
        if count == 1:
            value = spread(value, lanes)
        elif count < lanes:
            order = [tir.number(min(lane, count - 1)) for lane in range(lanes)]
            value = tirx.Shuffle([value] * -(-lanes // count), order)
        current.append(registers.new())
        found.append(current[-1].set(value))
    moves, columns = _exchanged(registers, current)
    return [*found, *moves], columns[:count]


def store_first(buffer: Buffer, start: Expr, value: Expr, lanes: int, count: int) -> Stmt:
    """The first `count` lanes of a vector."""
    if count < lanes:
        value = tirx.Shuffle([value], [tir.number(lane) for lane in range(count)])
    return store(buffer, start, value, count)


def _exchanged(registers: Registers, rows: Sequence[Register]) -> tuple[list[Stmt], list[Register]]:
    """A square block with rows and columns exchanged.

    In turn halves, quarters, ... of the rows above exchange blocks with the rows below.
    """
    lanes, found = registers.lanes, []
    current = list(rows)
    step = lanes // 2
    while step:
        following = list(current)
        for i in range(lanes):
            if i & step:
                continue
            above, below = current[i], current[i + step]
            for to, upper in ((i, True), (i + step, False)):
                register = registers.new()
                order = [_source(lane, step, lanes, upper) for lane in range(lanes)]
                numbers = [tir.number(place) for place in order]
                found.append(register.set(tirx.Shuffle([above.value, below.value], numbers)))
                following[to] = register
        current = following
        step //= 2
    return found, current


def _source(lane: int, step: int, lanes: int, upper: bool) -> int:
    """Where a lane of the upper or lower row comes from, counted through both rows."""
    if upper:
        return lanes + (lane ^ step) if lane & step else lane
    return lanes + lane if lane & step else lane ^ step
