"""Statements: the lines of a body, each executed once in the order in which they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from weft.compiler.errors import CompileError, Span, did_you_mean, one_of
from weft.compiler.graph import locate
from weft.frontends.dsl import parameters
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.axes import align
from weft.frontends.dsl.diagnostics import SameInEveryCall
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.values import Tensor, Value, describe, shape_text

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter


def run(interpreter: Interpreter, body: s.Block, scope: Scope) -> Value:
    """The value of the block's last expression, or None."""
    value: Value = None
    last = body.statements[-1] if body.statements else None
    for statement in body.statements:
        handler = _EXECUTE.get(type(statement))
        if handler is None:
            raise CompileError("this can't stand in a body", statement.span)
        value = handler(interpreter, statement, scope)
        if value is not None and statement is not last:
            raise SameInEveryCall(
                "this value is not used",
                statement.span,
                expected="a name for it (`let a = ...`), or the value as the last line",
                hint="to go on with the line before, end that line with its operator",
            )
    return value


def _bind(targets: tuple[s.Name, ...], value: Value, span: Span) -> Iterator[tuple[str, Value]]:
    if value is None:
        raise CompileError("this has no value", span, expected="an expression with a value")
    if len(targets) == 1:
        yield targets[0].identifier, value
        return
    if not isinstance(value, list | tuple) or len(value) != len(targets):
        raise CompileError(
            f"{len(targets)} names need {len(targets)} values", span, found=describe(value)
        )
    yield from zip((t.identifier for t in targets), value, strict=True)


def _let(interpreter: Interpreter, st: s.Let, scope: Scope) -> None:
    for name, value in _bind(st.targets, interpreter.evaluate(st.value, scope), st.value.span):
        scope.values[name] = value


def _rebind(interpreter: Interpreter, st: s.Rebind, scope: Scope) -> None:
    value = interpreter.evaluate(st.value, scope)
    for target, (name, item) in zip(
        st.targets, _bind(st.targets, value, st.value.span), strict=True
    ):
        holder = scope.holder(name)
        if holder is None:
            known = list(scope.names())
            raise SameInEveryCall(
                f"`{name}` is not a local name",
                target.span,
                expected="a name that `let` declared before",
                hint=did_you_mean(name, known) or f"declare it: `let {name} = ...`",
            )
        if _is_state(interpreter, name, scope):
            raise SameInEveryCall(
                f"`=` does not update `{name}`",
                target.span,
                hint=f"write `{name} <- ...`, or declare another name with `let`",
            )
        holder.values[name] = item


def _is_state(interpreter: Interpreter, name: str, scope: Scope) -> bool:
    state = interpreter.registry.states.get(scope.states.get(name, ""))
    return state is not None and (state.role == "buffer" or name == "theta")


def _update(interpreter: Interpreter, st: s.Update, scope: Scope) -> None:
    name = st.target.identifier
    qualified = scope.states.get(name)
    if qualified is None:
        local = scope.holder(name) is not None
        raise SameInEveryCall(
            f"`{name}` is not a state",
            st.target.span,
            expected=one_of(scope.states) if scope.states else "a name declared by `state`",
            hint="`=` gives a local name a new value"
            if local
            else did_you_mean(name, scope.states) or f"declare it: `state {name}: ... ~ zeros`",
        )
    value = interpreter.evaluate(st.value, scope)
    type = interpreter.registry.states[qualified].type
    tensor = interpreter.tensor(value, type.dtype, st.value.span)
    tensor = interpreter.converted(tensor, type.dtype)
    holder = scope.holder(name)
    assert holder is not None
    old = holder.values[name]
    wide, tensor = align(old, tensor, "`<-`", st.span)
    if wide.type.shape != type.shape or tensor.type.dtype != type.dtype:
        raise CompileError(
            f"the new value of `{name}` has another type",
            st.value.span,
            expected=shape_text(old),
            found=shape_text(tensor),
        )
    locate(tensor.node, interpreter.site or st.span)
    interpreter.current[qualified] = interpreter.updates[qualified] = tensor.node
    interpreter.written += 1
    holder.values[name] = Tensor(tensor.node, old.axes)


def _for(interpreter: Interpreter, st: s.For, scope: Scope) -> None:
    iterable = interpreter.evaluate(st.iterable, scope)
    if not isinstance(iterable, list | tuple | range):
        raise CompileError(
            "`for` runs over a list",
            st.iterable.span,
            expected="a list, or `range(n)`",
            found=describe(iterable),
        )
    if len(iterable) > 100_000:
        raise CompileError("the loop is too long to unroll", st.iterable.span)
    for item in iterable:
        inner = Scope(scope.module, parent=scope)
        for name, value in _bind(st.targets, item, st.iterable.span):
            inner.values[name] = value
        run(interpreter, st.body, inner)


def _param(interpreter: Interpreter, st: s.Param, scope: Scope) -> None:
    parameters.declare(interpreter, st, scope, "parameter")


def _state(interpreter: Interpreter, st: s.StateDecl, scope: Scope) -> None:
    parameters.declare(interpreter, st, scope, "buffer")


_EXECUTE: dict[type, Callable[[Interpreter, Any, Scope], Value]] = {
    s.ExprStatement: lambda interpreter, st, scope: interpreter.evaluate(st.value, scope),
    s.Let: _let,
    s.Rebind: _rebind,
    s.Update: _update,
    s.Param: _param,
    s.StateDecl: _state,
    s.For: _for,
}
