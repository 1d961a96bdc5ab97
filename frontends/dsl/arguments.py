"""Arguments of a call: what they are, and which goes to which parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.compiler.errors import Note, Span
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.diagnostics import SameInEveryCall, unknown_argument
from weft.frontends.dsl.values import Axis, Partial, Value, describe


@dataclass(frozen=True, slots=True)
class Given:
    """One argument of a call: its keyword (or None), its value and its place."""

    name: str | None
    value: Value
    span: Span
    name_span: Span | None = None

    @property
    def key_span(self) -> Span:
        """The place of the keyword, or of the value where there is none."""
        return self.name_span or self.span


def filled(partial: Partial, span: Span) -> list[Given]:
    """The arguments that a function has so far; `span` where their places are unknown."""
    places = partial.places
    return [Given(n, v, places.get(n, span)) for n, v in partial.arguments.items()]


def assign(
    name: str, parameters: Sequence[s.Parameter], arguments: Sequence[Given], span: Span
) -> dict[str, Given]:
    """Arguments by parameter name; defaults are not filled in here."""
    known = [p.name for p in parameters]
    bound: dict[str, Given] = {}
    position = 0
    for given in arguments:
        key = given.name
        if key is None:
            if position >= len(known):
                raise SameInEveryCall(
                    f"`{name}` takes {counted(len(known))}, and this is one more",
                    given.span,
                    expected=f"`{name}({', '.join(known)})`",
                    found=describe(given.value),
                )
            key = known[position]
            position += 1
        elif key not in known:
            raise unknown_argument(name, key, known, given.key_span)
        if key in bound:
            raise SameInEveryCall(
                f"`{name}` is given `{key}` twice",
                given.key_span,
                notes=[Note("first given here", bound[key].key_span)],
            )
        bound[key] = given
    return bound


def counted(n: int) -> str:
    """How many arguments, in words."""
    return "1 argument" if n == 1 else f"{n} arguments"


def static_arguments(values: Mapping[str, Value]) -> dict[str, Value]:
    """The static arguments that describe a composite to a backend, as plain constants."""
    found: dict[str, Value] = {}
    for name, value in values.items():
        items = value if isinstance(value, list | tuple) else [value]
        plain = [v.size if isinstance(v, Axis) else v for v in items]
        if all(isinstance(v, bool | int | float | str) for v in plain):
            found[name] = tuple(plain) if isinstance(value, list | tuple) else plain[0]
    return found
