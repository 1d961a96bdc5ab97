"""Functions that make one number of the elements along axes: `sum`, `mean`, `arg_max`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weft.compiler import builder as b
from weft.compiler.graph import make
from weft.compiler.types import F32, Dim
from weft.frontends.dsl.axes import axis_index, axis_indices
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import Label, Tensor, Value, as_dim, describe, shape_text


def reduction(op: str) -> Callable[..., Value]:
    """The function that reduces over axes, or over all without `over`."""

    def call(site: Site, x: Value, over: Value = None) -> Value:
        tensor = site.tensor(x)
        axes = axis_indices(tensor, over, site.place(over))
        if op in ("max", "min") and any(tensor.type.shape[a] == 0 for a in axes):
            raise site.wrong("an empty axis has no extreme", found=shape_text(tensor))
        return Tensor(b.reduce(op, tensor.node, axes), _without(tensor, axes))

    return call


def _without(tensor: Tensor, axes: Sequence[int]) -> tuple[Label | None, ...]:
    return tuple(a for i, a in enumerate(tensor.axes) if i not in axes)


def _mean(site: Site, x: Value, over: Value = None) -> Value:
    tensor = site.tensor(x)
    if tensor.type.dtype.kind != "float":
        tensor = Tensor(b.cast(tensor.node, site.interpreter.float_type), tensor.axes)
    axes, dtype = axis_indices(tensor, over, site.place(over)), tensor.type.dtype
    # Neither the sum nor the count need fit into a narrow float: only the mean is rounded to it.
    total = b.reduce("sum", b.cast(tensor.node, F32 if dtype.is_narrow else dtype), axes)
    count = b.size_of([tensor.type.shape[a] for a in axes], total.type.dtype)
    count = b.broadcast(count, total.type.shape, ())
    return Tensor(b.cast(total / count, dtype), _without(tensor, axes))


def _arg(op: str) -> Callable[..., Value]:
    def call(site: Site, x: Value, over: Value = -1) -> Value:
        tensor = site.tensor(x)
        axis = axis_index(tensor, over, site.place(over))
        return Tensor(make(op, tensor.node, axis=axis), _without(tensor, (axis,)))

    return call


def _count(site: Site, *axes: Value) -> Value:
    total: Dim = 1
    for axis in axes:
        for item in axis if isinstance(axis, list) else [axis]:
            dim = as_dim(item)
            if dim is None:
                raise site.wrong("counts the elements of axes", found=describe(item))
            total = dim * total
    return total


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "sum": reduction("sum"),
    "prod": reduction("prod"),
    "all": reduction("and"),
    "any": reduction("or"),
    "mean": _mean,
    "arg_max": _arg("arg_max"),
    "arg_min": _arg("arg_min"),
    "count": _count,
}
