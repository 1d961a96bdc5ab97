"""Convolution as matrix products over unfolded windows, in one of three layouts.

    runs    stride 1: each row of the unfolded matrix is one contiguous run of the padded images
            laid end to end, shifted; positions that straddle a border are computed and dropped
    images  one matrix an image, unfolded exactly; the product is the result as it stands
    tall    windows larger than the result (gradients of kernels): one row a position

Images are unfolded a few at a time, so that the unfolded matrix stays near the cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from weft.backends.numpy.kernels import pad_slices
from weft.compiler.graph import Node
from weft.compiler.passes.views import contiguous
from weft.compiler.types import static_shape

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

Array = np.ndarray
Run = Callable[[Array, Array, Array], None]

# Elements of the unfolded matrix at a time, by layout; measured from 4x4 to 56x56 images.
_CHUNK = {"runs": 1 << 20, "images": 1 << 18, "tall": 1 << 22}
# A product with fewer rows to sum than this gains nothing from long runs.
_SHALLOW = 16


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution of `x[N, C, ...]` with `kernel[O, C / groups, ...]`."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int

    @property
    def positions(self) -> int:
        return prod(self.out[2:])

    @property
    def window(self) -> int:
        return prod(self.kernel[2:])

    @property
    def depth(self) -> int:
        """Terms of each element's sum."""
        return self.kernel[1] * self.window

    @cached_property
    def padded(self) -> tuple[int, ...]:
        """Spatial sizes with zeros between and around; negative padding cuts."""
        sizes = zip(self.x[2:], self.lhs_dilation, self.padding, strict=True)
        return tuple((n - 1) * d + 1 + low + high for n, d, (low, high) in sizes)

    @property
    def is_plain(self) -> bool:
        """Whether the operand is used as it is, without zeros between or around."""
        return set(self.lhs_dilation) == {1} and not any(map(any, self.padding))

    @cached_property
    def layout(self) -> str:
        if self.window > self.positions:
            return "tall"
        return "runs" if set(self.strides) == {1} and self.depth >= _SHALLOW else "images"

    @cached_property
    def chunk(self) -> int:
        """How many examples are unfolded at once."""
        cells = prod(self.padded) if self.layout == "runs" else self.positions
        return max(1, min(self.x[0], _CHUNK[self.layout] // max(1, self.depth * cells)))

    @cached_property
    def reach(self) -> tuple[int, ...]:
        """How far apart, in a padded image, neighbours along each window axis are."""
        return tuple(
            stride * dilation
            for stride, dilation in zip(
                contiguous(self.padded).strides, self.rhs_dilation, strict=True
            )
        )

    @cached_property
    def memory(self) -> tuple[int, int, int]:
        """Elements of working memory: the padded operand, the unfolded one, the product."""
        per_out = self.out[1] // self.groups
        channels, image = self.x[1], prod(self.padded)
        if self.layout == "runs":
            run = self.chunk * image
            last = sum(r * (k - 1) for r, k in zip(self.reach, self.kernel[2:], strict=True))
            return channels * run + last, self.depth * run, per_out * run
        unfolded = self.chunk * self.depth * self.positions
        if self.layout == "images":
            return self.chunk * channels * image, unfolded, 0
        return self.x[0] * channels * image, unfolded, self.chunk * self.positions * per_out

    @cached_property
    def inner(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Where the operand's elements go in the padded one, and which of them do."""
        low = tuple(p[0] for p in self.padding)
        between = tuple(d - 1 for d in self.lhs_dilation)
        into, source = pad_slices(self.x[2:], self.padded, low, between)
        return (..., *into), (..., *source)


def geometry(node: Node) -> Geometry:
    x, kernel = (static_shape(i.type.shape) for i in node.inputs)
    return Geometry(x, kernel, static_shape(node.type.shape), **node.attributes)


def conv(p: Printer, node: Node) -> None:
    g = geometry(node)
    maker = p.use("convolution", convolution)
    if 0 in (*g.x, *g.kernel, *g.out):
        p.line(f"{p.out(node)}[...] = 0")
        return
    memory = p.scratch(node, (sum(g.memory),), node.type.dtype)
    function = p.setup("conv", f"{maker}({p.constant(g, 'geometry')}, {memory})")
    x, kernel = (p.array(i) for i in node.inputs)
    p.line(f"{function}({x}, {kernel}, {p.out(node)})")


def scratch(node: Node) -> int:
    """Bytes of working memory."""
    return sum(geometry(node).memory) * node.type.dtype.bytes


def convolution(g: Geometry, memory: Array) -> Run:
    """`f(x, kernel, out)` for one geometry, with its working memory laid out."""
    first, second, _ = g.memory
    parts = memory[:first], memory[first : first + second], memory[first + second :]
    return {"runs": _runs, "images": _images, "tall": _tall}[g.layout](g, *parts)


def _weights(g: Geometry, kernel: Array) -> Array:
    return kernel.reshape(g.groups, g.out[1] // g.groups, g.depth)


def _runs(g: Geometry, padded: Array, columns: Array, product: Array) -> Run:
    n, channels = g.x[:2]
    run, per_in, per_out = g.chunk * prod(g.padded), g.kernel[1], g.out[1] // g.groups
    images = padded[: channels * run].reshape(channels, g.chunk, *g.padded)
    item = padded.itemsize
    strides = (run * item, *(r * item for r in g.reach), item)
    shifted = [
        as_strided(padded[group * per_in * run :], (per_in, *g.kernel[2:], run), strides)
        for group in range(g.groups)
    ]
    unfolded = columns.reshape(shifted[0].shape)
    matrix, table = columns.reshape(g.depth, run), product.reshape(per_out, run)
    valid = (slice(None), slice(None), *(slice(0, size) for size in g.out[2:]))
    result = product.reshape(per_out, g.chunk, *g.padded)[valid].swapaxes(0, 1)
    into, source = g.inner
    inner, dot, plain = images[into], np.dot, g.is_plain

    def step(x: Array, kernel: Array, out: Array) -> None:
        weights = _weights(g, kernel)
        turned = x[source].swapaxes(0, 1)
        if not plain:
            padded[...] = 0
        for start in range(0, n, g.chunk):
            count = min(g.chunk, n - start)
            inner[:, :count] = turned[:, start : start + count]
            for group, windows in enumerate(shifted):
                unfolded[...] = windows
                dot(weights[group], matrix, table)
                target = out[start : start + count, group * per_out : (group + 1) * per_out]
                target[...] = result[:count]

    return step


def _windows(g: Geometry, x: Array) -> Array:
    """`[N, C, positions..., window...]` of a padded operand."""
    rank = len(g.strides)
    spans = tuple((k - 1) * d + 1 for k, d in zip(g.kernel[2:], g.rhs_dilation, strict=True))
    steps = tuple(slice(None, None, s) for s in (*g.strides, *g.rhs_dilation))
    views: Array = sliding_window_view(x, spans, tuple(range(2, 2 + rank)))
    return views[(slice(None), slice(None), *steps)]


def _images(g: Geometry, padded: Array, columns: Array, _: Array) -> Run:
    n, channels = g.x[:2]
    rank, per_in = len(g.strides), g.kernel[1]
    images = padded.reshape(g.chunk, channels, *g.padded)
    into, source = g.inner
    inner, plain, matmul = images[into], g.is_plain, np.matmul
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    windows = _windows(g, images).transpose(order)
    unfolded = columns.reshape(g.chunk, per_in, *g.kernel[2:], *g.out[2:])
    matrix = columns.reshape(g.chunk, g.depth, g.positions)

    def step(x: Array, kernel: Array, out: Array) -> None:
        weights = _weights(g, kernel)
        results = out.reshape(n, g.groups, -1, g.positions)
        x = x[source]
        if not plain:
            padded[...] = 0
        for start in range(0, n, g.chunk):
            count = min(g.chunk, n - start)
            inner[:count] = x[start : start + count]
            for group in range(g.groups):
                mine = windows[:count, group * per_in : (group + 1) * per_in]
                unfolded[:count] = mine
                matmul(weights[group], matrix[:count], results[start : start + count, group])

    return step


def _tall(g: Geometry, padded: Array, columns: Array, product: Array) -> Run:
    n, channels = g.x[:2]
    rank, per_in, per_out = len(g.strides), g.kernel[1], g.out[1] // g.groups
    images = padded.reshape(n, channels, *g.padded)
    into, source = g.inner
    inner, plain, dot = images[into], g.is_plain, np.dot
    spatial = range(2, 2 + rank)
    windows = _windows(g, images).transpose(0, *spatial, 1, *range(2 + rank, 2 + 2 * rank))
    channel = 1 + rank

    def step(x: Array, kernel: Array, out: Array) -> None:
        weights = _weights(g, kernel)
        if not plain:
            padded[...] = 0
        inner[...] = x[source]
        for start in range(0, n, g.chunk):
            count = min(g.chunk, n - start)
            matrix = columns[: count * g.positions * g.depth]
            table = product[: count * g.positions * per_out].reshape(-1, per_out)
            for group in range(g.groups):
                mine = [slice(None)] * windows.ndim
                mine[0] = slice(start, start + count)
                mine[channel] = slice(group * per_in, (group + 1) * per_in)
                part = windows[tuple(mine)]
                matrix.reshape(part.shape)[...] = part
                dot(matrix.reshape(-1, g.depth), weights[group].T, table)
                target = out[start : start + count, group * per_out : (group + 1) * per_out]
                target[...] = np.moveaxis(table.reshape(count, *g.out[2:], per_out), -1, 1)

    return step
