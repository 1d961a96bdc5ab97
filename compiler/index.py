"""Index expressions: whole numbers that are linear in a kernel's axes, with floors and remainders.

    flat position of x[i, j] in f32[8, 64]:   64*i + j        i in 0..7, j in 0..63
    its row after a reshape to [512]:         (64*i + j) // 64  =  i

Every atom knows its bounds, so that most floors and remainders of reshapes vanish as they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.compiler.scalar import Scalar


@dataclass(frozen=True, eq=False)
class Axis:
    """A loop's counter, from 0 to below `extent`."""

    extent: int

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, max(0, self.extent - 1)


@dataclass(frozen=True)
class Floor:
    """`floor(index / divisor)`."""

    index: Index
    divisor: int

    @property
    def bounds(self) -> tuple[int, int]:
        low, high = self.index.bounds
        return low // self.divisor, high // self.divisor


@dataclass(frozen=True)
class Remainder:
    """`index mod divisor`, from 0 to below the divisor."""

    index: Index
    divisor: int

    @property
    def floor(self) -> Floor:
        """What it is the rest of: `index = divisor floor + self`."""
        return _floor(self.index, self.divisor)

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, self.divisor - 1


@dataclass(frozen=True, eq=False)
class Datum:
    """A position that is read from data, clamped to 0 .. `limit` - 1."""

    scalar: Scalar
    limit: int

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, max(0, self.limit - 1)


Atom = Axis | Floor | Remainder | Datum


@dataclass(frozen=True)
class Index:
    """`constant + sum(factor * atom)`."""

    terms: tuple[tuple[Atom, int], ...] = ()
    constant: int = 0

    @cached_property
    def bounds(self) -> tuple[int, int]:
        low = high = self.constant
        for atom, factor in self.terms:
            ends = [factor * end for end in atom.bounds]
            low, high = low + min(ends), high + max(ends)
        return low, high

    @cached_property
    def axes(self) -> frozenset[Axis]:
        """All axes that it depends on, through floors and data too."""
        found: set[Axis] = set()
        for atom, _ in self.terms:
            if isinstance(atom, Axis):
                found.add(atom)
            elif isinstance(atom, Datum):
                found |= atom.scalar.axes
            else:
                found |= atom.index.axes
        return frozenset(found)

    def factor(self, axis: Axis) -> int | None:
        """What one step along the axis adds; None where that is no constant."""
        total = 0
        for atom, factor in self.terms:
            if atom is axis:
                total = factor
            elif not isinstance(atom, Axis) and axis in Index(((atom, 1),)).axes:
                return None
        return total

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.constant + other)
        total: dict[Atom, int] = dict(self.terms)
        for atom, factor in other.terms:
            total[atom] = total.get(atom, 0) + factor
        constant = self.constant + other.constant
        for atom, factor in total.items():
            if isinstance(atom, Remainder) and total.get(atom.floor) == factor * atom.divisor:
                rest = {a: f for a, f in total.items() if a not in (atom, atom.floor)}
                return Index(_terms(rest), constant) + atom.index * factor
        return Index(_terms(total), constant)

    def __mul__(self, factor: int) -> Index:
        if factor == 0:
            return Index()
        return Index(tuple((a, f * factor) for a, f in self.terms), self.constant * factor)

    def __floordiv__(self, divisor: int) -> Index:
        """Exact parts leave the floor: `(64*i + j) // 64` is `i` where j stays below 64."""
        whole, rest = self._parted(divisor)
        low, high = rest.bounds
        if low // divisor == high // divisor:
            return whole + low // divisor
        step, coarse, _ = rest._in_steps(divisor)
        if step > 1:
            return whole + coarse // (divisor // step)
        return whole + Index(((_floor(rest, divisor), 1),))

    def __mod__(self, divisor: int) -> Index:
        _, rest = self._parted(divisor)
        low, high = rest.bounds
        if low // divisor == high // divisor:
            return rest + -(low // divisor) * divisor
        step, coarse, fine = rest._in_steps(divisor)
        if step > 1:
            return coarse % (divisor // step) * step + fine
        return Index(((Remainder(rest, divisor), 1),))

    def _parted(self, divisor: int) -> tuple[Index, Index]:
        """The quotient of what the divisor divides, and the rest."""
        whole = tuple((a, f // divisor) for a, f in self.terms if f % divisor == 0)
        rest = tuple((a, f) for a, f in self.terms if f % divisor)
        return (
            Index(whole, self.constant // divisor),
            Index(rest, self.constant % divisor),
        )

    def _in_steps(self, divisor: int) -> tuple[int, Index, Index]:
        """`step`, `coarse` and `fine` with `self = step coarse + fine`, `0 <= fine < step`, and a
        step that divides the divisor: the largest one that is found, or 1.
        """
        for step in sorted({gcd(f, divisor) for _, f in self.terms}, reverse=True):
            coarse = tuple((a, f // step) for a, f in self.terms if f % step == 0)
            fine = Index(tuple((a, f) for a, f in self.terms if f % step), self.constant % step)
            low, high = fine.bounds
            if low >= 0 and high < step:
                return step, Index(coarse, self.constant // step), fine
        return 1, self, Index()

    def replaced(self, by: Mapping[Axis, Index]) -> Index:
        """Other indices for some axes. Data keeps its own axes: replace those in the scalar."""
        total = Index((), self.constant)
        for atom, factor in self.terms:
            total = total + _replaced(atom, by) * factor
        return total


def _replaced(atom: Atom, by: Mapping[Axis, Index]) -> Index:
    if isinstance(atom, Axis):
        return by.get(atom, Index(((atom, 1),)))
    if isinstance(atom, Datum):
        return Index(((Datum(atom.scalar.replaced(by), atom.limit), 1),))
    inner = atom.index.replaced(by)
    return inner // atom.divisor if isinstance(atom, Floor) else inner % atom.divisor


def _terms(total: Mapping[Atom, int]) -> tuple[tuple[Atom, int], ...]:
    return tuple((a, f) for a, f in total.items() if f)


def _floor(index: Index, divisor: int) -> Floor:
    """One floor in place of two: `floor(floor(i / a) / b) = floor(i / (a b))`."""
    match index:
        case Index(((Floor(inner, first), 1),), 0):
            return Floor(inner, first * divisor)
    return Floor(index, divisor)


Indices = tuple[Index, ...]


def along(axis: Axis) -> Index:
    """The index that is just the axis."""
    return Index(((axis, 1),)) if axis.extent > 1 else Index()


def flat(indices: Sequence[Index], strides: Iterable[int]) -> Index:
    """`sum(index * stride)`."""
    total = Index()
    for index, stride in zip(indices, strides, strict=True):
        total = total + index * stride
    return total


def unflat(position: Index, shape: Sequence[int]) -> Indices:
    """The indices of a flat position in row-major order."""
    found = []
    step = 1
    for number, size in enumerate(reversed(shape)):
        index = position // step
        found.append(index % size if number < len(shape) - 1 else index)
        step *= size
    return tuple(reversed(found))
