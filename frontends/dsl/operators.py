"""Operators: of numbers and sizes now, of tensors as nodes, axes aligned by name."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span
from weft.compiler.graph import binary as binary_node
from weft.compiler.types import DType, SymDim
from weft.frontends.dsl import calls
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.axes import align
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.products import matmul
from weft.frontends.dsl.values import (
    ABSENT,
    Quantity,
    Tensor,
    Value,
    as_dim,
    describe,
    is_number,
    not_too_long,
)

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter

_STATIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "^": operator.pow,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_TENSOR = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "//": "floor_divide",
    "%": "remainder",
    "^": "power",
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
# Operations, the kinds of numbers that they refuse, and what is said then.
_PARTICULAR: dict[str, tuple[tuple[str, ...], str, str]] = {
    "divide": (
        ("int", "uint"),
        "`/` divides floating-point numbers",
        "convert with `float(x)`, or write `//`, which rounds down",
    ),
    "floor_divide": (("float",), "`//` divides whole numbers", "write `floor(x / y)`"),
    "power": (
        ("int", "uint"),
        "`^` takes floating-point numbers",
        "convert with `float(x)`, or multiply: `x * x`",
    ),
}


def unary(interpreter: Interpreter, e: s.Unary, scope: Scope) -> Value:
    value = interpreter.evaluate(e.operand, scope)
    if e.op == "not":
        if isinstance(value, Tensor) and value.type.dtype.kind == "bool":
            return Tensor(b.unary("not", value.node), value.axes)
        if isinstance(value, bool):
            return not value
        raise CompileError(
            "`not` takes true or false, or a comparison of tensors",
            e.operand.span,
            found=describe(value),
        )
    if isinstance(value, Quantity):
        return Quantity(-value.value, value.unit)
    dim = as_dim(value)
    if dim is not None or is_number(value):
        return -(value if dim is None else dim)
    tensor = interpreter.tensor(value, interpreter.float_type, e.span)
    return Tensor(-tensor.node, tensor.axes)


def binary(interpreter: Interpreter, e: s.Binary, scope: Scope) -> Value:
    if e.op in ("and", "or"):
        return _logic(interpreter, e, scope)
    left, right = interpreter.evaluate(e.left, scope), interpreter.evaluate(e.right, scope)
    if e.op == "then":
        return calls.then(left, right, e)
    if left is ABSENT or right is ABSENT:
        return _without(e, left, right)
    if e.op == "@":
        float_type = interpreter.float_type
        a, c = (interpreter.tensor(v, float_type, e.span) for v in (left, right))
        a, c = interpreter.widened(a, c)
        return matmul(a, c, e.span, interpreter.factors(a.type.dtype))
    if not isinstance(left, Tensor) and not isinstance(right, Tensor):
        result = _static(e, left, right)
        if result is not NotImplemented:
            return result
    places = e.left.span, e.right.span
    return elementwise(interpreter, _TENSOR[e.op], left, right, e.span, f"`{e.op}`", places)


def _without(e: s.Binary, left: Value, right: Value) -> Value:
    """The other operand of a parameter that its `when` leaves out, where that is neutral."""
    if e.op not in ("+*" if left is ABSENT else "+-*/"):
        raise CompileError(
            f"`{e.op}` needs a parameter that its `when` leaves out",
            (e.left if left is ABSENT else e.right).span,
            expected="such as `x + b` or `x * scale`, which without it are `x`",
            hint="choose with `if` between two expressions",
        )
    return right if left is ABSENT else left


def _logic(interpreter: Interpreter, e: s.Binary, scope: Scope) -> Value:
    left = interpreter.evaluate(e.left, scope)
    if isinstance(left, bool):
        if left == (e.op == "or"):
            return left
        return interpreter.evaluate(e.right, scope)
    right = interpreter.evaluate(e.right, scope)
    for value, place in ((left, e.left.span), (right, e.right.span)):
        if not isinstance(value, bool) and not _is_mask(value):
            raise CompileError(
                f"`{e.op}` takes true or false, or comparisons of tensors",
                place,
                found=describe(value),
            )
    return elementwise(interpreter, e.op, left, right, e.span, f"`{e.op}`")


def _static(e: s.Binary, left: Value, right: Value) -> Value:
    """Arithmetic of numbers, sizes, lists and texts; NotImplemented for anything else."""
    if e.op == "+" and isinstance(left, list) and isinstance(right, list):
        return not_too_long(left, right, span=e.span)
    if e.op in ("==", "!="):
        return (_sizes(left) == _sizes(right)) == (e.op == "==")
    if isinstance(left, Quantity) or isinstance(right, Quantity):
        raise CompileError(
            "a quantity with a unit is no plain number",
            e.span,
            expected="a number",
            found=describe(left if isinstance(left, Quantity) else right),
            hint="leave the unit out, or pass it to an argument that takes a duration",
        )
    a = as_dim(left) if not isinstance(left, float) else left
    c = as_dim(right) if not isinstance(right, float) else right
    if a is None or c is None:
        return NotImplemented
    symbolic = isinstance(a, SymDim) or isinstance(c, SymDim)
    sizes = e.op in ("+", "-", "*", "//") and not (isinstance(a, float) or isinstance(c, float))
    if symbolic and not sizes:
        return NotImplemented
    try:
        result = _STATIC[e.op](a, c)
    except ZeroDivisionError:
        raise CompileError(
            "division by zero", e.span, found=f"{describe(right)} after `{e.op}`"
        ) from None
    except OverflowError:
        raise CompileError("the result is too large for a number", e.span) from None
    except ValueError as error:
        raise CompileError(f"this can't be computed: {error}", e.span) from None
    if isinstance(result, complex):
        raise CompileError("a fractional power of a negative number", e.span)
    if isinstance(result, int) and abs(result) >= 2**63:
        raise CompileError("the number is too large", e.span, expected="less than 2^63")
    return result


def elementwise(
    interpreter: Interpreter,
    op: str,
    left: Value,
    right: Value,
    span: Span,
    what: str,
    places: tuple[Span, Span] | None = None,
) -> Tensor:
    """A binary op of tensors or numbers, axes aligned by name; `places` of the operands."""
    float_type = interpreter.registry.float_type
    like = next((v.type.dtype for v in (left, right) if isinstance(v, Tensor)), float_type)
    first, second = places or (span, span)
    a, c = interpreter.tensor(left, like, first), interpreter.tensor(right, like, second)
    a, c = interpreter.widened(a, c)
    if a.type.dtype != c.type.dtype:
        raise CompileError(
            f"{what} of two element types",
            span,
            expected="the same element type on both sides",
            found=f"{describe(left)} and {describe(right)}",
            hint=conversion(a.type.dtype, c.type.dtype),
        )
    if op in _PARTICULAR and a.type.dtype.kind in _PARTICULAR[op][0]:
        _, message, hint = _PARTICULAR[op]
        found = f"{describe(left)} and {describe(right)}"
        raise CompileError(message, span, found=found, hint=hint)
    a, c = align(a, c, what, span)
    return Tensor(binary_node(op, a.node, c.node), a.axes)


def conversion(a: DType, c: DType) -> str | None:
    """How two element types come together."""
    if "bool" in (a.kind, c.kind):
        return "convert the comparison with `float(...)`, or choose with `where(condition, a, b)`"
    return "convert the whole numbers with `float(x)`" if a.kind != c.kind else None


def _is_mask(value: Value) -> bool:
    return isinstance(value, Tensor) and value.type.dtype.kind == "bool"


def _sizes(value: Value) -> Value:
    """The value with sizes in place of axes, as comparisons see it."""
    if isinstance(value, list | tuple):
        return [_sizes(v) for v in value]
    dim = as_dim(value)
    return value if dim is None else dim
