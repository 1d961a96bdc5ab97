"""What to say about a token that doesn't fit: the likely slip, in the words of the language."""

from __future__ import annotations

from collections.abc import Iterable

from weft.compiler.errors import CompileError, Note, Span, did_you_mean, one_of
from weft.frontends.dsl.lexer import (
    CLOSERS,
    COMPARISONS,
    DECLARATIONS,
    OPERATORS,
    STATEMENTS,
    Scan,
    Token,
)
from weft.frontends.dsl.tables import Tables, is_rule

_STARTS_EXPRESSION = frozenset(
    ("NAME", "NUMBER", "STRING", "true", "false", "(", "[", "{", "-", "not", "if", "when", "...")
)
_FOLLOWS_OPERAND = OPERATORS | {"and", "or", "then", ".", "(", "[", "UNIT", "PER_CENT"}
_WORDS = {
    "NAME": "a name",
    "STRING": "a string",
    "NUMBER": "a number",
    "NEWLINE": "a new line",
    "$END": "the end of the text",
}
# Words of other languages, and what they are in this one.
_ELSEWHERE = {
    "class": "a `layer` owns parameters; `model name = layer(...)` makes one",
    "def": "a function is declared with `fn name(x) = ...` or `fn name(x) { ... }`",
    "func": "a function is declared with `fn name(x) = ...`",
    "function": "a function is declared with `fn name(x) = ...`",
    "const": "a name is declared with `let`",
    "var": "a name is declared with `let`",
    "dataset": "data is declared with `data name { ... }`",
    "module": "a `layer` owns parameters; `model name = layer(...)` makes one",
    "network": "`model name = layer(...)` makes a network",
    "return": "the last expression of a body is its value",
    "elif": "write `else if`",
    "elseif": "write `else if`",
    "while": "`for` is unrolled when compiling; `scan` loops in the graph",
    "loss": "an objective is stated with `minimize ... with ...`",
    "from": 'another file is read with `import "file.weft"`',
}
_IN_BODIES = tuple(word for word in STATEMENTS if word != "minimize")
_WITH_BODY = ("fn", "layer", "init", "optimizer", "schedule")
_BELONGS = {
    "param": "`param` belongs in the body of a `layer`",
    "state": "`state` belongs in the body of a `layer`, `optimizer` or `schedule`",
    "minimize": "`minimize` belongs in `train`",
    "gradient": "a `gradient` clause belongs in the body of a `fn`",
    "for": "`for` belongs in a body",
}


def explain(scan: Scan, tables: Tables, origin: int, position: int) -> CompileError:
    """The error for the token at `position`, the first that no rule can take."""
    token = scan.tokens[position]
    if token.kind == "ERROR" and scan.problem is not None:
        return scan.problem
    expected = _expected(scan, tables, origin, position)
    return _Slip(scan, position, expected).error()


def _expected(scan: Scan, tables: Tables, origin: int, position: int) -> frozenset[str]:
    """The kinds of token that could stand at `position`."""
    path = [origin]
    for token in scan.tokens[:position]:
        _advance(tables, path, token.kind)
    candidates = (kind for kind in tables.states[path[-1]] if not is_rule(kind))
    return frozenset(kind for kind in candidates if _advance(tables, path[:], kind))


def _advance(tables: Tables, path: list[int], kind: str) -> bool:
    """Move along the automaton by one token; False when it doesn't fit."""
    while True:
        action = tables.states[path[-1]].get(kind)
        if action is None:
            return False
        if action >= 0:
            path.append(action)
            return True
        rule = tables.rules[~action]
        del path[len(path) - rule.length :]
        path.append(tables.states[path[-1]][rule.origin])


class _Slip:
    """One token out of place: a row of guesses, the first that fits wins."""

    def __init__(self, scan: Scan, position: int, expected: frozenset[str]) -> None:
        self.scan = scan
        self.source = scan.source
        self.position = position
        self.expected = expected
        self.token = scan.tokens[position]
        self.before = self.at(position - 1)
        self.open = self.brackets()

    def error(self) -> CompileError:
        return (
            self.unknown_declaration()
            or self.missing_closer()
            or self.unknown_statement()
            or self.unexpected()
        )

    # ---- what is around -------------------------------------------------------------------------

    def at(self, position: int) -> Token:
        """The token at a position; a line end where there is none."""
        if 0 <= position < len(self.scan.tokens):
            return self.scan.tokens[position]
        return Token("NEWLINE", "", 0, 0)

    def span(self, token: Token) -> Span:
        """Where to point: a line end is shown after the last thing on it."""
        if self.position and (token.kind == "$END" or self.ends_early()):
            return Span(self.source, self.before.end, self.before.end)
        return Span(self.source, token.start, token.end)

    def brackets(self) -> list[Token]:
        """The brackets that are open before the token."""
        found: list[Token] = []
        for token in self.scan.tokens[: self.position]:
            if token.kind in CLOSERS:
                found.append(token)
            elif token.kind in CLOSERS.values():
                found.pop()
        return found

    def starts_line(self, position: int) -> bool:
        previous = self.at(position - 1)
        return previous.kind == "NEWLINE" or (
            previous.kind == "{" and previous.start not in self.scan.records
        )

    def on_a_later_line(self) -> bool:
        return "\n" in self.source.text[self.before.end : self.token.start]

    def inside(self, bracket: str) -> bool:
        return bool(self.open) and self.open[-1].kind == bracket

    def ends_early(self) -> bool:
        """Is the token the `}` of a body whose last line lacks its end?"""
        lacking = self.token.kind == "}" and "}" not in self.expected
        return lacking and self.on_a_later_line()

    # ---- guesses --------------------------------------------------------------------------------

    def unknown_declaration(self) -> CompileError | None:
        """`optimiser adam(...)`, `def f(x)`, `x = 3` at the top level."""
        token = self.token
        if "fn" not in self.expected or not self.starts_line(self.position):
            return None
        if token.kind != "NAME":
            return CompileError(
                f"{self.found()} begins no declaration",
                self.span(token),
                expected=one_of(DECLARATIONS),
            )
        hint = _BELONGS.get(token.text) or _ELSEWHERE.get(token.text)
        if hint is None and self.at(self.position + 1).kind in ("=", ","):
            hint = "a constant is declared with `let name = value`; settings belong in `train`"
        return CompileError(
            f"`{token.text}` begins no declaration",
            self.span(token),
            expected=one_of(DECLARATIONS),
            found=f"`{token.text}`",
            hint=hint or did_you_mean(token.text, DECLARATIONS),
        )

    def missing_closer(self) -> CompileError | None:
        """A bracket left open, noticed on a later line."""
        if not self.open or not self.on_a_later_line() or self.token.kind == "NEWLINE":
            return None
        opener = self.open[-1]
        closer = CLOSERS[opener.kind]
        block = opener.kind == "{" and opener.start not in self.scan.records
        if closer not in self.expected or block:
            return None
        note = Note(f"`{opener.text}` opens here", Span(self.source, opener.start, opener.end))
        return CompileError(
            f"missing `{closer}`" if "," not in self.expected else f"missing `,` or `{closer}`",
            self.span(self.token),
            expected=self.wanted(),
            found=self.found(),
            hint=self.hint(),
            notes=[note],
        )

    def unknown_statement(self) -> CompileError | None:
        """A line that begins with two words, of which the first is no keyword: `parm w ~ zeros`."""
        first = self.before
        if first.kind != "NAME" or not self.starts_line(self.position - 1) or not self.open:
            return None
        known = _IN_BODIES if "<-" in self.expected else ("minimize", "let")
        hint = _ELSEWHERE.get(first.text)
        if hint is None and self.token.kind not in ("=", ":", "NEWLINE", "}"):
            hint = did_you_mean(first.text, known)
        if hint is None:
            return None
        return CompileError(
            f"`{first.text}` begins no statement",
            self.span(first),
            expected=one_of(known),
            found=f"`{first.text}`",
            hint=hint,
        )

    def unexpected(self) -> CompileError:
        return CompileError(
            f"unexpected {self.found()}",
            self.span(self.token),
            expected=self.wanted(),
            found=self.found(),
            hint=self.hint(),
        )

    # ---- words ----------------------------------------------------------------------------------

    def found(self) -> str:
        token = self.token
        if token.kind == "NEWLINE" or self.ends_early():
            return "end of line"
        if token.kind == "$END":
            return "end of text"
        return f"the string {token.text}" if token.kind == "STRING" else f"`{token.text}`"

    def hint(self) -> str | None:
        kind, before, expected = self.token.kind, self.before, self.expected
        if kind == ":" or (kind == "NEWLINE" and before.kind == ":"):
            if "{" in expected or kind == "NEWLINE":
                return "a body stands in braces: `{ ... }`"
            if self.inside("(") and "," in expected:
                return "an argument is named with `=`: `f(key = value)`"
        if kind == "=" and ":" in expected and self.inside("{"):
            return "in a record, `:` follows the key: `{ key: value }`"
        if kind == "=" and "==" in expected:
            return "to compare, write `==`"
        if kind in ("==", ":") and "=" in expected:
            return "to give a value, write `=`"
        if kind in COMPARISONS and "and" in expected:
            return "compare two at a time: `a < b and b < c`"
        if kind == "<-":
            return "to compare with a negative number, write `< -`" if "<" in expected else None
        if kind in OPERATORS and before.kind == "NEWLINE":
            return "a line goes on where the one before ends in an operator"
        if kind in OPERATORS and "|>" in expected:
            return "put the pipeline in parentheses: `(x |> f) + y`"
        if "with" in expected and kind in ("NEWLINE", "}", "$END"):
            return "every `minimize` names its optimizer: `with adam(1e-3)`"
        if "{" in expected and kind == "NEWLINE" and self.at(self.position + 1).kind == "{":
            return "the `{` belongs on the line before"
        around = (self.at(self.position - 2).kind, before.kind, self.at(self.position + 1).kind)
        if (before.kind == "." and around[0] == "NUMBER") or (
            kind == "." and "NUMBER" in around[1:]
        ):
            return "a number has digits on both sides of its point: `0.5`, `1.0`"
        if before.kind == "%":
            return "a percentage has no space before its sign: `80%`"
        if self.is_body_as_record():
            return "these braces hold a record; a body in braces has no `=` before them"
        return self.word_hint()

    def is_body_as_record(self) -> bool:
        """`fn f(x) = {` and then no record."""
        if not self.open or self.open[-1].start not in self.scan.records:
            return False
        opener = self.scan.tokens.index(self.open[-1])
        if self.expected != {":"} and self.position != opener + 1:
            return False
        first = opener
        while self.at(first - 1).kind != "NEWLINE":
            first -= 1
        return self.at(opener - 1).kind == "=" and self.at(first).kind in _WITH_BODY

    def word_hint(self) -> str | None:
        """A keyword or a word of another language in the wrong place."""
        kind, text = self.token.kind, self.token.text
        if kind in _BELONGS and self.starts_line(self.position):
            return _BELONGS[kind]
        if kind == "let" and self.starts_line(self.position):
            return "a `let` belongs at the top level, in a body or in `train`"
        if self.expected == {"NAME"} and text.isidentifier():
            return f"`{text}` is a keyword"
        if self.before.kind == "import" and text.isidentifier():
            return f'a file is named by a string: `import "{text}.weft"`'
        if kind == "NAME" and text in ("elif", "elseif"):
            return _ELSEWHERE[text]
        return None

    def wanted(self) -> str:
        """What could stand there, in a few words."""
        rest = set(self.expected)
        words: list[str] = []

        def say(word: str, covered: Iterable[str]) -> None:
            words.append(word)
            rest.difference_update(covered)

        if "fn" in rest:
            say("a declaration", DECLARATIONS)
        if "param" in rest:
            say("a statement", _STARTS_EXPRESSION | {*STATEMENTS})
        elif "minimize" in rest:
            say("a setting", ("NAME",))
        elif {"NUMBER", "(", "-"} <= rest:
            say("an expression", _STARTS_EXPRESSION)
        if {"+", "*"} <= rest:
            rest -= _FOLLOWS_OPERAND
            if "<-" in rest:
                rest -= {"<-", "=", ","}
            if {",", ")", "="} <= rest:
                rest.discard("=")
            if "NEWLINE" in rest or not rest & {",", *CLOSERS.values()}:
                words.append("an operator")
        elif "|>" in rest:
            rest -= {".", "(", "["}
        if "NEWLINE" in rest:
            rest.discard("$END")
        words += [_WORDS[kind] for kind in _WORDS if kind in rest]
        words += [f"`{kind}`" for kind in sorted(rest - _WORDS.keys())]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
