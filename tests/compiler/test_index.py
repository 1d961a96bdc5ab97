"""Indices: what floors and remainders become, and that they stay what they were."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.compiler.index import Atom, Axis, Floor, Index, Remainder, along, flat, unflat
from weft.compiler.passes.views import contiguous

AXES = Axis(6), Axis(4), Axis(5)
i, j, k = (along(axis) for axis in AXES)


def at(index: Index, values: dict[Axis, int]) -> int:
    return index.constant + sum(factor * _atom(atom, values) for atom, factor in index.terms)


def _atom(atom: Atom, values: dict[Axis, int]) -> int:
    if isinstance(atom, Axis):
        return values[atom]
    assert isinstance(atom, Floor | Remainder)
    inner = at(atom.index, values)
    return inner // atom.divisor if isinstance(atom, Floor) else inner % atom.divisor


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ((i * 4 + j) // 4, i),
        ((i * 4 + j) % 4, j),
        ((i * 4 + j) // 8, i // 2),
        ((i * 4 + j) % 8, (i % 2) * 4 + j),
        ((i * 4 + j + 3) // 8, Index(((Floor(i * 4 + j + 3, 8), 1),))),
        ((i // 2) // 3, Index()),
        ((i * 20 + k) // 3 // 2, Index(((Floor(i * 20 + k, 6), 1),))),
        ((i // 2) * 2 + i % 2, i),
        (i % 2 + (i // 2) * 2, i),
        ((i // 2) * 6 + (i % 2) * 3, i * 3),
        (i + i * -1, Index()),
    ],
)
def test_forms(made: Index, expected: Index) -> None:
    assert made == expected


@pytest.mark.parametrize("shape", [(6, 20), (2, 3, 20), (120,), (3, 2, 4, 5), (12, 10), (24, 5)])
def test_reshapes_and_back(shape: tuple[int, ...]) -> None:
    """A position that goes through a shape and back again is what it was."""
    position = i * 20 + j * 5 + k
    back = flat(unflat(position, shape), contiguous(shape).strides)
    assert dict(back.terms) == dict(position.terms)
    assert back.constant == 0


terms = st.lists(st.tuples(st.sampled_from(AXES), st.integers(-12, 60)), max_size=3)
steps = st.lists(st.tuples(st.booleans(), st.integers(1, 12), st.integers(-4, 4)), max_size=4)


@settings(max_examples=300)
@given(terms=terms, constant=st.integers(-9, 9), steps=steps)
def test_values_stay(
    terms: list[tuple[Axis, int]], constant: int, steps: list[tuple[bool, int, int]]
) -> None:
    """Whatever is divided and added up: each is the number that it stands for."""
    start = Index((), constant)
    for axis, factor in terms:
        start = start + along(axis) * factor
    for place in product(*(range(axis.extent) for axis in AXES)):
        values = dict(zip(AXES, place, strict=True))
        index, number = start, at(start, values)
        for is_floor, divisor, more in steps:
            index = (index // divisor if is_floor else index % divisor) + start * more
            number = (number // divisor if is_floor else number % divisor) + more * at(
                start, values
            )
        assert at(index, values) == number
        low, high = index.bounds
        assert low <= number <= high


def test_bounds_hold_all_positions() -> None:
    shape = (2, 3, 4, 5)
    position = flat([along(Axis(size)) for size in shape], contiguous(shape).strides)
    assert position.bounds == (0, prod(shape) - 1)
