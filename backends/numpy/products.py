"""Sums and contractions as BLAS calls on views: `dot` with ones sums faster than a reduction."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from weft.backends.numpy import kernels
from weft.compiler.graph import Node
from weft.compiler.passes.views import Layout, contiguous
from weft.compiler.types import static_shape

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

# A product with ones adds up in few long lanes; beyond this length pairwise sums lose less.
LONGEST = 4096


def _shape(node: Node) -> tuple[int, ...]:
    return static_shape(node.type.shape)


def _ones(p: Printer, node: Node, count: int) -> str:
    return p.constant(np.ones(count, node.type.dtype.numpy), "ones")


def reduce_sum(p: Printer, node: Node) -> None:
    """Trailing axes and leading axes as products with ones, anything else as a reduction."""
    x, axes = node.inputs[0], node.attributes["axes"]
    shape, base = _shape(x), p.layout(x)
    if p.is_register(node) and not x.type.rank:
        p.assign(node, p.scalar(x))
        return
    rank = len(shape)
    count = prod(shape[a] for a in axes)
    rest = prod(shape) // count if count else 0
    fast = node.type.dtype.kind == "float" and prod(shape) > 0 and count <= LONGEST
    dot = "dot"
    if fast and len(axes) == rank:
        flat = kernels.reshaped(base, (count,))
        if flat is not None and not base.is_splat:
            p.use(dot, np.dot)
            p.assign(node, f"dot({p.memory(x, flat)}, {_ones(p, node, count)})")
            return
    if fast and axes == tuple(range(len(axes))):
        table = kernels.reshaped(base, (count, rest))
        if table is not None and not base.is_splat:
            p.use(dot, np.dot)
            out = p.memory(node, contiguous((rest,)).shifted(p.layout(node).offset))
            p.line(f"dot({_ones(p, node, count)}, {p.memory(x, table)}, {out})")
            return
    if fast and axes == tuple(range(rank - len(axes), rank)):
        table = kernels.reshaped(base, (rest, count))
        if table is not None and not base.is_splat:
            p.use(dot, np.dot)
            out = p.memory(node, contiguous((rest,)).shifted(p.layout(node).offset))
            p.line(f"dot({p.memory(x, table)}, {_ones(p, node, count)}, {out})")
            return
    add = p.use("add_reduce", np.add.reduce)
    if p.is_register(node):
        dtype = p.constant(node.type.dtype.numpy, f"{node.type.dtype.name}_type")
        flat = kernels.reshaped(base, (count,))
        if flat is not None:
            p.assign(node, f"{add}({p.memory(x, flat)}, 0, {dtype})")
        else:
            p.assign(node, f"{add}({p.array(x)}, {axes}, {dtype})")
        return
    inner = _split_sum(node)
    if inner:
        # Batch statistics: over the image first, then over the batch, both contiguous.
        lead, keep, trail = inner
        table = kernels.reshaped(base, (lead * keep, trail))
        if table is not None:
            part = p.scratch(node, (lead * keep,), node.type.dtype)
            parts = p.scratch(node, (lead, keep), node.type.dtype)
            out = p.memory(node, contiguous((keep,)).shifted(p.layout(node).offset))
            p.use(dot, np.dot)
            if trail <= LONGEST:
                p.line(f"dot({p.memory(x, table)}, {_ones(p, node, trail)}, {part})")
            else:
                p.line(f"{add}({p.memory(x, table)}, 1, None, {part})")
            p.line(f"dot({_ones(p, node, lead)}, {parts}, {out})")
            return
    over = axes[0] if len(axes) == 1 else axes
    p.line(f"{add}({p.array(x)}, {over}, None, {p.out(node)})")


def _split_sum(node: Node) -> tuple[int, int, int] | None:
    """(leading, kept, trailing) sizes of a float sum over both ends, as in `over = [B, H, W]`."""
    shape, axes = _shape(node.inputs[0]), node.attributes["axes"]
    if node.type.dtype.kind != "float" or not node.type.rank or 0 in shape:
        return None
    kept = [i for i in range(len(shape)) if i not in axes]
    first, last = kept[0], kept[-1] + 1
    if first == 0 or last == len(shape) or len(kept) != last - first:
        return None
    return prod(shape[:first]), prod(shape[first:last]), prod(shape[last:])


def sum_scratch(node: Node) -> int:
    inner = _split_sum(node)
    return inner[0] * inner[1] * node.type.dtype.bytes if inner else 0


def dot_general(p: Printer, node: Node) -> None:
    """One matrix product on views; a copy only where axes can't be merged in place."""
    lhs, rhs = node.inputs
    contract, batch = node.attributes["contract"], node.attributes["batch"]
    free = [
        tuple(i for i in range(t.type.rank) if i not in c and i not in b)
        for t, c, b in zip((lhs, rhs), contract, batch, strict=True)
    ]
    outer = tuple(_shape(lhs)[i] for i in batch[0])
    rows = prod(_shape(lhs)[i] for i in free[0])
    columns = prod(_shape(rhs)[i] for i in free[1])
    inner = prod(_shape(lhs)[i] for i in contract[0])
    left_shape = (rows, inner) if free[0] else (inner,)
    right_shape = (inner, columns) if free[1] else (inner,)
    if outer:
        left_shape, right_shape = (rows, inner), (inner, columns)
    a = _matrix(p, lhs, (*batch[0], *free[0], *contract[0]), (*outer, *left_shape))
    b = _matrix(p, rhs, (*batch[1], *contract[1], *free[1]), (*outer, *right_shape))
    if p.is_register(node):
        p.assign(node, f"{p.use('dot', np.dot)}({a}, {b})")
        return
    if outer:
        result, name = (*outer, rows, columns), p.use("matmul", np.matmul)
    else:
        result = ((rows,) if free[0] else ()) + ((columns,) if free[1] else ())
        name = p.use("dot", np.dot)
    out = p.memory(node, contiguous(result).shifted(p.layout(node).offset))
    p.line(f"{name}({a}, {b}, {out})")


def _matrix(p: Printer, node: Node, order: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The operand with axes in this order, merged into this shape."""
    layout = p.layout(node)
    if not layout.shape:
        return p.array(node) if not shape else f"{p.array(node)}.reshape({shape})"
    turned = Layout(
        layout.offset,
        tuple(layout.shape[i] for i in order),
        tuple(layout.strides[i] for i in order),
    )
    merged = kernels.reshaped(turned, shape)
    if merged is not None:
        return p.memory(node, merged)
    return f"{p.memory(node, turned)}.reshape({shape})"
