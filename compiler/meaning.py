"""What each primitive means, in NumPy: folds constants, is the reference, judges the backends.

Every function takes arrays first and the attributes by keyword, and returns a new array of the
type that the op's type rule states. Clarity comes before speed here; speed is for the backends.
Floating-point warnings are the caller's to silence: `0 / 0` is NaN, as in IEEE 754. Sums and
products of 16-bit floats are taken in f32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from weft.compiler.philox import random_bits as philox_bits
from weft.compiler.types import Dim, DType, Shape, static_shape

Array = np.ndarray


def _wide(x: Array) -> Array:
    """16-bit floats as f32, to accumulate in; everything else as it is."""
    short = x.dtype.itemsize == 2 and x.dtype.kind not in "iu"
    return x.astype(np.float32) if short else x


# -- elementwise ----------------------------------------------------------------------------------


def logistic(x: Array) -> Array:
    """`1 / (1 + exp(-x))`, written so that `exp` never overflows."""
    small = np.exp(-np.abs(_wide(x)))
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small), x.dtype)


def rsqrt(x: Array) -> Array:
    return np.asarray(1 / np.sqrt(_wide(x)), x.dtype)


def shift_right(x: Array, y: Array) -> Array:
    """Logical shift: zeros come in, also for signed `x`; by the width or more gives 0."""
    return _shift(np.right_shift, x, y)


def shift_left(x: Array, y: Array) -> Array:
    """Zeros come in; by the width or more gives 0."""
    return _shift(np.left_shift, x, y)


def _shift(shift: np.ufunc, x: Array, y: Array) -> Array:
    width, bits = 8 * x.dtype.itemsize, np.dtype(f"u{x.dtype.itemsize}")
    shifted = shift(x.astype(bits), (y % width).astype(bits))
    return np.asarray(np.where((y >= 0) & (y < width), shifted, bits.type(0)), x.dtype)


def cast(x: Array, *, dtype: DType) -> Array:
    """Floats to integers truncate; to bool, `x != 0`."""
    return x.astype(dtype.numpy)


# -- sources --------------------------------------------------------------------------------------


def constant(*, value: Any, dtype: DType, shape: Shape) -> Array:
    """A number beyond the range of a float is infinite."""
    sizes = static_shape(shape)
    with np.errstate(over="ignore"):
        if isinstance(value, tuple):
            return np.array(value, dtype.numpy).reshape(sizes)
        return np.full(sizes, value, dtype.numpy)


def iota(*, dtype: DType, shape: Shape, axis: int) -> Array:
    sizes = static_shape(shape)
    line = np.arange(sizes[axis]).astype(dtype.numpy)
    return np.broadcast_to(
        line.reshape([-1 if i == axis else 1 for i in range(len(sizes))]), sizes
    ).copy()


def dim_size(*, dim: Dim, dtype: DType) -> Array:
    return np.array(static_shape((dim,))[0], dtype.numpy)


def random_bits(seed: Array, step: Array, *, shape: Shape, stream: str) -> Array:
    """Word `i % 4` of Philox4x32-10 at counter (i // 4, step, stream id), in row-major order."""
    sizes = static_shape(shape)
    return philox_bits(seed, step, stream, prod(sizes)).reshape(sizes)


# -- reductions and order -------------------------------------------------------------------------


def reduce_sum(x: Array, *, axes: tuple[int, ...]) -> Array:
    wide = _wide(x)
    return np.asarray(np.sum(wide, axis=axes, dtype=wide.dtype), x.dtype)


def reduce_prod(x: Array, *, axes: tuple[int, ...]) -> Array:
    wide = _wide(x)
    return np.asarray(np.prod(wide, axis=axes, dtype=wide.dtype), x.dtype)


def reduce_max(x: Array, *, axes: tuple[int, ...]) -> Array:
    """Of no elements: -inf, or the smallest integer."""
    return np.asarray(np.max(x, axis=axes, initial=_identity("max", x.dtype)))


def reduce_min(x: Array, *, axes: tuple[int, ...]) -> Array:
    """Of no elements: inf, or the largest integer."""
    return np.asarray(np.min(x, axis=axes, initial=_identity("min", x.dtype)))


def reduce_and(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.all(x, axis=axes))


def reduce_or(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.any(x, axis=axes))


def arg_max(x: Array, *, axis: int) -> Array:
    """The first position of the largest element."""
    return np.asarray(np.argmax(x, axis=axis), np.int64)


def arg_min(x: Array, *, axis: int) -> Array:
    """The first position of the smallest element."""
    return np.asarray(np.argmin(x, axis=axis), np.int64)


def arg_sort(x: Array, *, axis: int, descending: bool) -> Array:
    """A stable order: equal elements keep their positions, also when descending."""
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    flipped = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
    return np.asarray(x.shape[axis] - 1 - np.flip(flipped, axis))


def sort(x: Array, *, axis: int, descending: bool) -> Array:
    return np.take_along_axis(x, arg_sort(x, axis=axis, descending=descending), axis)


def arg_top_k(x: Array, *, k: int) -> Array:
    """Positions of the `k` largest of the last axis, largest first, ties in order."""
    return np.ascontiguousarray(arg_sort(x, axis=x.ndim - 1, descending=True)[..., :k])


def top_k(x: Array, *, k: int) -> Array:
    return np.take_along_axis(x, arg_top_k(x, k=k), -1)


def cumsum(x: Array, *, axis: int, reverse: bool) -> Array:
    """Inclusive running sum; from the end when `reverse`."""
    wide = np.flip(_wide(x), axis) if reverse else _wide(x)
    sums = np.cumsum(wide, axis=axis, dtype=wide.dtype)
    return (np.flip(sums, axis) if reverse else sums).astype(x.dtype, order="C")


# -- contractions and windows ---------------------------------------------------------------------


def dot_general(
    lhs: Array, rhs: Array, *, contract: Any, batch: Any, factors: str | None = None
) -> Array:
    """With full factors: to round them is allowed, and never asked."""
    free_l = [i for i in range(lhs.ndim) if i not in contract[0] and i not in batch[0]]
    free_r = [i for i in range(rhs.ndim) if i not in contract[1] and i not in batch[1]]
    outer, inner = _sizes(lhs, batch[0]), prod(_sizes(lhs, contract[0]))
    rows, columns = _sizes(lhs, free_l), _sizes(rhs, free_r)
    a = _wide(lhs).transpose([*batch[0], *free_l, *contract[0]])
    b = _wide(rhs).transpose([*batch[1], *contract[1], *free_r])
    a, b = a.reshape([*outer, prod(rows), inner]), b.reshape([*outer, inner, prod(columns)])
    return np.asarray(np.matmul(a, b).reshape([*outer, *rows, *columns]), lhs.dtype)


def _sizes(x: Array, axes: Sequence[int]) -> list[int]:
    return [x.shape[i] for i in axes]


def _dilate(x: Array, axis: int, factor: int) -> Array:
    """Zeros between neighbours: `factor - 1` of them."""
    if factor == 1:
        return x
    shape = list(x.shape)
    shape[axis] = max(0, (shape[axis] - 1) * factor + 1)
    out = np.zeros(shape, x.dtype)
    out[(slice(None),) * axis + (slice(None, None, factor),)] = x
    return out


def pad(x: Array, *, low: Any, high: Any, interior: Any, value: float) -> Array:
    """`interior` elements between neighbours, then `low` and `high` around; negative ones cut."""
    out_shape = [
        n + max(0, n - 1) * i + a + b
        for n, a, b, i in zip(x.shape, low, high, interior, strict=True)
    ]
    out = np.full(out_shape, value, x.dtype)
    into, source = [], []
    for n, size, before, between in zip(x.shape, out_shape, low, interior, strict=True):
        step = between + 1
        first = max(0, -(before // step)) if before < 0 else 0
        count = max(0, min(n, (size - before - 1) // step + 1) - first)
        begin = before + first * step
        into.append(slice(begin, begin + count * step, step) if count else slice(0, 0))
        source.append(slice(first, first + count))
    out[tuple(into)] = x[tuple(source)]
    return out


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    groups: int,
    factors: str | None = None,
) -> Array:
    """`out[n, o, p] = sum of x[n, c, p * stride + k * dilation - low] kernel[o, c, k]` over c, k.

    `x` is first spread by `lhs_dilation`, and `dilation` is `rhs_dilation`. The outputs of a group
    see the channels of that group.
    """
    rank, dtype = len(strides), x.dtype
    x, kernel = _wide(x), _wide(kernel)
    for i in range(rank):
        x = _dilate(x, 2 + i, lhs_dilation[i])
        kernel = _dilate(kernel, 2 + i, rhs_dilation[i])
    zeros = (0, 0)
    x = pad(
        x,
        low=(*zeros, *(p[0] for p in padding)),
        high=(*zeros, *(p[1] for p in padding)),
        interior=(0,) * x.ndim,
        value=0,
    )
    windows = sliding_window_view(x, kernel.shape[2:], tuple(range(2, 2 + rank)))
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    outputs, per_group = kernel.shape[0], windows.shape[1] // groups
    parts = [
        np.tensordot(
            windows[:, g * per_group : (g + 1) * per_group],
            kernel[g * (outputs // groups) : (g + 1) * (outputs // groups)],
            axes=([1, *range(2 + rank, 2 + 2 * rank)], list(range(1, 2 + rank))),
        )
        for g in range(groups)
    ]
    return np.moveaxis(np.concatenate(parts, -1), -1, 1).astype(dtype, order="C")


def _windows(x: Array, window: Any, strides: Any, padding: Any, dilation: Any, fill: Any) -> Array:
    """`[..., positions..., window...]`, padded with `fill`."""
    rank, lead = len(window), x.ndim - len(window)
    none = (0,) * lead
    low, high = zip(*padding, strict=True)
    x = pad(x, low=(*none, *low), high=(*none, *high), interior=(0,) * x.ndim, value=fill)
    spans = tuple((w - 1) * d + 1 for w, d in zip(window, dilation, strict=True))
    views = sliding_window_view(x, spans, tuple(range(lead, lead + rank)))
    return views[
        (slice(None),) * lead
        + tuple(slice(None, None, s) for s in strides)
        + tuple(slice(None, None, d) for d in dilation)
    ]


def _identity(reducer: str, dtype: np.dtype) -> Any:
    if reducer == "sum":
        return 0
    if dtype.kind not in "iu":
        return -np.inf if reducer == "max" else np.inf
    info = np.iinfo(dtype)
    return info.min if reducer == "max" else info.max


def reduce_window(
    x: Array, *, reducer: str, window: Any, strides: Any, padding: Any, dilation: Any
) -> Array:
    """Padding counts as the reducer's identity (0, -inf or inf)."""
    views = _windows(_wide(x), window, strides, padding, dilation, _identity(reducer, x.dtype))
    reduce = {"sum": np.add, "max": np.maximum, "min": np.minimum}[reducer].reduce
    axes = tuple(range(-len(window), 0))
    return np.asarray(reduce(views, axis=axes, dtype=views.dtype)).astype(x.dtype, order="C")


def arg_reduce_window(
    x: Array, *, reducer: str, window: Any, strides: Any, padding: Any, dilation: Any
) -> Array:
    """Flat position, within the window axes of `x`, of each window's first extreme element.

    -1 where a window holds nothing but padding.
    """
    rank, lead = len(window), x.ndim - len(window)
    flat = np.arange(prod(x.shape[lead:]), dtype=np.int64).reshape(x.shape[lead:])
    places = _windows(flat, window, strides, padding, dilation, -1)
    places = places.reshape(*places.shape[:rank], prod(window))
    views = _windows(x, window, strides, padding, dilation, _identity(reducer, x.dtype))
    values = views.reshape(*views.shape[: x.ndim], prod(window))
    best = (np.argmax if reducer == "max" else np.argmin)(values, -1)
    chosen = np.take_along_axis(np.broadcast_to(places, values.shape), best[..., None], -1)[..., 0]
    # Where all elements equal the identity, padding may come first: name an element all the same.
    first = np.argmax(places >= 0, -1)
    fallback = np.take_along_axis(places, first[..., None], -1)[..., 0]
    return np.where(chosen >= 0, chosen, fallback)


# -- movement and indexing ------------------------------------------------------------------------


def reshape(x: Array, *, shape: Shape) -> Array:
    return x.reshape(static_shape(shape)).copy()


def transpose(x: Array, *, permutation: Any) -> Array:
    return x.transpose(permutation).copy()


def broadcast_in_dim(x: Array, *, shape: Shape, dims: Any) -> Array:
    sizes = static_shape(shape)
    aligned = x.reshape([sizes[i] if i in dims else 1 for i in range(len(sizes))])
    return np.broadcast_to(aligned, sizes).copy()


def slice_(x: Array, *, start: Any, limit: Any, strides: Any) -> Array:
    index = tuple(slice(a, b, s) for a, b, s in zip(start, limit, strides, strict=True))
    return np.asarray(x[index]).copy()


def concat(*arrays: Array, axis: int) -> Array:
    return np.concatenate(arrays, axis)


def reverse(x: Array, *, axes: Any) -> Array:
    return np.flip(x, axes).copy()


def _flat_positions(x: Array, indices: Array, batch_dims: int) -> Array:
    """Row numbers into `x` with its batch axes and its indexed axis merged; indices clamp."""
    last = x.shape[batch_dims] - 1
    if indices.dtype == np.uint64:
        indices = np.minimum(indices, np.uint64(last))
    rows = np.clip(indices.astype(np.int64), 0, last)
    for axis, extent in enumerate(x.shape[:batch_dims]):
        inner = prod(x.shape[axis + 1 : batch_dims + 1])
        lane = np.arange(extent).reshape([-1] + [1] * (indices.ndim - axis - 1))
        rows = rows + lane * inner
    return rows


def gather(x: Array, indices: Array, *, batch_dims: int) -> Array:
    """`out[b, i, r] = x[b, clamp(indices[b, i]), r]`."""
    rows = _flat_positions(x, indices, batch_dims)
    return np.array(_merged(x, batch_dims)[rows])


def scatter_add(x: Array, indices: Array, updates: Array, *, batch_dims: int) -> Array:
    """`x` with `updates[b, i, r]` added at `[b, clamp(indices[b, i]), r]`, repeats summed."""
    rows = _flat_positions(x, indices, batch_dims)
    out = _wide(x).copy()
    np.add.at(_merged(out, batch_dims), rows, _wide(updates))
    return out.astype(x.dtype, copy=False)


def _merged(x: Array, batch_dims: int) -> Array:
    """A view with the batch axes and the indexed axis as one."""
    return x.reshape(prod(x.shape[: batch_dims + 1]), *x.shape[batch_dims + 1 :])
