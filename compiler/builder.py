"""Typed constructors, so that gradient rules, rewrites and the elaborator read like maths.

One function a family of ops; each only fills in attributes and calls `make`, where the type rule
checks. Arithmetic on nodes (`x * y + 1`) is defined on `Node` itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from weft.compiler.graph import Node, Number, Operand, binary, full, make
from weft.compiler.types import I64, Dim, DType, Shape, SymDim, TensorType


def unary(op: str, x: Node) -> Node:
    return make(op, x)


def exp(x: Node) -> Node:
    return make("exp", x)


def log(x: Node) -> Node:
    return make("log", x)


def sqrt(x: Node) -> Node:
    return make("sqrt", x)


def maximum(x: Operand, y: Operand) -> Node:
    return binary("maximum", x, y)


def minimum(x: Operand, y: Operand) -> Node:
    return binary("minimum", x, y)


def compare(op: str, x: Operand, y: Operand) -> Node:
    """`op` is `equal`, `not_equal`, `less`, `less_equal`, `greater` or `greater_equal`."""
    return binary(op, x, y)


def select(condition: Node, on_true: Operand, on_false: Operand) -> Node:
    like = on_true if isinstance(on_true, Node) else on_false
    assert isinstance(like, Node)
    yes = on_true if isinstance(on_true, Node) else full(like.type, on_true)
    no = on_false if isinstance(on_false, Node) else full(like.type, on_false)
    return make("select", condition, yes, no)


def cast(x: Node, dtype: DType) -> Node:
    return x if x.type.dtype == dtype else make("cast", x, dtype=dtype)


def constant(value: Number, dtype: DType) -> Node:
    return full(TensorType(dtype), value)


def zeros(type: TensorType) -> Node:
    return full(type, 0)


def ones(type: TensorType) -> Node:
    return full(type, 1)


def iota(dtype: DType, shape: Shape, axis: int) -> Node:
    return make("iota", dtype=dtype, shape=tuple(shape), axis=axis)


def size_of(dims: Iterable[Dim], dtype: DType) -> Node:
    """The number of elements of these dimensions as a scalar node."""
    total: Dim = 1
    for dim in dims:
        total = dim * total
    if isinstance(total, SymDim):
        return make("dim_size", dim=total, dtype=dtype)
    return constant(total, dtype)


def reduce(op: str, x: Node, axes: Iterable[int]) -> Node:
    """`op` is `sum`, `prod`, `max`, `min`, `and` or `or`; no axes gives `x` itself."""
    over = tuple(sorted(set(axes)))
    return make(f"reduce_{op}", x, axes=over) if over else x


def reduce_sum(x: Node, axes: Iterable[int] | None = None) -> Node:
    return reduce("sum", x, range(x.type.rank) if axes is None else axes)


def broadcast(x: Node, shape: Sequence[Dim], dims: Sequence[int]) -> Node:
    """Axis `i` of `x` becomes axis `dims[i]` of `shape`."""
    if tuple(shape) == x.type.shape and tuple(dims) == tuple(range(x.type.rank)):
        return x
    return make("broadcast_in_dim", x, shape=tuple(shape), dims=tuple(dims))


def spread(x: Node, like: TensorType, removed: Sequence[int]) -> Node:
    """Undo a reduction: `x` broadcast over the `removed` axes of `like`'s shape."""
    kept = [i for i in range(like.rank) if i not in removed]
    return broadcast(x, like.shape, kept)


def reshape(x: Node, shape: Sequence[Dim]) -> Node:
    return x if tuple(shape) == x.type.shape else make("reshape", x, shape=tuple(shape))


def flatten(x: Node) -> Node:
    return reshape(x, (x.type.size,))


def transpose(x: Node, permutation: Sequence[int]) -> Node:
    if list(permutation) == list(range(x.type.rank)):
        return x
    return make("transpose", x, permutation=tuple(permutation))


def swap_axes(x: Node, a: int, b: int) -> Node:
    order = list(range(x.type.rank))
    order[a], order[b] = order[b], order[a]
    return transpose(x, order)


def slice_(
    x: Node,
    start: Sequence[Dim],
    limit: Sequence[Dim],
    strides: Sequence[int] | None = None,
) -> Node:
    steps = tuple(strides) if strides else (1,) * x.type.rank
    if all(s == 0 for s in start) and tuple(limit) == x.type.shape and set(steps) <= {1}:
        return x
    return make("slice", x, start=tuple(start), limit=tuple(limit), strides=steps)


def slice_axis(x: Node, axis: int, start: Dim, limit: Dim, stride: int = 1) -> Node:
    """`x[..., start:limit:stride, ...]` along one axis."""
    shape = x.type.shape
    return slice_(
        x,
        [start if i == axis else 0 for i in range(len(shape))],
        [limit if i == axis else d for i, d in enumerate(shape)],
        [stride if i == axis else 1 for i in range(len(shape))],
    )


def pad(
    x: Node,
    low: Sequence[Dim],
    high: Sequence[Dim],
    interior: Sequence[int] | None = None,
    value: float = 0,
) -> Node:
    between = tuple(interior) if interior else (0,) * x.type.rank
    if not any((*low, *high, *between)):
        return x
    return make("pad", x, low=tuple(low), high=tuple(high), interior=between, value=float(value))


def concat(parts: Sequence[Node], axis: int) -> Node:
    return parts[0] if len(parts) == 1 else make("concat", *parts, axis=axis)


def reverse(x: Node, axes: Iterable[int]) -> Node:
    over = tuple(sorted(axes))
    return make("reverse", x, axes=over) if over else x


def dot_general(
    lhs: Node,
    rhs: Node,
    contract: tuple[Sequence[int], Sequence[int]],
    batch: tuple[Sequence[int], Sequence[int]] = ((), ()),
    factors: str | None = None,
) -> Node:
    return make(
        "dot_general",
        lhs,
        rhs,
        contract=(tuple(contract[0]), tuple(contract[1])),
        batch=(tuple(batch[0]), tuple(batch[1])),
        **_given(factors),
    )


def _given(factors: str | None) -> dict[str, Any]:
    return {} if factors is None else {"factors": factors}


def matmul(lhs: Node, rhs: Node) -> Node:
    """The last axis of `lhs` against the first of a matrix or vector `rhs`."""
    return dot_general(lhs, rhs, ((lhs.type.rank - 1,), (0,)))


def conv(
    x: Node,
    kernel: Node,
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[Dim, Dim]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    groups: int = 1,
    factors: str | None = None,
) -> Node:
    rank = len(strides)
    return make(
        "conv",
        x,
        kernel,
        strides=tuple(strides),
        padding=tuple((low, high) for low, high in padding),
        lhs_dilation=tuple(lhs_dilation or (1,) * rank),
        rhs_dilation=tuple(rhs_dilation or (1,) * rank),
        groups=groups,
        **_given(factors),
    )


def reduce_window(
    x: Node,
    reducer: str,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Sequence[tuple[Dim, Dim]] | None = None,
    dilation: Sequence[int] | None = None,
) -> Node:
    """`reducer` is `sum`, `max` or `min`, over windows of the last `len(window)` axes.

    Windows of one place, without padding, only take every so many places: a slice.
    """
    rank = len(window)
    strides = tuple(strides or (1,) * rank)
    padding = tuple((low, high) for low, high in padding or ((0, 0),) * rank)
    if set(window) == {1} and set(padding) == {(0, 0)}:
        lead = x.type.rank - rank
        return slice_(x, (0,) * x.type.rank, x.type.shape, (*(1,) * lead, *strides))
    return make(
        "reduce_window",
        x,
        reducer=reducer,
        window=tuple(window),
        strides=strides,
        padding=padding,
        dilation=tuple(dilation or (1,) * rank),
    )


def gather(x: Node, indices: Node, batch_dims: int = 0) -> Node:
    return make("gather", x, indices, batch_dims=batch_dims)


def scatter_add(x: Node, indices: Node, updates: Node, batch_dims: int = 0) -> Node:
    return make("scatter_add", x, indices, updates, batch_dims=batch_dims)


def one_hot(indices: Node, classes: int, dtype: DType) -> Node:
    """A new last axis of length `classes` with 1 at the index."""
    shape = (*indices.type.shape, classes)
    places = broadcast(cast(indices, I64), shape, range(indices.type.rank))
    return cast(compare("equal", places, iota(I64, shape, len(shape) - 1)), dtype)


def input_(name: str, type: TensorType) -> Node:
    return make("input", name=name, type=type)
