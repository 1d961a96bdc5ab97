"""Layouts of values in memory, and which of them are views: movement without moving.

NumPy already knows which movement needs no copy. It is asked with arrays of one-byte elements
that have the right shape and strides and are never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

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

    def shifted(self, by: int) -> Layout:
        return Layout(self.offset + by, self.shape, self.strides) if by else self

    def like(self, node: Node) -> Layout:
        """The same run of elements in the node's shape; only for contiguous layouts."""
        return contiguous(static_shape(node.type.shape)).shifted(self.offset)


def contiguous(shape: tuple[int, ...]) -> Layout:
    """Row-major from the first element on."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return Layout(0, shape, tuple(reversed(strides)))


def view(node: Node, base: Layout) -> Layout | None:
    """Where a movement node's result lies if it shares its operand's memory, else None."""
    shape = static_shape(node.type.shape)
    if 0 in shape or 0 in base.shape:
        return contiguous(shape)
    array = as_strided(np.empty(1, np.int8), base.shape, base.strides)
    result = _viewed(node, array, shape)
    if result is None:
        return None
    offset = _address(result) - _address(array)
    return Layout(base.offset + offset, shape, result.strides)


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _viewed(node: Node, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    attributes = node.attributes
    result: np.ndarray
    match node.op.name:
        case "reshape":
            try:
                return array.reshape(shape, copy=False)
            except ValueError:
                return None
        case "transpose":
            return array.transpose(attributes["permutation"])
        case "broadcast_in_dim":
            sizes = [shape[i] if i in attributes["dims"] else 1 for i in range(len(shape))]
            return np.broadcast_to(array.reshape(sizes, copy=False), shape)
        case "slice":
            bounds = (attributes[key] for key in ("start", "limit", "strides"))
            # The ellipsis keeps a scalar's view an array.
            index: Any = (..., *(slice(a, b, s) for a, b, s in zip(*bounds, strict=True)))
            result = array[index]
            return result
        case "reverse":
            steps = (-1 if i in attributes["axes"] else 1 for i in range(array.ndim))
            index = (..., *(slice(None, None, step) for step in steps))
            result = array[index]
            return result
        case "stop_gradient":
            return array
    return None
