"""Models that are not trained but follow another: `model teacher = net.copy(ema(0.99))`.

    net, after its update   \\
    teacher, as it was      --rule--> teacher, as the next step and evaluation see it

A copy has the layer and the settings of the model that it follows, and begins with its values.
"""

from __future__ import annotations

from dataclasses import replace

from weft.compiler.errors import CompileError
from weft.compiler.graph import locate
from weft.compiler.program import State
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Module, Scope
from weft.frontends.dsl.registry import Registry
from weft.frontends.dsl.rules import Rule
from weft.frontends.dsl.values import Followed, Model, describe, unlabelled

_EXAMPLE = "a rule, such as `net.copy(ema(0.99))`"


def copied(interpreter: Interpreter, module: Module, declaration: s.ModelDecl) -> Model | None:
    """The model of a declaration `model name = other.copy(rule)`; None for one of another form."""
    call = declaration.value
    if not (
        isinstance(call, s.Call)
        and isinstance(call.function, s.Attribute)
        and call.function.name == "copy"
    ):
        return None
    source = interpreter.evaluate(call.function.value, Scope(module))
    if not isinstance(source, Model):
        raise CompileError(
            "only a model has copies", call.function.value.span, found=describe(source)
        )
    if source.follows is not None:
        raise CompileError(
            f"`{source.name}` is a copy itself",
            call.function.value.span,
            hint=f"copy what it follows: `{source.follows.model.name}.copy(...)`",
        )
    if len(call.arguments) != 1 or call.arguments[0].name is not None:
        raise CompileError(
            f"a copy of `{source.name}` says by one rule how it follows",
            call.span,
            expected=_EXAMPLE,
        )
    follows = Followed(source, call.arguments[0].value, module)
    return Model(
        declaration.name,
        source.function,
        source.arguments,
        declaration,
        places=source.places,
        follows=follows,
    )


def follow(interpreter: Interpreter, models: list[Model]) -> None:
    """Updates the states of copies at the end of a training pass, by those that they follow.

    What calls of a copy have updated themselves in the pass, such as running statistics, stays.
    """
    registry = interpreter.registry
    for model in models:
        assert model.follows is not None
        rule = Rule.of(
            interpreter, "copy", model.follows.rule, Scope(model.follows.module), _EXAMPLE
        )
        for name in model.states:
            source = _source(registry, model, name)
            registry.states[name] = replace(
                registry.states[name], init=source.init, owner=source.name
            )
            if name not in interpreter.updates:
                old, new = registry.inputs[name], interpreter.read(source.name)
                floating = source.type.dtype.kind == "float"
                value = rule(interpreter, unlabelled(old), unlabelled(new)) if floating else new
                interpreter.updates[name] = locate(value, rule.place)


def _source(registry: Registry, model: Model, name: str) -> State:
    """The state that one of a copy follows."""
    assert model.follows is not None
    followed = model.follows.model
    source = registry.states.get(followed.name + name.removeprefix(model.name))
    if source is None:
        raise CompileError(
            f"`{model.name}` is a copy of `{followed.name}`, which nothing calls",
            model.decl.span,
            expected=f"a call of `{followed.name}` in what `train` minimises",
        )
    if source.type != registry.states[name].type:
        raise CompileError(
            f"`{model.name}` and `{followed.name}`, which it copies, get inputs of other shapes",
            model.decl.span,
            expected=f"`{name}: {source.type}`",
            found=str(registry.states[name].type),
        )
    return source
