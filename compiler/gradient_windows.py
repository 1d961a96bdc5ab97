"""Gradients of products and sliding windows, which are products and sliding windows again.

conv, to x          conv(ct spread by the strides, kernel turned round and its channels exchanged)
conv, to kernel     conv(x, ct with gaps of the strides), summed over examples
sum windows         sum windows over the spread cotangent, or repeats where windows don't overlap
max, min windows    the cotangent goes to each window's first extreme element
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import mul

from weft.compiler import builder as b
from weft.compiler.gradient_elementwise import Cotangents, Rule
from weft.compiler.graph import Attributes, Node, make
from weft.compiler.type_rules_windows import dilated_size
from weft.compiler.types import Dim, Shape, TensorType

# -- dot_general ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """One operand of a product and what its axes are there for."""

    node: Node
    contract: tuple[int, ...]
    batch: tuple[int, ...]

    @property
    def free(self) -> list[int]:
        used = (*self.contract, *self.batch)
        return [i for i in range(self.node.type.rank) if i not in used]


def _dot_general(ct: Node, node: Node, lhs: Node, rhs: Node) -> Cotangents:
    left, right = (
        _Side(x, node.attributes["contract"][i], node.attributes["batch"][i])
        for i, x in enumerate((lhs, rhs))
    )
    middle, factors = len(left.batch) + len(left.free), node.attributes.get("factors")
    return (
        _product_toward(ct, left, right, list(range(middle, ct.type.rank)), factors),
        _product_toward(ct, right, left, list(range(len(left.batch), middle)), factors),
    )


def _product_toward(
    ct: Node, target: _Side, other: _Side, shared: list[int], factors: str | None
) -> Node:
    """`ct` times the other operand over the `shared` axes of `ct`, which are free in `other`."""
    lead = list(range(len(other.batch)))
    summed = [target.contract[other.contract.index(i)] for i in sorted(other.contract)]
    ct_first = [*target.batch, *target.free, *summed]
    other_first = [*target.batch, *summed, *target.free]
    if other_first == sorted(other_first) != ct_first:  # spares a transposition
        axes = other_first
        sides = (other.free, shared), (other.batch, lead)
        product = b.dot_general(other.node, ct, *sides, factors)
    else:
        axes = ct_first
        product = b.dot_general(ct, other.node, (shared, other.free), (lead, other.batch), factors)
    return b.transpose(product, [axes.index(i) for i in range(len(axes))])


# -- conv -----------------------------------------------------------------------------------------


def _conv(ct: Node, node: Node, x: Node, kernel: Node) -> Cotangents:
    return _conv_to_x(ct, node.attributes, x, kernel), _conv_to_kernel(
        ct, node.attributes, x, kernel
    )


def _conv_to_x(ct: Node, attributes: Attributes, x: Node, kernel: Node) -> Node:
    if 0 in x.type.shape:
        return b.zeros(x.type)
    strides, groups = attributes["strides"], attributes["groups"]
    padding = []
    for i, (low, _) in enumerate(attributes["padding"]):
        reach = dilated_size(kernel.type.shape[2 + i], attributes["rhs_dilation"][i]) - 1
        wanted = dilated_size(x.type.shape[2 + i], attributes["lhs_dilation"][i]) + reach
        padding.append((reach - low, wanted - (reach - low) - _spread(ct, 2 + i, strides[i])))
    outputs, inputs, *window = kernel.type.shape
    split = b.reshape(kernel, (groups, outputs // groups, inputs, *window))
    exchanged = b.reshape(b.swap_axes(split, 1, 2), (inputs * groups, outputs // groups, *window))
    return b.conv(
        ct,
        b.reverse(exchanged, range(2, kernel.type.rank)),
        strides=attributes["lhs_dilation"],
        padding=padding,
        lhs_dilation=strides,
        rhs_dilation=attributes["rhs_dilation"],
        groups=groups,
        factors=attributes.get("factors"),
    )


def _conv_to_kernel(ct: Node, attributes: Attributes, x: Node, kernel: Node) -> Node:
    """Input channels take the part of examples, and examples that of channels."""
    strides, groups = attributes["strides"], attributes["groups"]
    padding = []
    for i, (low, _) in enumerate(attributes["padding"]):
        reach = dilated_size(kernel.type.shape[2 + i], attributes["rhs_dilation"][i]) - 1
        size = dilated_size(x.type.shape[2 + i], attributes["lhs_dilation"][i])
        padding.append((low, reach + _spread(ct, 2 + i, strides[i]) - size - low))
    examples, channels, *spatial = x.type.shape
    split = b.reshape(x, (examples, groups, channels // groups, *spatial))
    swapped = b.swap_axes(split, 0, 2)
    result = b.conv(
        b.reshape(swapped, (channels // groups, groups * examples, *spatial)),
        b.swap_axes(ct, 0, 1),
        strides=attributes["rhs_dilation"],
        padding=padding,
        lhs_dilation=attributes["lhs_dilation"],
        rhs_dilation=strides,
        groups=groups,
        factors=attributes.get("factors"),
    )
    return b.swap_axes(result, 0, 1)


def _spread(ct: Node, axis: int, stride: int) -> Dim:
    return dilated_size(ct.type.shape[axis], stride)


# -- windows --------------------------------------------------------------------------------------


def _reduce_window(ct: Node, node: Node, x: Node) -> Cotangents:
    if 0 in x.type.shape:
        return (b.zeros(x.type),)
    if node.attributes["reducer"] != "sum":
        return (_extreme_window(ct, node.attributes, x),)
    if all(_tiles(ct, node.attributes)):
        return (_repeat_window(ct, node.attributes, x),)
    return (_sum_window(ct, node.attributes, x),)


def _sum_window(ct: Node, attributes: Attributes, x: Node) -> Node:
    window, strides, dilation = (attributes[k] for k in ("window", "strides", "dilation"))
    lead = x.type.rank - len(window)
    padding: list[tuple[Dim, Dim]] = []
    for i, (low, _) in enumerate(attributes["padding"]):
        reach = dilated_size(window[i], dilation[i]) - 1
        wanted = x.type.shape[lead + i] + reach
        padding.append((reach - low, wanted - (reach - low) - _spread(ct, lead + i, strides[i])))
    if set(strides) == {1}:
        return b.reduce_window(ct, "sum", window, padding=padding, dilation=dilation)
    none = (0,) * lead
    lows, highs = zip(*padding, strict=True)
    between = [*none, *(stride - 1 for stride in strides)]
    spread = b.pad(ct, (*none, *lows), (*none, *highs), between)
    return b.reduce_window(spread, "sum", window, dilation=dilation)


def _tiles(ct: Node, attributes: Attributes) -> list[bool]:
    """By axis: whether each element lies in one window at most, and windows leave no gaps."""
    window, strides, dilation = (attributes[k] for k in ("window", "strides", "dilation"))
    positions = ct.type.shape[ct.type.rank - len(window) :]
    return [
        dilation[i] == 1 and (strides[i] == window[i] or positions[i] == 1)
        for i in range(len(window))
    ]


def _repeat_window(ct: Node, attributes: Attributes, x: Node) -> Node:
    window: tuple[int, ...] = attributes["window"]
    lead = x.type.rank - len(window)
    shape: Shape = x.type.shape[:lead]
    low: list[Dim] = [0] * lead
    high: list[Dim] = [0] * lead
    for i, width in enumerate(window):
        positions, size = ct.type.shape[lead + i], x.type.shape[lead + i]
        shape = (*shape, positions, width)
        before = attributes["padding"][i][0]
        low.append(-before)
        high.append(size - (positions * width - before))
    dims = [*range(lead), *range(lead, len(shape), 2)]
    repeated = b.broadcast(ct, shape, dims)
    merged = [p * w for p, w in zip(ct.type.shape[lead:], window, strict=True)]
    return b.pad(b.reshape(repeated, (*shape[:lead], *merged)), low, high)


def _extreme_window(ct: Node, attributes: Attributes, x: Node) -> Node:
    lead = x.type.rank - len(attributes["window"])
    places = make("arg_reduce_window", x, **attributes)
    if _may_be_empty(attributes):
        ct = b.select(b.compare("greater_equal", places, 0), ct, 0)
    flat = TensorType(x.type.dtype, _merged(x.type.shape, lead))
    shape = _merged(ct.type.shape, lead)
    summed = b.scatter_add(b.zeros(flat), b.reshape(places, shape), b.reshape(ct, shape), lead)
    return b.reshape(summed, x.type.shape)


def _merged(shape: Shape, lead: int) -> Shape:
    total: Dim = reduce(mul, shape[lead:], 1)
    return (*shape[:lead], total)


def _may_be_empty(attributes: Attributes) -> bool:
    """Whether a window can hold nothing but padding."""
    return any(
        amount != 0 and (not isinstance(amount, int) or dilation > 1 or amount >= width)
        for width, dilation, pair in zip(
            attributes["window"], attributes["dilation"], attributes["padding"], strict=True
        )
        for amount in pair
    )


WINDOWS: dict[str, Rule] = {
    "dot_general": _dot_general,
    "conv": _conv,
    "reduce_window": _reduce_window,
}
