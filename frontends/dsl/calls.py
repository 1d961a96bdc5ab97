"""Calls: of closures, models and built-ins; arguments bound and checked; errors at the call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from weft.compiler.errors import CompileError, Note, Span
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.arguments import Given, assign, filled
from weft.frontends.dsl.composite import stays_whole, wrap
from weft.frontends.dsl.diagnostics import (
    SameInEveryCall,
    and_list,
    called,
    from_library,
    misfit,
)
from weft.frontends.dsl.modules import Frame, Scope, library
from weft.frontends.dsl.registry import fans, static_sizes
from weft.frontends.dsl.repeats import Arguments, Before, Original, repeatable
from weft.frontends.dsl.signatures import Binding
from weft.frontends.dsl.site import call_builtin
from weft.frontends.dsl.values import (
    Builtin,
    Closure,
    Model,
    Partial,
    Quantity,
    Tensor,
    Value,
    describe,
    is_number,
)

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter

MAX_CALLS = 200
_ROLES = {
    "optimizer": "an optimiser stands after `with`",
    "schedule": "a schedule stands for a rate of an optimiser",
    "init": "an initialiser stands after `~`",
}


def call(
    interpreter: Interpreter,
    function: Value,
    given: list[Given],
    span: Span,
    scope: Scope | None = None,
) -> Value:
    """Call a function value; `scope` is the caller's, whose layer owns new parameters."""
    if interpreter.depth >= MAX_CALLS:
        raise _too_deep(span)
    interpreter.depth += 1
    try:
        match function:
            case Builtin():
                return call_builtin(interpreter, function, given, span, scope)
            case Closure():
                return _call_closure(interpreter, function, given, span, scope)
            case Partial():
                whole = [*given, *filled(function, span)]
                return _call_closure(interpreter, function.function, whole, span, scope)
            case Model():
                return _call_model(interpreter, function, given, span)
            case _:
                number = is_number(function)
                raise CompileError(
                    f"{describe(function)} is not a function",
                    span,
                    hint="to multiply, write `*`" if number else "is an operator missing?",
                )
    except RecursionError:
        raise _too_deep(span) from None
    finally:
        interpreter.depth -= 1


def _call_closure(
    interpreter: Interpreter, function: Closure, given: list[Given], span: Span, scope: Scope | None
) -> Value:
    drawn_later = function.kind == "init" and interpreter.init is None
    if function.kind in ("optimizer", "schedule") or drawn_later:
        return _partial(interpreter, function, given, span)
    if function.kind == "layer":
        outer = scope.frame if scope is not None else None
        if outer is None or outer.model.function.kind != "layer":
            raise SameInEveryCall(
                f"`{function.name}` is a layer, and only models and layers own layers",
                span,
                hint=f"declare `model name = {function.name}(...)` and call the model"
                if outer is None
                else "an optimiser is a formula of `theta`, `grad` and its states",
            )
        return _run_layer(interpreter, function, given, span, outer.child(function.name))
    return _run(interpreter, function, given, span, None)


def _run_layer(
    interpreter: Interpreter, function: Closure, given: list[Given], span: Span, frame: Frame
) -> Value:
    """Run a layer's body, or copy what it has built for a call that was alike."""
    if not repeatable(interpreter) or frame.model.follows is not None:
        return _run(interpreter, function, given, span, frame)
    arguments = Arguments.of(interpreter, function, given, span)
    original = interpreter.originals.get(arguments.key)
    if original is not None:
        copied = original.copied(interpreter, frame, arguments)
        if copied is not None:
            return copied[0]
    before = Before.of(interpreter)
    value = _run(interpreter, function, given, span, frame)
    if arguments.key is not None:
        found = Original.of(interpreter, frame, arguments, value, before)
        if found is not None:
            interpreter.originals[arguments.key] = found
    return value


def _partial(
    interpreter: Interpreter, function: Closure, given: list[Given], span: Span
) -> Partial:
    """An optimiser, schedule or initialiser with its arguments, checked where they stand."""
    parameters = function.decl.parameters or ()
    bound = assign(function.name, parameters, given, span)
    binding = _binding(interpreter, function, Scope(function.module))
    for parameter in parameters:
        if parameter.name not in bound:
            continue
        g = bound[parameter.name]
        if isinstance(g.value, Tensor) and g.value.rank:
            kind = {"optimizer": "an optimiser", "init": "an initialiser"}.get(
                function.kind, "a schedule"
            )
            raise misfit(
                g.value,
                f"`{function.name}` is {kind}, which takes no tensors",
                span,
                found=describe(g.value),
                hint=_ROLES[function.kind]
                if function.name != "linear"
                else "a layer of weights is `dense`",
            )
        timeless = isinstance(g.value, Quantity) and interpreter.registry.steps is None
        if parameter.type is not None and parameter.type.dims is None and not timeless:
            binding.check(parameter, g.value, g.span)
    return Partial(
        function,
        {k: g.value for k, g in bound.items()},
        {k: g.span for k, g in bound.items()},
    )


def _call_model(interpreter: Interpreter, model: Model, given: list[Given], span: Span) -> Value:
    for g in given:
        if g.name is not None and g.name in model.arguments:
            raise SameInEveryCall(
                f"the model `{model.name}` has set `{g.name}` already",
                g.key_span,
                hint="a second model can have another value",
                notes=[Note("it is set here", model.places.get(g.name, model.decl.name_span))],
            )
    interpreter.effects += 1
    outside = interpreter.float_type
    key = (model.name, outside, *(_identity(g.value) for g in given), *(g.name for g in given))
    if key in interpreter.memo:
        return interpreter.memo[key][1]
    count = interpreter.draws[model.name] = interpreter.draws.get(model.name, 0) + 1
    suffix = "" if count == 1 else f"_{count}"
    frame = Frame(model, model.name, f"{interpreter.statement}.{model.name}{suffix}")
    fixed = [Given(n, v, model.places.get(n, model.decl.span)) for n, v in model.arguments.items()]
    with interpreter.inside_of_models():
        narrow = interpreter.float_type
        rounded = [replace(g, value=interpreter.converted(g.value, narrow)) for g in given]
        value = _run(interpreter, model.function, [*rounded, *fixed], span, frame, model.name)
    value = interpreter.converted(value, outside)
    interpreter.memo[key] = (tuple(g.value for g in given), value)
    return value


def _run(
    interpreter: Interpreter,
    function: Closure,
    given: list[Given],
    span: Span,
    frame: Frame | None,
    name: str | None = None,
) -> Value:
    """Run a function's body: bind arguments, match types, evaluate, give labels back.

    `name`: what the user called, where it isn't the function's own name.
    """
    before = interpreter.statement
    if frame is not None:
        interpreter.statement = frame.stream
    try:
        with inside(interpreter, function, given, span, name):
            value = _apply(interpreter, function, given, span, frame)
        return value if frame is None else interpreter.converted(value, interpreter.float_type)
    finally:
        interpreter.statement = before


@contextmanager
def inside(
    interpreter: Interpreter,
    function: Closure,
    given: list[Given],
    span: Span,
    name: str | None = None,
) -> Iterator[None]:
    """The body of a function runs: errors and nodes of library code get the user's place."""
    entering = function.module.is_library and interpreter.site is None
    if entering:
        interpreter.site = span
    try:
        yield
    except CompileError as error:
        if entering:
            raise from_library(error, function, given, span) from None
        if interpreter.site is None:
            raise called(error, function, name or function.name, span) from None
        raise
    finally:
        if entering:
            interpreter.site = None


def _apply(
    interpreter: Interpreter, function: Closure, given: list[Given], span: Span, frame: Frame | None
) -> Value:
    scope, binding, values = bind(interpreter, function, given, span, frame)
    if stays_whole(function, interpreter.composites):
        result = wrap(interpreter, function, scope, values)
    else:
        result = interpreter.body(function.decl.body, scope)
    if result is None:
        raise SameInEveryCall(
            f"`{function.name}` has no result",
            function.decl.name_span,
            expected="a body whose last line is its value",
            notes=[Note("called here", span)],
        )
    return binding.give_back(result)


def bind(
    interpreter: Interpreter, function: Closure, given: list[Given], span: Span, frame: Frame | None
) -> tuple[Scope, Binding, dict[str, Value]]:
    """The body's scope with the arguments bound, and the arguments alone."""
    parameters = function.decl.parameters or ()
    bound = assign(function.name, parameters, given, span)
    scope = Scope(function.module, frame=frame)
    if interpreter.init is not None:
        scope.values.update(fans(static_sizes(interpreter.init[0].shape, function.name, span)))

    binding = _binding(interpreter, function, scope)
    values: dict[str, Value] = {}
    ordered = sorted(parameters, key=lambda p: _is_tensor_type(p.type))
    for parameter in ordered:
        if parameter.name in bound:
            value, place = bound[parameter.name].value, bound[parameter.name].span
        elif parameter.default is not None:
            value, place = None, parameter.default.span
            if any(isinstance(n, s.Name) for n in s.walk(parameter.default)):
                continue  # may name another argument: after the tensors are bound
            value = interpreter.evaluate(parameter.default, scope)
        else:
            missing = [p.name for p in parameters if p.default is None and p.name not in bound]
            raise SameInEveryCall(
                f"`{function.name}` needs {and_list(missing)}",
                span,
                expected=_signature(function),
                notes=[Note("declared here", function.decl.name_span)]
                if not function.module.is_library
                else (),
            )
        values[parameter.name] = binding.check(parameter, value, place)
        scope.values[parameter.name] = values[parameter.name]
    for parameter in parameters:
        if parameter.name not in values:
            assert parameter.default is not None
            value = interpreter.evaluate(parameter.default, scope)
            values[parameter.name] = binding.check(parameter, value, parameter.default.span)
            scope.values[parameter.name] = values[parameter.name]
    for name, value in values.items():
        if name in bound:
            values[name] = scope.values[name] = binding.translate(value)
    return scope, binding, {p.name: values[p.name] for p in parameters}


def _binding(interpreter: Interpreter, function: Closure, scope: Scope) -> Binding:
    def steps(quantity: Quantity, place: Span) -> int:
        return to_steps(interpreter, quantity, place)

    return Binding(function.name, scope, interpreter.evaluate, interpreter.floats, steps)


def to_steps(interpreter: Interpreter, quantity: Quantity, span: Span) -> int:
    """A duration in steps."""
    registry = interpreter.registry
    if quantity.value < 0:
        raise CompileError("a duration can't be negative", span, found=str(quantity))
    if quantity.unit in ("step", "steps"):
        return round(quantity.value)
    whole = registry.steps if quantity.unit == "%" else registry.steps_per_epoch
    if whole is None:
        raise CompileError(
            "this duration has no meaning outside of `train`", span, found=str(quantity)
        )
    return round(quantity.value * whole / 100 if quantity.unit == "%" else quantity.value * whole)


def then(first: Value, second: Value, e: s.Binary) -> Partial:
    """`first then second`: the library's `sequence`, with the length that the first one states."""
    length = first.arguments.get("length") if isinstance(first, Partial) else None
    if length is None or not isinstance(first, Partial) or first.function.kind != "schedule":
        raise CompileError(
            "how long does what stands before `then` last?",
            e.left.span,
            expected="a schedule with an argument `length`, such as `warmup(0.1, 5 epochs)`",
            found=describe(first),
            hint="give it one: `during(cosine(0.1), 10 epochs) then ...`",
        )
    found = library().find("sequence")
    assert found is not None
    module, declaration = found
    assert isinstance(declaration, s.ScheduleDecl)
    arguments = {"first": first, "length": length, "second": second}
    places = {"first": e.left.span, "length": e.left.span, "second": e.right.span}
    return Partial(Closure(declaration, module), arguments, places)


def _identity(value: Value) -> object:
    if isinstance(value, Tensor):
        return ("tensor", id(value.node))
    return ("value", repr(value) if is_number(value) or isinstance(value, str) else id(value))


def _too_deep(span: Span) -> CompileError:
    return CompileError("calls are nested too deeply", span, hint="does it call itself?")


def _is_tensor_type(type: s.TypeExpr | None) -> bool:
    return type is not None and type.dims is not None


def _signature(function: Closure) -> str:
    text = ", ".join(dimension_text_of(p) for p in function.decl.parameters or ())
    return f"`{function.name}({text})`"


def dimension_text_of(parameter: s.Parameter) -> str:
    return parameter.span.source.text[parameter.span.start : parameter.span.end]
