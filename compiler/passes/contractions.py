"""Contractions as kernels: products of matrices, convolutions of images, else plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from weft.compiler.graph import Node
from weft.compiler.index import Axis, Index, Indices, along, unflat
from weft.compiler.kernel import Convolution, Fold, Kernel, Matrix, Product, Stage
from weft.compiler.ops import Kind
from weft.compiler.passes.elements import (
    Elements,
    axes_of,
    is_within,
    shape_of,
    summed,
    wide,
    widened,
)
from weft.compiler.passes.views import Layout
from weft.compiler.scalar import Apply, Bound, Guard, Literal, Scalar

SMALL = 4_096  # multiplications of one product of matrices: fewer are not worth a call


def contraction(e: Elements, outputs: Sequence[Node]) -> list[Kernel]:
    node = next(n for n in e.group.nodes if n.op.kind is Kind.CONTRACTION)
    if node.op.name == "dot_general":
        found = _product(e, node, outputs) or _by_definition(e, node, outputs, *_dot(e, node))
    else:
        found = _images(e, node, outputs) or _by_definition(e, node, outputs, *_conv(e, node))
    return [found]


def _by_definition(
    e: Elements,
    node: Node,
    outputs: Sequence[Node],
    rows: tuple[Axis, ...],
    inner: tuple[Axis, ...],
    value: Scalar,
) -> Kernel:
    at = tuple(along(axis) for axis in rows)
    e.results[node] = summed(node, 0)
    fold = Fold(0, "sum", value, value.dtype)
    last = Stage((), (), tuple(e.store(n, at) for n in outputs))
    return e.nest(rows, [Stage(inner, (fold,), ()), last])


# -- products --------------------------------------------------------------------------------------


def _product(e: Elements, node: Node, outputs: Sequence[Node]) -> Product | None:
    """For BLAS, where both operands are matrices in memory, or batches of them.

    What does not join the run of an operand's rows, or of columns, is one more axis of the batch;
    what does not join the contracted run is summed over.
    """
    if node.type.dtype.kind != "float" or not all(i in e.plan.places for i in node.inputs):
        return None
    lhs, rhs = node.inputs
    sides = _Sides(e.plan.places[lhs].layout, e.plan.places[rhs].layout, node)
    batch = (*sides.batch, *sides.outer_left, *sides.outer_right)
    m, n, k = prod(map(_size, sides.rows)), prod(map(_size, sides.columns)), sides.depth
    if not (m and n and k) or (m * n * k < SMALL and (batch or sides.sums)):
        return None
    matrices = []
    for number, operand in enumerate(node.inputs):
        row, column = sides.steps(number)
        if number == 0 and not _is_matrix(row, m, column, k):
            return None
        if number == 1 and not _is_matrix(row, k, column, n):
            return None
        steps = [axis.steps[number] for axis in (*batch, *sides.sums)]
        if min((row, column, *steps)) < 0:
            return None
        port = e.port(e.plan.places[operand])
        matrices.append(
            Matrix(port, tuple(steps[: len(batch)]), row, column, tuple(steps[len(batch) :]))
        )
    e.results[node] = summed(node, 0)
    axes = axes_of((*map(_size, batch), m, n))
    at = tuple(along(axis) for axis in axes)
    stage = Stage(axes, (), tuple(e.store(o, sides.spread(at)) for o in outputs))
    sums = tuple(map(_size, sides.sums))
    sizes = tuple(map(_size, batch))
    left, right = matrices
    tf32, ports = "factors" in node.attributes, tuple(e.ports)
    return Product(ports, sizes, (m, n, k), left, right, stage, e.group.nodes, sums, tf32)


@dataclass(frozen=True)
class _Axis:
    """An axis of a product: its size, and its step in each operand, 0 where it isn't there."""

    size: int
    steps: tuple[int, int]


def _size(axis: _Axis) -> int:
    return axis.size


class _Sides:
    """The axes of a product by what becomes of them."""

    def __init__(self, left: Layout, right: Layout, node: Node) -> None:
        (ca, cb), (ba, bb) = node.attributes["contract"], node.attributes["batch"]
        self.batch = [
            _Axis(left.shape[i], (left.strides[i], right.strides[j]))
            for i, j in zip(ba, bb, strict=True)
        ]
        pairs = [
            _Axis(left.shape[i], (left.strides[i], right.strides[j]))
            for i, j in zip(ca, cb, strict=True)
        ]
        free_left = [
            _Axis(left.shape[i], (left.strides[i], 0))
            for i in range(len(left.shape))
            if i not in (*ca, *ba)
        ]
        free_right = [
            _Axis(right.shape[i], (0, right.strides[i]))
            for i in range(len(right.shape))
            if i not in (*cb, *bb)
        ]
        self.outer_left, self.rows = _last_run(free_left, (0,))
        self.outer_right, self.columns = _last_run(free_right, (1,))
        orders = [sorted(pairs, key=lambda axis: -axis.steps[side]) for side in (0, 1)]
        runs = [_last_run(order, (0, 1)) for order in orders]
        self.sums, self.inner = max(runs, key=lambda run: prod(map(_size, run[1])))
        self.depth = prod(map(_size, self.inner))

    def steps(self, side: int) -> tuple[int, int]:
        """From a row of the operand's matrix to the next, and from a column."""
        inner = _step(self.inner, side)
        return (_step(self.rows, 0), inner) if side == 0 else (inner, _step(self.columns, 1))

    def spread(self, at: Indices) -> Indices:
        """The indices of the result for those of the batch, the row and the column."""
        batch, left = len(self.batch), len(self.batch) + len(self.outer_left)
        rows = unflat(at[-2], [axis.size for axis in self.rows])
        columns = unflat(at[-1], [axis.size for axis in self.columns])
        return (*at[:batch], *at[batch:left], *rows, *at[left:-2], *columns)


def _step(run: Sequence[_Axis], side: int) -> int:
    """From one element of a run to the next; 1 for a run of one element."""
    return next((axis.steps[side] for axis in reversed(run) if axis.size > 1), 1)


def _last_run(axes: Sequence[_Axis], sides: Sequence[int]) -> tuple[list[_Axis], list[_Axis]]:
    """The axes as what comes before, and the most of the last ones that step as one axis."""
    start, size = len(axes), 1
    steps: list[int] | None = None
    while start:
        axis = axes[start - 1]
        if axis.size != 1:
            here = [axis.steps[side] for side in sides]
            if steps is not None and here != [size * step for step in steps]:
                break
            steps = steps or here
            size *= axis.size
        start -= 1
    return list(axes[:start]), list(axes[start:])


def _is_matrix(row: int, rows: int, column: int, columns: int) -> bool:
    """Whether BLAS has such a matrix: rows or columns side by side, which do not overlap."""
    if column == 1:
        return row >= columns or rows == 1
    return row == 1 and (column >= rows or columns == 1)


def _dot(e: Elements, node: Node) -> tuple[tuple[Axis, ...], tuple[Axis, ...], Scalar]:
    """Rows, the contracted axes, and the factors' product."""
    lhs, rhs = node.inputs
    contract, batch = node.attributes["contract"], node.attributes["batch"]
    rows = axes_of(shape_of(node))
    inner = axes_of([shape_of(lhs)[i] for i in contract[0]])
    at = [along(axis) for axis in rows]
    outer = len(batch[0])
    free_l, free_r = _free(lhs, contract[0], batch[0]), _free(rhs, contract[1], batch[1])
    left: dict[int, Index] = dict(zip(batch[0], at, strict=False))
    right: dict[int, Index] = dict(zip(batch[1], at, strict=False))
    left.update(zip(free_l, at[outer:], strict=False))
    right.update(zip(free_r, at[outer + len(free_l) :], strict=False))
    for i, j, axis in zip(contract[0], contract[1], inner, strict=True):
        left[i] = right[j] = along(axis)
    value = _times(
        e.value(lhs, tuple(left[i] for i in range(lhs.type.rank))),
        e.value(rhs, tuple(right[i] for i in range(rhs.type.rank))),
    )
    return rows, inner, value


def _free(node: Node, *taken: Sequence[int]) -> list[int]:
    return [i for i in range(node.type.rank) if all(i not in axes for axes in taken)]


def _times(left: Scalar, right: Scalar) -> Scalar:
    return Apply(wide(left.dtype), "multiply", (widened(left), widened(right)))


# -- convolutions ----------------------------------------------------------------------------------


def _images(e: Elements, node: Node, outputs: Sequence[Node]) -> Convolution | None:
    """Where both operands are in memory. A line is an image of height 1."""
    x, kernel = node.inputs
    a = node.attributes
    rank = len(a["strides"])
    if node.type.dtype.kind != "float" or rank > 2:
        return None
    if not (x in e.plan.places and kernel in e.plan.places):
        return None
    if any(s > 1 and d > 1 for s, d in zip(a["strides"], a["lhs_dilation"], strict=True)):
        return None
    one = (1,) * (2 - rank)
    e.results[node] = summed(node, 0)
    shape = shape_of(node)
    axes = axes_of((*shape[:2], *one, *shape[2:]))
    at = tuple(along(axis) for axis in axes)
    within = (*at[:2], *at[4 - rank :])
    stage = Stage(axes, (), tuple(e.store(o, within) for o in outputs))
    images, weights = (e.view(operand, 4) for operand in (x, kernel))
    return Convolution(
        tuple(e.ports),
        x=images,
        kernel=weights,
        strides=(*one, *a["strides"]),
        padding=(*((0, 0),) * (2 - rank), *a["padding"]),
        lhs_dilation=(*one, *a["lhs_dilation"]),
        rhs_dilation=(*one, *a["rhs_dilation"]),
        groups=a["groups"],
        epilogue=stage,
        nodes=e.group.nodes,
        tf32="factors" in a,
    )


def _conv(e: Elements, node: Node) -> tuple[tuple[Axis, ...], tuple[Axis, ...], Scalar]:
    """The definition of convolution, element by element."""
    x, kernel = node.inputs
    a = node.attributes
    rank = len(a["strides"])
    rows = axes_of(shape_of(node))
    inner = axes_of(shape_of(kernel)[1:])
    batch, channel, *space = (along(axis) for axis in rows)
    depth, *taps = (along(axis) for axis in inner)
    per_group = shape_of(kernel)[0] // a["groups"]
    first = (channel // per_group) * shape_of(kernel)[1]
    tests, bounds, places = [], [], []
    for i in range(rank):
        size, spread = shape_of(x)[2 + i], a["lhs_dilation"][i]
        place = space[i] * a["strides"][i] + taps[i] * a["rhs_dilation"][i]
        place = place + -a["padding"][i][0]
        if spread > 1 or not is_within(place, size):
            tests.append(place)
            bounds.append(Bound(0, (size - 1) * spread + 1, spread))
        places.append(place // spread)
    value = e.value(x, (batch, first + depth, *places))
    if tests:
        zero = Literal(value.dtype, 0)
        value = Guard(value.dtype, value, zero, tuple(tests), tuple(bounds))
    weight = e.value(kernel, (channel, depth, *taps))
    return rows, inner, _times(value, weight)
