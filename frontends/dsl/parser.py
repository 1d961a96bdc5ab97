"""Source text to syntax trees: an LR parser over the tables of grammar.lark."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from shlex import quote

from weft.compiler.errors import CompileError, Source
from weft.frontends.dsl import tables
from weft.frontends.dsl.build import Builder
from weft.frontends.dsl.build_expressions import Part
from weft.frontends.dsl.lexer import DECLARATIONS, MAX_DEPTH, Scan, scan, too_deep
from weft.frontends.dsl.mistakes import explain
from weft.frontends.dsl.syntax import Declaration, Expression, File, Node

MAX_BYTES = 4 * 2**20

_OUTLINE = re.compile(rf"^({'|'.join(DECLARATIONS)})\b([ \t]+[A-Za-z_][\w \t,]*)?", re.MULTILINE)


def read_source(path: str | Path) -> Source:
    """Read a file of UTF-8 text; any line ends will do.

    Raises CompileError when there is no such file, it is a folder or unreadable, holds more than
    4 MiB, or isn't UTF-8.
    """
    place = Path(path)
    try:
        with place.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = sorted(item.name for item in _siblings(place))
        hint = f"beside it: {', '.join(f'`{name}`' for name in near[:5])}" if near else None
        raise CompileError(f"there is no file `{path}`", hint=hint) from None
    except IsADirectoryError:
        run = f"go on with a run: `weft train --resume {quote(str(path))}`"
        hint = run if (place / "spec.json").is_file() else None
        raise CompileError(f"`{path}` is a folder", expected="a `.weft` file", hint=hint) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CompileError(f"`{path}` can't be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise CompileError(f"`{path}` is too large for a spec", expected="at most 4 MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CompileError(
            f"`{path}` is not UTF-8 text",
            found=f"the byte 0x{raw[error.start]:02x} in line {line}",
        ) from None
    return Source(str(path), text.replace("\r\n", "\n").replace("\r", "\n"))


def _siblings(place: Path) -> list[Path]:
    try:
        return list(place.parent.glob("*.weft"))
    except (OSError, ValueError):
        return []


def parse(source: Source) -> File:
    """The tree of a whole source. Raises CompileError at the first mistake."""
    tree = _parse(scan(source), "file")
    assert isinstance(tree, File)
    return tree


def parse_expression(source: Source) -> Expression:
    """The tree of a source that is one expression, such as the value of `--set key=value`."""
    tree = _parse(scan(source), "expression")
    assert isinstance(tree, Expression)
    return tree


def parse_declaration(source: Source, start: int, end: int) -> Declaration:
    """The one declaration between two offsets of a source, as `outline` gives them."""
    tree = _parse(scan(source, start, end), "file")
    assert isinstance(tree, File)
    (declaration,) = tree.declarations
    return declaration


def outline(source: Source) -> dict[str, tuple[str, int, int]]:
    """Names declared at the top level, each with kind, start and end, without parsing the rest.

    A declaration is taken to begin in the first column and to last until the next one. Of several
    with one name the first counts; `import` and nameless `train` and `study` are left out.
    """
    found = list(_OUTLINE.finditer(source.text))
    ends = [match.start() for match in found[1:]] + [len(source.text)]
    names: dict[str, tuple[str, int, int]] = {}
    for match, end in zip(found, ends, strict=True):
        kind, words = match.group(1), match.group(2) or ""
        for name in words.split(",") if kind == "let" else words.split()[:1]:
            names.setdefault(name.strip(), (kind, match.start(), end))
    return names


@cache
def _tables() -> tables.Tables:
    return tables.load()


def _parse(tokens: Scan, start: str) -> Node:
    """Run the LR automaton, building nodes as rules end."""
    automaton = _tables()
    states, rules = automaton.states, automaton.rules
    builder = Builder(tokens.source)
    makers = [None if rule.spliced else builder.method(rule.make) for rule in rules]
    origin = tables.STARTS.index(start)
    accept = states[origin][f"<{start}>"]
    # A spliced rule leaves its parts as a list, for the rule above to take in.
    path, values, depths = [origin], list[Part | list[Part]](), list[int]()
    for position, token in enumerate(tokens.tokens):
        while True:
            if path[-1] == accept and token.kind == "$END":
                (value,) = values
                assert isinstance(value, Node)
                return value
            action = states[path[-1]].get(token.kind)
            if action is None:
                raise explain(tokens, automaton, origin, position)
            if action >= 0:
                path.append(action)
                values.append(token)
                depths.append(0)
                break
            rule, maker = rules[~action], makers[~action]
            first = len(values) - rule.length
            if rule.length != 1 or maker is not None:
                parts = _splice(values[first:])
                depth = max(depths[first:], default=0)
                del values[first:], depths[first:]
                if maker is None:
                    values.append(parts)
                else:
                    made = maker(parts)
                    values.append(made)
                    depth += 1
                    if depth > MAX_DEPTH:
                        raise too_deep(builder.span(parts[-1:]))
                depths.append(depth)
            del path[first + 1 :]
            path.append(states[path[-1]][rule.origin])
    raise AssertionError("tokens end with $END or ERROR")


def _splice(values: list[Part | list[Part]]) -> list[Part]:
    """The parts of a rule, those of spliced rules among them."""
    if values and isinstance(values[0], list):
        parts = values[0]  # Taken over, not copied: a list of n items then takes n steps.
        rest = values[1:]
    else:
        parts, rest = [], values
    for value in rest:
        if isinstance(value, list):
            parts.extend(value)
        else:
            parts.append(value)
    return parts
