"""Pooling: one wide operation for each element of the window."""

from __future__ import annotations

from collections.abc import Callable
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
    if node.op.name == "reduce_window" and any(map(any, node.attributes["padding"])):
        return prod(_padded(node)) * node.type.dtype.bytes
    return 0
