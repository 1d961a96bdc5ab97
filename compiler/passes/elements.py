"""The elements of a group's values: each as a scalar expression at given indices.

Asking a movement node for its element asks its operand for the element that it came from, so that
only what the plan gives a place is ever in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from weft.compiler.graph import Node
from weft.compiler.index import Axis, Datum, Index, Indices, along, flat, unflat
from weft.compiler.kernel import Nest, Port, Stage, Store, View
from weft.compiler.ops import Kind
from weft.compiler.passes.fuse import Group
from weft.compiler.passes.views import contiguous
from weft.compiler.plan import Place, Plan
from weft.compiler.scalar import Apply, Bits, Bound, Guard, Literal, Load, Position, Result, Scalar
from weft.compiler.types import F32, U32, DType, static_shape


@dataclass(eq=False)
class Elements:
    """Of one kernel. `ports` grows as memory is read; `results` are values that folds give."""

    plan: Plan
    group: Group
    ports: list[Port] = field(default_factory=list)
    results: dict[Node, Scalar] = field(default_factory=dict)
    _made: dict[tuple[Node, Indices], Scalar] = field(default_factory=dict)

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
            return applied(node.op.name, dtype, [self.value(i, at) for i in node.inputs])
        attributes = node.attributes
        match node.op.name:
            case "iota":
                return Position(dtype, at[attributes["axis"]])
            case "dim_size":
                return Literal(dtype, static_shape((attributes["dim"],))[0])
            case "random_bits":
                seed, step = node.inputs
                low, high = (self.value(seed, (Index((), i),)) for i in (0, 1))
                port = self._number(Port(*self.plan.streams[attributes["stream"]]))
                name = (Load(U32, port, Index((), i)) for i in (0, 1))
                position = flat(at, contiguous(shape_of(node)).strides)
                return Bits(dtype, (low, high, self.value(step, ()), *name), position)
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
            if step > 1 or not is_within(place, size):
                tests.append(place)
                bounds.append(Bound(0, (size - 1) * step + 1, step))
            places.append(place // step)
        other = Literal(node.type.dtype, number_as(attributes["value"], node.type.dtype))
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
        return Load(node.type.dtype, *self.address(place, at))

    def address(self, place: Place, at: Indices) -> tuple[int, Index]:
        return self.port(place), flat(at, place.layout.strides)

    def port(self, place: Place) -> int:
        return self._number(Port(place.buffer, place.layout.offset))

    def _number(self, port: Port) -> int:
        if port not in self.ports:
            self.ports.append(port)
        return self.ports.index(port)

    # -- what kernels are made of -----------------------------------------------------------------

    def store(self, node: Node, at: Indices) -> Store:
        port, index = self.address(self.plan.places[node], at)
        return Store(port, index, self.value(node, at))

    def points(self, outputs: Sequence[Node]) -> Stage:
        """One loop over all elements of values that have one shape."""
        axes = axes_of(shape_of(outputs[0]))
        at = tuple(along(axis) for axis in axes)
        return Stage(axes, (), tuple(self.store(node, at) for node in outputs))

    def nest(self, rows: tuple[Axis, ...], stages: Sequence[Stage]) -> Nest:
        return Nest(tuple(self.ports), rows, tuple(stages), self.group.nodes)

    def view(self, node: Node, rank: int = 0) -> View:
        """With axes of size 1 after the second, where it has fewer than `rank`."""
        place = self.plan.places[node]
        shape, strides = place.layout.shape, place.layout.strides
        more = rank - len(shape)
        return View(
            self.port(place),
            (*shape[:2], *(1,) * more, *shape[2:]),
            (*strides[:2], *(0,) * more, *strides[2:]),
        )


_AS_THEY_ARE = frozenset({"cast", "select", "stop_gradient"})


def applied(op: str, dtype: DType, parts: Sequence[Scalar]) -> Scalar:
    """An elementwise op. Of floats of 16 bits it is computed in f32, and rounded."""
    if op in _AS_THEY_ARE:
        return Apply(dtype, op, tuple(parts))
    return rounded(Apply(wide(dtype), op, tuple(map(widened, parts))), dtype)


def wide(dtype: DType) -> DType:
    """The type in which floats of a type are computed and added up."""
    return F32 if dtype.is_narrow else dtype


def widened(value: Scalar) -> Scalar:
    return Apply(F32, "cast", (value,)) if value.dtype.is_narrow else value


def rounded(value: Scalar, dtype: DType) -> Scalar:
    """What was computed, as a value of its own type."""
    return Apply(dtype, "cast", (value,)) if dtype.is_narrow else value


def summed(node: Node, number: int) -> Scalar:
    """What a fold or a product came to, as the node's element."""
    dtype = node.type.dtype
    return rounded(Result(wide(dtype), number), dtype)


def shape_of(node: Node) -> tuple[int, ...]:
    return static_shape(node.type.shape)


def axes_of(shape: Sequence[int]) -> tuple[Axis, ...]:
    return tuple(Axis(size) for size in shape)


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


def is_within(index: Index, size: int) -> bool:
    low, high = index.bounds
    return low >= 0 and high < size


def number_as(value: float, dtype: DType) -> int | float | bool:
    if dtype.kind == "float":
        return float(value)
    return bool(value) if dtype.kind == "bool" else int(value)
