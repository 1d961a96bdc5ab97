"""The template of `dot_general`: one BLAS call on views."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from weft.backends.numpy import kernels
from weft.backends.numpy.template import shape_of
from weft.compiler.graph import Node
from weft.compiler.passes.views import Layout, contiguous

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer


def dot_general(p: Printer, node: Node) -> None:
    """One matrix product on views; a copy only where axes can't be merged in place."""
    lhs, rhs = node.inputs
    contract, batch = node.attributes["contract"], node.attributes["batch"]
    free = [
        tuple(i for i in range(t.type.rank) if i not in c and i not in b)
        for t, c, b in zip((lhs, rhs), contract, batch, strict=True)
    ]
    outer = tuple(shape_of(lhs)[i] for i in batch[0])
    rows = prod(shape_of(lhs)[i] for i in free[0])
    columns = prod(shape_of(rhs)[i] for i in free[1])
    inner = prod(shape_of(lhs)[i] for i in contract[0])
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
