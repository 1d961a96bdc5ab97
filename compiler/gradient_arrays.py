"""Gradients of reductions, movement, indexing and ordering: where each cotangent element goes.

`reduce_max` and `reduce_min` share a cotangent equally among tied elements; `sort` and `top_k`
give it to the element that their stable order takes.
"""

from __future__ import annotations

from functools import reduce
from operator import mul

from weft.compiler import builder as b
from weft.compiler.gradient_elementwise import Cotangents, Rule, times
from weft.compiler.graph import Node, make
from weft.compiler.type_rules_windows import dilated_size
from weft.compiler.types import Dim, SymDim

# -- reductions -----------------------------------------------------------------------------------


def _reduce_sum(ct: Node, node: Node, x: Node) -> Cotangents:
    return (b.spread(ct, x.type, node.attributes["axes"]),)


def _reduce_extremum(ct: Node, node: Node, x: Node) -> Cotangents:
    axes = node.attributes["axes"]
    best = b.compare("equal", x, b.spread(node, x.type, axes))
    share = ct / b.reduce_sum(b.cast(best, x.type.dtype), axes)
    return (b.select(best, b.spread(share, x.type, axes), 0),)


def _reduce_prod(ct: Node, node: Node, x: Node) -> Cotangents:
    axes = node.attributes["axes"]
    sizes = [x.type.shape[i] for i in axes]
    size: Dim = reduce(mul, sizes, 1)
    if size == 0:
        return (b.zeros(x.type),)
    if isinstance(size, SymDim):
        return (_product_by_counting(ct, x, axes),)
    order = [*(i for i in range(x.type.rank) if i not in axes), *axes]
    moved = b.transpose(x, order)
    flat = _product_by_halving(ct, b.reshape(moved, (*node.type.shape, size)), size)
    back = [order.index(i) for i in range(x.type.rank)]
    return (b.transpose(b.reshape(flat, moved.type.shape), back),)


def _product_by_halving(ct: Node, x: Node, size: int) -> Node:
    """The gradient of the product over the last axis: exact at zeros, to every order.

    A tree multiplies left halves by right ones; on the way back each half gets its cotangent
    times the other half, so that nothing is ever divided by an element.
    """
    last = x.type.rank - 1
    levels: list[tuple[int, Node, Node]] = []
    while size > 1:
        even = b.pad(x, (0,) * (last + 1), (*(0,) * last, size % 2), value=1)
        half = (size + 1) // 2
        left, right = (b.slice_axis(even, last, i * half, (i + 1) * half) for i in (0, 1))
        levels.append((size, left, right))
        x, size = left * right, half
    back = b.reshape(ct, x.type.shape)
    for size, left, right in reversed(levels):
        both = b.concat([times(back, right), times(back, left)], last)
        back = b.slice_axis(both, last, 0, size)
    return back


def _product_by_counting(ct: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """The same for a size not known yet: products without the zeros, and how many there are.

    Exact at zeros for the first derivative.
    """
    is_zero = b.compare("equal", x, 0)
    filled = b.select(is_zero, 1, x)
    zeros = b.spread(b.reduce_sum(b.cast(is_zero, x.type.dtype), axes), x.type, axes)
    product = b.spread(times(ct, b.reduce("prod", filled, axes)), x.type, axes)
    alone = b.compare("equal", zeros, b.cast(is_zero, x.type.dtype))
    return b.select(alone, product / filled, 0)


# -- movement -------------------------------------------------------------------------------------


def _reshape(ct: Node, _: Node, x: Node) -> Cotangents:
    return (b.reshape(ct, x.type.shape),)


def _transpose(ct: Node, node: Node, x: Node) -> Cotangents:
    permutation = node.attributes["permutation"]
    return (b.transpose(ct, [permutation.index(i) for i in range(x.type.rank)]),)


def _broadcast_in_dim(ct: Node, node: Node, x: Node) -> Cotangents:
    dims = node.attributes["dims"]
    return (b.reduce_sum(ct, (i for i in range(ct.type.rank) if i not in dims)),)


def _slice(ct: Node, node: Node, x: Node) -> Cotangents:
    start, strides = node.attributes["start"], node.attributes["strides"]
    high = [
        size - low - dilated_size(taken, stride)
        for size, low, taken, stride in zip(
            x.type.shape, start, node.type.shape, strides, strict=True
        )
    ]
    return (b.pad(ct, start, high, [stride - 1 for stride in strides]),)


def _pad(ct: Node, node: Node, x: Node) -> Cotangents:
    """What was cut has gradient 0; what was added is cut."""
    low, high, interior = (node.attributes[name] for name in ("low", "high", "interior"))
    # An amount not known yet may be of either sign, which `pad` by its negative covers.
    restored = b.pad(ct, [_restored(n) for n in low], [_restored(n) for n in high])
    start = [n if isinstance(n, int) and n > 0 else 0 for n in low]
    inner = [dilated_size(n, i + 1) for n, i in zip(x.type.shape, interior, strict=True)]
    limit = [n + size for n, size in zip(start, inner, strict=True)]
    return (b.slice_(restored, start, limit, [i + 1 for i in interior]),)


def _restored(amount: Dim) -> Dim:
    return 0 if isinstance(amount, int) and amount > 0 else -amount


def _concat(ct: Node, node: Node, *parts: Node) -> Cotangents:
    axis = node.attributes["axis"]
    start: Dim = 0
    result = []
    for part in parts:
        limit = start + part.type.shape[axis]
        result.append(b.slice_axis(ct, axis, start, limit))
        start = limit
    return tuple(result)


def _reverse(ct: Node, node: Node, x: Node) -> Cotangents:
    return (b.reverse(ct, node.attributes["axes"]),)


# -- indexing and order ---------------------------------------------------------------------------


def _gather(ct: Node, node: Node, x: Node, indices: Node) -> Cotangents:
    batch_dims = node.attributes["batch_dims"]
    return b.scatter_add(b.zeros(x.type), indices, ct, batch_dims), None


def _scatter_add(ct: Node, node: Node, x: Node, indices: Node, updates: Node) -> Cotangents:
    return ct, None, b.gather(ct, indices, node.attributes["batch_dims"])


def _sort(ct: Node, node: Node, x: Node) -> Cotangents:
    axis, last = node.attributes["axis"], x.type.rank - 1
    order = make("arg_sort", x, **node.attributes)
    # The inverse of a permutation is what sorts it.
    place = make("arg_sort", order, axis=axis, descending=False)
    moved = b.gather(b.swap_axes(ct, axis, last), b.swap_axes(place, axis, last), last)
    return (b.swap_axes(moved, axis, last),)


def _top_k(ct: Node, node: Node, x: Node) -> Cotangents:
    places = make("arg_top_k", x, k=node.attributes["k"])
    return (b.scatter_add(b.zeros(x.type), places, ct, x.type.rank - 1),)


def _cumsum(ct: Node, node: Node, x: Node) -> Cotangents:
    axis, reverse = node.attributes["axis"], node.attributes["reverse"]
    return (make("cumsum", ct, axis=axis, reverse=not reverse),)


ARRAYS: dict[str, Rule] = {
    "reduce_sum": _reduce_sum,
    "reduce_prod": _reduce_prod,
    "reduce_max": _reduce_extremum,
    "reduce_min": _reduce_extremum,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast_in_dim,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "reverse": _reverse,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "sort": _sort,
    "top_k": _top_k,
    "cumsum": _cumsum,
}
