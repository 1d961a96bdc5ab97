"""Scalars and indices of kernels as tensor IR, each computed once where it is used twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvm import tirx

from weft.backends.tvm import random, scalar, tir
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.index import Atom, Axis, Datum, Floor, Index
from weft.compiler.kernel import (
    Apply,
    Bits,
    Bound,
    Guard,
    Literal,
    Load,
    Position,
    Result,
    Scalar,
)
from weft.compiler.philox import stream_id
from weft.compiler.types import I64


@dataclass(eq=False)
class Emitter:
    """Prints scalars at one place of a kernel: `axes` gives each axis its current value.

    What it binds to names is collected in `bound`, to go before the statement that uses it.
    """

    buffers: list[Buffer]
    axes: dict[Axis, Expr]
    results: Mapping[int, Expr] = field(default_factory=dict)
    bound: list[Stmt] = field(default_factory=list)
    _made: dict[int, tuple[Scalar, Expr]] = field(default_factory=dict)
    _guarded: int = 0

    def take(self) -> list[Stmt]:
        """The bindings made since the last call."""
        found, self.bound = self.bound, []
        return found

    def index(self, index: Index) -> Expr:
        total = None
        for atom, factor in index.terms:
            part = self._atom(atom)
            part = part if factor == 1 else part * tir.number(factor)
            total = part if total is None else total + part
        if total is None:
            return tir.number(index.constant)
        return total + tir.number(index.constant) if index.constant else total

    def _atom(self, atom: Atom) -> Expr:
        if isinstance(atom, Axis):
            return self.axes[atom]
        if isinstance(atom, Datum):
            return self._datum(atom)
        inner = self.index(atom.index)
        shift = 0
        low = atom.index.bounds[0]
        if low < 0:  # truncated division is fast; make it one of a number that is not negative
            shift = -(low // atom.divisor)
            inner = inner + tir.number(shift * atom.divisor)
        divisor = tir.number(atom.divisor)
        if isinstance(atom, Floor):
            quotient = tirx.truncdiv(inner, divisor)
            return quotient - tir.number(shift) if shift else quotient
        return tirx.truncmod(inner, divisor)

    def _datum(self, atom: Datum) -> Expr:
        position = scalar.apply("cast", [self.value(atom.scalar)], I64, [atom.scalar.dtype])
        low, high = tirx.const(0, "int64"), tirx.const(atom.limit - 1, "int64")
        return tirx.max(tirx.min(position, high), low).astype("int32")

    def value(self, value: Scalar) -> Expr:
        """The expression of a scalar, or the name that it is bound to."""
        if id(value) in self._made:
            return self._made[id(value)][1]
        made = self._expression(value)
        if self._guarded:
            return made
        if isinstance(value, (Apply, Guard, Bits, Load)):
            made, binding = tir.bind(f"v{len(self._made)}", made)
            self.bound.append(binding)
        self._made[id(value)] = value, made
        return made

    def _expression(self, value: Scalar) -> Expr:
        match value:
            case Literal():
                return scalar.literal(value.value, value.dtype)
            case Load():
                return tir.load(self.buffers[value.port], self.index(value.index))
            case Position():
                index = self.index(value.index).astype("int64")
                return scalar.apply("cast", [index], value.dtype, [I64])
            case Apply():
                parts = [self.value(part) for part in value.parts]
                return scalar.apply(
                    value.op, parts, value.dtype, [part.dtype for part in value.parts]
                )
            case Guard():
                inside = self.inside(value)
                other = self.value(value.other)
                self._guarded += 1
                found = self.value(value.value)
                self._guarded -= 1
                return tirx.if_then_else(inside, found, other)
            case Bits():
                words = [self.value(word) for word in value.key]
                return random.word(*words, stream_id(value.stream), self.index(value.position))
            case Result():
                return self.results[value.number]
        raise AssertionError(value)

    def inside(self, guard: Guard) -> Expr:
        """Whether the guard's tests keep their bounds."""
        found = None
        for index, bound in zip(guard.tests, guard.bounds, strict=True):
            for test in self._tests(index, bound):
                found = test if found is None else tirx.all(found, test)
        return found

    def _tests(self, index: Index, bound: Bound) -> list[Expr]:
        low, high = index.bounds
        place = self.index(index)
        tests = []
        if low < bound.low:
            tests.append(place >= tir.number(bound.low))
        if high >= bound.high:
            tests.append(place < tir.number(bound.high))
        if bound.step > 1:
            lift = -((low - bound.low) // bound.step) * bound.step - bound.low
            moved = place + tir.number(lift)
            tests.append(tirx.truncmod(moved, tir.number(bound.step)).equal(tir.number(0)))
        return tests
