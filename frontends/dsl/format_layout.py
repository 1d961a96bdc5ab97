"""Lines of formatted source: which tokens share one, how far it is indented, the spaces within."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from weft.frontends.dsl.lexer import CLOSERS, Scan, Token

WIDTH = 100
STEP = 2

_OPERAND_ENDS = frozenset(
    ("NAME", "NUMBER", "UNIT", "PER_CENT", "STRING", "true", "false", ")", "]", "}", "gradient")
)
_AFTER_WHICH_LINES_BREAK = (("or",), ("and",), ("+", "-"), ("*", "/", "//", "%", "@"))


@dataclass(slots=True)
class Line:
    """The tokens `first` to `last` (exclusive), or a comment; `blank`: an empty line before it."""

    indent: int
    first: int
    last: int
    comment: str = ""
    blank: bool = False
    pads: dict[int, int] = field(default_factory=dict)


class Layout:
    """The tokens of a source with the places where lines begin.

    Line breaks are the author's, apart from those of `} else` and of braces with more than one
    line inside, and from those that `split` adds. Tokens never change, so the meaning doesn't.
    """

    def __init__(self, scan: Scan) -> None:
        self.text = scan.source.text
        self.records = scan.records
        self.tokens: list[Token] = []
        self.statements: set[int] = set()  # tokens that begin a statement
        self.breaks: set[int] = set()  # tokens that begin a line
        self.trailing: dict[int, Token] = {}  # comments behind a token
        self.leading: dict[int, list[Token]] = {}  # comments on lines of their own before a token
        self._read(scan)
        self.partner = self._partners()
        self._settle_breaks()
        self.unary = {
            i
            for i, token in enumerate(self.tokens)
            if token.kind == "-" and (i == 0 or self.tokens[i - 1].kind not in _OPERAND_ENDS)
        }
        self.slices = self._slice_colons()

    # ---- reading --------------------------------------------------------------------------------

    def _read(self, scan: Scan) -> None:
        fresh = True
        for token in scan.tokens:
            if token.kind == "NEWLINE":
                fresh = True
            elif token.kind != "$END":
                i = len(self.tokens)
                if fresh or self.opens_block(i - 1):
                    self.statements.add(i)
                if i == 0 or "\n" in self.text[self.tokens[-1].end : token.start]:
                    self.breaks.add(i)
                fresh = False
                self.tokens.append(token)
        i = 0
        for comment in scan.comments:
            while i < len(self.tokens) and self.tokens[i].start < comment.start:
                i += 1
            if i and "\n" not in self.text[self.tokens[i - 1].end : comment.start]:
                self.trailing[i - 1] = comment
            else:
                self.leading.setdefault(i, []).append(comment)

    def opens_block(self, i: int) -> bool:
        if i < 0 or self.tokens[i].kind != "{":
            return False
        return self.tokens[i].start not in self.records

    def _partners(self) -> dict[int, int]:
        """Opening bracket to closing one, and back."""
        found: dict[int, int] = {}
        open_: list[int] = []
        for i, token in enumerate(self.tokens):
            if token.kind in CLOSERS:
                open_.append(i)
            elif token.kind in CLOSERS.values():
                found[i] = open_.pop()
                found[found[i]] = i
        return found

    def _settle_breaks(self) -> None:
        for i, token in enumerate(self.tokens):
            joins = token.kind == "else" and i - 1 not in self.trailing and i not in self.leading
            if joins and self.tokens[i - 1].kind == "}":
                self.breaks.discard(i)
        for i in range(len(self.tokens)):
            if self.opens_block(i) and self.partner[i] > i + 1:
                inside = range(i + 1, self.partner[i] + 1)
                if any(j in self.breaks or j in self.leading for j in inside):
                    self.breaks |= {i + 1, self.partner[i]}

    def _slice_colons(self) -> set[int]:
        """The colons of `x[1:2, :n]`: without spaces, but for that after a comma."""
        found, open_ = set(), list[int]()
        for i, token in enumerate(self.tokens):
            if token.kind in CLOSERS:
                open_.append(i)
            elif token.kind in CLOSERS.values():
                open_.pop()
            elif token.kind == ":" and open_ and self.tokens[open_[-1]].kind == "[":
                found.add(i)
        return found

    # ---- spaces ---------------------------------------------------------------------------------

    def gap(self, i: int) -> str:
        """What stands between token i and the one before on its line."""
        before, kind = self.tokens[i - 1].kind, self.tokens[i].kind
        if before == "{" and kind == "}":
            return ""
        if before in ("(", "[", ".") or kind in (")", "]", ",", ".", "PER_CENT"):
            return ""
        if "^" in (before, kind) or i - 1 in self.unary or i - 1 in self.slices:
            return ""
        if i in self.slices:
            return " " if before == "," else ""
        if kind == ":" or (before == "..." and kind == "NAME"):
            return ""
        if kind in ("(", "[") and before in _OPERAND_ENDS:
            return ""
        return " "

    def render(self, line: Line) -> str:
        """The line's text without its indentation and trailing comment."""
        if line.first == line.last:
            return line.comment
        pieces = [self.tokens[line.first].text]
        pieces += [
            self.gap(i) + " " * line.pads.get(i, 0) + self.tokens[i].text
            for i in range(line.first + 1, line.last)
        ]
        return "".join(pieces)

    def width(self, line: Line, until: int) -> int:
        """Columns from the line's first token to the token `until`."""
        part = Line(line.indent, line.first, until + 1, pads=line.pads)
        return len(self.render(part)) - len(self.tokens[until].text)

    # ---- lines ----------------------------------------------------------------------------------

    def owners(self) -> dict[int, str]:
        """The word that begins the statement around each statement: `train` for a setting."""
        found: dict[int, str] = {}
        around = [""]
        statement = ""
        for i, token in enumerate(self.tokens):
            if i in self.statements:
                found[i] = around[-1]
                statement = token.kind
            if token.kind in CLOSERS:
                around.append(statement)
            elif token.kind in CLOSERS.values():
                statement = around.pop()
        return found

    def lines(self) -> list[Line]:
        """Every line with its indentation and the author's blank lines, at most one at a time."""
        starts = sorted(self.breaks)
        found: list[Line] = []
        # (indentation of what closes the bracket, is it a block, the statement it stands in)
        open_: list[tuple[int, bool, int]] = []
        statement = 0
        end = 0
        for first, last in pairwise([*starts, len(self.tokens)]):
            closes = self.tokens[first].kind in CLOSERS.values()
            inner = open_[-1][0] + STEP if open_ else 0
            if closes:
                indent = open_[-1][0]
            elif (open_ and not open_[-1][1]) or first in self.statements:
                indent = inner
            else:
                indent = statement + (0 if self.tokens[first].kind == "else" else STEP)
            for comment in self.leading.get(first, []):
                column = inner if closes else indent
                found.append(Line(column, first, first, comment.text, self._blank(end, comment)))
                end = comment.end
            line = Line(indent, first, last, blank=self._blank(end, self.tokens[first]))
            line.blank = line.blank and not closes
            found.append(line)
            for i in range(first, last):
                kind = self.tokens[i].kind
                if i in self.statements:
                    statement = indent
                if kind in CLOSERS:
                    block = self.opens_block(i)
                    open_.append((statement if block else indent, block, statement))
                elif kind in CLOSERS.values():
                    statement = open_.pop()[2]
            if last - 1 in self.trailing:
                found[-1].comment = self.trailing[last - 1].text
            tail = self.trailing.get(last - 1, self.tokens[last - 1])
            end = -1 if self.tokens[last - 1].kind in CLOSERS else tail.end
        for comment in self.leading.get(len(self.tokens), []):
            found.append(Line(0, 0, 0, comment.text, self._blank(end, comment)))
            end = comment.end
        return found

    def _blank(self, end: int, token: Token) -> bool:
        """Did the author leave a line empty between an offset and a token?"""
        return end > 0 and self.text.count("\n", end, token.start) > 1

    # ---- long lines -----------------------------------------------------------------------------

    def split(self) -> None:
        """Break lines that are too long, as long as there is a good place."""
        while True:
            places: set[int] = set()
            for line in self.lines():
                if line.indent + len(self.render(line)) > WIDTH and line.first < line.last:
                    places |= self._places(line)
            if places <= self.breaks:
                return
            self.breaks |= places

    def _places(self, line: Line) -> set[int]:
        """The tokens of a long line that are to begin lines, by the first way that fits it."""
        outer = list(self._outside_brackets(line))
        inside = [i for i in outer if self.partner.get(i, 0) in range(i + 2, line.last)]
        blocks = [i for i in inside if self.opens_block(i)]
        if blocks:
            return {place for i in blocks for place in (i + 1, self.partner[i])}
        pipes = {i for i in outer if self.tokens[i].kind == "|>" and i > line.first}
        if pipes:
            return pipes
        for word in ("over", "with"):
            clause = {i for i in outer if self.tokens[i].kind == word and i > line.first}
            if clause:
                return clause
        if inside:
            opener = max(
                inside, key=lambda i: self.tokens[self.partner[i]].end - self.tokens[i].end
            )
            closer = self.partner[opener]
            if closer - opener > 2:
                part = Line(0, opener + 1, closer)
                commas = {i + 1 for i in self._outside_brackets(part) if self.tokens[i].kind == ","}
                return {opener + 1, closer} | commas
        for signs in _AFTER_WHICH_LINES_BREAK:
            after = {
                i + 1
                for i in outer
                if self.tokens[i].kind in signs and i not in self.unary and i + 1 < line.last
            }
            if after:
                return after
        return set()

    def _outside_brackets(self, line: Line) -> Iterator[int]:
        """The tokens of a line that are in no bracket which the line opens and closes."""
        i = line.first
        while i < line.last:
            yield i
            closer = self.partner.get(i, 0)
            i = closer if i < closer < line.last else i + 1
