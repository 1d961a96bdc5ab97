"""`value[items]`: elements and slices of lists, texts' worth of axes, and tensors."""

from __future__ import annotations

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span
from weft.compiler.types import Dim, SymDim
from weft.frontends.dsl.values import Label, Tensor, Value, as_dim, describe, shape_text


def index(value: Value, items: list[Value], span: Span) -> Value:
    if isinstance(value, list | tuple):
        return _list_item(value, items, span)
    if isinstance(value, Tensor):
        return _tensor_items(value, items, span)
    raise CompileError("only tensors and lists have elements", span, found=describe(value))


def _static(value: Value, span: Span) -> int:
    dim = as_dim(value)
    if dim is None or isinstance(dim, SymDim):
        raise CompileError(
            "an index is a whole number that is known before running",
            span,
            found=describe(value),
            hint="`take(x, indices)` picks rows by a tensor of positions",
        )
    return dim


def _list_item(value: list[Value] | tuple[Value, ...], items: list[Value], span: Span) -> Value:
    if len(items) != 1 or items[0] is ...:
        raise CompileError("a list has one index", span)
    item = items[0]
    if isinstance(item, slice):
        parts = [
            None if p is None else _static(p, span) for p in (item.start, item.stop, item.step)
        ]
        if parts[2] == 0:
            raise CompileError("the step of a slice can't be 0", span)
        return value[slice(*parts)]
    position = _static(item, span)
    if not -len(value) <= position < len(value):
        raise CompileError(
            f"index {position} is outside the list",
            span,
            expected=_range_text(len(value)),
            found=f"a list of {len(value)}",
        )
    return value[position]


def _tensor_items(tensor: Tensor, items: list[Value], span: Span) -> Tensor:
    dots = [i for i, item in enumerate(items) if item is ...]
    if len(dots) > 1:
        raise CompileError("an index has at most one `...`", span)
    given = len(items) - len(dots)
    if given > tensor.rank:
        count = "1 axis" if tensor.rank == 1 else f"{tensor.rank} axes"
        raise CompileError(f"{given} indices for {count}", span, found=shape_text(tensor))
    everything: list[Value] = [slice(None)] * (tensor.rank - given)
    at = dots[0] if dots else len(items)
    full = [*items[:at], *everything, *items[at + len(dots) :]]
    start: list[Dim] = []
    limit: list[Dim] = []
    strides: list[int] = []
    kept: list[int] = []
    for axis, (item, size) in enumerate(zip(full, tensor.type.shape, strict=True)):
        if isinstance(item, slice):
            low, high, step = _range(item, size, tensor, span)
            kept.append(axis)
        else:
            low = _position(_static(item, span), size, tensor, span)
            high, step = low + 1, 1
        start.append(low)
        limit.append(high)
        strides.append(step)
    node = b.slice_(tensor.node, start, limit, strides)
    node = b.reshape(node, [node.type.shape[i] for i in kept])
    axes: tuple[Label | None, ...] = tuple(
        tensor.axes[i] if full[i] == slice(None) else None for i in kept
    )
    return Tensor(node, axes, tensor.classes)


def _position(value: int, size: Dim, tensor: Tensor, span: Span) -> Dim:
    if isinstance(size, int) and not -size <= value < size:
        raise CompileError(
            f"index {value} is outside an axis of size {size}",
            span,
            expected=_range_text(size),
            found=shape_text(tensor),
            hint="positions are counted from 0, or from the end: -1 is the last",
        )
    return value if value >= 0 else size + value


def _range_text(size: int) -> str:
    return f"from {-size} to {size - 1}" if size else "no index: it is empty"


def _range(item: slice, size: Dim, tensor: Tensor, span: Span) -> tuple[Dim, Dim, int]:
    step = 1 if item.step is None else _static(item.step, span)
    if step < 1:
        raise CompileError("the step of a slice is 1 or more", span, hint="use `reverse`")
    low = 0 if item.start is None else _static(item.start, span)
    if item.stop is None:
        high: Dim = size
    else:
        stop = as_dim(item.stop)
        high = _static(item.stop, span) if not isinstance(stop, SymDim) else stop
    if isinstance(high, int) and high < 0:
        high = size + high
    first: Dim = low if low >= 0 else size + low
    known = [d for d in (0, first, high, size) if isinstance(d, int)]
    if known != sorted(known):
        raise CompileError(
            f"the slice {first}:{high} is outside an axis of size {size}",
            span,
            found=shape_text(tensor),
        )
    return first, high, step
