"""Errors of elaboration: their kinds, their usual hints, and how they travel out of calls.

An error in a user's function gets the calls that led to it as notes; one in library code is shown
at the user's own call, or at the argument of it that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from weft.compiler.errors import CompileError, Note, Span, did_you_mean, one_of
from weft.frontends.dsl.elsewhere import FUNCTIONS, RELATIVES, argument_elsewhere, elsewhere
from weft.frontends.dsl.values import (
    Batches,
    Builtin,
    Closure,
    Dataset,
    Model,
    Partial,
    Quantity,
    Tensor,
    Value,
    describe,
    is_number,
)

if TYPE_CHECKING:
    from weft.frontends.dsl.arguments import Given

CALLED = "in this call of"


class SameInEveryCall(CompileError):
    """A mistake in a body that no argument could mend: the calls that lead there say nothing."""


class UnknownName(SameInEveryCall):
    """A name that nothing declares."""

    def __init__(self, name: str, span: Span, local: Iterable[str], known: Iterable[str]) -> None:
        self.name = name
        names = list(dict.fromkeys(local))
        hint = did_you_mean(name, names) or elsewhere(name, FUNCTIONS)
        # Among many names, what is meant must be closer than among few.
        hint = hint or did_you_mean(name, [*names, *known], cutoff=0.75)
        if hint is None and "theta" in names:
            hint = "an optimiser sees `theta`, `grad`, `t`, `step`, its arguments and its states"
        elif hint is None and 0 < len(names) <= 8:
            hint = f"the names of this body are {and_list(names)}"
        super().__init__(f"`{name}` is not defined", span, hint=hint)


class Misfit(CompileError):
    """An error about one value: shown at the argument that has it, when that is the user's."""

    value: Value = None
    refuser: str | None = None  # the function that refused it

    def about(self, value: Value) -> Misfit:
        """The same error, about the value that the caller knows this one as."""
        d = self.diagnostic
        if isinstance(self.value, Tensor) and d.found is not None:
            found = d.found.replace(describe(self.value), describe(value))
            self.diagnostic = replace(d, found=found)
        self.value = value
        return self


def misfit(
    value: Value,
    message: str,
    span: Span | None,
    *,
    expected: str | None = None,
    found: str | None = None,
    hint: str | None = None,
    notes: Iterable[Note] = (),
    refuser: str | None = None,
) -> Misfit:
    """An error about `value`, or about a call when that is None."""
    error = Misfit(message, span, expected=expected, found=found, hint=hint, notes=notes)
    error.value, error.refuser = value, refuser
    return error


def and_list(names: Iterable[str]) -> str:
    """`a`, `b` and `c`."""
    *most, last = [f"`{name}`" for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def unknown_argument(function: str, key: str, known: Sequence[str], span: Span) -> CompileError:
    """`dense` has no argument `baise`."""
    hint = did_you_mean(key, known)
    other = argument_elsewhere(key, known)
    if other is not None:
        hint = f"here it is called `{other}`"
    elif (function, key) in RELATIVES:
        hint = RELATIVES[function, key]
    return SameInEveryCall(
        f"`{function}` has no argument `{key}`",
        span,
        expected=one_of(known) if known else "no argument",
        hint=hint,
    )


def not_a_tensor(value: Value, span: Span) -> CompileError:
    """Something that arithmetic can't take."""
    hint = None
    match value:
        case Partial() if value.function.kind == "schedule":
            hint = "a schedule stands for a rate of an optimiser: `with adam(lr = cosine(1e-3))`"
        case Partial() | Closure() if _kind(value) == "optimizer":
            hint = "an optimiser stands after `with`: `minimize ... with adam(1e-3)`"
        case Closure() | Builtin():
            hint = f"call it: `{value.name}(...)`"
        case Model():
            hint = f"call it: `{value.name}(x)`"
        case Dataset() | Batches():
            hint = "in `train`, the fields of the data go by their names alone"
        case Quantity():
            hint = "a unit makes a duration or a share: leave it out to have a number"
        case str():
            hint = "numbers and names have no quotes"
        case list() | tuple():
            hint = "`stack` makes one tensor of a list of them"
        case None:
            hint = "an `if` without `else` may have no value"
    return misfit(
        value, "a tensor or a number is needed here", span, found=describe(value), hint=hint
    )


def _kind(value: Closure | Partial) -> str:
    return value.kind if isinstance(value, Closure) else value.function.kind


# -- the way out of calls -------------------------------------------------------------------------


def called(error: CompileError, function: Closure, name: str, span: Span) -> CompileError:
    """An error in the body of a user's function, with the call that led there as a note."""
    d = error.diagnostic
    if isinstance(error, SameInEveryCall):
        return error
    calls = [n.span for n in d.notes if n.message.startswith(CALLED)]
    place = calls[-1] if calls else d.span
    note = Note(f"{CALLED} `{name}`", span)
    outside = span.start < span.end and not _within(span, function.decl.span)
    if outside and place is not None and _within(place, function.decl.span):
        error.diagnostic = replace(d, notes=(*d.notes, note))
    return error


def _within(inner: Span, outer: Span) -> bool:
    same = inner.source is outer.source
    return same and outer.start <= inner.start and inner.end <= outer.end


def from_library(
    error: CompileError, function: Closure, given: Sequence[Given], span: Span
) -> CompileError:
    """An error in library code, shown at the user's call of it, or the argument that is wrong."""
    d = error.diagnostic
    if d.span is None or not d.span.source.name.startswith("library/"):
        return error
    message, notes = d.message, d.notes
    if isinstance(error, Misfit):
        # Which functions the library calls is its own business, and so are their arguments.
        if error.refuser is not None and error.refuser != function.name:
            message = message.replace(f"`{error.refuser}`", f"`{function.name}`", 1)
            message = re.sub(r"^(\S+ can't take this) as `\w+`$", r"\1", message)
        matching = [g for g in given if _same(g.value, error.value)]
        if len(matching) == 1:
            error.about(matching[0].value)
            d, span = error.diagnostic, matching[0].span
    else:
        notes = (Note(f"inside `{function.name}`", d.span), *notes)
    return CompileError(message, span, expected=d.expected, found=d.found, hint=d.hint, notes=notes)


def _same(a: Value, c: Value) -> bool:
    if isinstance(a, Tensor) and isinstance(c, Tensor):
        return a.node is c.node
    if is_number(a) or isinstance(a, str):
        return type(a) is type(c) and bool(a == c)
    if isinstance(a, list) and isinstance(c, list):
        return a == c
    return a is c and a is not None
