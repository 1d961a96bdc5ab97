"""`weft fmt`: one way to write a spec, with the author's line breaks, comments and tables kept.

Indentation is two columns; signs have a space on either side, except `^`, `.`, `:` and the minus of
`-x`. At most one line is left blank; declarations of several lines have one around them. Lines
longer than 100 columns are broken at `|>`, before `over` and `with`, inside brackets, or after an
operator. `=` of settings and fields on consecutive lines are aligned; so is whatever the author
aligned with another line of the paragraph (`=`, `<-`, `~`, `over`, `with`, types, comments).

    format(format(text)) == format(text)        parse(format(text)) == parse(text)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

from weft.compiler.errors import InternalError, Source
from weft.frontends.dsl.format_layout import WIDTH, Layout, Line
from weft.frontends.dsl.lexer import CLOSERS, scan
from weft.frontends.dsl.parser import parse

# In the order in which they can follow each other on a line.
_ALIGNED = ("type", "=", "<-", "~", "over", "with", "when")
_OF_SETTINGS = ("data", "train", "study")


def format_source(source: Source) -> str:
    """The source in its canonical form. Raises CompileError when it doesn't parse."""
    tree = parse(source)
    layout = Layout(scan(source))
    layout.split()
    lines = layout.lines()
    _separate_declarations(layout, lines)
    _Aligner(layout, lines).align()
    columns = _comment_columns(layout, lines)
    written = []
    for line, column in zip(lines, columns, strict=True):
        text = " " * line.indent + layout.render(line)
        if line.comment and line.first < line.last:
            text = text.ljust(column) + line.comment
        written.append(f"\n{text}" if line.blank else text)
    result = "".join(f"{text}\n" for text in written).lstrip("\n")
    if parse(Source(source.name, result)) != tree:
        raise InternalError(f"formatting {source.name} would change what it means")
    return result


def _separate_declarations(layout: Layout, lines: list[Line]) -> None:
    """A blank line on either side of a declaration that has several lines."""
    tops = [
        number
        for number, line in enumerate(lines)
        if line.first < line.last and line.first in layout.statements and line.indent == 0
    ]
    sizes = []
    for start, end in pairwise([*tops, len(lines)]):
        body = [number for number in range(start, end) if lines[number].first < lines[number].last]
        sizes.append(body[-1] - start + 1)
    for k, (start, end) in enumerate(pairwise(tops)):
        between = range(start + sizes[k], end + 1)
        if max(sizes[k], sizes[k + 1]) > 1 and not any(lines[n].blank for n in between):
            lines[between[0]].blank = True


def _comment_columns(layout: Layout, lines: list[Line]) -> list[int]:
    """Where trailing comments go: where they were if there is room; together if they were so."""
    columns: list[int] = []

    def was(line: Line) -> int:
        if not line.comment or line.first == line.last:
            return -1
        comment, first = layout.trailing[line.last - 1], layout.tokens[line.first]
        between = layout.text[first.start : comment.start]
        return 0 if "\n" in between else line.indent + len(between)

    for wanted, group in groupby(lines, was):
        run = list(group)
        least = max(line.indent + len(layout.render(line)) + 2 for line in run)
        column = max(wanted, least)
        fits = all(column + len(line.comment) <= WIDTH for line in run)
        columns += [column if fits else least] * len(run)
    return columns


class _Aligner:
    """Pads the gaps before signs that stand in one column."""

    def __init__(self, layout: Layout, lines: list[Line]) -> None:
        self.layout = layout
        self.lines = lines
        self.owners = layout.owners()

    def align(self) -> None:
        cells = [self._cells(line) for line in self.lines]
        for sign in _ALIGNED:
            for group in self._groups(cells, sign):
                self._pad(cells, sign, group)

    def _cells(self, line: Line) -> dict[str, int]:
        """The tokens of a statement's first line that may be aligned, by what they are."""
        tokens, found = self.layout.tokens, dict[str, int]()
        if line.first not in self.layout.statements or line.first == line.last:
            return found
        first = tokens[line.first].kind
        signs: tuple[str, ...] = ("=", "<-")
        if first in ("param", "state"):
            signs = ("~", "when")
        elif first == "minimize":
            signs = ("over", "with")
        for i in self._outer(line):
            kind = tokens[i].kind
            if tokens[i - 1].kind == ":" and i > line.first and first in ("param", "state", "NAME"):
                found["type"] = i
            elif kind in signs and i > line.first:
                found.setdefault(kind, i)
                if kind in ("=", "<-"):
                    break
        return found

    def _outer(self, line: Line) -> Iterator[int]:
        """The tokens of a line before and after, but not inside brackets."""
        depth = 0
        for i in range(line.first, line.last):
            kind = self.layout.tokens[i].kind
            depth -= kind in CLOSERS.values()
            if depth == 0:
                yield i
            depth += kind in CLOSERS
            if depth < 0:
                return

    def _groups(self, cells: list[dict[str, int]], sign: str) -> list[list[int]]:
        """Numbers of lines that share a column for a sign."""
        group_of: dict[int, list[int]] = {}
        placed: dict[tuple[object, ...], list[int]] = {}
        paragraph = 0
        for number, line in enumerate(self.lines):
            paragraph += line.blank
            if sign not in cells[number]:
                continue
            place = (paragraph, line.indent, *self._sort(line, cells[number]))
            group = placed.setdefault((*place, self._column(line, cells[number][sign])), [])
            group.append(number)
            group_of[number] = group
            above = group_of.get(number - 1)
            if sign == "=" and "setting" in place and above is not None and above is not group:
                before = self.lines[number - 1]
                sort = self._sort(before, cells[number - 1])
                if (paragraph, before.indent, *sort) == place and not line.blank:
                    above.extend(group)
                    group_of.update(dict.fromkeys(group, above))
                    placed.update({key: above for key, item in placed.items() if item is group})
        distinct = {id(group): group for group in group_of.values()}
        return list(distinct.values())

    def _sort(self, line: Line, cells: dict[str, int]) -> tuple[str, str]:
        """Lines are aligned with lines of their sort: settings, fields, `let`s, ..."""
        kind = self.layout.tokens[line.first].kind
        if kind in ("param", "state"):
            return "slot", ""
        if kind == "NAME" and "=" in cells and self.owners[line.first] in _OF_SETTINGS:
            return "setting", "field" if "type" in cells else ""
        return "", kind

    def _column(self, line: Line, i: int) -> int:
        """Where the author put a token, counted from the first of its line; -1 if on another."""
        start = self.layout.tokens[line.first].start
        between = self.layout.text[start : self.layout.tokens[i].start]
        return -1 if "\n" in between else len(between)

    def _pad(self, cells: list[dict[str, int]], sign: str, group: list[int]) -> None:
        lines = [self.lines[number] for number in group]
        places = [cells[number][sign] for number in group]
        if len(group) < 2 and sign != "when":
            return
        widths = [self.layout.width(line, i) for line, i in zip(lines, places, strict=True)]
        wanted = {self._column(line, i) for line, i in zip(lines, places, strict=True)}
        column = max(widths)
        if len(wanted) == 1:
            column = max(column, *wanted)
        for line, width in zip(lines, widths, strict=True):
            if line.indent + len(self.layout.render(line)) + column - width > WIDTH:
                return
        for line, i, width in zip(lines, places, widths, strict=True):
            line.pads[i] = column - width
