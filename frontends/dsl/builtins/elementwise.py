"""Functions of one element at a time: `exp`, `max`, `where`, and conversions of its type."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from weft.compiler import builder as b
from weft.compiler.type_rules import TypeRuleError
from weft.compiler.types import I64, DType
from weft.frontends.dsl import operators
from weft.frontends.dsl.axes import align
from weft.frontends.dsl.builtins.reductions import reduction
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import Tensor, Value, is_number, shape_text


def _unary(op: str, static: Callable[[float], Any] | None) -> Callable[..., Value]:
    def call(site: Site, x: Value) -> Value:
        if static is not None and is_number(x):
            try:
                return static(x)
            except (ValueError, OverflowError):
                raise site.wrong_value(x, "the number is outside the domain") from None
        tensor = site.tensor(x)
        try:
            return Tensor(b.unary(op, tensor.node), tensor.axes)
        except TypeRuleError:
            kind = "tensors" if tensor.type.dtype.kind == "bool" else "floating-point numbers"
            raise site.wrong_value(
                x, f"takes {kind}", found=shape_text(tensor), hint="convert it with `float(x)`"
            ) from None

    return call


_UNARY: dict[str, tuple[str, Callable[[float], Any] | None]] = {
    "exp": ("exp", math.exp),
    "expm1": ("expm1", math.expm1),
    "log": ("log", math.log),
    "log1p": ("log1p", math.log1p),
    "sqrt": ("sqrt", math.sqrt),
    "rsqrt": ("rsqrt", lambda x: 1 / math.sqrt(x)),
    "sin": ("sin", math.sin),
    "cos": ("cos", math.cos),
    "tanh": ("tanh", math.tanh),
    "erf": ("erf", math.erf),
    "logistic": ("logistic", lambda x: 1 / (1 + math.exp(-x))),
    "abs": ("abs", abs),
    "sign": ("sign", lambda x: (x > 0) - (x < 0)),
    "floor": ("floor", math.floor),
    "ceil": ("ceil", math.ceil),
    "round": ("round", round),
    "is_finite": ("is_finite", math.isfinite),
    "stop_gradient": ("stop_gradient", lambda x: x),
}


def _extreme(op: str, static: Callable[..., Any]) -> Callable[..., Value]:
    """`max(a, b)` elementwise; `max(x, over = ...)` over axes; `max` of numbers."""

    def call(site: Site, x: Value, y: Value = None, over: Value = None) -> Value:
        if y is not None and over is not None:
            raise site.wrong("takes two operands, or one with `over`, not both")
        if isinstance(x, list) and y is None and over is None and all(map(is_number, x)) and x:
            return static(x)
        if y is None:
            return reduction(op)(site, x, over)
        if is_number(x) and is_number(y):
            return static(x, y)
        name = {"max": "maximum", "min": "minimum"}[op]
        return operators.elementwise(site.interpreter, name, x, y, site.span, f"`{site.name}`")

    return call


def _where(site: Site, condition: Value, yes: Value, no: Value) -> Value:
    if isinstance(condition, bool):
        return yes if condition else no
    test = site.tensor(condition)
    if test.type.dtype.kind != "bool":
        raise site.wrong_value(
            condition, "the condition is a comparison", hint="such as `where(x > 0, x, 0)`"
        )
    float_type = site.interpreter.float_type
    like = next((v.type.dtype for v in (yes, no) if isinstance(v, Tensor)), float_type)
    a = site.interpreter.tensor(yes, like, site.span)
    c = site.interpreter.tensor(no, like, site.span)
    a, c = site.interpreter.widened(a, c)
    a, c = align(a, c, "`where`", site.span)
    test, a = align(test, a, "`where`", site.span)
    test, c = align(test, c, "`where`", site.span)
    return Tensor(b.select(test.node, a.node, c.node), test.axes)


def _float(site: Site, x: Value) -> Value:
    if is_number(x) or isinstance(x, bool):
        return float(x)
    float_type = site.interpreter.float_type
    tensor = site.interpreter.tensor(x, float_type, site.span)
    return Tensor(b.cast(tensor.node, float_type), tensor.axes)


def _wide(site: Site, x: Value) -> Value:
    """`x` in the type of parameters, for what `precision = bf16` should not round."""
    return site.interpreter.converted(site.tensor(x), site.interpreter.registry.float_type)


def _int(site: Site, x: Value) -> Value:
    if is_number(x) or isinstance(x, bool):
        return int(x)
    tensor = site.tensor(x)
    return Tensor(b.cast(tensor.node, I64), tensor.axes)


def _cast(site: Site, x: Value, type: Value) -> Value:
    if not isinstance(type, DType):
        raise site.wrong_value(type, "the second argument is an element type such as `f32`")
    tensor = site.tensor(x)
    return Tensor(b.cast(tensor.node, type), tensor.axes)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    **{name: _unary(op, static) for name, (op, static) in _UNARY.items()},
    "max": _extreme("max", max),
    "min": _extreme("min", min),
    "where": _where,
    "float": _float,
    "wide": _wide,
    "int": _int,
    "cast": _cast,
}
