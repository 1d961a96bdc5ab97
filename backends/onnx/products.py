"""Products in ONNX: MatMul and Gemm where the layout allows, Einsum for every other one; Conv.

A convolution of a spread operand is a ConvTranspose: the data gradient of a strided convolution
becomes one operator, which takes the forward kernel as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters
from typing import Any

from weft.backends.onnx.arrays import padded, reversed_
from weft.backends.onnx.elementwise import Rule
from weft.backends.onnx.writer import Value, Writer
from weft.compiler.errors import RunError
from weft.compiler.graph import Attributes, Node
from weft.compiler.types import BF16, F16, F32, Dim, Shape, static_shape

# -- dot_general ----------------------------------------------------------------------------------


def _dot_general(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    left, right = (w.full(v, i.type.shape) for v, i in zip(x, node.inputs, strict=True))
    dtype = left.dtype
    if dtype in (F16, BF16):
        left, right = w.cast(left, F32), w.cast(right, F32)
    contract, batch = node.attributes["contract"], node.attributes["batch"]
    found = _matmul(w, left, right, contract, batch, node.type.shape)
    return w.cast(found or _einsum(w, left, right, contract, batch, node.type.shape), dtype)


def _matmul(
    w: Writer,
    left: Value,
    right: Value,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
    batch: tuple[tuple[int, ...], tuple[int, ...]],
    shape: Shape,
) -> Value | None:
    """The product as MatMul or Gemm, if it is one of matrices, or of stacks of them."""
    if len(contract[0]) != 1:
        return None
    (i,), (j,) = contract
    if left.rank == right.rank == 2 and not batch[0]:
        if (i, j) == (1, 0):
            return w.op("MatMul", left, right, shape=shape)
        if left.dtype.kind == "float":
            given: dict[str, Any] = {"transA": 1} if i == 0 else {}
            given |= {"transB": 1} if j == 1 else {}
            return w.op("Gemm", left, right, shape=shape, **given)
    if right.rank <= 2 and j == 0 and i == left.rank - 1 and not batch[0]:
        return w.op("MatMul", left, right, shape=shape)
    lead = tuple(range(len(batch[0])))
    if batch != (lead, lead) or not lead or not left.rank == right.rank == len(lead) + 2:
        return None
    # Stacks: the axes of each matrix may need exchanging, which `transpose` skips where not.
    k = len(lead)
    left = w.transpose(left, [*lead, *((k + 1, k) if i == k else (k, k + 1))])
    right = w.transpose(right, [*lead, *((k + 1, k) if j == k + 1 else (k, k + 1))])
    return w.op("MatMul", left, right, shape=shape)


def _einsum(
    w: Writer,
    left: Value,
    right: Value,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
    batch: tuple[tuple[int, ...], tuple[int, ...]],
    shape: Shape,
) -> Value:
    letters = iter(ascii_letters)
    names = [[""] * left.rank, [""] * right.rank]
    for pair in (batch, contract):
        for i, j in zip(*pair, strict=True):
            names[0][i] = names[1][j] = next(letters)
    free = []
    for side in names:
        for i, name in enumerate(side):
            if not name:
                side[i] = next(letters)
                free.append(side[i])
    result = "".join([*(names[0][i] for i in batch[0]), *free])
    equation = f"{''.join(names[0])},{''.join(names[1])}->{result}"
    return w.op("Einsum", left, right, shape=shape, equation=equation)


# -- conv -----------------------------------------------------------------------------------------


def _conv(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    data, kernel = (w.full(v, i.type.shape) for v, i in zip(x, node.inputs, strict=True))
    if data.dtype.kind != "float":
        raise RunError("no ONNX rule for `conv` of integers", node.span, found=f"`{node.type}`")
    found = _conv_transpose(w, node, data)
    return found or convolution(w, data, kernel, None, node.attributes, node.type.shape)


def convolution(
    w: Writer, x: Value, kernel: Value, bias: Value | None, attributes: Attributes, shape: Shape
) -> Value:
    """Conv; what its pads can't say (gaps in `x`, cutting, symbolic amounts) is done before."""
    pads = attributes["padding"]
    spread = any(f != 1 for f in attributes["lhs_dilation"])
    if spread or any(not isinstance(p, int) or p < 0 for pair in pads for p in pair):
        interior = (0, 0, *(f - 1 for f in attributes["lhs_dilation"]))
        low, high = ((0, 0, *(pair[i] for pair in pads)) for i in (0, 1))
        x = padded(w, x, low, high, interior, w.scalar(0, x.dtype))
        pads = ((0, 0),) * len(pads)
    inputs = (x, kernel) if bias is None else (x, kernel, bias)
    return w.op(
        "Conv",
        *inputs,
        shape=shape,
        kernel_shape=_static(kernel.shape[2:]),
        strides=list(attributes["strides"]),
        pads=[pair[0] for pair in pads] + [pair[1] for pair in pads],
        **_unusual(attributes),
    )


def _unusual(attributes: Attributes) -> dict[str, Any]:
    """Dilations and groups where there are any."""
    given: dict[str, Any] = {}
    if any(d != 1 for d in attributes["rhs_dilation"]):
        given["dilations"] = list(attributes["rhs_dilation"])
    if attributes["groups"] != 1:
        given["group"] = attributes["groups"]
    return given


def _conv_transpose(w: Writer, node: Node, x: Value) -> Value | None:
    """The convolution as a ConvTranspose, where it is one that has gaps or a turned kernel.

    ConvTranspose pads by `(k - 1) d - pad`, and adds what is left over at the end.
    """
    attributes, kernel = node.attributes, node.inputs[1]
    forward = _turned_back(kernel, attributes["groups"])
    gaps = attributes["lhs_dilation"]
    if any(s != 1 for s in attributes["strides"]) or not (forward or any(g != 1 for g in gaps)):
        return None
    given = _transposed_attributes(attributes, _static(kernel.type.shape[2:]))
    if given is None:
        return None
    weight = w.values[forward] if forward else _turned(w, kernel, attributes["groups"])
    return w.op("ConvTranspose", x, weight, shape=node.type.shape, **given)


def transposed_convolution(
    w: Writer, x: Value, kernel: Value, bias: Value | None, attributes: Attributes, shape: Shape
) -> Value | None:
    """ConvTranspose for a kernel `[out, in / groups, window...]` that the graph turns round."""
    given = _transposed_attributes(attributes, _static(kernel.shape[2:]))
    if given is None:
        return None
    weight = _exchanged(w, kernel, attributes["groups"])
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return w.op("ConvTranspose", *inputs, shape=shape, **given)


def _transposed_attributes(attributes: Attributes, window: list[int]) -> dict[str, Any] | None:
    """What ConvTranspose calls a convolution's gaps and padding; None if it has no words for it."""
    before, after, extra = [], [], []
    for size, gap, dilation, (low, high) in zip(
        window,
        attributes["lhs_dilation"],
        attributes["rhs_dilation"],
        attributes["padding"],
        strict=True,
    ):
        reach = (size - 1) * dilation
        if not isinstance(low, int) or not isinstance(high, int) or low > reach:
            return None
        before.append(reach - low)
        after.append(max(0, reach - high))
        extra.append(max(0, high - reach))
        if extra[-1] >= gap:
            return None
    return {
        "kernel_shape": window,
        "strides": list(attributes["lhs_dilation"]),
        "pads": [*before, *after],
        "output_padding": extra,
        **_unusual(attributes),
    }


def _turned_back(kernel: Node, groups: int) -> Node | None:
    """The kernel of which this one is the exchange of channels, turned round; None if it is none.

    This is what the gradient of a convolution reads: within each group, inputs and outputs
    exchanged, and every window axis reversed.
    """
    if kernel.op.name != "reverse":
        return None
    if kernel.attributes["axes"] != tuple(range(2, kernel.type.rank)):
        return None
    outputs, inputs, *window = kernel.type.shape
    exchanged = kernel.inputs[0]
    swap = (1, 0, *range(2, kernel.type.rank))
    if groups == 1 and exchanged.op.name == "transpose":
        found = exchanged.attributes["permutation"] == swap
        return exchanged.inputs[0] if found else None
    # A reshape of a transpose of `forward` as (groups, a, b, ...).
    chain = [exchanged]
    for op in ("reshape", "transpose"):
        if chain[-1].op.name != op:
            return None
        chain.append(chain[-1].inputs[0])
    split, order = chain[-1], chain[1].attributes["permutation"]
    wanted = (groups, inputs, outputs // groups, *window)
    if order != (0, 2, 1, *range(3, len(order))) or split.type.shape != wanted:
        return None
    forward = split.inputs[0] if split.op.name == "reshape" else None
    shape = (inputs * groups, outputs // groups, *window)
    return forward if forward and forward.type.shape == shape else None


def _turned(w: Writer, kernel: Node, groups: int) -> Value:
    """The kernel as ConvTranspose wants it: channels exchanged in each group, windows reversed."""
    value = _exchanged(w, w.full(w.values[kernel], kernel.type.shape), groups)
    axes = [i for i in range(2, value.rank) if value.shape[i] != 1]
    return reversed_(w, value, axes)


def _exchanged(w: Writer, kernel: Value, groups: int) -> Value:
    """The kernel with inputs and outputs exchanged in each group."""
    outputs, inputs, *window = kernel.shape
    rest = range(2, kernel.rank)
    if groups == 1:
        return w.transpose(kernel, (1, 0, *rest))
    value = w.reshape(kernel, (groups, outputs // groups, inputs, *window))
    value = w.transpose(value, (0, 2, 1, *(i + 1 for i in rest)))
    return w.reshape(value, (inputs * groups, outputs // groups, *window))


def _static(sizes: Sequence[Dim]) -> list[int]:
    return list(static_shape(tuple(sizes)))


RULES: dict[str, Rule] = {"conv": _conv, "dot_general": _dot_general}
