"""`weft explain`: the equation, the comment and the source of whatever has a name."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft.cli.options import Command, json_option
from weft.compiler.errors import CompileError, did_you_mean

if TYPE_CHECKING:
    from weft.frontends.dsl import syntax
    from weft.frontends.dsl.modules import Module
    from weft.frontends.dsl.values import Builtin

EXAMPLES = """
weft explain                       everything that has a name, by group
weft explain adamw                 the equation that runs, and where it is written
weft explain mlp spec.weft         a name of a spec of yours
"""

# The order of the groups of a listing, and their titles.
GROUPS = {
    "data": "Data",
    "let": "Values",
    "model": "Models",
    "layer": "Layers",
    "fn": "Functions",
    "init": "Initial values",
    "optimizer": "Optimisers",
    "schedule": "Schedules",
    "builtin": "Built into the language",
    "source": "Sources of data",
}
WIDTH = 100


@dataclass(frozen=True)
class Explained:
    """What there is to say of a name; `source` is empty for what the compiler provides."""

    name: str
    kind: str
    signature: str
    doc: str
    file: str | None = None
    line: int | None = None
    source: str = ""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("name", required=False)
@click.argument("spec", required=False)
@json_option
def command(name: str | None, spec: str | None, json: bool) -> None:
    """Show the comment, the equation and the source of a name.

    NAME is a function, layer, optimiser, schedule, initialiser or built-in of the library, or of
    the file SPEC and what it imports. Without NAME: all there is, by group.
    """
    from weft.cli.output import print_json

    if name is not None and spec is None and name.endswith(".weft"):
        name, spec = None, name
    module = _module(spec)
    if name is None:
        groups = _listing(module)
        if json:
            print_json({"groups": groups})
        else:
            _print_listing(groups, spec)
        return
    found = explain(name, module)
    if json:
        print_json(asdict(found))
    else:
        click.echo(_text(found))


def explain(name: str, module: Module | None) -> Explained:
    """What is known of a name, the spec's own meaning first. Raises CompileError for none."""
    from weft.frontends.dsl.builtins import BUILTINS
    from weft.frontends.dsl.modules import library

    for place in (module, library()):
        found = place.find(name) if place is not None else None
        if found is not None:
            return _declared(name, found[1])
    if name in BUILTINS:
        return _builtin(BUILTINS[name])
    sources = {found.name: found for found in _sources()}
    if name in sources:
        return sources[name]
    known = [*(module.names() if module else ()), *library().names(), *BUILTINS, *sources]
    raise CompileError(
        f"nothing is called `{name}`",
        hint=did_you_mean(name, known) or "`weft explain` lists all names",
    )


def _module(spec: str | None) -> Module | None:
    if spec is None:
        return None
    from weft.frontends.dsl.modules import load_module
    from weft.frontends.dsl.parser import read_source

    return load_module(read_source(spec), Path(spec).parent)[0]


def _declared(name: str, declaration: syntax.Declaration) -> Explained:
    span = declaration.span
    source = span.source.text[span.start : span.end].strip()
    kind = source.split(maxsplit=1)[0]
    head = source.split("{")[0] if "{" in source else source.split("=")[0]
    return Explained(
        name=name,
        kind=kind,
        signature=_signature(source, head),
        doc=declaration.doc.strip(),
        file=span.source.name,
        line=span.line,
        source=source,
    )


def _signature(source: str, head: str) -> str:
    """The declaration up to its body, on one line."""
    opening = source.find("(")
    if opening < 0 or opening > len(head):
        return " ".join(head.split())
    depth = 0
    for place in range(opening, len(source)):
        depth += {"(": 1, ")": -1}.get(source[place], 0)
        if not depth:
            break
    text = " ".join(source[: place + 1].split())
    return text.replace("( ", "(").replace(", )", ")").replace(" )", ")")


def _builtin(builtin: Builtin) -> Explained:
    parameters = [p.rstrip("=") + " = ..." * p.endswith("=") for p in builtin.parameters]
    signature = f"{builtin.name}({', '.join(parameters)})"
    return Explained(builtin.name, "builtin", signature, builtin.doc)


def _sources() -> Iterator[Explained]:
    from weft.runtime.data.sources import SOURCES

    for name, source in SOURCES.items():
        yield Explained(name, "source", f"source = {source.usage}", source.summary)


def _text(found: Explained) -> str:
    lines = [found.signature]
    if found.file:
        lines.append(f"{found.file}:{found.line}")
    elif found.kind in ("builtin", "source"):
        lines.append("built into the language" if found.kind == "builtin" else "a source of data")
    if found.doc:
        lines += ["", textwrap.indent(found.doc, "  ")]
    if found.source:
        lines += ["", textwrap.indent(found.source, "    ")]
    return "\n".join(lines)


def _listing(module: Module | None) -> dict[str, dict[str, str]]:
    """Names by group, each with the first line of what is said of it."""
    groups: dict[str, dict[str, str]] = {}
    for found in _everything(module):
        groups.setdefault(found.kind, {})[found.name] = _summary(found)
    return {kind: groups[kind] for kind in GROUPS if kind in groups}


def _everything(module: Module | None) -> Iterator[Explained]:
    from weft.frontends.dsl.builtins import BUILTINS
    from weft.frontends.dsl.modules import library

    if module is not None:
        yield from (_declared(n, d[1]) for n in module.names() if (d := module.find(n)))
        return
    yield from (_declared(n, d[1]) for n in library().names() if (d := library().find(n)))
    yield from map(_builtin, BUILTINS.values())
    yield from _sources()


def _summary(found: Explained) -> str:
    """The first sentence of the comment, without the name that it opens with."""
    text = " ".join(found.doc.split("\n\n")[0].split())
    for opening in (f"{found.name}: ", f"{found.signature.split(' ', 1)[-1]}: "):
        text = text.removeprefix(opening)
    end = text.find(". ")
    return (text if end < 0 else text[: end + 1]) or found.signature * (found.kind == "builtin")


def _print_listing(groups: Mapping[str, Mapping[str, str]], spec: str | None) -> None:
    for kind, names in groups.items():
        click.echo(click.style(GROUPS[kind], bold=True))
        column = max(map(len, names)) + 2
        for name, summary in names.items():
            room = WIDTH - column - 2
            short = textwrap.shorten(summary, room, placeholder=" ...") if summary else ""
            click.echo(f"  {name:<{column}}{short}".rstrip())
        click.echo()
    click.echo(f"`weft explain NAME{' SPEC' if spec else ''}` shows one of them whole.")
