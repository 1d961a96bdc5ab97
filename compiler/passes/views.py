"""Layouts of values in memory, and which of them are views: movement without moving."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from operator import mul

import numpy as np
from numpy.lib.stride_tricks import as_strided

from weft.compiler.graph import Node
from weft.compiler.types import static_shape


@dataclass(frozen=True)
class Layout:
    """Elements of a buffer: the one at index `i` is number `offset + sum(i * strides)`."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The strides that matter: those of axes longer than one."""
        return tuple(t for n, t in zip(self.shape, self.strides, strict=True) if n != 1)

    @cached_property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other, in row-major order."""
        return self.size == 0 or self.steps == contiguous(self.shape).steps

    @property
    def is_splat(self) -> bool:
        """Whether every index means the same element."""
        return not any(self.steps)

    def spans(self, size: int) -> bool:
        """Whether these are all elements of a buffer of that size, in its order."""
        return self.offset == 0 and self.is_contiguous and self.size == size

    def matches(self, other: Layout) -> bool:
        """The same elements in the same order, told apart from a reshape by shape and strides."""
        return (self.offset, self.shape, self.steps) == (other.offset, other.shape, other.steps)

    def shifted(self, by: int) -> Layout:
        return Layout(self.offset + by, self.shape, self.strides) if by else self

    def like(self, node: Node) -> Layout:
        """The same run of elements in the node's shape; only for contiguous layouts."""
        return contiguous(static_shape(node.type.shape)).shifted(self.offset)


@lru_cache
def contiguous(shape: tuple[int, ...]) -> Layout:
    """Row-major from the first element on."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return Layout(0, shape, tuple(reversed(strides)))


def parts(concat: Node) -> list[Layout]:
    """Where the operands of a concatenation lie within its result."""
    whole = contiguous(static_shape(concat.type.shape))
    axis, start, found = concat.attributes["axis"], 0, []
    for operand in concat.inputs:
        shape = static_shape(operand.type.shape)
        offset = start * whole.strides[axis] if whole.strides else 0
        found.append(Layout(offset, shape, whole.strides))
        start += shape[axis]
    return found


def view(node: Node, base: Layout) -> Layout | None:
    """Where a movement node's result lies if it shares its operand's memory, else None."""
    shape, attributes = static_shape(node.type.shape), node.attributes
    if 0 in shape or 0 in base.shape:
        return contiguous(shape)
    match node.op.name:
        case "reshape":
            return _reshaped(base, shape)
        case "transpose":
            strides = [base.strides[axis] for axis in attributes["permutation"]]
            return Layout(base.offset, shape, tuple(strides))
        case "broadcast_in_dim":
            stays = dict(zip(attributes["dims"], base.strides, strict=True))
            return Layout(base.offset, shape, tuple([stays.get(i, 0) for i in range(len(shape))]))
        case "slice":
            first = sum(map(mul, attributes["start"], base.strides))
            strides = list(map(mul, attributes["strides"], base.strides))
            return Layout(base.offset + first, shape, tuple(strides))
        case "reverse":
            axes = attributes["axes"]
            last = sum((shape[i] - 1) * base.strides[i] for i in axes)
            strides = [-t if i in axes else t for i, t in enumerate(base.strides)]
            return Layout(base.offset + last, shape, tuple(strides))
        case "stop_gradient":
            return base
    return None


def _reshaped(base: Layout, shape: tuple[int, ...]) -> Layout | None:
    """The same elements in another shape, if strides can say it.

    NumPy knows where they can. It is asked with an array of one-byte elements that has the base's
    shape and strides and is never read.
    """
    if base.is_contiguous:
        return contiguous(shape).shifted(base.offset)
    try:
        array = as_strided(np.empty(1, np.int8), base.shape, base.strides)
        return Layout(base.offset, shape, array.reshape(shape, copy=False).strides)
    except ValueError:
        return None
