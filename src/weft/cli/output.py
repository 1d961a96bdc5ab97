"""What commands print: tables for people, one JSON object for machines.

On a terminal rich draws the tables, in colour and to its width. In a pipe or a file they are plain
text of aligned columns, whole however wide, the same on every machine.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from weft.compiler.errors import RunError


@dataclass(frozen=True)
class Table:
    """Rows of text under titles. Columns in `right` are numbers; `elastic` ones give way first."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    elastic: frozenset[int] = frozenset()


def print_table(table: Table) -> None:
    """A table on stdout."""
    if sys.stdout.isatty():
        _print_rich(table)
    else:
        click.echo(plain_table(table))


def plain_table(table: Table) -> str:
    """Aligned columns, two blanks between; no line ends with blanks."""
    widths = fitted(table, sys.maxsize, gap=2)

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if i in table.right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(table.columns), rule, *map(line, table.rows)])


def _print_rich(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False)
    widths = fitted(table, console.width, gap=3)
    # A line too long for the terminal goes on below; a number broken in its column can't be read.
    console.width = max(console.width, sum(widths) + 3 * (len(widths) - 1))
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for i, title in enumerate(table.columns):
        justify: Literal["right", "left"] = "right" if i in table.right else "left"
        drawn.add_column(Text(title), justify=justify, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(_cut(cell, width)) for cell, width in zip(row, widths, strict=True)))
    console.print(drawn)


def fitted(table: Table, total: int, gap: int) -> list[int]:
    """Widths of the columns: elastic ones shrink, the widest first, while there isn't room."""
    everything = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in everything) for i in range(len(table.columns))]
    excess = sum(widths) + gap * (len(widths) - 1) - total
    while excess > 0:
        able = [i for i in sorted(table.elastic) if widths[i] > max(8, len(table.columns[i]))]
        if not able:
            break
        widths[max(able, key=lambda i: widths[i])] -= 1
        excess -= 1
    return widths


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}\N{HORIZONTAL ELLIPSIS}"


def print_json(value: Mapping[str, Any]) -> None:
    """One line of JSON on stdout; numbers that are not finite, for which JSON has no word: null."""
    click.echo(json.dumps(_plain(value), allow_nan=False, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def writable(path: Path) -> Path:
    """The path, of a file that can be made.

    Raises RunError for a folder, in no folder, and for a spec, which no result may replace.
    """
    if path.suffix == ".weft":
        raise RunError(f"`{path}` is a spec's name", expected="the name of a file for the result")
    if path.is_dir():
        raise RunError(f"`{path}` is a folder", expected="the name of a file to write")
    if not path.parent.is_dir():
        raise RunError(f"`{path}` cannot be written", found=f"no folder `{path.parent}`")
    return path


def write_text(path: Path, text: str) -> None:
    """The text as the file's content, whole or not at all. Raises RunError when it can't be."""
    from weft.runtime.files import write_atomically

    write_atomically(writable(path), text.encode())


def metric(value: float | None) -> str:
    """A measured number: six significant digits at most."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3e}"
    return f"{value:.4f}"


def amount(value: float | None, unit: str = "") -> str:
    """A large number in thousands: `19.2 k`, `4.1 M`; `unit` follows the prefix."""
    if value is None:
        return "-"
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5 or prefix == "T":
            break
        value /= 1000
    digits = str(int(value)) if not prefix and value == int(value) else f"{value:.3g}"
    return f"{digits} {prefix}{unit}".rstrip()


def seconds(value: float) -> str:
    """A duration: `0.8 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
