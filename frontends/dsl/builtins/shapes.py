"""Functions of shapes: what they are, and tensors reshaped, joined and padded."""

from __future__ import annotations

from collections.abc import Callable

from weft.compiler import builder as b
from weft.compiler.types import Dim, divide
from weft.frontends.dsl.axes import align, axis_index, axis_indices, shape_of
from weft.frontends.dsl.operators import conversion
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import Label, Tensor, Value, describe, is_number, shape_text


def _shape(site: Site, x: Value) -> Value:
    return list(site.tensor(x).axis_values)


def _rank(site: Site, x: Value) -> Value:
    return site.tensor(x).rank


def _size(site: Site, x: Value, axis: Value = None) -> Value:
    tensor = site.tensor(x)
    if axis is None:
        return tensor.type.size
    return tensor.type.shape[axis_index(tensor, axis, site.place(axis))]


def _reshape(site: Site, x: Value, shape: Value) -> Value:
    tensor = site.tensor(x)
    items = list(shape) if isinstance(shape, list | tuple) else [shape]
    holes = [i for i, item in enumerate(items) if item == -1 and isinstance(item, int)]
    if len(holes) > 1:
        raise site.wrong_value(shape, "only one size can be left to compute (-1)")
    if holes:
        rest, _ = shape_of(items[: holes[0]] + items[holes[0] + 1 :], site.span)
        known: Dim = 1
        for dim in rest:
            known = dim * known
        total: Dim = tensor.type.size
        try:
            items[holes[0]] = divide(total, known)
            if known * items[holes[0]] != total:
                raise ValueError
        except (ValueError, ZeroDivisionError):
            raise site.wrong_value(
                shape,
                "the size left to compute (-1) is not whole",
                found=f"{describe(items)} for {shape_text(tensor)}",
            ) from None
    dims, labels = shape_of(items, site.place(shape))
    count: Dim = 1
    for dim in dims:
        count = dim * count
    if count != tensor.type.size:
        raise site.wrong_value(
            shape,
            "the number of elements changes",
            expected=f"{tensor.type.size} elements, as {shape_text(tensor)} has",
            found=f"{describe(list(dims))}, {count} elements",
        )
    return Tensor(b.reshape(tensor.node, dims), labels, tensor.classes)


def _transpose(site: Site, x: Value, axes: Value = None) -> Value:
    tensor = site.tensor(x)
    if axes is None:
        order = list(reversed(range(tensor.rank)))
    else:
        items = axes if isinstance(axes, list | tuple) else [axes]
        order = [axis_index(tensor, a, site.place(axes)) for a in items]
    if sorted(order) != list(range(tensor.rank)):
        raise site.wrong_value(
            axes,
            "names each axis once",
            expected=f"an order of {tensor.rank} axes",
            found=f"{describe(axes)} for {shape_text(tensor)}",
        )
    return Tensor(b.transpose(tensor.node, order), tuple(tensor.axes[i] for i in order))


def _broadcast(site: Site, x: Value, shape: Value) -> Value:
    tensor = site.tensor(x)
    dims, labels = shape_of(shape, site.span)
    target = Tensor(b.zeros(tensor.type.with_shape(dims)), labels)
    sizes = tensor.type.shape
    if tensor.rank == len(dims) and any(
        s == 1 and d != 1 for s, d in zip(sizes, dims, strict=True)
    ):
        kept = [i for i, (s, d) in enumerate(zip(sizes, dims, strict=True)) if s != 1 or d == 1]
        node = b.reshape(tensor.node, [sizes[i] for i in kept])
        if any(sizes[i] != dims[i] for i in kept):
            raise site.wrong("sizes differ", expected=str(list(dims)), found=shape_text(tensor))
        return Tensor(b.broadcast(node, dims, kept), labels)
    moved, _ = align(tensor, target, "`broadcast`", site.span)
    if moved.type.shape != dims:
        raise site.wrong("sizes differ", expected=str(list(dims)), found=shape_text(tensor))
    return Tensor(moved.node, tuple(a or c for a, c in zip(labels, moved.axes, strict=True)))


def _tensors(site: Site, parts: Value) -> list[Tensor]:
    if not isinstance(parts, list | tuple) or not parts:
        such = f"such as `{site.name}([x, y])`"
        raise site.wrong("takes a list of tensors", expected=such, found=describe(parts))
    found = site.interpreter.widened(*map(site.tensor, parts))
    for t in found[1:]:
        if t.rank != found[0].rank:
            raise site.wrong(
                "the tensors have different ranks",
                found=", ".join(shape_text(t) for t in found[:4]),
            )
        if t.type.dtype != found[0].type.dtype:
            raise site.wrong(
                "the tensors have different element types",
                found=f"{shape_text(found[0])} and {shape_text(t)}",
                hint=conversion(found[0].type.dtype, t.type.dtype),
            )
    return found


def _joined_axes(parts: list[Tensor], drop: int | None) -> tuple[Label | None, ...]:
    axes = []
    for i, column in enumerate(zip(*(p.axes for p in parts), strict=True)):
        label = next((a for a in column if a is not None), None)
        same = all(a is None or a is label for a in column)
        axes.append(label if same and i != drop else None)
    return tuple(axes)


def _concat(site: Site, parts: Value, over: Value = -1) -> Value:
    tensors = _tensors(site, parts)
    axis = axis_index(tensors[0], over, site.place(over))
    for t in tensors[1:]:
        for i, (mine, theirs) in enumerate(zip(tensors[0].type.shape, t.type.shape, strict=True)):
            if i != axis and mine != theirs:
                raise site.wrong(
                    f"axis {i} has the sizes {mine} and {theirs}",
                    expected=f"equal sizes on all axes but axis {axis}, where the tensors join",
                    found=f"{shape_text(tensors[0])} and {shape_text(t)}",
                    hint="`over` says which axis they join on; the last one unless told",
                )
    node = b.concat([t.node for t in tensors], axis)
    return Tensor(node, _joined_axes(tensors, axis if len(tensors) > 1 else None))


def _stack(site: Site, parts: Value, at: Value = 0) -> Value:
    tensors = _tensors(site, parts)
    place = site.whole(at, "`at`") if at != -1 else tensors[0].rank
    if place > tensors[0].rank:
        raise site.wrong(f"there is no place {place} in {tensors[0].rank + 1} axes")
    nodes = []
    for t in tensors:
        if t.type.shape != tensors[0].type.shape:
            raise site.wrong(
                "the tensors have different shapes",
                found=f"{shape_text(tensors[0])} and {shape_text(t)}",
                hint="`concat` joins along an axis that is there",
            )
        shape = list(t.type.shape)
        shape.insert(place, 1)
        nodes.append(b.reshape(t.node, shape))
    axes = list(_joined_axes(tensors, None))
    axes.insert(place, None)
    return Tensor(b.concat(nodes, place), tuple(axes))


def _pad(site: Site, x: Value, low: Value, high: Value, value: Value = 0) -> Value:
    """`low` and `high`: how many elements to add before and after, for the last axes."""
    tensor = site.tensor(x)
    before = list(low) if isinstance(low, list) else [low]
    after = list(high) if isinstance(high, list) else [high]
    if len(before) != len(after) or len(before) > tensor.rank or not is_number(value):
        raise site.wrong("takes equally many `low` and `high`, and a number to fill with")
    front = tensor.rank - len(before)
    lows = [0] * front + [site.whole(v, "padding") for v in before]
    highs = [0] * front + [site.whole(v, "padding") for v in after]
    axes = tuple(
        None if lo or hi else a for a, lo, hi in zip(tensor.axes, lows, highs, strict=True)
    )
    return Tensor(b.pad(tensor.node, lows, highs, None, float(value)), axes)


def _reverse(site: Site, x: Value, over: Value = None) -> Value:
    tensor = site.tensor(x)
    return Tensor(b.reverse(tensor.node, axis_indices(tensor, over, site.place(over))), tensor.axes)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "shape": _shape,
    "rank": _rank,
    "size": _size,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "concat": _concat,
    "stack": _stack,
    "pad": _pad,
    "reverse": _reverse,
}
