"""What a kernel does, counted from its loops: operations, and the memory that it reads and writes.

    y[i, j] = exp(x[i, j] - m[i])       i < 32, j < 10
    flops     320 exp + 320 subtract
    read      320 of x, 32 of m         distinct elements, in bytes
    written   320 of y

An operation counts at each value of the axes that it depends on, as `analysis.flops` counts it in
the graph. Working memory of a kernel's own, such as unfolded windows, is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from weft.compiler.analysis import flops, is_flop
from weft.compiler.graph import Node
from weft.compiler.index import Axis, Index
from weft.compiler.kernel import (
    Attention,
    Convolution,
    Fold,
    Kernel,
    Matrix,
    Nest,
    Port,
    Product,
    Special,
    Stage,
    Turns,
    View,
    walk,
)
from weft.compiler.passes.kernels import elsewhere
from weft.compiler.plan import Buffer, Place, Plan
from weft.compiler.scalar import Apply, Load, Result, Scalar


@dataclass(frozen=True)
class Cost:
    """Of one call: floating-point operations, and bytes of memory."""

    flops: int = 0
    read: int = 0
    written: int = 0

    @property
    def bytes(self) -> int:
        return self.read + self.written

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.read + other.read, self.written + other.written)

    def __mul__(self, times: int) -> Cost:
        return Cost(times * self.flops, times * self.read, times * self.written)


def kernel_cost(kernel: Kernel) -> Cost:
    """The cost of one call; of a loop, of all its turns."""
    match kernel:
        case Nest():
            return _nest(kernel)
        case Product():
            return _product(kernel)
        case Convolution():
            return _convolution(kernel)
        case Attention():
            return _attention(kernel)
        case Special():
            return _special(kernel)
        case Turns():
            turn = sum((kernel_cost(inner) for inner in kernel.kernels), Cost())
            return turn * kernel.length


def node_cost(plan: Plan, node: Node) -> Cost:
    """The cost of an operation whose operands and result are in memory."""
    if node.op.name == "concat":
        moved = sum(_held(target) for _, target in elsewhere(plan, node))
        return Cost(0, moved, moved)
    operands = {plan.places[operand]: None for operand in node.inputs}
    return Cost(flops(node), sum(map(_held, operands)), _held(plan.places[node]))


def _held(place: Place) -> int:
    """Bytes of the distinct elements of a value."""
    return _distinct(place.layout.shape, place.layout.strides) * place.buffer.dtype.bytes


def _distinct(shape: Sequence[int], strides: Sequence[int]) -> int:
    return prod(size for size, stride in zip(shape, strides, strict=True) if stride)


@dataclass(eq=False)
class _Traffic:
    """Elements by port: what is read at which index, each index once."""

    ports: Sequence[Port]
    _indices: dict[int, dict[Index, None]] = field(default_factory=dict)
    _whole: dict[int, int] = field(default_factory=dict)

    def at(self, port: int, index: Index) -> None:
        self._indices.setdefault(port, {})[index] = None

    def elements(self, port: int, count: int) -> None:
        self._whole[port] = self._whole.get(port, 0) + count

    @property
    def bytes(self) -> int:
        by_buffer: dict[Buffer, int] = {}
        for number in {*self._indices, *self._whole}:
            count = self._whole.get(number, 0) + _covered(self._indices.get(number, ()))
            buffer = self.ports[number].buffer
            by_buffer[buffer] = by_buffer.get(buffer, 0) + count
        return sum(min(n, b.size) * b.dtype.bytes for b, n in by_buffer.items())


def _covered(indices: Iterable[Index]) -> int:
    """How many elements indices name: all their values, but no more than lie between the ends."""
    total, bounds = 0, []
    for index in indices:
        low, high = index.bounds
        bounds.append((low, high))
        total += min(prod(axis.extent for axis in index.axes), high - low + 1)
    if not bounds:
        return 0
    return min(total, max(high for _, high in bounds) - min(low for low, _ in bounds) + 1)


def _nest(nest: Nest) -> Cost:
    read, written = _Traffic(nest.ports), _Traffic(nest.ports)
    total = 0
    for stage in nest.stages:
        total += _stage(stage, frozenset(nest.rows), read, written)
        points = prod(axis.extent for axis in (*nest.rows, *stage.axes))
        total += sum(points for fold in stage.folds if fold.value.dtype.kind == "float")
    return Cost(total, read.bytes, written.bytes)


def _stage(stage: Stage, results: frozenset[Axis], read: _Traffic, written: _Traffic) -> int:
    """The operations of a stage; `results` are the axes that results of folds depend on."""
    total = 0
    dependent: dict[int, frozenset[Axis]] = {}

    def axes(scalar: Scalar) -> frozenset[Axis]:
        if id(scalar) not in dependent:
            found = results if isinstance(scalar, Result) else scalar.axes
            dependent[id(scalar)] = found.union(*(axes(part) for part in scalar.operands))
        return dependent[id(scalar)]

    def visit(scalar: Scalar) -> None:
        nonlocal total
        if isinstance(scalar, Load):
            read.at(scalar.port, scalar.index)
        elif isinstance(scalar, Apply) and is_flop(
            scalar.op, scalar.parts[0].dtype if scalar.parts else scalar.dtype, scalar.dtype
        ):
            total += prod(axis.extent for axis in axes(scalar))

    walk(stage, visit)
    for store in stage.stores:
        written.at(store.port, store.index)
    return total


def _product(product: Product) -> Cost:
    read, written = _Traffic(product.ports), _Traffic(product.ports)
    m, n, k = product.sizes
    for matrix, rows, columns in ((product.lhs, m, k), (product.rhs, k, n)):
        read.elements(
            matrix.port, _elements(matrix, (*product.batch, *product.sums), rows, columns)
        )
    epilogue = _stage(product.epilogue, frozenset(product.epilogue.axes), read, written)
    flops = 2 * prod(product.batch) * prod(product.sums) * m * n * k + epilogue
    return Cost(flops, read.bytes, written.bytes)


def _elements(matrix: Matrix, batch: Sequence[int], rows: int, columns: int) -> int:
    """The distinct elements of a matrix; `batch` are the sizes of its batch and sums."""
    return _distinct(batch, (*matrix.batch, *matrix.sums)) * rows * columns


def _convolution(conv: Convolution) -> Cost:
    read, written = _Traffic(conv.ports), _Traffic(conv.ports)
    for view in (conv.x, conv.kernel):
        read.elements(view.port, _distinct(view.shape, view.strides))
    epilogue = _stage(conv.epilogue, frozenset(conv.epilogue.axes), read, written)
    # A dilated operand is zero between its elements; those products are not made.
    window = prod(conv.kernel.shape[1:])
    products = prod(conv.shape) * window // prod(conv.lhs_dilation)
    return Cost(2 * products + epilogue, read.bytes, written.bytes)


def _attention(attention: Attention) -> Cost:
    """All pairs, also those that a mask hides."""
    read, written = _Traffic(attention.ports), _Traffic(attention.ports)
    batch = tuple(axis.extent for axis in attention.batch)
    rows, columns = attention.rows.extent, attention.columns.extent
    pairs = prod(batch) * rows * columns
    total = 0
    for inner in attention.inner:
        total += 2 * pairs * inner.depth
        for matrix, count in ((inner.left, rows), (inner.right, columns)):
            read.elements(matrix.port, _elements(matrix, batch, count, inner.depth))
    axes = (*attention.batch, attention.rows, attention.columns)
    values, softmax = [outer.value for outer in attention.outer], attention.softmax
    if softmax is not None:
        # Each element is compared, less the maximum, raised, and added; each result divided.
        total += 4 * pairs + prod(batch) * rows * sum(o.axis.extent for o in attention.outer)
        values.append(softmax.score)
        for store in softmax.stores:
            written.at(store.port, store.index)
    folds = tuple(Fold(i, "sum", value, value.dtype) for i, value in enumerate(values))
    total += _stage(Stage(axes, folds, ()), frozenset(axes), read, written)
    for outer in attention.outer:
        total += 2 * pairs * outer.axis.extent
        read.elements(outer.factor.port, _elements(outer.factor, batch, columns, outer.axis.extent))
        written.at(outer.store.port, outer.store.index)
    return Cost(total, read.bytes, written.bytes)


def _special(special: Special) -> Cost:
    read, written = _Traffic(special.ports), _Traffic(special.ports)
    *operands, result = special.views
    for view in operands:
        read.elements(view.port, _distinct(view.shape, view.strides))
    touched = _distinct(result.shape, result.strides)
    if special.node.op.name == "scatter_add":  # only where updates go, which is read before
        touched = min(touched, _size(operands[1]))
        read.elements(result.port, touched)
    written.elements(result.port, touched)
    return Cost(flops(special.node), read.bytes, written.bytes)


def _size(view: View) -> int:
    return prod(view.shape)
