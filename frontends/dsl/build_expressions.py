"""From the rules of expressions to their nodes; build.py has the other rules and the principle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from weft.compiler.errors import CompileError, Note, Source, Span, did_you_mean
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.lexer import Token

Part = Token | s.Node
N = TypeVar("N", bound=s.Node)

_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}
_LONGEST_NUMBER = 300
_UNITS = ("epochs", "epoch", "steps", "step", "%")
_TIMES = ("seconds", "second", "minutes", "minute", "hours", "hour", "days", "iterations")


def nodes(parts: Iterable[Part], kind: type[N]) -> tuple[N, ...]:
    return tuple(part for part in parts if isinstance(part, kind))


def texts(parts: Iterable[Part]) -> list[str]:
    return [part.text if isinstance(part, Token) else "" for part in parts]


class ExpressionBuilder:
    """Makes the expressions of one source; `Builder` adds the rest."""

    def __init__(self, source: Source) -> None:
        self.source = source

    # ---- places and checks ----------------------------------------------------------------------

    def span(self, parts: Sequence[Part]) -> Span:
        """From the first part to the last."""
        first, last = parts[0], parts[-1]
        start = first.start if isinstance(first, Token) else first.span.start
        return Span(self.source, start, last.end if isinstance(last, Token) else last.span.end)

    def token(self, part: Part) -> Token:
        assert isinstance(part, Token)
        return part

    def expression(self, part: Part) -> s.Expression:
        assert isinstance(part, s.Expression)
        return part

    def distinct(self, what: str, places: Iterable[tuple[str, Span]]) -> None:
        """Refuse a name that is given twice."""
        first: dict[str, Span] = {}
        for name, span in places:
            if name in first:
                raise CompileError(
                    f"{what} `{name}` is given twice".lstrip(),
                    span,
                    notes=[Note("first here", first[name])],
                )
            first[name] = span

    def plain(self, body: s.Block) -> s.Block:
        """The block, which is no place for a `gradient` clause."""
        for clause in nodes(body.statements, s.GradientClause):
            raise CompileError(
                "a `gradient` clause belongs directly in the body of a `fn`",
                s.part(clause.span, "gradient"),
                hint="state it in a `fn` that this body calls",
            )
        return body

    # ---- expressions ----------------------------------------------------------------------------

    def pipe(self, parts: list[Part]) -> s.Pipe:
        value, call = self.expression(parts[0]), self.expression(parts[2])
        return s.Pipe(value, call, span=self.span(parts))

    def binary(self, parts: list[Part]) -> s.Binary:
        left, sign, right = parts
        return s.Binary(
            self.token(sign).text,
            self.expression(left),
            self.expression(right),
            span=self.span(parts),
            op_span=self.span([sign]),
        )

    def unary(self, parts: list[Part]) -> s.Unary:
        sign, operand = self.token(parts[0]), self.expression(parts[1])
        return s.Unary(sign.text, operand, span=self.span(parts))

    def attribute(self, parts: list[Part]) -> s.Attribute:
        value, name = self.expression(parts[0]), self.token(parts[2])
        return s.Attribute(value, name.text, span=self.span(parts))

    def call(self, parts: list[Part]) -> s.Call:
        arguments = nodes(parts, s.Argument)
        named = [item for item in arguments if item.name is not None]
        keys = ((item.name or "", item.name_span or item.span) for item in named)
        self.distinct("the argument", keys)
        for item in arguments[len(arguments) - len(named) :]:
            if item.name is None:
                raise CompileError(
                    "an argument without a name follows one with a name",
                    item.span,
                    hint="put it first, or name it: `key = value`",
                )
        return s.Call(self.expression(parts[0]), arguments, span=self.span(parts))

    def argument(self, parts: list[Part]) -> s.Argument:
        name = self.token(parts[0]).text if len(parts) > 1 else None
        return s.Argument(name, self.expression(parts[-1]), span=self.span(parts))

    def index(self, parts: list[Part]) -> s.Index:
        items = nodes(parts[1:], s.Expression)
        return s.Index(self.expression(parts[0]), items, span=self.span(parts))

    def slice(self, parts: list[Part]) -> s.Slice:
        bounds: list[s.Expression | None] = [None]
        for part in parts:
            if isinstance(part, Token):
                bounds.append(None)
            else:
                bounds[-1] = self.expression(part)
        start, stop, step = (*bounds, None)[:3]
        return s.Slice(start, stop, step, span=self.span(parts))

    def name(self, parts: list[Part]) -> s.Name:
        return s.Name(self.token(parts[0]).text, span=self.span(parts))

    def number(self, parts: list[Part]) -> s.Number:
        token = self.token(parts[0])
        return s.Number(self.value(token), token.text, span=self.span(parts))

    def quantity(self, parts: list[Part]) -> s.Quantity:
        number, unit = self.token(parts[0]), self.token(parts[1])
        if unit.text not in _UNITS:
            near = did_you_mean(unit.text, _UNITS)
            product = f"to multiply, write `{number.text} * {unit.text}`"
            raise CompileError(
                f"`{unit.text}` is no unit of training time",
                self.span([unit]),
                expected="`epochs`, `steps` or `%`",
                found=f"`{unit.text}`",
                hint=near or (None if unit.text in _TIMES else product),
            )
        return s.Quantity(self.value(number), unit.text, number.text, span=self.span(parts))

    def value(self, token: Token) -> int | float:
        """The number that a token writes."""
        text = token.text.replace("_", "")
        if len(text) <= _LONGEST_NUMBER:
            value = int(text) if text.isdigit() else float(text)
            if value != float("inf"):
                return value
        raise CompileError(
            "this number is too large", self.span([token]), expected="at most about 1e308"
        )

    def string(self, parts: list[Part]) -> s.String:
        return s.String(self.unquote(self.token(parts[0])), span=self.span(parts))

    def unquote(self, token: Token) -> str:
        """The text that a string token stands for."""

        def resolve(match: re.Match[str]) -> str:
            letter = match.group(1)
            if letter not in _ESCAPES:
                start = token.start + 1 + match.start()
                raise CompileError(
                    f"unknown escape `\\{letter}` in a string",
                    Span(self.source, start, start + 2),
                    expected='`\\"`, `\\\\`, `\\n` or `\\t`',
                    hint="a backslash itself is written `\\\\`",
                )
            return _ESCAPES[letter]

        return re.sub(r"\\(.)", resolve, token.text[1:-1])

    def boolean(self, parts: list[Part]) -> s.Boolean:
        return s.Boolean(self.token(parts[0]).text == "true", span=self.span(parts))

    def group(self, parts: list[Part]) -> s.Expression:
        return replace(self.expression(parts[1]), span=self.span(parts))

    def items(self, parts: list[Part]) -> s.ListExpr:
        return s.ListExpr(nodes(parts, s.Expression), span=self.span(parts))

    def record(self, parts: list[Part]) -> s.Record:
        entries = nodes(parts, s.Entry)
        self.distinct("the key", ((item.name, item.name_span) for item in entries))
        return s.Record(entries, span=self.span(parts))

    def entry(self, parts: list[Part]) -> s.Entry:
        key, value = self.token(parts[0]), self.expression(parts[2])
        name = self.unquote(key) if key.kind == "STRING" else key.text
        return s.Entry(name, value, span=self.span(parts))

    def choice(self, parts: list[Part]) -> s.If:
        then = parts[2]
        assert isinstance(then, s.Block)
        otherwise = parts[4] if len(parts) > 3 else None
        assert otherwise is None or isinstance(otherwise, s.Block | s.If)
        if isinstance(otherwise, s.Block):
            self.plain(otherwise)
        condition = self.expression(parts[1])
        return s.If(condition, self.plain(then), otherwise, span=self.span(parts))

    def phase(self, parts: list[Part]) -> s.When:
        condition = self.token(parts[1])
        if condition.text not in ("training", "epoch_end"):
            raise CompileError(
                "`when` tells training from evaluation",
                self.span([condition]),
                expected="`training`",
                found=f"`{condition.text}`",
                hint="for a condition that is known before anything runs, write `if`",
            )
        then, *rest = (self.plain(block) for block in nodes(parts, s.Block))
        if rest and condition.text == "epoch_end":
            raise CompileError(
                "`when epoch_end` has no `else`",
                rest[0].span,
                hint="what stands outside of `when epoch_end` runs in every step",
            )
        return s.When(condition.text, then, rest[0] if rest else None, span=self.span(parts))
