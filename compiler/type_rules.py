"""Type rules of the primitives: operand types and attributes to the result type.

Builders infer with these rules and the verifier re-runs them, so that the two can't differ. A rule
raises `TypeRuleError` with a sentence that names sizes and axes; callers add the place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import mul
from typing import Any

from weft.compiler.types import (
    BOOL,
    DTYPES,
    I64,
    U32,
    Dim,
    DType,
    Shape,
    SymDim,
    TensorType,
)

Pairs = tuple[tuple[Dim, Dim], ...]
Rule = Callable[..., TensorType]


class TypeRuleError(ValueError):
    """Operands that an operation can't take."""


def _shape_text(shape: Shape) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


# -- elementwise ----------------------------------------------------------------------------------


def _numbers(x: TensorType) -> None:
    if x.dtype.kind not in NUMBERS:
        raise TypeRuleError(f"needs numbers, got {x}")


def _same(types: tuple[TensorType, ...]) -> TensorType:
    first = types[0]
    for other in types[1:]:
        if other.dtype != first.dtype:
            raise TypeRuleError(f"element types differ: {first} and {other}")
        if other.shape != first.shape:
            raise TypeRuleError(f"shapes differ: {first} and {other}")
    return first


def elementwise(*kinds: str) -> Rule:
    """Operands of one type, of the given kinds, to a result of the same type."""

    def rule(*types: TensorType) -> TensorType:
        if types[0].dtype.kind not in kinds:
            raise TypeRuleError(f"needs {' or '.join(kinds)}, got {types[0]}")
        return _same(types)

    return rule


def comparison(*types: TensorType) -> TensorType:
    return _same(types).with_dtype(BOOL)


def float_test(x: TensorType) -> TensorType:
    if x.dtype.kind != "float":
        raise TypeRuleError(f"needs float, got {x}")
    return x.with_dtype(BOOL)


def select(condition: TensorType, on_true: TensorType, on_false: TensorType) -> TensorType:
    if condition.dtype != BOOL:
        raise TypeRuleError(f"the condition must be bool, got {condition}")
    result = _same((on_true, on_false))
    if condition.shape != result.shape:
        raise TypeRuleError(f"shapes differ: {condition} and {result}")
    return result


def cast(x: TensorType, *, dtype: DType) -> TensorType:
    return x.with_dtype(dtype)


# -- sources --------------------------------------------------------------------------------------


def input_(*, name: str, type: TensorType) -> TensorType:
    if not bool(name):
        raise TypeRuleError("an input needs a name")
    return type


def constant(*, value: Any, dtype: DType, shape: Shape) -> TensorType:
    if isinstance(value, tuple):
        size = reduce(mul, shape, 1)
        if len(value) != size:
            raise TypeRuleError(f"{len(value)} values for shape {_shape_text(shape)}")
    return TensorType(dtype, shape)


def iota(*, dtype: DType, shape: Shape, axis: int) -> TensorType:
    if not (0 <= axis < len(shape)):
        raise TypeRuleError(f"axis {axis} is outside {_shape_text(shape)}")
    if dtype.kind == "bool":
        raise TypeRuleError("iota counts, so it can't be bool")
    return TensorType(dtype, shape)


def dim_size(*, dim: Dim, dtype: DType) -> TensorType:
    if not isinstance(dim, int | SymDim):
        raise TypeRuleError("dim must be a dimension")
    return TensorType(dtype, ())


def random_bits(seed: TensorType, step: TensorType, *, shape: Shape, stream: str) -> TensorType:
    if seed != TensorType(U32, (2,)):
        raise TypeRuleError(f"the seed must be u32[2], got {seed}")
    if step != TensorType(U32, ()):
        raise TypeRuleError(f"the step must be u32[], got {step}")
    return TensorType(U32, shape)


# -- reductions -----------------------------------------------------------------------------------


def _axes(x: TensorType, axes: tuple[int, ...]) -> None:
    if not all(0 <= a < x.rank for a in axes):
        raise TypeRuleError(f"axes {axes} are outside {x}")
    if list(axes) != sorted(set(axes)):
        raise TypeRuleError(f"axes {axes} must increase")


def reduction(*kinds: str) -> Rule:
    def rule(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
        if x.dtype.kind not in kinds:
            raise TypeRuleError(f"needs {' or '.join(kinds)}, got {x}")
        _axes(x, axes)
        return x.with_shape(d for i, d in enumerate(x.shape) if i not in axes)

    return rule


def arg_reduction(x: TensorType, *, axis: int) -> TensorType:
    if not (0 <= axis < x.rank):
        raise TypeRuleError(f"axis {axis} is outside {x}")
    if x.dtype.kind == "bool":
        raise TypeRuleError(f"can't order {x}")
    if x.shape[axis] == 0:
        raise TypeRuleError(f"axis {axis} of {x} has no elements")
    return TensorType(I64, x.shape[:axis] + x.shape[axis + 1 :])


def same_shape_along_axis(x: TensorType, *, axis: int, **_: bool) -> TensorType:
    if not (0 <= axis < x.rank):
        raise TypeRuleError(f"axis {axis} is outside {x}")
    _numbers(x)
    return x


def arg_sort(x: TensorType, *, axis: int, descending: bool) -> TensorType:
    return same_shape_along_axis(x, axis=axis).with_dtype(I64)


def top_k(x: TensorType, *, k: int) -> TensorType:
    _numbers(x)
    if x.rank <= 0:
        raise TypeRuleError("top_k needs at least one axis")
    last = x.shape[-1]
    if not (not isinstance(last, int) or 0 < k <= last):
        raise TypeRuleError(f"k = {k} is outside 1..{last}")
    return x.with_shape((*x.shape[:-1], k))


def arg_top_k(x: TensorType, *, k: int) -> TensorType:
    return top_k(x, k=k).with_dtype(I64)


# -- contractions ---------------------------------------------------------------------------------


def dot_general(
    lhs: TensorType,
    rhs: TensorType,
    *,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
    batch: tuple[tuple[int, ...], tuple[int, ...]],
) -> TensorType:
    """Result axes: batch axes, then the free axes of `lhs`, then those of `rhs`."""
    _numbers(lhs)
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
) -> TensorType:
    """Cross-correlation of `x[N, C, ...]` with `kernel[O, C / groups, ...]`.

    Padding may be negative: it then cuts, after `lhs_dilation` has spread `x`.
    """
    rank = len(strides)
    _numbers(x)
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
    _numbers(x)
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


# -- movement -------------------------------------------------------------------------------------


def reshape(x: TensorType, *, shape: Shape) -> TensorType:
    result = x.with_shape(shape)
    if result.size != x.size:
        raise TypeRuleError(f"{_shape_text(shape)} has {result.size} elements, {x} has {x.size}")
    return result


def transpose(x: TensorType, *, permutation: tuple[int, ...]) -> TensorType:
    if sorted(permutation) != list(range(x.rank)):
        raise TypeRuleError(f"{permutation} doesn't permute {x}")
    return x.with_shape(x.shape[i] for i in permutation)


def broadcast_in_dim(x: TensorType, *, shape: Shape, dims: tuple[int, ...]) -> TensorType:
    """Axis `i` of `x` becomes axis `dims[i]`; the others are new."""
    if len(dims) != x.rank:
        raise TypeRuleError(f"{len(dims)} axes named for {x}")
    if list(dims) != sorted(set(dims)):
        raise TypeRuleError(f"axes {dims} must increase")
    for size, axis in zip(x.shape, dims, strict=True):
        if not (0 <= axis < len(shape)):
            raise TypeRuleError(f"axis {axis} is outside {_shape_text(shape)}")
        if shape[axis] != size:
            raise TypeRuleError(f"axis {axis} of {_shape_text(shape)} doesn't match {x}")
    return x.with_shape(shape)


def slice_(
    x: TensorType, *, start: tuple[Dim, ...], limit: tuple[Dim, ...], strides: tuple[int, ...]
) -> TensorType:
    if not (len(start) == len(limit) == len(strides) == x.rank):
        raise TypeRuleError(f"one entry an axis of {x}")
    sizes = []
    for size, low, high, stride in zip(x.shape, start, limit, strides, strict=True):
        if isinstance(low, int) and isinstance(high, int) and not (0 <= low <= high):
            raise TypeRuleError(f"{low}:{high} is not a range")
        if isinstance(high, int) and isinstance(size, int) and high > size:
            raise TypeRuleError(f"{low}:{high} is outside 0:{size}")
        if stride <= 0:
            raise TypeRuleError("strides must be positive")
        sizes.append((high - low + (stride - 1)) // stride)
    return x.with_shape(sizes)


def pad(
    x: TensorType,
    *,
    low: tuple[Dim, ...],
    high: tuple[Dim, ...],
    interior: tuple[int, ...],
    value: float,
) -> TensorType:
    """`interior` elements between neighbours, then `low` and `high` around; negative ones cut."""
    if not (len(low) == len(high) == len(interior) == x.rank):
        raise TypeRuleError(f"one entry an axis of {x}")
    sizes = []
    for size, before, after, between in zip(x.shape, low, high, interior, strict=True):
        if between < 0:
            raise TypeRuleError(f"interior padding {between} is negative")
        out = dilated_size(size, between + 1) + before + after
        if not (not isinstance(out, int) or out >= 0):
            raise TypeRuleError(f"padding {before}, {after} empties {x}")
        sizes.append(out)
    return x.with_shape(sizes)


def concat(*types: TensorType, axis: int) -> TensorType:
    if not bool(types):
        raise TypeRuleError("concat needs an operand")
    first = types[0]
    if not (0 <= axis < first.rank):
        raise TypeRuleError(f"axis {axis} is outside {first}")
    total: Dim = 0
    for t in types:
        if t.dtype != first.dtype:
            raise TypeRuleError(f"element types differ: {first} and {t}")
        if not (
            t.rank == first.rank
            and t.shape[:axis] == first.shape[:axis]
            and t.shape[axis + 1 :] == first.shape[axis + 1 :]
        ):
            raise TypeRuleError(f"shapes differ beside axis {axis}: {first} and {t}")
        total = total + t.shape[axis]
    return first.with_shape(total if i == axis else d for i, d in enumerate(first.shape))


def reverse(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    _axes(x, axes)
    return x


def gather(x: TensorType, indices: TensorType, *, batch_dims: int) -> TensorType:
    """Shape: the batch axes, the other axes of `indices`, the axes of `x` after the indexed one."""
    if indices.dtype.kind not in ("int", "uint"):
        raise TypeRuleError(f"indices must be integers, got {indices}")
    if not (0 <= batch_dims < x.rank and batch_dims <= indices.rank):
        raise TypeRuleError(
            f"{x} and {indices} don't have {batch_dims} batch axes and one to index"
        )
    if x.shape[batch_dims] == 0:
        raise TypeRuleError(f"axis {batch_dims} of {x} has no elements to index")
    if x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise TypeRuleError(f"batch axes differ: {x} and {indices}")
    return x.with_shape(indices.shape + x.shape[batch_dims + 1 :])


def scatter_add(
    x: TensorType, indices: TensorType, updates: TensorType, *, batch_dims: int
) -> TensorType:
    expected = gather(x, indices, batch_dims=batch_dims)
    if updates != expected:
        raise TypeRuleError(f"updates must be {expected}, got {updates}")
    return x


def call(*types: TensorType, name: str, body: Any, config: Any, gradient: Any) -> TensorType:
    expected = tuple(node.type for node in body.inputs)
    if types != expected:
        raise TypeRuleError(f"`{name}` takes {expected}, got {types}")
    if len(body.outputs) != 1:
        raise TypeRuleError(f"`{name}` must have one result")
    result: TensorType = body.outputs[0].type
    return result


def scan(
    *types: TensorType,
    body: Any,
    carried: int,
    stepped: int,
    length: Dim,
    reverse: bool,
    result: int,
) -> TensorType:
    """Operands: `carried` first values, `stepped` stacks to go along axis 0 of, the fixed rest."""
    inputs = [node.type for node in body.inputs]
    outputs = [node.type for node in body.outputs]
    if len(types) != len(inputs) or min(carried, stepped, len(types) - carried - stepped) < 0:
        raise TypeRuleError(f"`{body.name}` takes {len(inputs)} values, got {len(types)}")
    if isinstance(length, int) and length < 0:
        raise TypeRuleError(f"a loop of {length} turns")
    for place, type in enumerate(types):
        seen = type
        if carried <= place < carried + stepped:
            if not type.rank or type.shape[0] != length:
                raise TypeRuleError(f"{length} turns don't go along axis 0 of {type}")
            seen = type.with_shape(type.shape[1:])
        if seen != inputs[place]:
            raise TypeRuleError(f"`{body.name}` takes {inputs[place]} where a turn has {seen}")
    if len(outputs) < carried or outputs[:carried] != inputs[:carried]:
        raise TypeRuleError(f"`{body.name}` carries {inputs[:carried]} on as {outputs[:carried]}")
    if not 0 <= result < len(outputs):
        raise TypeRuleError(f"there is no result {result} of {len(outputs)}")
    made: TensorType = outputs[result]
    return made if result < carried else made.with_shape((length, *made.shape))


ALL_KINDS = ("float", "int", "uint", "bool")
NUMBERS = ("float", "int", "uint")
SIGNED = ("float", "int")
INTEGERS = ("int", "uint")
assert {d.kind for d in DTYPES.values()} == set(ALL_KINDS)
