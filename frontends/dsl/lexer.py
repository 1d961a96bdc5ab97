"""The scanner: text to tokens, deciding where lines end and which words are keywords.

A context-free grammar can't say that `over` is a keyword in `minimize f over D` and a name in
`moments(x, over = [B])`, nor that a line break ends a statement only sometimes. Both are settled
here, by looking one token back and one ahead; grammar.lark states the rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from weft.compiler.errors import CompileError, Note, Source, Span

MAX_DEPTH = 200

DECLARATIONS = (
    "data",
    "fn",
    "layer",
    "model",
    "init",
    "optimizer",
    "schedule",
    "train",
    "study",
    "import",
    "let",
)
# Words that start a line of a body, and words that can only follow an operand.
STATEMENTS = ("let", "param", "state", "for", "gradient", "minimize")
INFIX = frozenset(("and", "or", "in", "then", "over", "with", "when", "else"))
CLOSERS = {"(": ")", "[": "]", "{": "}"}
COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">="))
OPERATORS = frozenset(("|>", "+", "-", "*", "/", "//", "%", "@", "^", *COMPARISONS))

# Clauses of `minimize`, and names everywhere else.
_CLAUSES = frozenset(("over", "with"))
_LITERALS = frozenset(("true", "false"))
_PREFIX = frozenset(("if", "for", "not"))
_CONTINUES = OPERATORS | {
    ",",
    "=",
    "~",
    "<-",
    ".",
    "and",
    "or",
    "not",
    "in",
    "then",
    "over",
    "with",
    "when",
}
_OPERAND_ENDS = frozenset(("NAME", "NUMBER", "UNIT", "PER_CENT", "STRING", ")", "]", "}"))
_OPERAND_STARTS = frozenset(("NAME", "NUMBER", "STRING", "(", "["))

_PATTERN = re.compile(
    r"""
    (?P<SPACE>[ \t\r\f]+)
  | (?P<LINE>\n)
  | (?P<COMMENT>\#[^\n]*)
  | (?P<NAME>[A-Za-z_][A-Za-z_0-9]*)
  | (?P<NUMBER>[0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:[eE][+-]?[0-9]+)?)
  | (?P<STRING>"(?:\\[^\n\0]|[^"\\\n\0])*")
  | (?P<SLIP>\*\*|->|=>|:=|===|[-+*/%@^]=|&&|\|\||/\*|;)
  | (?P<SIGN>\.\.\.|\|>|<-|//|==|!=|<=|>=|[-+*/%@^=<>~.,:()\[\]{}])
    """,
    re.VERBOSE,
)

_SLIPS = {
    "**": "a power is written `x^2`",
    "->": "`<-` updates a state; the type of a result isn't written",
    "=>": "a function is declared with `fn name(x) = ...`",
    ":=": "`let x = ...` declares a name, `x = ...` rebinds it",
    "===": "equality is `==`",
    "&&": "write `and`",
    "||": "write `or`",
    "/*": "comments run from `#` to the end of the line",
    ";": "each statement has a line of its own",
    "&": "write `and`",
    "|": "write `or`; a pipeline is written `|>`",
    "!": "write `not`; unequal is `!=`",
    "'": 'strings have double quotes: `"..."`',
    "\N{LEFT DOUBLE QUOTATION MARK}": 'strings have straight double quotes: `"..."`',
    "\N{RIGHT DOUBLE QUOTATION MARK}": 'strings have straight double quotes: `"..."`',
    "\N{MULTIPLICATION SIGN}": "multiply with `*`",
    "\N{MIDDLE DOT}": "multiply with `*`",
    "\N{MINUS SIGN}": "subtract with `-`",
    "\N{EN DASH}": "subtract with `-`",
    "\N{LEFTWARDS ARROW}": "update with `<-`",
    "\N{NO-BREAK SPACE}": "this is a no-break space: type a plain one",
    "\\": "a line goes on where a bracket is open or it ends in an operator",
}


class Token(NamedTuple):
    """A piece of the text. `kind` is its text for signs and keywords, else NAME, NUMBER, ..."""

    kind: str
    text: str
    start: int
    end: int


class Opener(NamedTuple):
    """An open bracket; inside a block, line breaks count."""

    token: Token
    block: bool


@dataclass(frozen=True, slots=True)
class Scan:
    """The tokens up to the end ($END) or to the first thing that no token can be (ERROR).

    `comments` are tokens of kind COMMENT; `records` holds the offsets of the `{` that open records.
    """

    source: Source
    tokens: tuple[Token, ...]
    comments: tuple[Token, ...]
    records: frozenset[int]
    problem: CompileError | None


def scan(source: Source, start: int = 0, end: int | None = None) -> Scan:
    """Split a source, or a part of it, into tokens.

    A mistake is kept in `problem`, not raised: the parser may find an earlier one.
    """
    end = len(source.text) if end is None else end
    raw, comments, problem = _split(source, start, end)
    reader = _Reader(source, raw)
    problem = reader.read(whole=problem is None) or problem
    if problem is not None:
        span = problem.diagnostic.span
        place = span.start if span is not None else end
        reader.tokens.append(Token("ERROR", "", place, place))
    else:
        reader.tokens.append(Token("$END", "", end, end))
    return Scan(source, tuple(reader.tokens), tuple(comments), frozenset(reader.records), problem)


class _Raw(NamedTuple):
    """A token before its kind is settled. `fresh`: it is the first of its line."""

    kind: str
    text: str
    start: int
    end: int
    fresh: bool


def _split(
    source: Source, offset: int, stop: int
) -> tuple[list[_Raw], list[Token], CompileError | None]:
    """Raw tokens and comments, and what is wrong with the first character that fits neither."""
    text, fresh = source.text, True
    raw: list[_Raw] = []
    comments: list[Token] = []
    match = _PATTERN.match
    while offset < stop:
        found = match(text, offset, stop)
        kind = found.lastgroup if found is not None else None
        if found is None or kind is None or kind == "SLIP":
            return raw, comments, _slip(source, offset, found.group() if found else text[offset])
        end = found.end()
        if kind == "LINE":
            fresh = True
        elif kind == "COMMENT":
            comments.append(Token(kind, found.group().rstrip(), offset, end))
        elif kind != "SPACE":
            piece = found.group()
            raw.append(_Raw(piece if kind == "SIGN" else kind, piece, offset, end, fresh))
            fresh = False
        offset = end
    return raw, comments, None


def _slip(source: Source, offset: int, piece: str) -> CompileError:
    """The error for a character or sign that isn't in the language."""
    span = Span(source, offset, offset + len(piece))
    if piece == '"':
        end = source.text.find("\n", offset)
        end = len(source.text) if end < 0 else end
        if "\0" in source.text[offset:end]:
            return _slip(source, source.text.index("\0", offset), "\0")
        return CompileError(
            "this string has no end",
            Span(source, offset, end),
            expected='a closing `"` on the same line',
            hint='a quote inside a string is written `\\"`',
        )
    if piece == "\0":
        return CompileError("this is not a text file", span, found="a NUL byte")
    hint = _SLIPS.get(piece)
    if piece in ("+=", "-=", "*=", "/=", "%=", "@=", "^="):
        hint = f"write `x = x {piece[0]} ...`, or `x <- x {piece[0]} ...` for a state"
    elif hint is None and piece.isalpha():
        hint = "names are made of the letters a to z, digits and `_`"
    if piece.isprintable() and not piece.isspace():
        return CompileError(f"`{piece}` is not in the language", span, hint=hint)
    return CompileError(
        f"unexpected character U+{ord(piece):04X}", span, hint=hint or "a spec is plain text"
    )


class _Reader:
    """One walk over the raw tokens: line ends, keywords, percents, brackets."""

    def __init__(self, source: Source, raw: list[_Raw]) -> None:
        self.source = source
        self.raw = raw
        self.tokens: list[Token] = []
        self.open: list[Opener] = []
        self.records: list[int] = []
        self.heads = [""]  # what began the statement, in each block that is open

    def read(self, whole: bool) -> CompileError | None:
        """Fill `tokens`; the answer is what stopped it, if anything did.

        `whole`: the raw tokens are all there are, so that every bracket must close.
        """
        for i, token in enumerate(self.raw):
            previous = self.tokens[-1].kind if self.tokens else "NEWLINE"
            following = self.raw[i + 1] if i + 1 < len(self.raw) else None
            if token.fresh and self.open and self._declares(i):
                return self._unclosed(Span(self.source, token.start, token.end))
            if token.fresh and self._ends_line(token, previous, following):
                end = self.tokens[-1].end
                self.tokens.append(Token("NEWLINE", "\n", end, end))
                previous = "NEWLINE"
            start = previous == "NEWLINE" or (previous == "{" and self.open[-1].block)
            kind = token.kind
            if kind == "NAME":
                kind = self._word(i, previous, start)
            elif kind == "%" and self._is_percent(i, previous):
                kind = "PER_CENT"
            if start:
                self.heads[-1] = kind
            settled = Token(kind, token.text, token.start, token.end)
            if kind in CLOSERS:
                # A brace right after an operand or a keyword opens a body; elsewhere an operand is
                # due, and it opens a record.
                block = kind == "{" and not start and _opens_block(previous)
                self.open.append(Opener(settled, block))
                self.heads += [""] if block else []
                if kind == "{" and not block:
                    self.records.append(token.start)
                if len(self.open) > MAX_DEPTH:
                    return too_deep(Span(self.source, token.start, token.end))
            elif kind in (")", "]", "}"):
                problem = self._close(settled)
                if problem is not None:
                    return problem
            self.tokens.append(settled)
        if self.open and whole:
            end = self.tokens[-1].end
            return self._unclosed(Span(self.source, end, end), "end of text")
        return None

    def _ends_line(self, token: _Raw, previous: str, following: _Raw | None) -> bool:
        """Does the line before this token, the first of its own, end a statement?"""
        if not self.tokens or (self.open and not self.open[-1].block):
            return False
        if previous in _CONTINUES or token.kind in ("|>", "}"):
            return False
        if previous == "{" and self.open:
            return False
        if token.text == "else":
            return previous != "}"
        if token.text in _CLAUSES and self.heads[-1] == "minimize":
            return following is not None and following.kind == "="
        return True

    def _word(self, i: int, previous: str, start: bool) -> str:
        """NAME, UNIT or, where the language wants the keyword, the word itself."""
        token = self.raw[i]
        word = token.text
        following = self.raw[i + 1] if i + 1 < len(self.raw) else None
        after = following.kind if following is not None else ""
        if previous == ".":
            return "NAME"
        if word in _LITERALS or (start and not self.open and word in DECLARATIONS):
            return word
        operand = previous in _OPERAND_ENDS or previous in _LITERALS
        if word in _CLAUSES:
            return word if operand and self.heads[-1] == "minimize" else "NAME"
        if operand and word in INFIX:
            return word
        if after in ("=", ":") and previous != "let":
            return "NAME"
        if word in _PREFIX:
            return word
        if word == "when":
            signs = [token.kind for token in self.raw[i + 1 : i + 3]]
            return word if signs in (["NAME", "{"], ["NAME", ":"]) else "NAME"
        alone = following is None or following.fresh
        if start and self._starts_statement(i, word, "" if alone else after):
            return word
        return "UNIT" if previous == "NUMBER" and not token.fresh else "NAME"

    def _starts_statement(self, i: int, word: str, after: str) -> bool:
        if word in ("let", "param", "state"):
            return after == "NAME"
        if word == "minimize":
            return after not in (".", "<-", ",", "")
        if word == "gradient":
            signs = [token.kind for token in self.raw[i + 1 : i + 5]]
            return signs[:1] == ["{"] or signs == ["(", "NAME", ")", "{"]
        return False

    def _is_percent(self, i: int, previous: str) -> bool:
        if previous != "NUMBER" or self.raw[i].start != self.raw[i - 1].end:
            return False
        following = self.raw[i + 1] if i + 1 < len(self.raw) else None
        return (
            following is None
            or following.fresh
            or following.kind not in _OPERAND_STARTS
            or following.text in INFIX
        )

    def _declares(self, i: int) -> bool:
        """Does a declaration begin here, in the first column, so that a bracket is missing?"""
        token, rest = self.raw[i], self.raw[i + 1 : i + 3]
        if token.start and self.source.text[token.start - 1] != "\n":
            return False
        kinds = [item.kind for item in rest]
        if token.text in ("train", "study") and kinds[:1] == ["{"]:
            return True
        if token.text == "import":
            return kinds[:1] == ["STRING"]
        return (
            token.text in DECLARATIONS
            and token.text != "let"
            and kinds[:1] == ["NAME"]
            and kinds[1:] in (["("], ["{"], ["="])
        )

    def _close(self, token: Token) -> CompileError | None:
        span = Span(self.source, token.start, token.end)
        if not self.open:
            pair = next(opener for opener, closer in CLOSERS.items() if closer == token.text)
            hint = f"take it away, or write the `{pair}` that it closes"
            return CompileError(f"`{token.text}` closes nothing", span, hint=hint)
        opener = self.open[-1].token
        wanted = CLOSERS[opener.text]
        if token.text != wanted:
            return CompileError(
                f"missing `{wanted}`",
                span,
                expected=f"`{wanted}`",
                found=f"`{token.text}`",
                notes=[self.opener_note(opener)],
            )
        if self.open.pop().block:
            self.heads.pop()
        return None

    def _unclosed(self, span: Span, found: str | None = None) -> CompileError:
        opener = self.open[-1].token
        wanted = CLOSERS[opener.text]
        return CompileError(
            f"missing `{wanted}`",
            span,
            expected=f"`{wanted}`",
            found=found or f"`{span.source.text[span.start : span.end]}`, a new declaration",
            notes=[self.opener_note(opener)],
        )

    def opener_note(self, opener: Token) -> Note:
        return Note(f"`{opener.text}` opens here", Span(self.source, opener.start, opener.end))


def _opens_block(previous: str) -> bool:
    return (
        previous in _OPERAND_ENDS
        or previous in _LITERALS
        or previous in ("else", "train", "study", "gradient", "data")
    )


def too_deep(span: Span) -> CompileError:
    """The error for nesting that no reader could follow."""
    return CompileError(
        f"nested more than {MAX_DEPTH} levels deep",
        span,
        hint="name parts of it with `let`",
    )
