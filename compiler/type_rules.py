"""Type rules of the primitives: operand types and attributes to the result type.

Builders infer with these rules and the verifier re-runs them, so that the two can't differ. A rule
raises `TypeRuleError` with a sentence that names sizes and axes; callers add the place. Rules of
products and windows are in `type_rules_windows.py`, those of movement in `type_rules_arrays.py`.
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

Rule = Callable[..., TensorType]

ALL_KINDS = ("float", "int", "uint", "bool")
NUMBERS = ("float", "int", "uint")
SIGNED = ("float", "int")
INTEGERS = ("int", "uint")
assert {d.kind for d in DTYPES.values()} == set(ALL_KINDS)


class TypeRuleError(ValueError):
    """Operands that an operation can't take."""


def shape_text(shape: Shape) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


# -- elementwise ----------------------------------------------------------------------------------


def check_numbers(x: TensorType) -> None:
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
            raise TypeRuleError(f"{len(value)} values for shape {shape_text(shape)}")
    return TensorType(dtype, shape)


def iota(*, dtype: DType, shape: Shape, axis: int) -> TensorType:
    if not (0 <= axis < len(shape)):
        raise TypeRuleError(f"axis {axis} is outside {shape_text(shape)}")
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


def check_axes(x: TensorType, axes: tuple[int, ...]) -> None:
    if not all(0 <= a < x.rank for a in axes):
        raise TypeRuleError(f"axes {axes} are outside {x}")
    if list(axes) != sorted(set(axes)):
        raise TypeRuleError(f"axes {axes} must increase")


def reduction(*kinds: str) -> Rule:
    def rule(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
        if x.dtype.kind not in kinds:
            raise TypeRuleError(f"needs {' or '.join(kinds)}, got {x}")
        check_axes(x, axes)
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
    check_numbers(x)
    return x


def arg_sort(x: TensorType, *, axis: int, descending: bool) -> TensorType:
    return same_shape_along_axis(x, axis=axis).with_dtype(I64)


def top_k(x: TensorType, *, k: int) -> TensorType:
    check_numbers(x)
    if x.rank <= 0:
        raise TypeRuleError("top_k needs at least one axis")
    last = x.shape[-1]
    if not (not isinstance(last, int) or 0 < k <= last):
        raise TypeRuleError(f"k = {k} is outside 1..{last}")
    return x.with_shape((*x.shape[:-1], k))


def arg_top_k(x: TensorType, *, k: int) -> TensorType:
    return top_k(x, k=k).with_dtype(I64)


# -- bodies --------------------------------------------------------------------------------------


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
