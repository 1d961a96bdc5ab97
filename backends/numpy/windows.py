"""Pooling: one wide operation for each element of the window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.compiler.graph import Node
from weft.compiler.meaning import arg_reduce_window as reference_arg
from weft.compiler.types import static_shape

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

Array = np.ndarray


def _shape(node: Node) -> tuple[int, ...]:
    return static_shape(node.type.shape)


_COMBINE = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def reduce_window(p: Printer, node: Node) -> None:
    function = _set_up(p, node, p.use("pooling", pooling), "pool")
    p.line(f"{function}({p.array(node.inputs[0])}, {p.out(node)})")


def arg_reduce_window(p: Printer, node: Node) -> None:
    function = _set_up(p, node, p.use("arg_pooling", arg_pooling), "arg_pool")
    p.line(f"{function}({p.array(node.inputs[0])}, {p.out(node)})")


def _set_up(p: Printer, node: Node, maker: str, hint: str) -> str:
    x = node.inputs[0]
    attributes = [repr(node.attributes[k]) for k in node.op.attributes]
    shapes = (static_shape(x.type.shape), static_shape(node.type.shape))
    memory = "None"
    if any(map(any, node.attributes["padding"])):
        memory = p.scratch(node, _padded(node), x.type.dtype)
    return p.setup(hint, f"{maker}({shapes}, {', '.join(attributes)}, {memory})")


def _padded(node: Node) -> tuple[int, ...]:
    padding = node.attributes["padding"]
    shape = _shape(node.inputs[0])
    lead = len(shape) - len(padding)
    return (
        *shape[:lead],
        *(n + low + high for n, (low, high) in zip(shape[lead:], padding, strict=True)),
    )


@dataclass(frozen=True)
class _Windows:
    """Index expressions: one shifted, strided view of the padded operand an element of a window."""

    views: list[tuple[Any, ...]]
    inner: tuple[Any, ...]
    source: tuple[Any, ...]


def _windows(shape: Sequence[int], positions: Sequence[int], a: Mapping[str, Any]) -> _Windows:
    views: list[tuple[Any, ...]] = []
    for offsets in np.ndindex(*a["window"]):
        starts = [o * d for o, d in zip(offsets, a["dilation"], strict=True)]
        bounds = zip(starts, positions, a["strides"], strict=True)
        views.append((..., *(slice(b, b + (n - 1) * s + 1, s) for b, n, s in bounds)))
    sizes = zip(shape, a["padding"], strict=True)
    inner = [slice(max(0, low), max(0, low) + n + min(0, low) + min(0, high))
             for n, (low, high) in sizes]  # fmt: skip
    sizes = zip(shape, a["padding"], strict=True)
    source = [slice(max(0, -low), n - max(0, -high)) for n, (low, high) in sizes]
    return _Windows(views, (..., *inner), (..., *source))


def pooling(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    reducer: str,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    memory: Array | None,
) -> Callable[[Array, Array], None]:
    """`f(x, out)` for `reduce_window`; `memory` has the padded shape."""
    a = {"window": window, "strides": strides, "padding": padding, "dilation": dilation}
    lead = len(shapes[0]) - len(window)
    windows = _windows(shapes[0][lead:], shapes[1][lead:], a)
    combine, first, rest = _COMBINE[reducer], windows.views[0], windows.views[1:]

    def run(x: Array, out: Array) -> None:
        if memory is not None:
            memory[...] = _identity(reducer, memory.dtype)
            memory[windows.inner] = x[windows.source]
            x = memory
        out[...] = x[first]
        for index in rest:
            combine(out, x[index], out=out)

    return run


def arg_pooling(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    reducer: str,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    memory: Array | None,
) -> Callable[[Array, Array], None]:
    """`f(x, out)` for `arg_reduce_window`.

    A later element that is strictly better takes the lead, and being later has the larger number:
    the winner's number is the largest number of an element that ever took the lead. That holds
    for finite numbers; where NaN or the identity wins, the reference decides.
    """
    a = {"window": window, "strides": strides, "padding": padding, "dilation": dilation}
    shape, out_shape = shapes
    lead = len(shape) - len(window)
    if prod(window) > 255:
        return lambda x, out: np.copyto(out, reference_arg(x, reducer=reducer, **a))
    windows = _windows(shape[lead:], out_shape[lead:], a)
    combine = _COMBINE[reducer]
    better = np.greater if reducer == "max" else np.less
    worst = np.min if reducer == "max" else np.max
    numbers = [np.array(i, np.uint8) for i in range(prod(window))]
    steps, base = _flat_places(shape[lead:], out_shape[lead:], a)
    ahead = np.empty(out_shape, np.bool_)
    winner, number = np.empty(out_shape, np.uint8), np.empty(out_shape, np.uint8)
    best: Array | None = None

    def run(x: Array, out: Array) -> None:
        nonlocal best
        original = x
        if memory is not None:
            memory[...] = _identity(reducer, memory.dtype)
            memory[windows.inner] = x[windows.source]
            x = memory
        if best is None:
            best = np.empty(out_shape, x.dtype)
        best[...] = x[windows.views[0]]
        winner[...] = 0
        for index, position in zip(windows.views[1:], numbers[1:], strict=True):
            candidate = x[index]
            better(candidate, best, ahead)
            combine(candidate, best, out=best)
            np.multiply(ahead.view(np.uint8), position, number)
            np.maximum(winner, number, out=winner)
        limit = worst(best) if best.size else 0
        if limit != limit or limit == _identity(reducer, best.dtype):
            out[...] = reference_arg(original, reducer=reducer, **a)
            return
        steps.take(winner, 0, out, "clip")
        np.add(out, base, out)

    return run


def _flat_places(
    shape: Sequence[int], positions: Sequence[int], a: Mapping[str, Any]
) -> tuple[Array, Array]:
    """Flat position of each window's first element, and how far the others are from it."""
    weights = [prod(shape[i + 1 :]) for i in range(len(shape))]
    steps = [
        sum(o * d * w for o, d, w in zip(offsets, a["dilation"], weights, strict=True))
        for offsets in np.ndindex(*a["window"])
    ]
    base: Array = np.zeros(tuple(positions), np.int64)
    for axis, (count, weight) in enumerate(zip(positions, weights, strict=True)):
        line = np.arange(count, dtype=np.int64) * a["strides"][axis] - a["padding"][axis][0]
        base = base + (line * weight).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.array(steps, np.int64), base


def _identity(reducer: str, dtype: np.dtype) -> Any:
    if reducer == "sum":
        return 0
    if dtype.kind == "f":
        return -np.inf if reducer == "max" else np.inf
    info = np.iinfo(dtype)
    return info.min if reducer == "max" else info.max


def scratch(node: Node) -> int:
    """Bytes that these templates ask of the plan."""
    if any(map(any, node.attributes["padding"])):
        return prod(_padded(node)) * node.inputs[0].type.dtype.bytes
    return 0
