"""`weft fmt`: specs in the one canonical layout, in place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from weft.cli.failures import MISTAKE, Ended, facts, show
from weft.cli.options import Command, json_option
from weft.compiler.errors import CompileError, Source, WeftError

EXAMPLES = """
weft fmt spec.weft                 rewrite the file where its layout differs
weft fmt --check *.weft            change nothing; exit code 1 if any file would change
weft fmt --diff spec.weft          show what would change
cat spec.weft | weft fmt -         from stdin to stdout
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", is_flag=True, help="Change nothing; fail if a file would change.")
@click.option("--diff", is_flag=True, help="Change nothing; show what would change.")
@json_option
def command(files: tuple[str, ...], check: bool, diff: bool, json: bool) -> None:
    """Write specs in the one canonical layout.

    Files are replaced whole or not at all; comments stay, and so does the meaning. `-` reads stdin
    and writes stdout. A file that is no spec is reported and left as it is.
    """
    from weft.cli.output import print_json

    if "-" in files and json and not (check or diff):
        raise click.UsageError("with --json, `-` needs --check or --diff: stdout has one use")
    changed: list[str] = []
    unchanged: list[str] = []
    errors: list[dict[str, Any]] = []
    for name in files:
        try:
            source, text = _formatted(name)
        except WeftError as error:
            show(error.diagnostic)
            errors.append(facts(error.diagnostic))
            continue
        differs = text != source.text
        (changed if differs else unchanged).append(name)
        if diff and differs:
            click.echo(_difference(source, text), nl=False, err=json)
        elif not check and not diff:
            _write(name, text, differs)
        if differs and not diff and not json and name != "-":
            click.echo(f"{'would change' if check else 'formatted'} {name}")
    if json:
        report = {"changed": changed, "unchanged": unchanged, "errors": errors}
        print_json({**report, **({"error": errors[0]} if errors else {})})
    if errors or (check and changed):
        raise Ended(MISTAKE)


def _formatted(name: str) -> tuple[Source, str]:
    """The source as it is, and as it should be."""
    from weft.frontends.dsl.format import format_source
    from weft.frontends.dsl.parser import read_source

    source = _stdin() if name == "-" else read_source(name)
    return source, format_source(source)


def _stdin() -> Source:
    raw = sys.stdin.buffer.read()
    try:
        return Source("<stdin>", raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CompileError("stdin is not UTF-8 text", found=str(error)) from None


def _write(name: str, text: str, differs: bool) -> None:
    from weft.runtime.files import write_atomically

    if name == "-":
        click.echo(text, nl=False)
    elif differs:
        write_atomically(Path(name), text.encode())


def _difference(source: Source, text: str) -> str:
    from difflib import unified_diff

    before, after = (t.splitlines(keepends=True) for t in (source.text, text))
    lines = unified_diff(before, after, source.name, f"{source.name} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
