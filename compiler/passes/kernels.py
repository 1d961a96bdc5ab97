"""Groups as kernels: every group of a plan as loops over memory, with movement gone into indices.

A value of a group is a scalar expression at given indices. Asking a movement node for its element
asks its operand for the element it came from; only what the plan gives a place is ever in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from weft.compiler.graph import Node
from weft.compiler.index import Axis, Datum, Index, Indices, along, flat, unflat
from weft.compiler.kernel import (
    Apply,
    Bits,
    Bound,
    Convolution,
    Fold,
    Guard,
    Kernel,
    Literal,
    Load,
    Matrix,
    Nest,
    Port,
    Position,
    Product,
    Result,
    Scalar,
    Special,
    Stage,
    Store,
    View,
)
from weft.compiler.loops import turning
from weft.compiler.ops import Kind
from weft.compiler.passes.fuse import Group
from weft.compiler.passes.turn_kernels import turn_kernels
from weft.compiler.passes.views import Layout, contiguous
from weft.compiler.plan import Abilities, Place, Plan
from weft.compiler.types import I64, DType, static_shape

_REDUCERS = {
    "reduce_sum": "sum",
    "reduce_prod": "prod",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_and": "and",
    "reduce_or": "or",
}


def kernels(plan: Plan, abilities: Abilities) -> tuple[Kernel, ...]:
    """The plan's groups in order; those whose values need no work are left out."""
    found: list[Kernel] = []
    for group in plan.groups:
        if group.kind != "loop":
            found += _Lowering(plan, group).run()
        elif any(node.type.size for node in group.outputs):
            found += turn_kernels(plan, group, abilities, lambda turn: kernels(turn, abilities))
    return tuple(found)


def shape_of(node: Node) -> tuple[int, ...]:
    return static_shape(node.type.shape)


@dataclass(eq=False)
class _Lowering:
    plan: Plan
    group: Group
    ports: list[Port] = field(default_factory=list)
    results: dict[Node, Result] = field(default_factory=dict)
    _made: dict[tuple[Node, Indices], Scalar] = field(default_factory=dict)

    def run(self) -> list[Kernel]:
        outputs = [node for node in self.group.outputs if node not in self.plan.views]
        if not outputs or not any(node.type.size for node in outputs):
            return []
        match self.group.kind:
            case "elementwise":
                return [self._nest((), [self._points(outputs)])]
            case "reduction":
                return [self._reduction(outputs)]
            case "contraction":
                return [self._contraction(outputs)]
            case "window":
                return [self._window(outputs[0])]
            case "movement" if outputs[0].op.name == "concat":
                return self._concat(outputs[0])
            case "movement":
                return [self._nest((), [self._points(outputs)])]
            case "indexing" if outputs[0].op.name == "gather":
                return [self._nest((), [self._points(outputs)])]
            case "source":
                return [self._nest((), [self._points(outputs)])]
            case "indexing":
                return self._scatter(outputs[0])
            case _:
                return [self._special(node, node.inputs) for node in outputs]

    # -- kernels ----------------------------------------------------------------------------------

    def _nest(self, rows: tuple[Axis, ...], stages: Sequence[Stage]) -> Nest:
        return Nest(tuple(self.ports), rows, tuple(stages), self.group.nodes)

    def _points(self, outputs: Sequence[Node]) -> Stage:
        """One loop over all elements of values that have one shape."""
        axes = _axes(shape_of(outputs[0]))
        at = tuple(along(axis) for axis in axes)
        return Stage(axes, (), tuple(self._store(node, at) for node in outputs))

    def _store(self, node: Node, at: Indices) -> Store:
        port, index = self._address(self.plan.places[node], at)
        return Store(port, index, self.value(node, at))

    def _copy(self, source: Node, target: Place) -> Nest:
        """A value to another place."""
        self.ports = []
        self._made = {}
        axes = _axes(shape_of(source))
        at = tuple(along(axis) for axis in axes)
        port, index = self._address(target, at)
        store = Store(port, index, self.value(source, at))
        return self._nest((), [Stage(axes, (), (store,))])

    def _reduction(self, outputs: Sequence[Node]) -> Nest:
        first = next(n for n in self.group.nodes if n.op.kind is Kind.REDUCTION)
        space = shape_of(first.inputs[0])
        reduced = _reduced(first)
        axes = _axes(space)
        at = tuple(along(axis) for axis in axes)
        rows = tuple(a for i, a in enumerate(axes) if i not in reduced)
        inner = tuple(a for i, a in enumerate(axes) if i in reduced)
        row_at = tuple(along(axis) for axis in rows)
        folds: list[Fold] = []
        for node in self.group.nodes:
            if node.op.kind is Kind.REDUCTION:
                folds.append(self._fold(node, len(folds), at))
        after = turning(self.results, self.group.outputs)
        whole = [n for n in outputs if n not in after and shape_of(n) == space]
        rest = [n for n in outputs if n not in whole]
        stages = [Stage(inner, tuple(folds), tuple(self._store(n, at) for n in whole))]
        if rest:
            stages.append(Stage((), (), tuple(self._store(n, row_at) for n in rest)))
        return self._nest(rows, stages)

    def _fold(self, node: Node, number: int, at: Indices) -> Fold:
        value = self.value(node.inputs[0], at)
        self.results[node] = Result(node.type.dtype, number)
        if node.op.name in _REDUCERS:
            return Fold(number, _REDUCERS[node.op.name], value, value.dtype)
        place = Position(I64, at[node.attributes["axis"]])
        return Fold(number, node.op.name, value, value.dtype, place)

    def _window(self, node: Node) -> Nest:
        """Every window is a row; its elements are folded, without those of the padding."""
        attributes = node.attributes
        source, shape = node.inputs[0], shape_of(node)
        rank = len(attributes["window"])
        lead = len(shape) - rank
        sizes = shape_of(source)[lead:]
        rows, inner = _axes(shape), _axes(attributes["window"])
        at = tuple(along(axis) for axis in rows)
        places = []
        for i in range(rank):
            start = at[lead + i] * attributes["strides"][i] + -attributes["padding"][i][0]
            places.append(start + along(inner[i]) * attributes["dilation"][i])
        value = self.value(source, (*at[:lead], *places))
        dtype = value.dtype
        how = attributes["reducer"]
        position: Scalar = Position(I64, flat(places, contiguous(sizes).strides))
        inside = [(p, Bound(0, n)) for p, n in zip(places, sizes, strict=True) if not _within(p, n)]
        if inside:
            tests, bounds = zip(*inside, strict=True)
            value = Guard(dtype, value, identity(how, dtype), tests, bounds)
            position = Guard(I64, position, Literal(I64, -1), tests, bounds)
        if node.op.name == "reduce_window":
            fold = Fold(0, how, value, dtype)
        else:
            fold = Fold(0, f"arg_{how}", value, dtype, position)
        self.results[node] = Result(node.type.dtype, 0)
        return self._nest(
            rows, [Stage(inner, (fold,), ()), Stage((), (), (self._store(node, at),))]
        )

    def _concat(self, node: Node) -> list[Kernel]:
        """The parts that are not in their place already."""
        found: list[Kernel] = []
        place, axis, start = self.plan.places[node], node.attributes["axis"], 0
        for part in node.inputs:
            shape = shape_of(part)
            offset = start * place.layout.strides[axis]
            start += shape[axis]
            layout = Layout(place.layout.offset + offset, shape, place.layout.strides)
            target = Place(place.buffer, layout)
            if not part.type.size or self._is_there(part, target):
                continue
            found.append(self._copy(part, target))
        return found

    def _is_there(self, part: Node, target: Place) -> bool:
        place = self.plan.places.get(part)
        return (
            place is not None
            and place.buffer is target.buffer
            and place.layout.offset == target.layout.offset
            and place.layout.steps == target.layout.steps
        )

    def _special(self, node: Node, operands: Sequence[Node]) -> Special:
        views = [self._view(operand) for operand in (*operands, node)]
        return Special(tuple(self.ports), node, tuple(views), self.group.nodes)

    def _scatter(self, node: Node) -> list[Kernel]:
        """The operand brought to where the result is, unless it is there, and updates onto it."""
        found: list[Kernel] = []
        x, *operands = node.inputs
        if not self._is_there(x, self.plan.places[node]):
            found.append(self._copy(x, self.plan.places[node]))
            self.ports = []
        if all(operand.type.size for operand in operands):
            found.append(self._special(node, operands))
        return found

    def _view(self, node: Node, rank: int = 0) -> View:
        """With axes of size 1 after the second, where it has fewer than `rank`."""
        place = self.plan.places[node]
        shape, strides = place.layout.shape, place.layout.strides
        more = rank - len(shape)
        return View(
            self._port(place),
            (*shape[:2], *(1,) * more, *shape[2:]),
            (*strides[:2], *(0,) * more, *strides[2:]),
        )

    # -- products ---------------------------------------------------------------------------------

    def _contraction(self, outputs: Sequence[Node]) -> Kernel:
        node = next(n for n in self.group.nodes if n.op.kind is Kind.CONTRACTION)
        if node.op.name == "dot_general":
            product = self._product(node, outputs)
            if product is not None:
                return product
            rows, inner, value = self._dot(node)
        else:
            convolution = self._images(node, outputs)
            if convolution is not None:
                return convolution
            rows, inner, value = self._conv(node)
        at = tuple(along(axis) for axis in rows)
        self.results[node] = Result(node.type.dtype, 0)
        fold = Fold(0, "sum", value, value.dtype)
        last = Stage((), (), tuple(self._store(n, at) for n in outputs))
        return self._nest(rows, [Stage(inner, (fold,), ()), last])

    def _product(self, node: Node, outputs: Sequence[Node]) -> Product | None:
        """For BLAS, where both operands are matrices in memory."""
        lhs, rhs = node.inputs
        if node.type.dtype.kind != "float" or not (
            lhs in self.plan.places and rhs in self.plan.places
        ):
            return None
        contract, batch = node.attributes["contract"], node.attributes["batch"]
        outer = tuple(shape_of(lhs)[i] for i in batch[0])
        left = self._matrix(lhs, batch[0], _free(lhs, contract[0], batch[0]), contract[0])
        right = self._matrix(rhs, batch[1], contract[1], _free(rhs, contract[1], batch[1]))
        if left is None or right is None:
            return None
        m, k, a = left
        _, n, b = right
        if not (m and n and k):
            return None
        self.results[node] = Result(node.type.dtype, 0)
        shape = shape_of(node)
        axes = _axes((*outer, m, n))
        at = tuple(along(axis) for axis in axes)
        spread = unflat(flat(at, contiguous((*outer, m, n)).strides), shape)
        stage = Stage(axes, (), tuple(self._store(o, spread) for o in outputs))
        return Product(tuple(self.ports), outer, (m, n, k), a, b, stage, self.group.nodes)

    def _matrix(
        self, node: Node, batch: Sequence[int], rows: Sequence[int], columns: Sequence[int]
    ) -> tuple[int, int, Matrix] | None:
        """Rows, columns and the matrix, if each set of axes is one run with one stride."""
        place = self.plan.places[node]
        layout = place.layout
        m, n = _run(layout, rows), _run(layout, columns)
        if m is None or n is None:
            return None
        if (m[1] != 1 and n[1] != 1) or (min(m[1], n[1]) < 0):
            return None
        if (m[1] == 1 and n[0] > 1 and n[1] < m[0]) or (m[1] != 1 and m[0] > 1 and m[1] < n[0]):
            return None  # rows that overlap, or repeat: BLAS has no such matrix
        strides = tuple(layout.strides[i] for i in batch)
        return m[0], n[0], Matrix(self._port(place), strides, m[1], n[1])

    def _dot(self, node: Node) -> tuple[tuple[Axis, ...], tuple[Axis, ...], Scalar]:
        """Rows, the contracted axes, and the factors' product."""
        lhs, rhs = node.inputs
        contract, batch = node.attributes["contract"], node.attributes["batch"]
        rows = _axes(shape_of(node))
        inner = _axes([shape_of(lhs)[i] for i in contract[0]])
        at = [along(axis) for axis in rows]
        outer = len(batch[0])
        free_l, free_r = _free(lhs, contract[0], batch[0]), _free(rhs, contract[1], batch[1])
        left: dict[int, Index] = dict(zip(batch[0], at, strict=False))
        right: dict[int, Index] = dict(zip(batch[1], at, strict=False))
        left.update(zip(free_l, at[outer:], strict=False))
        right.update(zip(free_r, at[outer + len(free_l) :], strict=False))
        for i, j, axis in zip(contract[0], contract[1], inner, strict=True):
            left[i] = right[j] = along(axis)
        value = self._times(
            self.value(lhs, tuple(left[i] for i in range(lhs.type.rank))),
            self.value(rhs, tuple(right[i] for i in range(rhs.type.rank))),
        )
        return rows, inner, value

    def _images(self, node: Node, outputs: Sequence[Node]) -> Convolution | None:
        """For BLAS over unfolded images, where both operands are in memory.

        A line is an image of height 1.
        """
        x, kernel = node.inputs
        a = node.attributes
        rank = len(a["strides"])
        if node.type.dtype.kind != "float" or rank > 2:
            return None
        if not (x in self.plan.places and kernel in self.plan.places):
            return None
        if any(s > 1 and d > 1 for s, d in zip(a["strides"], a["lhs_dilation"], strict=True)):
            return None
        one = (1,) * (2 - rank)
        self.results[node] = Result(node.type.dtype, 0)
        shape = shape_of(node)
        axes = _axes((*shape[:2], *one, *shape[2:]))
        at = tuple(along(axis) for axis in axes)
        within = (*at[:2], *at[4 - rank :])
        stage = Stage(axes, (), tuple(self._store(o, within) for o in outputs))
        images, weights = (self._view(operand, 4) for operand in (x, kernel))
        return Convolution(
            tuple(self.ports),
            x=images,
            kernel=weights,
            strides=(*one, *a["strides"]),
            padding=(*((0, 0),) * (2 - rank), *a["padding"]),
            lhs_dilation=(*one, *a["lhs_dilation"]),
            rhs_dilation=(*one, *a["rhs_dilation"]),
            groups=a["groups"],
            epilogue=stage,
            nodes=self.group.nodes,
        )

    def _conv(self, node: Node) -> tuple[tuple[Axis, ...], tuple[Axis, ...], Scalar]:
        """The definition of convolution, element by element."""
        x, kernel = node.inputs
        a = node.attributes
        rank = len(a["strides"])
        rows = _axes(shape_of(node))
        inner = _axes(shape_of(kernel)[1:])
        batch, channel, *space = (along(axis) for axis in rows)
        depth, *taps = (along(axis) for axis in inner)
        per_group = shape_of(kernel)[0] // a["groups"]
        first = (channel // per_group) * shape_of(kernel)[1]
        tests, bounds, places = [], [], []
        for i in range(rank):
            size, spread = shape_of(x)[2 + i], a["lhs_dilation"][i]
            place = space[i] * a["strides"][i] + taps[i] * a["rhs_dilation"][i]
            place = place + -a["padding"][i][0]
            if spread > 1 or not _within(place, size):
                tests.append(place)
                bounds.append(Bound(0, (size - 1) * spread + 1, spread))
            places.append(place // spread)
        value = self.value(x, (batch, first + depth, *places))
        if tests:
            zero = Literal(value.dtype, 0)
            value = Guard(value.dtype, value, zero, tuple(tests), tuple(bounds))
        weight = self.value(kernel, (channel, depth, *taps))
        return rows, inner, self._times(value, weight)

    @staticmethod
    def _times(left: Scalar, right: Scalar) -> Scalar:
        return Apply(left.dtype, "multiply", (left, right))

    # -- values -----------------------------------------------------------------------------------

    def value(self, node: Node, at: Indices) -> Scalar:
        """The element of a value at the indices."""
        key = node, at
        if key not in self._made:
            self._made[key] = self._value(node, at)
        return self._made[key]

    def _value(self, node: Node, at: Indices) -> Scalar:
        if node in self.results:
            return self.results[node]
        dtype = node.type.dtype
        if node.op.name == "stop_gradient" and node in self.group.members:
            return self.value(node.inputs[0], at)  # which may be in memory only after this kernel
        if node not in self.group.members or node in self.plan.views:
            return self._load(node, at)
        if node.op.kind is Kind.ELEMENTWISE:
            return Apply(dtype, node.op.name, tuple(self.value(i, at) for i in node.inputs))
        attributes = node.attributes
        match node.op.name:
            case "iota":
                return Position(dtype, at[attributes["axis"]])
            case "dim_size":
                return Literal(dtype, static_shape((attributes["dim"],))[0])
            case "random_bits":
                seed, step = node.inputs
                words = (*(self.value(seed, (Index((), i),)) for i in (0, 1)), self.value(step, ()))
                position = flat(at, contiguous(shape_of(node)).strides)
                return Bits(dtype, words, attributes["stream"], position)
            case "gather":
                return self._gathered(node, at)
            case "pad":
                return self._padded(node, at)
            case _:
                return self.value(node.inputs[0], moved(node, at))

    def _gathered(self, node: Node, at: Indices) -> Scalar:
        x, indices = node.inputs
        batch, rank = node.attributes["batch_dims"], indices.type.rank
        size = shape_of(x)[batch]
        row = Datum(self.value(indices, at[:rank]), size)
        return self.value(x, (*at[:batch], Index(((row, 1),)), *at[rank:]))

    def _padded(self, node: Node, at: Indices) -> Scalar:
        source, attributes = node.inputs[0], node.attributes
        tests, bounds, places = [], [], []
        for i, size in enumerate(shape_of(source)):
            step = attributes["interior"][i] + 1
            place = at[i] + -attributes["low"][i]
            if step > 1 or not _within(place, size):
                tests.append(place)
                bounds.append(Bound(0, (size - 1) * step + 1, step))
            places.append(place // step)
        other = Literal(node.type.dtype, _number(attributes["value"], node.type.dtype))
        if not source.type.size:
            return other
        value = self.value(source, tuple(places))
        if not tests:
            return value
        return Guard(node.type.dtype, value, other, tuple(tests), tuple(bounds))

    def _load(self, node: Node, at: Indices) -> Scalar:
        place = self.plan.places[node]
        root = place.buffer.nodes[0]
        if root.op.name == "constant" and (place.layout.is_splat or place.buffer.size == 1):
            value = np.asarray(root.attributes["value"]).reshape(-1)
            number = value[place.layout.offset if value.size > 1 else 0]
            return Literal(node.type.dtype, number.item())
        return Load(node.type.dtype, *self._address(place, at))

    def _address(self, place: Place, at: Indices) -> tuple[int, Index]:
        return self._port(place), flat(at, place.layout.strides)

    def _port(self, place: Place) -> int:
        port = Port(place.buffer, place.layout.offset)
        if port not in self.ports:
            self.ports.append(port)
        return self.ports.index(port)


def moved(node: Node, at: Indices) -> Indices:
    """Where an element of a movement node comes from in its operand."""
    attributes, source = node.attributes, shape_of(node.inputs[0])
    match node.op.name:
        case "reshape":
            return unflat(flat(at, contiguous(shape_of(node)).strides), source)
        case "transpose":
            permutation = attributes["permutation"]
            return tuple(at[permutation.index(i)] for i in range(len(source)))
        case "broadcast_in_dim":
            return tuple(at[i] for i in attributes["dims"])
        case "slice":
            return tuple(
                index * step + start
                for index, start, step in zip(
                    at, attributes["start"], attributes["strides"], strict=True
                )
            )
        case "reverse":
            return tuple(
                index * -1 + (size - 1) if i in attributes["axes"] else index
                for i, (index, size) in enumerate(zip(at, source, strict=True))
            )
    raise AssertionError(f"{node.op.name} is no index map")


def identity(how: str, dtype: DType) -> Literal:
    """What a fold begins with."""
    if how in ("max", "min"):
        low = how == "max"
        if dtype.kind == "float":
            return Literal(dtype, -np.inf if low else np.inf)
        if dtype.kind == "bool":
            return Literal(dtype, not low)
        info = np.iinfo(dtype.numpy)
        return Literal(dtype, int(info.min if low else info.max))
    start = {"sum": 0, "prod": 1, "and": 1, "or": 0}[how]
    return Literal(dtype, _number(start, dtype))


def _number(value: float, dtype: DType) -> int | float | bool:
    if dtype.kind == "float":
        return float(value)
    return bool(value) if dtype.kind == "bool" else int(value)


def _axes(shape: Sequence[int]) -> tuple[Axis, ...]:
    return tuple(Axis(size) for size in shape)


def _within(index: Index, size: int) -> bool:
    low, high = index.bounds
    return low >= 0 and high < size


def _reduced(node: Node) -> tuple[int, ...]:
    if "axes" in node.attributes:
        axes: tuple[int, ...] = node.attributes["axes"]
        return axes
    return (node.attributes["axis"],)


def _free(node: Node, *taken: Sequence[int]) -> list[int]:
    return [i for i in range(node.type.rank) if all(i not in axes for axes in taken)]


def _run(layout: Layout, axes: Sequence[int]) -> tuple[int, int] | None:
    """Several axes as one: how many elements, and the stride between them."""
    size, stride = 1, 1
    for i in reversed(axes):
        extent, step = layout.shape[i], layout.strides[i]
        if extent == 1:
            continue
        if size == 1:
            stride = step
        elif step != size * stride:
            return None
        size *= extent
    return (size, stride) if prod(layout.shape) else (0, 1)
