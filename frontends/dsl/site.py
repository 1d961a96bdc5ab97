"""A call of a function that the language itself provides: its arguments, its place, its errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weft.compiler.errors import CompileError, Span
from weft.compiler.type_rules import TypeRuleError
from weft.compiler.types import SymDim
from weft.frontends.dsl.arguments import Given, counted
from weft.frontends.dsl.diagnostics import SameInEveryCall, and_list, misfit, unknown_argument
from weft.frontends.dsl.values import Builtin, Tensor, Value, as_dim, describe

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter
    from weft.frontends.dsl.modules import Scope

_VERBS = frozenset(("takes", "needs", "names", "counts", "differentiates", "has"))


@dataclass(frozen=True, slots=True)
class Site:
    """Where a built-in is called: for errors, element types and the names of draws."""

    interpreter: Interpreter
    span: Span
    name: str
    given: tuple[Given, ...] = ()
    scope: Scope | None = None  # the caller's, whose layer owns new parameters

    def place(self, value: Value) -> Span:
        """Where a value stands among the arguments; else the whole call."""
        return next((g.span for g in self.given if g.value is value), self.span)

    def tensor(self, value: Value) -> Tensor:
        float_type = self.interpreter.float_type
        return self.interpreter.tensor(value, float_type, self.place(value))

    def wrong(self, message: str, **facts: Any) -> CompileError:
        """An error of the call."""
        return misfit(None, self._about(message), self.span, refuser=self.name, **facts)

    def wrong_value(self, value: Value, message: str, **facts: Any) -> CompileError:
        """An error about one argument."""
        facts.setdefault("found", describe(value))
        place = self.place(value)
        return misfit(value, self._about(message), place, refuser=self.name, **facts)

    def _about(self, message: str) -> str:
        """A message that begins with a verb has the function as its subject."""
        verb = message.split(" ", 1)[0] in _VERBS
        return f"`{self.name}` {message}" if verb else f"`{self.name}`: {message}"

    def whole(self, value: Value, what: str, smallest: int = 0) -> int:
        dim = as_dim(value)
        if dim is None or isinstance(dim, SymDim) or dim < smallest:
            raise self.wrong_value(value, f"{what} is a whole number, at least {smallest}")
        return dim


def call_builtin(
    interpreter: Interpreter,
    function: Builtin,
    given: Sequence[Given],
    span: Span,
    scope: Scope | None = None,
) -> Value:
    site = Site(interpreter, span, function.name, tuple(given), scope)
    positional = [g.value for g in given if g.name is None]
    named = {g.name: g.value for g in given if g.name is not None}
    if named and not any(p.startswith("**") for p in function.parameters):
        for g in given:
            if g.name is not None and g.name not in function.names:
                raise unknown_argument(function.name, g.name, function.names, g.key_span)
    if not function.takes(len(positional), named):
        raise _wrong_count(function, given, span)
    try:
        return function.call(site, *positional, **named)
    except TypeRuleError as error:
        raise CompileError(f"`{function.name}`: {error}", span) from None


def _wrong_count(function: Builtin, given: Sequence[Given], span: Span) -> CompileError:
    """The error for arguments that are missing, too many, or given twice."""
    single = [p.rstrip("=") for p in function.parameters if not p.startswith("*")]
    positional = [g for g in given if g.name is None]
    expected = f"`{function.name}({', '.join(_shown(p) for p in function.parameters)})`"
    if len(positional) > len(single) and len(single) == len(function.parameters):
        extra = positional[len(single)]
        return SameInEveryCall(
            f"`{function.name}` takes {counted(len(single))}, and this is one more",
            extra.span,
            expected=expected,
            found=describe(extra.value),
        )
    names = [*single[: len(positional)], *(g.name for g in given if g.name is not None)]
    missing = [p for p in function.parameters if p[0] != "*" and p[-1] != "=" and p not in names]
    if missing:
        message = f"`{function.name}` needs {and_list(missing)}"
        return SameInEveryCall(message, span, expected=expected)
    twice = next(g for g in given if g.name is not None and names.count(g.name) > 1)
    return SameInEveryCall(f"`{function.name}` is given `{twice.name}` twice", twice.key_span)


def _shown(parameter: str) -> str:
    """`*axes` as `...axes`, `over=` as `over = ...`, `**settings` as `name = ...`."""
    if parameter.startswith("**"):
        return "name = ..."
    if parameter.startswith("*"):
        return f"...{parameter[1:]}"
    return f"{parameter[:-1]} = ..." if parameter.endswith("=") else parameter
