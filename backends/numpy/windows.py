"""Convolution as one matrix product over unfolded windows, and pooling as a few wide operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from weft.compiler.graph import Node
from weft.compiler.meaning import arg_reduce_window as reference_arg
from weft.compiler.types import static_shape

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

Array = np.ndarray
# Unfolded windows of so many elements at a time stay in a core's cache.
CHUNK = 1 << 20


def _shape(node: Node) -> tuple[int, ...]:
    return static_shape(node.type.shape)


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int

    @property
    def rank(self) -> int:
        return len(self.strides)

    @property
    def positions(self) -> int:
        return prod(self.out[2:])

    @property
    def window(self) -> int:
        return prod(self.kernel[2:])

    @property
    def padded(self) -> tuple[int, ...]:
        """Spatial sizes with zeros between and around; negative padding cuts."""
        sizes = zip(self.x[2:], self.lhs_dilation, self.padding, strict=True)
        return tuple((n - 1) * d + 1 + low + high for n, d, (low, high) in sizes)

    @property
    def per_chunk(self) -> int:
        """Examples whose windows are unfolded at once."""
        each = self.x[1] * self.window * self.positions
        return max(1, min(self.x[0], CHUNK // max(1, each)))


def _geometry(node: Node) -> Geometry:
    x, kernel = node.inputs
    return Geometry(_shape(x), _shape(kernel), _shape(node), **node.attributes)


def conv(p: Printer, node: Node) -> None:
    geometry = _geometry(node)
    maker = p.use("convolution", convolution)
    shape = p.constant(geometry, "geometry")
    memory = p.scratch(node, (_conv_elements(geometry),), node.type.dtype)
    function = p.setup("conv", f"{maker}({shape}, {memory})")
    x, kernel = (p.array(i) for i in node.inputs)
    p.line(f"{function}({x}, {kernel}, {p.out(node)})")


def _conv_elements(g: Geometry) -> int:
    """Scratch: the padded operand, a chunk of unfolded windows, and its product."""
    chunk = g.per_chunk
    unfolded = chunk * g.x[1] * g.window * g.positions
    product = chunk * g.out[1] * g.positions
    return prod(g.x[:2]) * prod(g.padded) + unfolded + product


def convolution(g: Geometry, memory: Array) -> Callable[[Array, Array, Array], None]:
    """`f(x, kernel, out)` for one geometry, with its working memory laid out."""
    n, channels = g.x[:2]
    outputs, groups, positions, window = g.out[1], g.groups, g.positions, g.window
    chunk = g.per_chunk
    space = iter(
        _split(memory, (n * channels * prod(g.padded), chunk * channels * window * positions))
    )
    padded = next(space).reshape(n, channels, *g.padded)
    columns, product = next(space), next(space)
    inner, source = _interior(g)
    whole = all(d == 1 for d in g.lhs_dilation) and not any(map(any, g.padding))
    spans = tuple((k - 1) * d + 1 for k, d in zip(g.kernel[2:], g.rhs_dilation, strict=True))
    axes = tuple(range(2, 2 + g.rank))
    steps: tuple[Any, ...] = (
        ...,
        *(slice(None, None, s) for s in g.strides),
        *(slice(None, None, d) for d in g.rhs_dilation),
    )
    # Windows first and positions last, so that runs of a line are copied, or the other way round
    # where the window is the larger (gradients of kernels).
    tall = window > positions
    spatial, offsets = list(range(2, 2 + g.rank)), list(range(2 + g.rank, 2 + 2 * g.rank))
    order = [0, *spatial, 1, *offsets] if tall else [1, *offsets, 0, *spatial]
    per_in, per_out = channels // groups, outputs // groups
    dot = np.dot

    def run(x: Array, kernel: Array, out: Array) -> None:
        if not whole:
            padded[...] = 0
            padded[inner] = x[source]
            x = padded
        views = sliding_window_view(x, spans, axes)[steps]
        weights = kernel.reshape(groups, per_out, per_in * window)
        for start in range(0, n, chunk):
            part = views[start : start + chunk]
            count = part.shape[0]
            for group in range(groups):
                piece = part[:, group * per_in : (group + 1) * per_in] if groups > 1 else part
                moved = piece.transpose(order)
                flat = columns[: count * per_in * window * positions]
                flat.reshape(moved.shape)[...] = moved
                target = out[start : start + count, group * per_out : (group + 1) * per_out]
                result = product[: per_out * count * positions]
                if tall:
                    matrix = flat.reshape(count * positions, per_in * window)
                    table = result.reshape(count * positions, per_out)
                    dot(matrix, weights[group].T, table)
                    target[...] = np.moveaxis(table.reshape(count, *g.out[2:], per_out), -1, 1)
                else:
                    matrix = flat.reshape(per_in * window, count * positions)
                    table = result.reshape(per_out, count * positions)
                    dot(weights[group], matrix, table)
                    target[...] = table.reshape(per_out, count, *g.out[2:]).swapaxes(0, 1)

    return run


def _split(memory: Array, sizes: tuple[int, ...]) -> list[Array]:
    parts, start = [], 0
    for size in sizes:
        parts.append(memory[start : start + size])
        start += size
    return [*parts, memory[start:]]


def _interior(g: Geometry) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Where the operand's elements go in the padded one, and which of them do."""
    from weft.backends.numpy.kernels import pad_slices

    into, source = pad_slices(
        g.x[2:], g.padded, tuple(p[0] for p in g.padding), tuple(d - 1 for d in g.lhs_dilation)
    )
    return (..., *into), (..., *source)


# -- pooling --------------------------------------------------------------------------------------

_COMBINE = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def reduce_window(p: Printer, node: Node) -> None:
    a = node.attributes
    maker = p.use("pooling", pooling)
    shapes = (_shape(node.inputs[0]), _shape(node))
    text = ", ".join([f"{shapes}", *(repr(a[k]) for k in node.op.attributes)])
    memory = "None"
    if any(map(any, a["padding"])):
        memory = p.scratch(node, _padded(node), node.type.dtype)
    function = p.setup("pool", f"{maker}({text}, {memory})")
    p.line(f"{function}({p.array(node.inputs[0])}, {p.out(node)})")


def _padded(node: Node) -> tuple[int, ...]:
    padding = node.attributes["padding"]
    shape = _shape(node.inputs[0])
    lead = len(shape) - len(padding)
    return (
        *shape[:lead],
        *(n + low + high for n, (low, high) in zip(shape[lead:], padding, strict=True)),
    )


def pooling(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    reducer: str,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    memory: Array | None,
) -> Callable[[Array, Array], None]:
    """`f(x, out)`: combines one shifted, strided view for each element of the window."""
    combine = _COMBINE[reducer]
    shape, out_shape = shapes
    lead = len(shape) - len(window)
    positions = out_shape[lead:]
    views: list[tuple[Any, ...]] = []
    for offsets in np.ndindex(*window):
        starts = [o * d for o, d in zip(offsets, dilation, strict=True)]
        views.append(
            (
                ...,
                *(
                    slice(a, a + (n - 1) * s + 1, s)
                    for a, n, s in zip(starts, positions, strides, strict=True)
                ),
            )
        )
    inner: tuple[Any, ...] = (
        ...,
        *(
            slice(max(0, low), max(0, low) + n + min(0, low) + min(0, high))
            for n, (low, high) in zip(shape[lead:], padding, strict=True)
        ),
    )
    source: tuple[Any, ...] = (
        ...,
        *(
            slice(max(0, -low), n - max(0, -high))
            for n, (low, high) in zip(shape[lead:], padding, strict=True)
        ),
    )

    def run(x: Array, out: Array) -> None:
        if memory is not None:
            memory[...] = _identity(reducer, memory.dtype)
            memory[inner] = x[source]
            x = memory
        out[...] = x[views[0]]
        for index in views[1:]:
            combine(out, x[index], out=out)

    return run


def _identity(reducer: str, dtype: np.dtype) -> Any:
    if reducer == "sum":
        return 0
    if dtype.kind == "f":
        return -np.inf if reducer == "max" else np.inf
    info = np.iinfo(dtype)
    return info.min if reducer == "max" else info.max


def arg_reduce_window(p: Printer, node: Node) -> None:
    from functools import partial

    function = p.constant(partial(reference_arg, **node.attributes), "arg_pool")
    p.line(f"{p.out(node)}[...] = {function}({p.array(node.inputs[0])})")


def scratch(node: Node) -> int:
    """Bytes that these templates ask of the plan."""
    if node.op.name == "conv":
        return max(1, _conv_elements(_geometry(node))) * node.type.dtype.bytes
    if node.op.name == "reduce_window" and any(map(any, node.attributes["padding"])):
        return prod(_padded(node)) * node.type.dtype.bytes
    return 0
