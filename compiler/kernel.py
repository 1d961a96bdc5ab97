"""Kernels as loops: what native backends print, whatever the language they print.

    y = softmax over rows of x: f32[32, 10]

    kernel nest                        a nest: at each point of `rows`, its stages in order
      rows i < 32
      stage j < 10                     a stage: loops over its axes,
        fold %0 = max x[10*i + j]        folds values over them
      stage j < 10
        fold %1 = sum exp(x[10*i + j] - %0)
      stage j < 10
        y[10*i + j] = exp(x[10*i + j] - %0) / %1

Movement is gone: a transpose or a slice is another index. What is computed at a point is scalars
(`scalar.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from weft.compiler.graph import Node
from weft.compiler.index import Axis, Datum, Index
from weft.compiler.plan import Buffer
from weft.compiler.scalar import Result, Rewriter, Scalar
from weft.compiler.types import DType


@dataclass(frozen=True)
class Port:
    """Memory that a kernel reads or writes: a buffer from an element on."""

    buffer: Buffer
    offset: int

    @property
    def dtype(self) -> DType:
        return self.buffer.dtype


@dataclass(frozen=True, eq=False)
class Fold:
    """A reduction over the axes of a stage: `sum`, `prod`, `max`, `min`, `and` or `or`.

    `arg_max` and `arg_min` give `place` where the value is the extreme, the first in loop order.
    """

    number: int
    how: str
    value: Scalar
    dtype: DType
    place: Scalar | None = None


@dataclass(frozen=True, eq=False)
class Store:
    """Write a value at a port's index."""

    port: int
    index: Index
    value: Scalar


@dataclass(frozen=True, eq=False)
class Stage:
    """Loops over the axes: they make the folds, then what is stored at each point."""

    axes: tuple[Axis, ...]
    folds: tuple[Fold, ...]
    stores: tuple[Store, ...]

    def over(self, axes: tuple[Axis, ...], rewriter: Rewriter) -> Stage:
        """The same over other axes, which the rewriter puts in place of those that it has."""
        return _mapped(self, axes, rewriter, rewriter.index)


@dataclass(frozen=True, eq=False)
class Nest:
    """For each point of `rows` the stages in order. Points of rows don't depend on each other.

    Within a stage, each point reads all that it reads before it writes.
    """

    ports: tuple[Port, ...]
    rows: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Where matrices lie in a port: `sum(b * batch) + sum(s * sums) + row*r + column*c`."""

    port: int
    batch: tuple[int, ...]
    row: int
    column: int
    sums: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Product:
    """`out[b, m, n] = sum over s and k of lhs[b, s, m, k] * rhs[b, s, k, n]`, then an epilogue.

    The epilogue's stage runs over (batch axes..., m, n); `Result(0)` is the product's element. With
    `tf32`, factors may be rounded to that.
    """

    ports: tuple[Port, ...]
    batch: tuple[int, ...]
    sizes: tuple[int, int, int]  # m, n, k
    lhs: Matrix
    rhs: Matrix
    epilogue: Stage
    nodes: tuple[Node, ...]
    sums: tuple[int, ...] = ()
    tf32: bool = False


@dataclass(frozen=True)
class View:
    """A value in a port: the element at index `i` is number `sum(i * strides)`."""

    port: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution of images, `conv` with two spatial axes, then an epilogue.

    The epilogue's stage runs over (image, channel, y, x); `Result(0)` is the sum. With `tf32`,
    factors may be rounded to that.
    """

    ports: tuple[Port, ...]
    x: View
    kernel: View
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    lhs_dilation: tuple[int, int]
    rhs_dilation: tuple[int, int]
    groups: int
    epilogue: Stage
    nodes: tuple[Node, ...]
    tf32: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Images, channels, height and width of the result."""
        return tuple(axis.extent for axis in self.epilogue.axes)


@dataclass(frozen=True, eq=False)
class Inner:
    """`Result(i)` of a pair: `sum over k of left[b, row, k] * right[b, column, k]`."""

    left: Matrix
    right: Matrix
    depth: int


@dataclass(frozen=True, eq=False)
class Outer:
    """`out[b, row, n] = sum over columns of value * factor[b, column, n]`, as `Result(number)`."""

    value: Scalar
    factor: Matrix
    axis: Axis
    number: int
    store: Store


@dataclass(frozen=True, eq=False)
class Softmax:
    """Of each row: `weight = exp(score - maximum)`, and `total` their sum, all of them results.

    What is summed over columns is divided by the total. `stores` keep what is wanted of a row.
    """

    score: Scalar
    maximum: int
    total: int
    weight: int
    stores: tuple[Store, ...]


@dataclass(frozen=True, eq=False)
class Hidden:
    """Pairs of which one of `gaps` is above 0 add nothing where `weight`, of a query, is 0."""

    gaps: tuple[Index, ...]
    query: Axis
    weight: Scalar


@dataclass(frozen=True, eq=False)
class Attention:
    """Sums over the columns of a matrix that is never there, for each of its rows.

    The matrix is that of queries by keys, or of keys by queries, for each point of `batch`. Its
    elements are scalars of the results of `inner`, of the axes, and of a softmax if it has one.
    With `tf32`, the factors of all products may be rounded to that.
    """

    ports: tuple[Port, ...]
    batch: tuple[Axis, ...]
    rows: Axis
    columns: Axis
    inner: tuple[Inner, ...]
    softmax: Softmax | None
    outer: tuple[Outer, ...]
    hidden: Hidden | None
    nodes: tuple[Node, ...]
    tf32: bool = False


@dataclass(frozen=True, eq=False)
class Special:
    """An op with a kernel of its own: sorting, running sums, scattering.

    `views` are its operands and its result. `scatter_add` finds its operand there: its views are
    the indices, the updates and the result.
    """

    ports: tuple[Port, ...]
    node: Node
    views: tuple[View, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Track:
    """Where a value of a turn is: in turn `k`, `k * step` elements after the start of a port.

    With a `period` it is `k mod period` steps. In the first or the last turn it may be at the
    start of another port.
    """

    port: int
    step: int = 0
    period: int | None = None
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, eq=False)
class Turns:
    """A loop: its kernels in every turn.

    They have ports of their own: into buffers of the body's plan. `tracks` says where those that
    come from outside are; the body's own arena starts at the port `arena`.
    """

    ports: tuple[Port, ...]
    length: int
    arena: int
    tracks: Mapping[Buffer, Track]
    kernels: tuple[Kernel, ...]
    nodes: tuple[Node, ...]


Kernel = Nest | Product | Convolution | Attention | Special | Turns


def resolved(stage: Stage, results: Mapping[int, Scalar]) -> Stage:
    """The stage with other scalars for results of folds."""
    done: dict[int, Scalar] = {}

    def go(scalar: Scalar) -> Scalar:
        if isinstance(scalar, Result):
            return results.get(scalar.number, scalar)
        if not scalar.operands:
            return scalar
        if id(scalar) not in done:
            parts = tuple(go(part) for part in scalar.operands)
            same = all(a is b for a, b in zip(parts, scalar.operands, strict=True))
            done[id(scalar)] = scalar if same else scalar.rebuilt(parts, scalar.indices)
        return done[id(scalar)]

    return _mapped(stage, stage.axes, go, lambda index: index)


def _mapped(
    stage: Stage,
    axes: tuple[Axis, ...],
    value: Callable[[Scalar], Scalar],
    index: Callable[[Index], Index],
) -> Stage:
    folds = tuple(
        Fold(f.number, f.how, value(f.value), f.dtype, f.place and value(f.place))
        for f in stage.folds
    )
    stores = tuple(Store(s.port, index(s.index), value(s.value)) for s in stage.stores)
    return Stage(axes, folds, stores)


def walk(stage: Stage, visit: Callable[[Scalar], None]) -> None:
    """Visit every scalar of a stage once, operands first."""
    seen: set[int] = set()

    def go(scalar: Scalar) -> None:
        if id(scalar) in seen:
            return
        seen.add(id(scalar))
        for part in scalar.operands:
            go(part)
        for index in scalar.indices:
            for atom, _ in index.terms:
                if isinstance(atom, Datum):
                    go(atom.scalar)
        visit(scalar)

    for fold in stage.folds:
        go(fold.value)
        if fold.place is not None:
            go(fold.place)
    for store in stage.stores:
        go(store.value)
        for atom, _ in store.index.terms:
            if isinstance(atom, Datum):
                go(atom.scalar)


def stage_indices(stage: Stage) -> list[Index]:
    """Every index that a stage uses."""
    found = [store.index for store in stage.stores]
    walk(stage, lambda scalar: found.extend(scalar.indices))
    return found
