"""Errors and warnings that point at the source: place, expectation, finding, next step.

digits.weft:12:9: error: `dense` has no parameter named `hiden`
   |
12 |   x |> dense(hiden = 3)
   |              ^^^^^
   = expected: one of `units`, `bias`, `init`
   = found: `hiden`
   = help: did you mean `units`?
"""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Source:
    """A named piece of text; turns character offsets into lines and columns."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(i + 1 for i, c in enumerate(self.text) if c == "\n")]

    def position(self, offset: int) -> tuple[int, int]:
        """The 1-based (line, column) of a character offset."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a 1-based line, without its line break."""
        start = self._starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start:] if end < 0 else self.text[start:end]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of a source."""

    source: Source = field(repr=False)
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        return self.source.position(self.start)[1]

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    def __repr__(self) -> str:
        return f"Span({self})"

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`."""
        return Span(self.source, self.start, other.end)


@dataclass(frozen=True)
class Note:
    """A further place that explains a diagnostic, such as the call that led to it."""

    message: str
    span: Span | None = None


@dataclass(frozen=True)
class Diagnostic:
    """What is wrong, where, what was expected, what was found, and what to do about it."""

    message: str
    span: Span | None = None
    expected: str | None = None
    found: str | None = None
    hint: str | None = None
    notes: tuple[Note, ...] = ()
    severity: str = "error"

    def render(self) -> str:
        """The diagnostic as plain text, ending without a line break."""
        if self.span is None:
            lines, gutter = [f"{self.severity}: {self.message}"], " "
        else:
            lines, gutter = _excerpt(self.span, f"{self.severity}: {self.message}")
        facts = (("expected", self.expected), ("found", self.found), ("help", self.hint))
        lines += [f"{gutter} = {label}: {text}" for label, text in facts if text]
        for note in self.notes:
            if note.span is None:
                lines.append(f"{gutter} = note: {note.message}")
            else:
                lines += _excerpt(note.span, f"note: {note.message}")[0]
        return "\n".join(lines)


def _excerpt(span: Span, headline: str) -> tuple[list[str], str]:
    """Headline, source line and caret for a span, and the gutter that facts align with."""
    number, column = span.source.position(span.start)
    text = span.source.line(number)
    width = max(1, min(span.end - span.start, len(text) - column + 1))
    gutter = " " * len(str(number)) + " "
    shown, offset = _window(text, column - 1)
    marker = "".join("\t" if c == "\t" else " " for c in shown[:offset])
    marker += "^" * min(width, max(1, len(shown) - offset))
    return [
        f"{span}: {headline}",
        f"{gutter}|",
        f"{number} | {_printable(shown)}",
        f"{gutter}| {marker}",
    ], gutter


def _window(text: str, offset: int, limit: int = 120) -> tuple[str, int]:
    """At most `limit` characters of a long line around `offset`, and the offset within them."""
    if len(text) <= limit:
        return text, offset
    start = max(0, min(offset - limit // 2, len(text) - limit))
    return text[start : start + limit], offset - start


def _printable(text: str) -> str:
    return "".join(c if c == "\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class WeftError(Exception):
    """A mistake that the user can mend; shown as its diagnostic, never as a traceback."""

    def __init__(
        self,
        message: str,
        span: Span | None = None,
        *,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
        notes: Iterable[Note] = (),
    ) -> None:
        self.diagnostic = Diagnostic(message, span, expected, found, hint, tuple(notes))
        super().__init__(message)

    def __str__(self) -> str:
        return self.diagnostic.render()


class CompileError(WeftError):
    """A mistake in a specification, found before anything runs."""


class RunError(WeftError):
    """A failure while running: data, checkpoints, non-finite numbers, a missing backend."""


class InternalError(Exception):
    """A broken invariant of the compiler itself: a bug in Weft, not in the specification."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """A hint naming the closest of the known names, or None when nothing is close.

    `cutoff`: from 0 (anything is close) to 1 (nothing but the name is); case doesn't count.
    """
    folded: dict[str, str] = {}
    for candidate in sorted(set(known) - {name}):
        folded.setdefault(candidate.lower(), candidate)
    close = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=cutoff)
    return f"did you mean `{folded[close[0]]}`?" if close else None


def one_of(names: Iterable[str]) -> str:
    """`a`, `b` or `c`, for the expectation line of a message."""
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 2:
        return "".join(quoted) or "nothing"
    return ", ".join(quoted[:-1]) + f" or {quoted[-1]}"
