"""Type rules of products, convolutions and windows; `type_rules.py` has the principle."""

from __future__ import annotations

from typing import Any

from weft.compiler.type_rules import TypeRuleError, check_numbers
from weft.compiler.types import I64, Dim, SymDim, TensorType

Pairs = tuple[tuple[Dim, Dim], ...]


def dot_general(
    lhs: TensorType,
    rhs: TensorType,
    *,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
    batch: tuple[tuple[int, ...], tuple[int, ...]],
    factors: str | None = None,
) -> TensorType:
    """Result axes: batch axes, then the free axes of `lhs`, then those of `rhs`.

    With the factors `tf32`, a backend may round f32 factors to 10 bits after the point.
    """
    check_numbers(lhs)
    _check_factors(lhs, factors)
    if lhs.dtype != rhs.dtype:
        raise TypeRuleError(f"element types differ: {lhs} and {rhs}")
    for side, pair in (("contracting", contract), ("batch", batch)):
        if len(pair[0]) != len(pair[1]):
            raise TypeRuleError(f"{side} axes {pair} differ in number")
        for i, j in zip(*pair, strict=True):
            if not (0 <= i < lhs.rank and 0 <= j < rhs.rank):
                raise TypeRuleError(f"{side} axes {pair} are outside {lhs}, {rhs}")
            if lhs.shape[i] != rhs.shape[j]:
                raise TypeRuleError(
                    f"{side} dimensions differ: {lhs.shape[i]} in {lhs} and {rhs.shape[j]} in {rhs}"
                )
    for used in ((*contract[0], *batch[0]), (*contract[1], *batch[1])):
        if len(used) != len(set(used)):
            raise TypeRuleError(f"an axis is named twice: {contract}, {batch}")
    free = [
        t.shape[i]
        for t, c, b in ((lhs, contract[0], batch[0]), (rhs, contract[1], batch[1]))
        for i in range(t.rank)
        if i not in c and i not in b
    ]
    return lhs.with_shape((*(lhs.shape[i] for i in batch[0]), *free))


def _check_factors(x: TensorType, factors: str | None) -> None:
    if factors is not None and x.dtype.name != "f32":
        raise TypeRuleError(f"only factors of f32 can be rounded to {factors}, got {x}")


def window_size(size: Dim, window: Dim, stride: int, low: Dim, high: Dim, dilation: int) -> Dim:
    """`floor((size + low + high - (window - 1) * dilation - 1) / stride) + 1`."""
    span: Dim = size + low + high - (window - 1) * dilation - 1
    return span // stride + 1


def dilated_size(size: Dim, factor: int) -> Dim:
    """The size with `factor - 1` elements between neighbours."""
    return 0 if size == 0 else (size - 1) * factor + 1


def _positive(name: str, numbers: tuple[int, ...]) -> None:
    if not all(n > 0 for n in numbers):
        raise TypeRuleError(f"{name} must be positive, got {numbers}")


def conv(
    x: TensorType,
    kernel: TensorType,
    *,
    strides: tuple[int, ...],
    padding: Pairs,
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    groups: int,
    factors: str | None = None,
) -> TensorType:
    """Cross-correlation of `x[N, C, ...]` with `kernel[O, C / groups, ...]`.

    Padding may be negative: it then cuts, after `lhs_dilation` has spread `x`.
    """
    rank = len(strides)
    check_numbers(x)
    _check_factors(x, factors)
    _positive("strides", strides)
    _positive("dilations", (*lhs_dilation, *rhs_dilation))
    _positive("groups", (groups,))
    if x.dtype != kernel.dtype:
        raise TypeRuleError(f"element types differ: {x} and {kernel}")
    if not (x.rank == kernel.rank == rank + 2):
        raise TypeRuleError(f"needs {rank + 2} axes, got {x} and {kernel}")
    if not (len(padding) == len(lhs_dilation) == len(rhs_dilation) == rank):
        raise TypeRuleError("strides, padding and dilations must have one entry a spatial axis")
    channels, outputs = x.shape[1], kernel.shape[0]
    if kernel.shape[1] * groups != channels:
        raise TypeRuleError(f"{channels} channels in {groups} group(s) don't meet kernel {kernel}")
    if not (isinstance(outputs, SymDim) or outputs % groups == 0):
        raise TypeRuleError(f"{outputs} outputs can't be split into {groups} groups")
    spatial = []
    for i in range(rank):
        dilated, width = dilated_size(x.shape[2 + i], lhs_dilation[i]), kernel.shape[2 + i]
        if width == 0:
            raise TypeRuleError(f"the kernel {kernel} has no elements")
        out = window_size(dilated, width, strides[i], *padding[i], rhs_dilation[i])
        if not (not isinstance(out, int) or out > 0):
            raise TypeRuleError(
                f"a window of {dilated_size(width, rhs_dilation[i])} doesn't fit into {dilated} "
                f"with padding {padding[i]}"
            )
        spatial.append(out)
    return x.with_shape((x.shape[0], outputs, *spatial))


def reduce_window(
    x: TensorType,
    *,
    reducer: str,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Pairs,
    dilation: tuple[int, ...],
) -> TensorType:
    """Windows over the last `len(window)` axes. Negative padding cuts."""
    rank = len(window)
    check_numbers(x)
    if reducer not in ("sum", "max", "min"):
        raise TypeRuleError(f"no reducer {reducer!r}")
    if not (0 < rank <= x.rank):
        raise TypeRuleError(f"a window over {rank} axes of {x}")
    if not (len(strides) == len(padding) == len(dilation) == rank):
        raise TypeRuleError("one entry a window axis")
    for name, numbers in (("windows", window), ("strides", strides), ("dilations", dilation)):
        _positive(name, numbers)
    sizes = []
    for i, size in enumerate(x.shape[x.rank - rank :]):
        out = window_size(size, window[i], strides[i], *padding[i], dilation[i])
        if not (not isinstance(out, int) or out > 0):
            raise TypeRuleError(
                f"a window of {window[i]} doesn't fit into {size} with padding {padding[i]}"
            )
        sizes.append(out)
    return x.with_shape((*x.shape[: x.rank - rank], *sizes))


def arg_reduce_window(x: TensorType, *, reducer: str, **attributes: Any) -> TensorType:
    if reducer not in ("max", "min"):
        raise TypeRuleError(f"no position of {reducer!r}")
    return reduce_window(x, reducer=reducer, **attributes).with_dtype(I64)
