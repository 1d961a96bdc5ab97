"""Elements by their positions along an axis: taken, picked, sorted, summed up to each."""

from __future__ import annotations

from collections.abc import Callable

from weft.compiler import builder as b
from weft.compiler.graph import make
from weft.compiler.types import I64
from weft.frontends.dsl.axes import axis_index
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import Tensor, Value, describe, shape_text


def _integers(site: Site, value: Value, what: str) -> Tensor:
    tensor = site.interpreter.tensor(value, I64, site.span)
    if tensor.type.dtype.kind not in ("int", "uint"):
        raise site.wrong(f"{what} are whole numbers", found=shape_text(tensor))
    return tensor


def _take(site: Site, x: Value, indices: Value, shared: Value = 0) -> Value:
    """Rows of `x` by position: `out[b..., i..., r...] = x[b..., indices[b..., i...], r...]`.

    The first `shared` axes are b; without them every index sees all of `x`.
    """
    tensor, places = site.tensor(x), _integers(site, indices, "indices")
    count = site.whole(shared, "`shared`")
    lead = tensor.type.shape[:count]
    if tensor.rank <= count or places.type.shape[:count] != lead:
        raise site.wrong_value(
            indices,
            f"takes from `x` and `indices` that share their first {count} axes",
            expected=f"indices that begin with the sizes {list(lead)}",
            found=f"{shape_text(places)} for {shape_text(tensor)}",
        )
    _one_name(site, tensor, places, count)
    node = b.gather(tensor.node, places.node, count)
    return Tensor(node, (*places.axes, *tensor.axes[count + 1 :]))


def _pick(site: Site, x: Value, indices: Value) -> Value:
    """One element of the last axis each: `out[b...] = x[b..., indices[b...]]`."""
    tensor, places = site.tensor(x), _integers(site, indices, "indices")
    if places.type.shape != tensor.type.shape[:-1]:
        raise site.wrong_value(
            indices,
            "takes one index for each row",
            expected=f"indices of shape {list(tensor.type.shape[:-1])}",
            found=f"{shape_text(places)} for {shape_text(tensor)}",
            hint="drop an axis of size 1 with an index: `y[..., 0]`",
        )
    _one_name(site, tensor, places, places.rank)
    return Tensor(b.gather(tensor.node, places.node, places.rank), tensor.axes[:-1])


def _one_name(site: Site, x: Tensor, indices: Tensor, count: int) -> None:
    """Refuse two names for one of the first `count` axes."""
    for a, c in zip(x.axes[:count], indices.axes[:count], strict=True):
        if a is not None and c is not None and a is not c:
            raise site.wrong(
                f"axis `{a.name}` meets axis `{c.name}`",
                found=f"{shape_text(x)} and {shape_text(indices)}",
            )


def _one_hot(site: Site, labels: Value, classes: Value = None) -> Value:
    tensor = _integers(site, labels, "labels")
    count = classes if classes is not None else tensor.classes
    if count is None:
        raise site.wrong("needs the number of classes", found=shape_text(tensor))
    size = site.whole(count, "the number of classes", 1)
    node = b.one_hot(tensor.node, size, site.interpreter.float_type)
    return Tensor(node, (*tensor.axes, None))


def _sorting(op: str) -> Callable[..., Value]:
    def call(site: Site, x: Value, over: Value = -1, descending: Value = False) -> Value:
        tensor = site.tensor(x)
        axis = axis_index(tensor, over, site.place(over))
        down = _flag(site, descending, "descending")
        return Tensor(make(op, tensor.node, axis=axis, descending=down), tensor.axes)

    return call


def _cumsum(site: Site, x: Value, over: Value = -1, reverse: Value = False) -> Value:
    tensor = site.tensor(x)
    axis = axis_index(tensor, over, site.place(over))
    back = _flag(site, reverse, "reverse")
    return Tensor(make("cumsum", tensor.node, axis=axis, reverse=back), tensor.axes)


def _flag(site: Site, value: Value, name: str) -> bool:
    if not isinstance(value, bool):
        raise site.wrong(f"`{name}` is true or false", found=describe(value))
    return value


def _top_k(site: Site, x: Value, k: Value) -> Value:
    tensor, count = site.tensor(x), site.whole(k, "`k`", 1)
    axes = (*tensor.axes[:-1], None)
    values = Tensor(make("top_k", tensor.node, k=count), axes)
    return values, Tensor(make("arg_top_k", tensor.node, k=count), axes)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "take": _take,
    "pick": _pick,
    "one_hot": _one_hot,
    "sort": _sorting("sort"),
    "arg_sort": _sorting("arg_sort"),
    "cumsum": _cumsum,
    "top_k": _top_k,
}
