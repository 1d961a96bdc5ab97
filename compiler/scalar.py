"""Scalars of kernels: what one element of a value is, as a function of the axes.

    relu(x)[i, j]      Apply maximum (Load x[10*i + j], Literal 0)

They are shared by identity: a backend gives a name to what is used twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from weft.compiler.index import Axis, Index
from weft.compiler.types import DType


@dataclass(frozen=True, eq=False)
class Scalar:
    """One element of a value, as a function of the axes. Compared by identity."""

    dtype: DType

    @cached_property
    def axes(self) -> frozenset[Axis]:
        """The axes that it depends on."""
        found: frozenset[Axis] = frozenset()
        for part in self.operands:
            found |= part.axes
        for index in self.indices:
            found |= index.axes
        return found

    @property
    def operands(self) -> tuple[Scalar, ...]:
        return ()

    @property
    def indices(self) -> tuple[Index, ...]:
        return ()

    def replaced(self, by: Mapping[Axis, Index]) -> Scalar:
        """Other indices for some axes."""
        return Rewriter(by)(self)

    def rebuilt(self, operands: tuple[Scalar, ...], indices: tuple[Index, ...]) -> Scalar:
        return self


@dataclass(frozen=True, eq=False)
class Literal(Scalar):
    value: int | float | bool


@dataclass(frozen=True, eq=False)
class Load(Scalar):
    """An element of a port."""

    port: int
    index: Index

    @property
    def indices(self) -> tuple[Index, ...]:
        return (self.index,)

    def rebuilt(self, operands: tuple[Scalar, ...], indices: tuple[Index, ...]) -> Scalar:
        return Load(self.dtype, self.port, *indices)


@dataclass(frozen=True, eq=False)
class Position(Scalar):
    """An index as a number (iota)."""

    index: Index

    @property
    def indices(self) -> tuple[Index, ...]:
        return (self.index,)

    def rebuilt(self, operands: tuple[Scalar, ...], indices: tuple[Index, ...]) -> Scalar:
        return Position(self.dtype, *indices)


@dataclass(frozen=True, eq=False)
class Apply(Scalar):
    """An elementwise op of the op table."""

    op: str
    parts: tuple[Scalar, ...]

    @property
    def operands(self) -> tuple[Scalar, ...]:
        return self.parts

    def rebuilt(self, operands: tuple[Scalar, ...], indices: tuple[Index, ...]) -> Scalar:
        return Apply(self.dtype, self.op, operands)


@dataclass(frozen=True)
class Bound:
    """`low <= index < high`, and `index - low` a multiple of `step`."""

    low: int
    high: int
    step: int = 1


@dataclass(frozen=True, eq=False)
class Guard(Scalar):
    """`value` where each index keeps its bound, else `other`; nothing is read outside."""

    value: Scalar
    other: Scalar
    tests: tuple[Index, ...]
    bounds: tuple[Bound, ...]

    @property
    def operands(self) -> tuple[Scalar, ...]:
        return self.value, self.other

    @property
    def indices(self) -> tuple[Index, ...]:
        return self.tests

    def rebuilt(self, operands: tuple[Scalar, ...], indices: tuple[Index, ...]) -> Scalar:
        value, other = operands
        return Guard(self.dtype, value, other, indices, self.bounds)


@dataclass(frozen=True, eq=False)
class Bits(Scalar):
    """The random word at a flat position.

    The key is the seed's low and high word, the step, and the low and high word of the stream's
    name: all of them data, so that draws under other names are the same code.
    """

    key: tuple[Scalar, ...]
    position: Index

    @property
    def operands(self) -> tuple[Scalar, ...]:
        return self.key

    @property
    def indices(self) -> tuple[Index, ...]:
        return (self.position,)

    def rebuilt(self, operands: tuple[Scalar, ...], indices: tuple[Index, ...]) -> Scalar:
        return Bits(self.dtype, operands, *indices)


@dataclass(frozen=True, eq=False)
class Result(Scalar):
    """What a fold of an earlier stage came to, for the current row."""

    number: int


class Rewriter:
    """Replaces axes by indices throughout scalars, keeping what is shared shared."""

    def __init__(self, by: Mapping[Axis, Index]) -> None:
        self.by = by
        self._done: dict[int, tuple[Scalar, Scalar]] = {}

    def __call__(self, scalar: Scalar) -> Scalar:
        if not (scalar.axes & self.by.keys()):
            return scalar
        if id(scalar) not in self._done:
            made = scalar.rebuilt(
                tuple(self(part) for part in scalar.operands),
                tuple(self.index(index) for index in scalar.indices),
            )
            self._done[id(scalar)] = scalar, made
        return self._done[id(scalar)][1]

    def index(self, index: Index) -> Index:
        return index.replaced(self.by)
