"""Scalars and indices of kernels as tensor IR, each computed once where it is used twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvm import tirx

from weft.backends.tvm import random, scalar, tir
from weft.backends.tvm.lines import Lines
from weft.backends.tvm.tir import Buffer, Expr
from weft.compiler.index import Atom, Axis, Datum, Floor, Index
from weft.compiler.scalar import Apply, Bits, Bound, Guard, Literal, Load, Position, Result, Scalar
from weft.compiler.types import I64


@dataclass(eq=False)
class Emitter:
    """Prints scalars at one place of a kernel: `axes` gives each axis its current value.

    The lines that it makes go before the statement that uses what it prints.
    """

    buffers: list[Buffer]
    axes: dict[Axis, Expr]
    results: Mapping[int, Expr] = field(default_factory=dict)
    lines: Lines = field(default_factory=Lines)
    _made: dict[tuple[int, int], tuple[Scalar, Expr]] = field(default_factory=dict)
    _guards: list[tuple[Guard, Expr]] = field(default_factory=list)

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
        given = atom.scalar.dtype
        position = scalar.apply(self.lines, "cast", [self.value(atom.scalar)], I64, [given])
        low, high = tirx.const(0, "int64"), tirx.const(atom.limit - 1, "int64")
        return self.lines.let(tirx.Cast("int32", tirx.max(tirx.min(position, high), low)))

    def value(self, value: Scalar) -> Expr:
        """The expression of a scalar: a name, or a number."""
        if (id(value), 0) in self._made:
            return self._made[id(value), 0][1]
        key = id(value), id(self._guards[-1][0]) if self._guards else 0
        if key not in self._made:
            self._made[key] = value, self._expression(value)
        return self._made[key][1]

    def _expression(self, value: Scalar) -> Expr:
        match value:
            case Literal():
                return scalar.literal(value.value, value.dtype)
            case Load():
                return self.lines.let(self._load(value))
            case Position():
                index = self.index(value.index)
                if isinstance(index, tirx.IntImm):
                    return scalar.literal(index.value, value.dtype)
                index = tirx.Cast("int64", index)
                return scalar.apply(self.lines, "cast", [index], value.dtype, [I64])
            case Apply():
                parts = [self.value(part) for part in value.parts]
                given = [part.dtype for part in value.parts]
                return scalar.apply(self.lines, value.op, parts, value.dtype, given)
            case Guard():
                return self._guarded(value)
            case Bits():
                low, high, step, *stream = (self.value(word) for word in value.key)
                position = self.index(value.position)
                return random.word(self.lines, (low, high, step), stream, position)
            case Result():
                return self.results[value.number]
        raise AssertionError(value)

    def _load(self, value: Load) -> Expr:
        found = tir.load(self.buffers[value.port], self.index(value.index))
        for _, inside in reversed(self._guards):
            found = tirx.if_then_else(inside, found, scalar.literal(0, value.dtype))
        return found

    def _guarded(self, guard: Guard) -> Expr:
        """What is read inside of a guard is read only where its tests hold."""
        inside, other = self.inside(guard), self.value(guard.other)
        if inside is None:
            return self.value(guard.value)
        self._guards.append((guard, inside))
        found = self.value(guard.value)
        self._guards.pop()
        return self.lines.select(inside, found, other)

    def inside(self, guard: Guard) -> Expr | None:
        """Whether the guard's tests keep their bounds; None where they always do."""
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
