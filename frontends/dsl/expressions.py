"""Expressions: what each kind of them evaluates to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from weft.compiler.errors import CompileError, did_you_mean
from weft.frontends.dsl import operators
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.arguments import Given, assign
from weft.frontends.dsl.diagnostics import SameInEveryCall
from weft.frontends.dsl.indexing import index
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.statements import run
from weft.frontends.dsl.values import Dataset, Quantity, Tensor, Value, describe, not_too_long

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter

_BATCH = ("size", "shuffle", "drop_last")


def _name(interpreter: Interpreter, e: s.Name, scope: Scope) -> Value:
    return interpreter.name(e.identifier, e.span, scope)


def _attribute(interpreter: Interpreter, e: s.Attribute, scope: Scope) -> Value:
    return interpreter.attribute(interpreter.evaluate(e.value, scope), e.name, e.name_span)


def _list(interpreter: Interpreter, e: s.ListExpr, scope: Scope) -> Value:
    items: list[Value] = []
    for item in e.items:
        if isinstance(item, s.Spread):
            items = not_too_long(items, interpreter.spread(item, scope), span=e.span)
        else:
            items.append(interpreter.evaluate(item, scope))
    return items


def _tuple(interpreter: Interpreter, e: s.TupleExpr, scope: Scope) -> Value:
    return tuple([interpreter.evaluate(item, scope) for item in e.items])


def _record(interpreter: Interpreter, e: s.Record, scope: Scope) -> Value:
    return {entry.name: interpreter.evaluate(entry.value, scope) for entry in e.entries}


def _index(interpreter: Interpreter, e: s.Index, scope: Scope) -> Value:
    value = interpreter.evaluate(e.value, scope)
    items: list[Value] = []
    for item in e.items:
        if isinstance(item, s.Dots):
            items.append(...)
        elif isinstance(item, s.Slice):
            parts = (item.start, item.stop, item.step)
            items.append(
                slice(*(None if p is None else interpreter.evaluate(p, scope) for p in parts))
            )
        else:
            items.append(interpreter.evaluate(item, scope))
    return index(value, items, e.span)


def _if(interpreter: Interpreter, e: s.If, scope: Scope) -> Value:
    condition = interpreter.evaluate(e.condition, scope)
    if not isinstance(condition, bool):
        tensor = isinstance(condition, Tensor)
        raise CompileError(
            "the condition of `if` is decided before anything runs",
            e.condition.span,
            expected="`true` or `false`",
            found=describe(condition),
            hint="choose between tensors with `where(condition, a, b)`" if tensor else None,
        )
    if condition:
        return run(interpreter, e.then, Scope(scope.module, parent=scope))
    if isinstance(e.otherwise, s.If):
        return interpreter.evaluate(e.otherwise, scope)
    if e.otherwise is not None:
        return run(interpreter, e.otherwise, Scope(scope.module, parent=scope))
    return None


def _when(interpreter: Interpreter, e: s.When, scope: Scope) -> Value:
    if e.condition == "epoch_end":
        if interpreter.epoch_end is None:
            raise SameInEveryCall(
                "`when epoch_end` belongs in a schedule",
                s.part(e.span, "when epoch_end"),
                hint="a layer tells training from evaluation with `when training`",
            )
        interpreter.epoch_end(e.then, scope)
        return None
    chosen = e.then if interpreter.training else e.otherwise
    return None if chosen is None else run(interpreter, chosen, Scope(scope.module, parent=scope))


def _pipe(interpreter: Interpreter, e: s.Pipe, scope: Scope) -> Value:
    first = Given(None, interpreter.evaluate(e.value, scope), e.value.span)
    if isinstance(e.call, s.Call):
        function = interpreter.evaluate(e.call.function, scope)
        given = [first, *arguments(interpreter, e.call, scope)]
        return interpreter.call(function, given, e.call.span, scope)
    return interpreter.call(interpreter.evaluate(e.call, scope), [first], e.call.span, scope)


def arguments(interpreter: Interpreter, e: s.Call, scope: Scope) -> list[Given]:
    """The arguments of a call, evaluated."""
    given = []
    for argument in e.arguments:
        if isinstance(argument.value, s.Spread):
            given += [
                Given(None, v, argument.span) for v in interpreter.spread(argument.value, scope)
            ]
        else:
            value = interpreter.evaluate(argument.value, scope)
            given.append(Given(argument.name, value, argument.value.span, argument.name_span))
    return given


def _call(interpreter: Interpreter, e: s.Call, scope: Scope) -> Value:
    if isinstance(e.function, s.Attribute):
        owner = interpreter.evaluate(e.function.value, scope)
        if isinstance(owner, Dataset):
            if e.function.name != "batch":
                raise CompileError(
                    f"the data `{owner.name}` has no `{e.function.name}`",
                    e.function.name_span,
                    expected="`batch(size)`",
                    hint=did_you_mean(e.function.name, ["batch"]),
                )
            given = arguments(interpreter, e, scope)
            known = [s.Parameter(p, None, None, span=e.span) for p in _BATCH]
            bound = assign("batch", known, given, e.span)
            values = {k: g.value for k, g in bound.items()}
            return owner.batch(values, {k: g.span for k, g in bound.items()}, e.span)
    function = interpreter.evaluate(e.function, scope)
    return interpreter.call(function, arguments(interpreter, e, scope), e.span, scope)


EVALUATE: dict[type, Callable[[Interpreter, Any, Scope], Value]] = {
    s.Number: lambda _, e, scope: e.value,
    s.Quantity: lambda _, e, scope: Quantity(e.value, e.unit),
    s.String: lambda _, e, scope: e.value,
    s.Boolean: lambda _, e, scope: e.value,
    s.Name: _name,
    s.Attribute: _attribute,
    s.Call: _call,
    s.Pipe: _pipe,
    s.Index: _index,
    s.ListExpr: _list,
    s.Record: _record,
    s.TupleExpr: _tuple,
    s.Unary: operators.unary,
    s.Binary: operators.binary,
    s.If: _if,
    s.When: _when,
}
