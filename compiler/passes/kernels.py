"""Groups as kernels: every group of a plan as loops over memory, movement gone into indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from weft.compiler.graph import Node
from weft.compiler.index import Indices, along, flat
from weft.compiler.kernel import Fold, Kernel, Nest, Special, Stage, Store
from weft.compiler.loops import turning
from weft.compiler.ops import Kind
from weft.compiler.passes.attention_kernels import attention
from weft.compiler.passes.contractions import contraction
from weft.compiler.passes.elements import (
    Elements,
    axes_of,
    is_within,
    number_as,
    shape_of,
    summed,
    widened,
)
from weft.compiler.passes.fuse import Group
from weft.compiler.passes.turn_kernels import turn_kernels
from weft.compiler.passes.views import Layout, contiguous
from weft.compiler.plan import Abilities, Place, Plan
from weft.compiler.scalar import Bound, Guard, Literal, Position, Scalar
from weft.compiler.types import I64, DType

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
        outputs = [node for node in group.outputs if node not in plan.views and node.type.size]
        if not outputs:
            continue
        if group.kind == "loop":
            found += turn_kernels(plan, group, abilities, lambda turn: kernels(turn, abilities))
        else:
            found += _PRINTERS[_kind(group)](Elements(plan, group), outputs)
    return tuple(found)


def _kind(group: Group) -> str:
    """The group's kind, or the op where ops of a kind differ."""
    name = group.nodes[-1].op.name
    return name if name in _PRINTERS and group.kind != "attention" else group.kind


def _points(e: Elements, outputs: Sequence[Node]) -> list[Kernel]:
    return [e.nest((), [e.points(outputs)])]


def _copy(plan: Plan, group: Group, source: Node, target: Place) -> Nest:
    """A value to another place."""
    e = Elements(plan, group)
    axes = axes_of(shape_of(source))
    at = tuple(along(axis) for axis in axes)
    port, index = e.address(target, at)
    return e.nest((), [Stage(axes, (), (Store(port, index, e.value(source, at)),))])


def _reduction(e: Elements, outputs: Sequence[Node]) -> list[Kernel]:
    first = next(n for n in e.group.nodes if n.op.kind is Kind.REDUCTION)
    space = shape_of(first.inputs[0])
    reduced = _reduced(first)
    axes = axes_of(space)
    at = tuple(along(axis) for axis in axes)
    rows = tuple(a for i, a in enumerate(axes) if i not in reduced)
    inner = tuple(a for i, a in enumerate(axes) if i in reduced)
    row_at = tuple(along(axis) for axis in rows)
    folds: list[Fold] = []
    for node in e.group.nodes:
        if node.op.kind is Kind.REDUCTION:
            folds.append(_fold(e, node, len(folds), at))
    after = turning(e.results, e.group.outputs)
    whole = [n for n in outputs if n not in after and shape_of(n) == space]
    rest = [n for n in outputs if n not in whole]
    stages = [Stage(inner, tuple(folds), tuple(e.store(n, at) for n in whole))]
    if rest:
        stages.append(Stage((), (), tuple(e.store(n, row_at) for n in rest)))
    return [e.nest(rows, stages)]


def _fold(e: Elements, node: Node, number: int, at: Indices) -> Fold:
    value = widened(e.value(node.inputs[0], at))
    e.results[node] = summed(node, number)
    if node.op.name in _REDUCERS:
        return Fold(number, _REDUCERS[node.op.name], value, value.dtype)
    place = Position(I64, at[node.attributes["axis"]])
    return Fold(number, node.op.name, value, value.dtype, place)


def _window(e: Elements, outputs: Sequence[Node]) -> list[Kernel]:
    """Every window is a row; its elements are folded, without those of the padding."""
    (node,) = outputs
    attributes = node.attributes
    source, shape = node.inputs[0], shape_of(node)
    rank = len(attributes["window"])
    lead = len(shape) - rank
    sizes = shape_of(source)[lead:]
    rows, inner = axes_of(shape), axes_of(attributes["window"])
    at = tuple(along(axis) for axis in rows)
    places = []
    for i in range(rank):
        start = at[lead + i] * attributes["strides"][i] + -attributes["padding"][i][0]
        places.append(start + along(inner[i]) * attributes["dilation"][i])
    value = widened(e.value(source, (*at[:lead], *places)))
    dtype = value.dtype
    how = attributes["reducer"]
    position: Scalar = Position(I64, flat(places, contiguous(sizes).strides))
    inside = [(p, Bound(0, n)) for p, n in zip(places, sizes, strict=True) if not is_within(p, n)]
    if inside:
        tests, bounds = zip(*inside, strict=True)
        value = Guard(dtype, value, identity(how, dtype), tests, bounds)
        position = Guard(I64, position, Literal(I64, -1), tests, bounds)
    if node.op.name == "reduce_window":
        fold = Fold(0, how, value, dtype)
    else:
        fold = Fold(0, f"arg_{how}", value, dtype, position)
    e.results[node] = summed(node, 0)
    return [e.nest(rows, [Stage(inner, (fold,), ()), Stage((), (), (e.store(node, at),))])]


def _concat(e: Elements, outputs: Sequence[Node]) -> list[Kernel]:
    return [_copy(e.plan, e.group, part, to) for part, to in elsewhere(e.plan, outputs[0])]


def elsewhere(plan: Plan, concat: Node) -> list[tuple[Node, Place]]:
    """The parts of a concatenation that are not in their place already, and their places."""
    found = []
    place, axis, start = plan.places[concat], concat.attributes["axis"], 0
    for part in concat.inputs:
        shape = shape_of(part)
        offset = start * place.layout.strides[axis]
        start += shape[axis]
        layout = Layout(place.layout.offset + offset, shape, place.layout.strides)
        target = Place(place.buffer, layout)
        if part.type.size and not _is_there(plan, part, target):
            found.append((part, target))
    return found


def _is_there(plan: Plan, part: Node, target: Place) -> bool:
    place = plan.places.get(part)
    return (
        place is not None
        and place.buffer is target.buffer
        and place.layout.offset == target.layout.offset
        and place.layout.steps == target.layout.steps
    )


def _special(e: Elements, outputs: Sequence[Node]) -> list[Kernel]:
    return [_of_views(e, node, node.inputs) for node in outputs]


def _of_views(e: Elements, node: Node, operands: Sequence[Node]) -> Special:
    views = [e.view(operand) for operand in (*operands, node)]
    return Special(tuple(e.ports), node, tuple(views), e.group.nodes)


def _scatter(e: Elements, outputs: Sequence[Node]) -> list[Kernel]:
    """The operand brought to where the result is, unless it is there, and updates onto it."""
    (node,) = outputs
    found: list[Kernel] = []
    x, *operands = node.inputs
    if not _is_there(e.plan, x, e.plan.places[node]):
        found.append(_copy(e.plan, e.group, x, e.plan.places[node]))
    if all(operand.type.size for operand in operands):
        found.append(_of_views(e, node, operands))
    return found


_PRINTERS: Mapping[str, Callable[[Elements, Sequence[Node]], list[Kernel]]] = {
    "elementwise": _points,
    "reduction": _reduction,
    "contraction": contraction,
    "attention": attention,
    "window": _window,
    "movement": _points,
    "concat": _concat,
    "indexing": _points,
    "scatter_add": _scatter,
    "source": _points,
    "order": _special,
}


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
    return Literal(dtype, number_as(start, dtype))


def _reduced(node: Node) -> tuple[int, ...]:
    if "axes" in node.attributes:
        axes: tuple[int, ...] = node.attributes["axes"]
        return axes
    return (node.attributes["axis"],)
