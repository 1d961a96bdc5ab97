"""What the printed code calls beside NumPy itself: indexing, the error function, layout helpers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from weft.compiler.error_function import erf as reference_erf
from weft.compiler.passes.views import Layout, contiguous
from weft.compiler.philox import Philox

Array = np.ndarray
_SCATTERED = 1 << 16  # positions worked out at once

__all__ = [
    "Philox",
    "error_function",
    "flipped",
    "pad_slices",
    "reshaped",
    "row_starts",
    "scatterer",
    "sliced",
]


# erf(x) = x P(x^2) / Q(x^2) for |x| <= 4, to 3 ulp in f32; beyond that it is 1. Eigen's and XLA's.
_ERF_P = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
    -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_ERF_Q = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
    -1.42647390514189e-02,
)  # fmt: skip
_IN_CACHE = 1 << 14  # elements worked on at once


def error_function(size: int, dtype: np.dtype) -> Callable[[Array], None]:
    """`f(x)` replaces a flat array by its error function, in f32 by a rational approximation."""
    if dtype != np.float32:
        return lambda x: np.copyto(x, reference_erf(x))
    square, p, q = np.empty((3, min(size, _IN_CACHE)), np.float32)
    tops, bottoms = ([np.array(c, np.float32) for c in cs] for cs in (_ERF_P, _ERF_Q))
    end = np.array(4, np.float32)
    multiply, add = np.multiply, np.add

    def horner(z: Array, coefficients: list[Array], out: Array) -> None:
        multiply(z, coefficients[0], out)
        for c in coefficients[1:-1]:
            add(out, c, out)
            multiply(out, z, out)
        add(out, coefficients[-1], out)

    def run(x: Array) -> None:
        for start in range(0, size, _IN_CACHE):
            part = x[start : start + _IN_CACHE]
            z, top, bottom = (a[: part.size] for a in (square, p, q))
            np.minimum(part, end, out=part)
            np.maximum(part, -end, out=part)
            multiply(part, part, z)
            horner(z, tops, top)
            horner(z, bottoms, bottom)
            multiply(part, top, part)
            np.divide(part, bottom, part)

    return run


def row_starts(
    shape: tuple[int, ...], index_shape: tuple[int, ...], batch_dims: int
) -> tuple[Array, int]:
    """For each index the number of its lane's first row, and the last index of the axis.

    The rows are those of a table whose first axis joins the batch axes and the indexed axis.
    """
    starts: Array = np.zeros((1,) * len(index_shape), np.int64)
    for axis in range(batch_dims):
        step = prod(shape[axis + 1 : batch_dims + 1])
        line = np.arange(shape[axis], dtype=np.int64) * step
        starts = starts + line.reshape([-1 if i == axis else 1 for i in range(len(index_shape))])
    whole = np.ascontiguousarray(np.broadcast_to(starts, index_shape)).reshape(index_shape)
    return whole, max(0, shape[batch_dims] - 1)


def _row_numbers(
    shape: tuple[int, ...], index_shape: tuple[int, ...], batch_dims: int
) -> Callable[[Array], Array]:
    """Indices, clamped, as row numbers."""
    starts, end = row_starts(shape, index_shape, batch_dims)
    zero, last = np.array(0, np.int64), np.array(end, np.int64)
    rows = np.empty(index_shape, np.int64)

    def find(indices: Array) -> Array:
        rows[...] = indices
        np.maximum(rows, zero, out=rows)
        np.minimum(rows, last, out=rows)
        np.add(rows, starts, rows)
        return rows

    return find


def scatterer(
    shape: tuple[int, ...], index_shape: tuple[int, ...], batch_dims: int
) -> Callable[[Array, Array, Array], None]:
    """`scatter_add` for these shapes: `f(x, indices, updates)` adds in place; indices clamp."""
    rows = _row_numbers(shape, index_shape, batch_dims)
    tail = shape[batch_dims + 1 :]
    width, count = prod(tail), prod(index_shape)
    distinct = len(index_shape) == batch_dims or prod(index_shape[batch_dims:]) == 1

    lanes = np.arange(width, dtype=np.int64)
    chunk = max(1, _SCATTERED // max(1, width))

    def scatter(x: Array, indices: Array, updates: Array) -> None:
        if not count or not width:
            return
        if distinct:  # one index a lane: no row is named twice
            x.reshape(-1, *tail)[rows(indices)] += updates
            return
        # NumPy adds at single positions several times faster than at rows.
        flat, found = x.reshape(-1), rows(indices).reshape(-1)
        values = updates.reshape(count, width)
        for start in range(0, count, chunk):
            places = found[start : start + chunk]
            if width > 1:
                places = (places[:, None] * width + lanes).reshape(-1)
            np.add.at(flat, places, values[start : start + chunk].reshape(-1))

    return scatter


# -- layouts --------------------------------------------------------------------------------------


def reshaped(layout: Layout, shape: tuple[int, ...]) -> Layout | None:
    """The layout with axes merged or split, if that needs no copy."""
    if layout.is_contiguous:
        return contiguous(shape).shifted(layout.offset)
    array = as_strided(np.empty(1, np.int8), layout.shape, layout.strides)
    try:
        strides = array.reshape(shape, copy=False).strides
    except ValueError:
        return None
    return Layout(layout.offset, shape, strides)


def sliced(layout: Layout, index: Sequence[slice]) -> Layout:
    """The layout of `array[index]`; every slice has a start, a stop and a positive step."""
    offset = layout.offset
    shape, strides = [], []
    for part, stride in zip(index, layout.strides, strict=True):
        offset += part.start * stride
        shape.append(len(range(part.start, part.stop, part.step)))
        strides.append(stride * part.step)
    return Layout(offset, tuple(shape), tuple(strides))


def flipped(layout: Layout, axis: int) -> Layout:
    """The layout with one axis read backwards."""
    strides = list(layout.strides)
    offset = layout.offset + strides[axis] * (layout.shape[axis] - 1)
    strides[axis] = -strides[axis]
    return Layout(offset, layout.shape, tuple(strides))


def pad_slices(
    shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    low: tuple[int, ...],
    interior: tuple[int, ...],
) -> tuple[list[slice], list[slice]]:
    """Where a padded operand's elements go, and which of them do."""
    into, source = [], []
    for n, size, before, between in zip(shape, out_shape, low, interior, strict=True):
        step = between + 1
        first = -(before // step) if before < 0 else 0
        begin = before + first * step
        count = max(0, min(n - first, -((begin - size) // step)))
        into.append(slice(begin, begin + count * step, step))
        source.append(slice(first, first + count, 1))
    return into, source
