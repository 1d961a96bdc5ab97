"""`param` and `state`: their types, their initial values, and the names of random draws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span
from weft.compiler.graph import Node, locate, substitute, topological
from weft.compiler.program import State
from weft.compiler.types import DTYPES, SymDim, TensorType
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.arguments import Given
from weft.frontends.dsl.axes import align
from weft.frontends.dsl.composite import Composites
from weft.frontends.dsl.diagnostics import SameInEveryCall, misfit
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.registry import SEED, fans, static_sizes
from weft.frontends.dsl.signatures import unknown_type
from weft.frontends.dsl.values import (
    ABSENT,
    Axis,
    Builtin,
    Closure,
    Label,
    Partial,
    Tensor,
    Value,
    as_dim,
    describe,
    kind_of,
    shape_text,
    unlabelled,
)

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter


def declare(interpreter: Interpreter, st: s.Owned, scope: Scope, role: str) -> None:
    frame = scope.frame
    keyword = "param" if role == "parameter" else "state"
    place = s.part(st.span, keyword)
    if frame is None:
        raise SameInEveryCall(
            f"a `{keyword}` lives in a layer",
            place,
            hint="declare the function with `layer`, and call it from a layer or a model",
        )
    if role == "parameter" and frame.model.function.kind == "optimizer":
        raise SameInEveryCall(
            "an optimiser has no parameters of its own",
            place,
            hint="what it remembers from step to step is a `state`",
        )
    if st.condition is not None:
        condition = interpreter.evaluate(st.condition, scope)
        if not isinstance(condition, bool):
            raise CompileError(
                "`when` takes true or false", st.condition.span, found=describe(condition)
            )
        if not condition:
            scope.values[st.name] = ABSENT
            return
    if st.name in scope.states:
        raise SameInEveryCall(
            f"`{st.name}` is declared twice in this body",
            st.name_span,
            hint="choose another name; in a loop, call a layer that declares it",
        )
    type, labels = _declared_type(interpreter, st, scope)
    name = f"{frame.path}.{st.name}"
    if name not in frame.model.states:
        frame.model.states.append(name)
    if frame.model.follows is not None:
        interpreter.registry.copy(frame.model)
        role = "average" if role == "parameter" else role
    state = interpreter.registry.states.get(name)
    if state is None or state.type != type:
        initial = _initial_value(interpreter, st.init, scope, type, name)
        _warn_of_ties(interpreter, st, name, type, initial, role)
        state = State(name, type, role, initial, interpreter.site or st.span)
    node = interpreter.registry.add(state)
    interpreter.declared.append(name)
    scope.states[st.name] = name
    value = Tensor(interpreter.current.get(name, node), labels)
    if role in ("parameter", "average"):  # but a layer's own states stay as they are kept
        value = interpreter.converted(value, interpreter.float_type)
        locate(value.node, interpreter.site or st.span)
    scope.values[st.name] = value


def _declared_type(
    interpreter: Interpreter, st: s.Owned, scope: Scope
) -> tuple[TensorType, tuple[Label | None, ...]]:
    if st.type is None:
        if interpreter.slot_type is not None:
            holder = scope.holder("theta")
            theta = holder.values["theta"] if holder else unlabelled(b.zeros(interpreter.slot_type))
            return interpreter.slot_type, theta.axes
        raise SameInEveryCall(
            f"`{st.name}` needs a type",
            st.name_span,
            expected=f"such as `{st.name}: float[units]`",
        )
    base = st.type.base
    if base not in ("float", *DTYPES):
        raise unknown_type(st.type)
    dtype = interpreter.registry.float_type if base in ("float", "f32") else DTYPES[base]
    dims, labels = [], []
    for expression in st.type.dims or ():
        for value in (
            interpreter.spread(expression, scope)
            if isinstance(expression, s.Spread)
            else [interpreter.evaluate(expression, scope)]
        ):
            dim = as_dim(value)
            if dim is None or (isinstance(dim, int) and dim < 1):
                raise misfit(
                    value,
                    "a dimension is a positive whole number",
                    expression.span,
                    found=describe(value),
                )
            if isinstance(dim, SymDim):
                static_sizes((dim,), st.name, expression.span)
            dims.append(dim)
            label = value.label if isinstance(value, Axis) else None
            if label is None and isinstance(expression, s.Name):
                label = scope.label(expression.identifier)
            labels.append(label)
    sizes = static_sizes(tuple(dims), st.name, st.span)
    if math.prod(sizes) * dtype.bytes >> 62:
        raise CompileError(
            f"`{st.name}` is larger than any memory",
            st.span,
            found=f"{dtype}[{', '.join(map(str, sizes))}]",
        )
    return TensorType(dtype, sizes), tuple(labels)


def _initial_value(
    interpreter: Interpreter, e: s.Expression, scope: Scope, type: TensorType, name: str
) -> Node:
    """The node that draws a parameter's initial value; a pure function of the seed.

    Parameters declared before stand in it for their own initial values.
    """
    inner = Scope(scope.module, dict(fans(static_sizes(type.shape, name, e.span))), scope)
    with _drawing(interpreter, type, name):
        value = interpreter.evaluate(e, inner)
        tensor = _at_the_start(interpreter, interpreter.tensor(value, type.dtype, e.span))
        _check_known(interpreter, tensor, value, e.span, name)
        if tensor.rank == type.rank and tensor.type.shape != type.shape:
            raise misfit(
                value,
                f"the initial value of `{name.rpartition('.')[2]}` has another shape",
                e.span,
                expected=str(type),
                found=shape_text(tensor),
            )
        whole = Tensor(b.zeros(type), (None,) * type.rank)
        if tensor.type.dtype != type.dtype:
            tensor = Tensor(b.cast(tensor.node, type.dtype), tensor.axes)
        _, tensor = align(whole, tensor, "`~`", e.span)
    return locate(tensor.node, interpreter.site or e.span)


def _at_the_start(interpreter: Interpreter, tensor: Tensor) -> Tensor:
    """The tensor as it is before the first step: a layer's states as they are drawn."""
    if interpreter.slot_type is not None:
        return tensor
    registry = interpreter.registry
    drawn = {}
    for node in topological([tensor.node]):
        state = registry.states.get(node.name) if node.op.name == "input" else None
        if state is not None and state.role in ("parameter", "average", "buffer"):
            drawn[registry.inputs[state.name]] = state.init
    if not drawn:
        return tensor
    interpreter.effects += 1
    (node,) = substitute([tensor.node], drawn)
    return Tensor(node, tensor.axes, tensor.classes)


def _check_known(
    interpreter: Interpreter, tensor: Tensor, value: Value, span: Span, name: str
) -> None:
    """Initial values come before the first batch: from the seed, a slot's also from `theta`."""
    inputs = interpreter.registry.inputs
    known = [inputs[SEED], *([inputs["theta"]] if interpreter.slot_type is not None else [])]
    if any(n.op.name == "input" and n not in known for n in topological([tensor.node])):
        raise misfit(
            value,
            f"the initial value of `{name.rpartition('.')[2]}` depends on a tensor",
            span,
            expected="a value that is known before the first batch, such as `zeros` or a draw",
            found=describe(value),
        )


@contextmanager
def _drawing(interpreter: Interpreter, type: TensorType, name: str) -> Iterator[None]:
    before = interpreter.init, interpreter.composites
    interpreter.init, interpreter.composites = (type, name), Composites.NONE
    try:
        with interpreter.inside_of_models(False):
            yield
    finally:
        interpreter.init, interpreter.composites = before


def materialize(interpreter: Interpreter, value: Value, span: Span) -> Value:
    """Inside `~`, a distribution stands for a draw in the shape of what is drawn."""
    if interpreter.init is None:
        return value
    type, _ = interpreter.init
    if isinstance(value, Closure | Partial) and kind_of(value) == "init":
        return materialize(interpreter, interpreter.call(value, [], span), span)
    if isinstance(value, Builtin) and "shape" in value.parameters:
        return interpreter.call(value, [Given(None, list(type.shape), span)], span)
    return value


def draw_name(interpreter: Interpreter, kind: str) -> str:
    """The stream of the next random draw, named by where it is drawn."""
    if interpreter.init is not None:
        base = interpreter.init[1]
        kind = ""
    else:
        base = interpreter.statement
    key = f"{base}.{kind}" if kind else base
    count = interpreter.draws[key] = interpreter.draws.get(key, 0) + 1
    interpreter.drawn += 1
    return key if count == 1 else f"{key}_{count}"


def _warn_of_ties(
    interpreter: Interpreter,
    st: s.Owned,
    name: str,
    type: TensorType,
    initial: Node,
    role: str,
) -> None:
    """Warn of weights that start equal: the units they lead to could never become different."""
    value = _constant(initial)
    if role != "parameter" or type.rank < 2 or value is None:
        return
    interpreter.registry.warn(
        f"the weights `{name}` all start at {value:g}",
        interpreter.site or st.init.span,
        expected="a draw, such as `glorot_uniform` or `he_normal`",
        hint="units with equal weights get equal gradients and stay copies of each other"
        + ("" if value else ", and weights of 0 pass no gradient back"),
    )


def _constant(node: Node) -> float | None:
    """The one value of all elements, where there is one."""
    while node.op.name == "broadcast_in_dim":
        node = node.inputs[0]
    return float(node.attributes["value"]) if node.op.name == "constant" else None
