"""Templates of reductions: sums as products with ones, extremes by their positions."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from weft.backends.numpy import kernels
from weft.backends.numpy.template import Template, shape_of
from weft.compiler.graph import Node
from weft.compiler.passes.views import Layout, contiguous
from weft.compiler.types import I64

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

# A product with ones adds up in few long lanes; beyond this length pairwise sums lose less.
LONGEST = 4096


def reduction(name: str) -> Template:
    function = getattr(np, name).reduce

    def template(p: Printer, node: Node) -> None:
        axes = node.attributes["axes"]
        x = node.inputs[0]
        if p.is_register(node) and not x.type.rank:
            p.assign(node, p.scalar(x))
            return
        reduce = p.use(f"{name}_reduce", function)
        if p.is_register(node):
            dtype = p.use(f"{node.type.dtype.name}_type", node.type.dtype.numpy)
            p.assign(node, f"{reduce}({p.array(x)}, {axes}, {dtype})")
            return
        over = axes[0] if len(axes) == 1 else axes
        p.line(f"{reduce}({p.array(x)}, {over}, None, {p.out(node)})")

    return template


def extreme_reduction(name: str, arg: str) -> Template:
    """Along the last axis, finding the position and taking what is there is twice as fast."""
    plain = reduction(name)

    def template(p: Printer, node: Node) -> None:
        x = node.inputs[0]
        table = _rows(p.layout(x), node)
        if node not in p.plan.scratch or table is None or not p.layout(x).is_contiguous:
            plain(p, node)
            return
        rows, columns = table.shape
        places = p.scratch(node, (rows,), I64)
        starts = p.constant(np.arange(rows, dtype=np.int64) * columns, "starts")
        flat = p.memory(x, contiguous((rows * columns,)).shifted(table.offset))
        out = p.memory(node, contiguous((rows,)).shifted(p.layout(node).offset))
        p.line(f"{p.memory(x, table)}.{arg}(1, {places})")
        p.line(f"{p.use('add', np.add)}({places}, {starts}, {places})")
        p.line(f"{flat}.take({places}, 0, {out}, 'clip')")

    return template


def _rows(layout: Layout, node: Node) -> Layout | None:
    """The operand as a table whose rows are reduced, where the last axes are."""
    shape, axes = shape_of(node.inputs[0]), node.attributes["axes"]
    rank = len(shape)
    if not node.type.rank or 0 in shape or axes != tuple(range(rank - len(axes), rank)):
        return None
    columns = prod(shape[rank - len(axes) :])
    return kernels.reshaped(layout, (prod(shape) // columns, columns))


def arg(name: str) -> Template:
    def template(p: Printer, node: Node) -> None:
        axis = node.attributes["axis"]
        x = p.array(node.inputs[0])
        if p.is_register(node):
            p.assign(node, f"{x}.{name}({axis})")
        else:
            p.line(f"{x}.{name}({axis}, {p.out(node)})")

    return template


def _ones(p: Printer, node: Node, count: int) -> str:
    return p.constant(np.ones(count, node.type.dtype.numpy), "ones")


def reduce_sum(p: Printer, node: Node) -> None:
    """Trailing axes and leading axes as products with ones, anything else as a reduction."""
    x, axes = node.inputs[0], node.attributes["axes"]
    if p.is_register(node) and not x.type.rank:
        p.assign(node, p.scalar(x))
        return
    if _sum_by_product(p, node):
        return
    add = p.use("add_reduce", np.add.reduce)
    if p.is_register(node):
        dtype = p.use(f"{node.type.dtype.name}_type", node.type.dtype.numpy)
        flat = kernels.reshaped(p.layout(x), (prod(shape_of(x)),))
        if flat is not None:
            p.assign(node, f"{add}({p.memory(x, flat)}, 0, {dtype})")
        else:
            p.assign(node, f"{add}({p.array(x)}, {axes}, {dtype})")
        return
    if _sum_in_two(p, node, add):
        return
    over = axes[0] if len(axes) == 1 else axes
    p.line(f"{add}({p.array(x)}, {over}, None, {p.out(node)})")


def _sum_by_product(p: Printer, node: Node) -> bool:
    """The sum as a product with ones; not where the axes are neither the first nor the last."""
    x, axes = node.inputs[0], node.attributes["axes"]
    shape, layout = shape_of(x), p.layout(x)
    rank, count = len(shape), prod(shape[a] for a in axes)
    if node.type.dtype.kind != "float" or not prod(shape) or count > LONGEST or layout.is_splat:
        return False
    rest = prod(shape) // count
    first = axes == tuple(range(len(axes)))
    if not first and axes != tuple(range(rank - len(axes), rank)):
        return False
    sizes = (count, rest) if first else (rest, count)
    table = kernels.reshaped(layout, (count,) if p.is_register(node) else sizes)
    if table is None:
        return False
    dot = p.use("dot", np.dot)
    if p.is_register(node):
        p.assign(node, f"{dot}({p.memory(x, table)}, {_ones(p, node, count)})")
        return True
    out = p.memory(node, contiguous((rest,)).shifted(p.layout(node).offset))
    if first:
        p.line(f"{dot}({_ones(p, node, count)}, {p.memory(x, table)}, {out})")
    else:
        p.line(f"{dot}({p.memory(x, table)}, {_ones(p, node, count)}, {out})")
    return True


def _sum_in_two(p: Printer, node: Node, add: str) -> bool:
    """Batch statistics: over the image first, then over the batch, both contiguous."""
    inner, x, dtype = _split_sum(node), node.inputs[0], node.type.dtype
    if inner is None:
        return False
    lead, keep, trail = inner
    table = kernels.reshaped(p.layout(x), (lead * keep, trail))
    if table is None:
        return False
    part = p.scratch(node, (lead * keep,), dtype)
    parts = p.scratch(node, (lead, keep), dtype)
    out = p.memory(node, contiguous((keep,)).shifted(p.layout(node).offset))
    dot = p.use("dot", np.dot)
    if trail <= LONGEST:
        p.line(f"{dot}({p.memory(x, table)}, {_ones(p, node, trail)}, {part})")
    else:
        p.line(f"{add}({p.memory(x, table)}, 1, None, {part})")
    p.line(f"{dot}({_ones(p, node, lead)}, {parts}, {out})")
    return True


def _split_sum(node: Node) -> tuple[int, int, int] | None:
    """(leading, kept, trailing) sizes of a float sum over both ends, as in `over = [B, H, W]`."""
    shape, axes = shape_of(node.inputs[0]), node.attributes["axes"]
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


def extreme_scratch(node: Node) -> int:
    """Bytes for the positions."""
    table = _rows(contiguous(shape_of(node.inputs[0])), node)
    return 8 * prod(shape_of(node)) if table is not None else 0
