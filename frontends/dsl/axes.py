"""Alignment of axes by name: which axis of one operand meets which of the other.

Same rank: axis by axis. Lower rank: axes whose name the other operand has go there; the rest align
from the right. Two different names on one position, or two sizes, are an error. Nothing stretches.
"""

from __future__ import annotations

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span
from weft.compiler.graph import Node
from weft.compiler.types import Shape
from weft.frontends.dsl.diagnostics import misfit
from weft.frontends.dsl.origins import origins
from weft.frontends.dsl.values import Axis, Label, Tensor, Value, as_dim, describe, shape_text


def _unique(axes: tuple[Label | None, ...]) -> tuple[Label | None, ...]:
    """Labels that occur once; a repeated one (as in attention scores) names no axis."""
    return tuple(a if a is not None and axes.count(a) == 1 else None for a in axes)


def align(left: Tensor, right: Tensor, what: str, span: Span) -> tuple[Tensor, Tensor]:
    """Both operands brought to one shape with the same labels."""
    if left.rank >= right.rank:
        moved = _move(right, left, what, span, (left, right))
        axes = _merge(left, moved)
        return Tensor(left.node, axes, left.classes), Tensor(moved.node, axes, right.classes)
    moved = _move(left, right, what, span, (left, right))
    axes = _merge(right, moved)
    return Tensor(moved.node, axes, left.classes), Tensor(right.node, axes, right.classes)


def _merge(wide: Tensor, moved: Tensor) -> tuple[Label | None, ...]:
    return tuple(a if a is not None else c for a, c in zip(wide.axes, moved.axes, strict=True))


def _move(
    small: Tensor, wide: Tensor, what: str, span: Span, shown: tuple[Tensor, Tensor]
) -> Tensor:
    """`small` transposed and broadcast to the shape of `wide`."""
    if small.axes == wide.axes and small.type.shape == wide.type.shape:
        return small
    if not small.axes:
        number = b.broadcast(small.node, wide.type.shape, ())
        return Tensor(number, (None,) * wide.rank, small.classes)
    names, known = _unique(wide.axes), _unique(small.axes)
    targets: list[int] = []
    for i, label in enumerate(known):
        named = small.rank < wide.rank and label is not None and label in names
        targets.append(names.index(label) if named else wide.rank - small.rank + i)

    def operands() -> str:
        return f"{shape_text(shown[0])} and {shape_text(shown[1])}"

    if len(set(targets)) < len(targets):
        raise CompileError(
            f"{what}: two axes meet one axis of the other operand",
            span,
            found=operands(),
            hint="name the axes in the signature, or say where they go with `reshape`",
        )

    def sides(mine: object, theirs: object) -> str:
        """The two in the order in which the operands are written."""
        return f"{mine} and {theirs}" if small is shown[0] else f"{theirs} and {mine}"

    for i, target in enumerate(targets):
        mine, theirs = known[i], names[target]
        if mine is not None and theirs is not None and mine is not theirs:
            raise CompileError(
                f"{what}: axes {sides(f'`{mine.name}`', f'`{theirs.name}`')} meet",
                span,
                expected="the same name on one position",
                found=operands(),
                hint="transpose one of them, or rename the axis in its signature",
            )
        if small.type.shape[i] != wide.type.shape[target]:
            raise CompileError(
                f"{what}: sizes {sides(small.type.shape[i], wide.type.shape[target])} don't match",
                span,
                expected="equal sizes on aligned axes; nothing stretches by itself",
                found=operands(),
                hint=_stretch_hint(small.type.shape[i], wide.type.shape[target]),
            )
        own = _own_place(small, i, wide, target) if mine is None or mine not in names else None
        if own is not None:
            raise CompileError(
                f"{what}: axis {own} meets axis {target} of the same tensor",
                span,
                expected=f"axis {own} beside itself; axes without names align from the right",
                found=operands(),
                hint="name the axes in a signature, since names align; or say with `broadcast` "
                "that the last axes are meant",
            )
    order = sorted(range(small.rank), key=lambda i: targets[i])
    node: Node = b.transpose(small.node, order)
    node = b.broadcast(node, wide.type.shape, sorted(targets))
    axes: list[Label | None] = [None] * wide.rank
    for i, target in enumerate(targets):
        axes[target] = small.axes[i]
    return Tensor(node, tuple(axes), small.classes)


def _own_place(small: Tensor, axis: int, wide: Tensor, target: int) -> int | None:
    """Which axis of `wide` this one is, where it takes the place of one that `small` has lost.

    So it is in `x - mean(x, over = 1)` for a square x: only the sizes fit.
    """
    sizes = wide.type.shape
    beside = [i for i in range(wide.rank) if i != target and sizes[i] == sizes[target] != 1]
    if small.rank == wide.rank or not beside:
        return None
    kept = [origins(small.node, i) for i in range(small.rank)]
    met = origins(wide.node, target)
    lost = {node for node, _ in met.difference(*kept)}
    mine = {place for place in kept[axis] - met if place[0] in lost}
    return next((i for i in beside if mine & origins(wide.node, i)), None) if mine else None


def _stretch_hint(mine: object, theirs: object) -> str | None:
    if 1 in (mine, theirs):
        return "drop the axis of size 1 with an index (`x[..., 0]`) or write the `broadcast`"
    return None


def axis_index(tensor: Tensor, value: Value, span: Span) -> int:
    """The position of an axis given by name (a bound axis) or by number (negative from the end)."""
    if isinstance(value, Axis):
        name = value.label.name if value.label else str(value.size)
        if value.label is not None and value.label in tensor.axes:
            if tensor.axes.count(value.label) > 1:
                raise CompileError(
                    f"the tensor has two axes `{name}`",
                    span,
                    found=shape_text(tensor),
                    hint="count the axis: -1 is the last, -2 the one before",
                )
            return tensor.axes.index(value.label)
        raise misfit(
            value,
            f"the tensor has no axis `{name}`",
            span,
            found=shape_text(tensor),
            hint="name an axis of this tensor, or count it from the end (-1 is the last)",
        )
    if isinstance(value, int) and not isinstance(value, bool):
        index = value + tensor.rank if value < 0 else value
        if 0 <= index < tensor.rank:
            return index
        raise misfit(
            value,
            f"the tensor has no axis `{value}`",
            span,
            expected=f"from {-tensor.rank} to {tensor.rank - 1}" if tensor.rank else None,
            found=shape_text(tensor),
            hint="axes are counted from 0, or from the end: -1 is the last",
        )
    names = [a.name for a in tensor.axes if a is not None]
    raise misfit(
        value,
        "an axis is a name or a number",
        span,
        expected=f"such as `{names[-1]}` or `-1`" if names else "such as `-1`, the last one",
        found=describe(value),
        hint="the name of an axis has no quotes" if value in names else None,
    )


def axis_indices(tensor: Tensor, value: Value, span: Span) -> tuple[int, ...]:
    """The positions for `over = ...`: one axis, a list of axes, or all of them for None."""
    if value is None:
        return tuple(range(tensor.rank))
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(sorted({axis_index(tensor, item, span) for item in items}))


def shape_of(value: Value, span: Span) -> tuple[Shape, tuple[Label | None, ...]]:
    """A list of sizes, as in `normal([batch, 16])`: the dimensions, and labels of named ones."""
    items = value if isinstance(value, list | tuple) else [value]
    dims, labels = [], []
    for item in items:
        dim = as_dim(item)
        if dim is None or (isinstance(dim, int) and dim < 0):
            raise CompileError(
                "a shape is a list of sizes", span, expected="whole numbers", found=describe(item)
            )
        dims.append(dim)
        labels.append(item.label if isinstance(item, Axis) else None)
    return tuple(dims), tuple(labels)
