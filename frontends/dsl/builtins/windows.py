"""Windows that slide over axes: convolutions, and the maximum, minimum or sum of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from weft.compiler import builder as b
from weft.compiler.errors import did_you_mean
from weft.compiler.graph import Node
from weft.compiler.type_rules_windows import dilated_size
from weft.compiler.types import Dim, SymDim
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import Label, Tensor, Value, as_dim, shape_text


def _each(site: Site, value: Value, rank: int, what: str) -> tuple[int, ...]:
    items = value if isinstance(value, list | tuple) else [value] * rank
    if len(items) != rank:
        raise site.wrong_value(value, f"`{what}` has one entry for each of {rank} axes")
    return tuple(site.whole(v, f"`{what}`", 1) for v in items)


def _padding(
    site: Site,
    padding: Value,
    sizes: Sequence[Dim],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> list[tuple[int, int]]:
    """`"valid"`: none. `"same"`: `ceil(size / stride)` outputs. Or places: before and after alike,
    or in a list by axis, where a pair says both; a negative number in a pair cuts.
    """
    if padding == "valid":
        return [(0, 0)] * len(window)
    if padding == "same":
        pairs = []
        for size, w, stride, d in zip(sizes, window, strides, dilation, strict=True):
            reach = (w - 1) * d + 1
            if isinstance(size, SymDim):
                if stride != 1:
                    raise site.wrong("`same` with a stride needs a known size", found=f"{size}")
                total = reach - 1
            else:
                total = max(0, (-(-size // stride) - 1) * stride + reach - size)
            pairs.append((total // 2, total - total // 2))
        return pairs
    if isinstance(padding, str):
        raise site.wrong_value(
            padding,
            f'there is no padding "{padding}"',
            expected='"same", "valid" or a number',
            hint=did_you_mean(padding, ["same", "valid"]),
        )
    items = padding if isinstance(padding, list | tuple) else [padding] * len(window)
    if len(items) != len(window):
        raise site.wrong_value(padding, f"`padding` has one entry for each of {len(window)} axes")
    return [_sides(site, item) for item in items]


def _sides(site: Site, places: Value) -> tuple[int, int]:
    if not isinstance(places, list | tuple):
        number = site.whole(places, "`padding`")
        return number, number
    dims = [as_dim(v) for v in places]
    if len(dims) != 2 or not all(isinstance(d, int) for d in dims):
        raise site.wrong_value(
            places, "the padding of an axis is a number, or a pair: [before, after]"
        )
    return dims[0], dims[1]  # type: ignore[return-value]


def _check_windows(
    site: Site,
    tensor: Tensor,
    sizes: Sequence[Dim],
    window: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> None:
    """Every window fits into its axis at least once."""
    for size, w, (low, high), d in zip(sizes, window, pairs, dilation, strict=True):
        reach = (w - 1) * d + 1
        if isinstance(size, int) and reach > size + low + high:
            padded = f" ({size + low + high} with its padding)" if low or high else ""
            raise site.wrong(
                f"a window of {reach} is larger than the axis of {size}{padded}",
                found=shape_text(tensor),
                hint='a smaller window fits, less pooling before it, or `padding = "same"`',
            )


def _slid(tensor: Tensor, node: Node, strides: Sequence[int]) -> list[Label | None]:
    """Labels after a window slid over the last axes: kept where positions still correspond."""
    lead = tensor.rank - len(strides)
    sizes = zip(tensor.type.shape[lead:], node.type.shape[lead:], strides, strict=True)
    same = [before == after and stride == 1 for before, after, stride in sizes]
    return [a if s else None for a, s in zip(tensor.axes[lead:], same, strict=True)]


def _convolve(
    site: Site,
    x: Value,
    kernel: Value,
    stride: Value = 1,
    padding: Value = "valid",
    dilation: Value = 1,
    groups: Value = 1,
    spread: Value = 1,
) -> Value:
    """Cross-correlation of `x[N, C, ...]` with `kernel[O, C / groups, ...]`.

    `spread` sets the elements of `x` this far apart first, with zeros between them.
    """
    tensor, weights = site.interpreter.widened(site.tensor(x), site.tensor(kernel))
    rank = tensor.rank - 2
    if rank < 1 or weights.rank != tensor.rank:
        raise site.wrong(
            "takes x[N, C, ...] and kernel[O, C, ...] of one rank, at least 3",
            found=f"{shape_text(tensor)} and {shape_text(weights)}",
        )
    strides = _each(site, stride, rank, "stride")
    dilations = _each(site, dilation, rank, "dilation")
    gaps = _each(site, spread, rank, "spread")
    window = [site.whole(d, "the kernel's size", 1) for d in weights.type.shape[2:]]
    sizes = [dilated_size(d, g) for d, g in zip(tensor.type.shape[2:], gaps, strict=True)]
    pairs = _padding(site, padding, sizes, window, strides, dilations)
    _check_windows(site, tensor, sizes, window, pairs, dilations)
    node = b.conv(
        tensor.node,
        weights.node,
        strides=strides,
        padding=pairs,
        lhs_dilation=gaps,
        rhs_dilation=dilations,
        groups=site.whole(groups, "`groups`", 1),
        factors=site.interpreter.factors(tensor.type.dtype),
    )
    moved = [s * g for s, g in zip(strides, gaps, strict=True)]
    return Tensor(node, (tensor.axes[0], weights.axes[0], *_slid(tensor, node, moved)))


def _window(reducer: str) -> Callable[..., Value]:
    def call(
        site: Site,
        x: Value,
        size: Value,
        stride: Value = None,
        padding: Value = "valid",
        dilation: Value = 1,
    ) -> Value:
        """Windows over the last axes; as many axes as `size` has entries, or all but two."""
        tensor = site.tensor(x)
        rank = len(size) if isinstance(size, list | tuple) else tensor.rank - 2
        if not 0 < rank <= tensor.rank:
            raise site.wrong("has no axes to slide over", found=shape_text(tensor))
        window = _each(site, size, rank, "size")
        strides = window if stride is None else _each(site, stride, rank, "stride")
        dilations = _each(site, dilation, rank, "dilation")
        lead = tensor.rank - rank
        sizes = tensor.type.shape[lead:]
        pairs = _padding(site, padding, sizes, window, strides, dilations)
        _check_windows(site, tensor, sizes, window, pairs, dilations)
        node = b.reduce_window(tensor.node, reducer, window, strides, pairs, dilations)
        return Tensor(node, (*tensor.axes[:lead], *_slid(tensor, node, strides)))

    return call


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "convolve": _convolve,
    "window_max": _window("max"),
    "window_min": _window("min"),
    "window_sum": _window("sum"),
}
