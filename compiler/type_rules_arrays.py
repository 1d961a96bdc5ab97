"""Type rules of arrays moved, joined and indexed; `type_rules.py` has the principle."""

from __future__ import annotations

from weft.compiler.type_rules import TypeRuleError, check_axes, shape_text
from weft.compiler.type_rules_windows import dilated_size
from weft.compiler.types import Dim, Shape, TensorType


def reshape(x: TensorType, *, shape: Shape) -> TensorType:
    result = x.with_shape(shape)
    if result.size != x.size:
        raise TypeRuleError(f"{shape_text(shape)} has {result.size} elements, {x} has {x.size}")
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
            raise TypeRuleError(f"axis {axis} is outside {shape_text(shape)}")
        if shape[axis] != size:
            raise TypeRuleError(f"axis {axis} of {shape_text(shape)} doesn't match {x}")
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
    check_axes(x, axes)
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
