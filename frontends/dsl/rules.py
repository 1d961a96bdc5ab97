"""Rules of a step: functions of parameters or gradients that a spec names, such as `ema(0.99)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft.compiler.errors import CompileError, Span
from weft.compiler.graph import Node
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.arguments import Given
from weft.frontends.dsl.expressions import arguments
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.schedules import Clock
from weft.frontends.dsl.values import Closure, Tensor, describe


@dataclass(frozen=True)
class Rule:
    """A function and its further arguments; `key` is what it is a rule of."""

    key: str
    function: Closure
    given: Sequence[Given]
    place: Span

    @classmethod
    def of(
        cls, interpreter: Interpreter, key: str, value: s.Expression, scope: Scope, example: str
    ) -> Rule:
        """The rule that an expression names; names of time among its parameters are given."""
        given: list[Given] = []
        if isinstance(value, s.Call):
            given = arguments(interpreter, value, scope)
            function = interpreter.evaluate(value.function, scope)
        else:
            function = interpreter.evaluate(value, scope)
        if not isinstance(function, Closure) or function.kind != "fn":
            raise CompileError(
                f"`{key}` is a rule, that is, a function",
                value.span,
                expected=example,
                found=describe(function),
            )
        parameters = [p.name for p in function.decl.parameters or ()]
        named = {g.name for g in given}
        for name, time in Clock.of(interpreter.registry).names().items():
            if name in parameters and name not in named:
                given.append(Given(name, time, value.span))
        return cls(key, function, given, value.span)

    def __call__(self, interpreter: Interpreter, *tensors: Tensor) -> Node:
        """What it makes of tensors, in the type of the first."""
        first = [Given(None, tensor, self.place) for tensor in tensors]
        value = interpreter.call(self.function, [*first, *self.given], self.place)
        if not isinstance(value, Tensor) or value.type != tensors[0].type:
            what = "gradient" if self.key == "clip" else "parameter"
            raise CompileError(
                f"the rule of `{self.key}` gives no tensor in the shape of the {what}",
                self.place,
                expected=f"a result of the {what}'s own shape",
                found=describe(value),
            )
        return value.node
