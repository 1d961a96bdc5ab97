"""Calls: of closures, models and built-ins; arguments bound and checked; errors at the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.compiler.errors import CompileError, Note, Span, did_you_mean, one_of
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.builtins import Failure, call_builtin
from weft.frontends.dsl.composite import wrap
from weft.frontends.dsl.modules import Frame, Scope, library
from weft.frontends.dsl.registry import fans, static_sizes
from weft.frontends.dsl.signatures import Binding, Given, assign
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
                return call_builtin(interpreter, function, given, span)
            case Closure():
                return _call_closure(interpreter, function, given, span, scope)
            case Partial():
                filled = [Given(n, v, span) for n, v in function.arguments.items()]
                return _call_closure(interpreter, function.function, [*given, *filled], span, scope)
            case Model():
                return _call_model(interpreter, function, given, span)
            case _:
                raise CompileError(
                    f"{describe(function)} is not a function",
                    span,
                    hint="one argument too many, or a missing operator?",
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
        bound = assign(function.name, function.decl.parameters or (), given, span)
        return Partial(function, {k: g.value for k, g in bound.items()})
    frame = None
    if function.kind == "layer":
        outer = scope.frame if scope is not None else None
        if outer is None:
            raise CompileError(
                f"`{function.name}` is a layer, and only models and layers own layers",
                span,
                hint=f"declare `model name = {function.name}(...)` and call the model",
            )
        frame = outer.child(function.name)
    return _run(interpreter, function, given, span, frame)


def _call_model(interpreter: Interpreter, model: Model, given: list[Given], span: Span) -> Value:
    key = (model.name, *(_identity(g.value) for g in given), *(g.name for g in given))
    if key in interpreter.memo:
        return interpreter.memo[key][1]
    count = interpreter.draws[model.name] = interpreter.draws.get(model.name, 0) + 1
    suffix = "" if count == 1 else f"_{count}"
    frame = Frame(model, model.name, f"{interpreter.statement}.{model.name}{suffix}")
    fixed = [Given(n, v, model.decl.span) for n, v in model.arguments.items()]
    value = _run(interpreter, model.function, [*given, *fixed], span, frame)
    interpreter.memo[key] = (tuple(g.value for g in given), value)
    return value


def _run(
    interpreter: Interpreter, function: Closure, given: list[Given], span: Span, frame: Frame | None
) -> Value:
    """Run a function's body: bind arguments, match types, evaluate, give labels back."""
    entering = function.module.is_library and interpreter.site is None
    if entering:
        interpreter.site = span
    before = interpreter.statement
    if frame is not None:
        interpreter.statement = frame.stream
    try:
        return _apply(interpreter, function, given, span, frame)
    except CompileError as error:
        if entering:
            raise _at_call(error, function, span) from None
        raise
    finally:
        interpreter.statement = before
        if entering:
            interpreter.site = None


def _apply(
    interpreter: Interpreter, function: Closure, given: list[Given], span: Span, frame: Frame | None
) -> Value:
    scope, binding, values = bind(interpreter, function, given, span, frame)
    wrapped = interpreter.composites and (
        function.module.is_library or getattr(function.decl, "gradient", None) is not None
    )
    if wrapped:
        result = wrap(interpreter, function, scope, values)
    else:
        result = interpreter.body(function.decl.body, scope)
    if result is None:
        raise CompileError(
            f"`{function.name}` has no result",
            span,
            expected="a body that ends in an expression",
            notes=[Note("declared here", function.decl.name_span)],
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

    def steps(quantity: Quantity, place: Span) -> int:
        return to_steps(interpreter, quantity, place)

    binding = Binding(
        function.name,
        scope,
        interpreter.evaluate,
        interpreter.registry.float_type,
        steps,
    )
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
            raise CompileError(
                f"`{function.name}` needs {one_of(missing)}",
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


def to_steps(interpreter: Interpreter, quantity: Quantity, span: Span) -> int:
    """A duration in steps."""
    registry = interpreter.registry
    if quantity.value < 0:
        raise CompileError("a duration can't be negative", span, found=str(quantity))
    match quantity.unit:
        case "step" | "steps":
            return round(quantity.value)
        case "epoch" | "epochs" if registry.steps_per_epoch is not None:
            return round(quantity.value * registry.steps_per_epoch)
        case "%" if registry.steps is not None:
            return round(quantity.value * registry.steps / 100)
        case "epoch" | "epochs" | "%":
            raise CompileError(
                "this duration has no meaning outside of `train`", span, found=str(quantity)
            )
    raise CompileError(
        f"`{quantity.unit}` is no unit of training time",
        span,
        expected="`epochs`, `steps` or `%`",
        found=str(quantity),
        hint=did_you_mean(quantity.unit, ["epochs", "epoch", "steps", "step"]),
    )


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
    return Partial(Closure(declaration, module), arguments)


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


def _at_call(error: CompileError, function: Closure, span: Span) -> CompileError:
    """An error inside library code, shown at the user's call with the inner place as a note."""
    d = error.diagnostic
    if d.span is None or not d.span.source.name.startswith("library/"):
        return error
    notes = d.notes
    if not isinstance(error, Failure):
        notes = (Note(f"inside `{function.name}`", d.span), *notes)
    return CompileError(
        d.message, span, expected=d.expected, found=d.found, hint=d.hint, notes=notes
    )
