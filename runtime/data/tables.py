"""CSV files: a line of column names, then one line an example, numbers or text by column."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from weft.compiler.errors import RunError, did_you_mean, one_of
from weft.runtime.data.columns import Array, Columns, columns, field_names

_CHUNK = 65536  # lines converted at once: Python strings are many times larger than numbers
_DELIMITERS = {"tab": "\t", "\\t": "\t"}
_WORDS = {"\t": "tab"}


def read_csv(path: Path, *, delimiter: str = ",", target: str | None = None) -> Columns:
    """The columns of a CSV file with a header, in UTF-8, quoted as RFC 4180 says.

    A column whose values are all integers is i64, all numbers f64 (an empty value is NaN), and
    otherwise text: class numbers in the sorted order of the distinct values. `delimiter` is one
    character, or "tab". With `target`, the fields are `features` (f32, one column for each other
    column, in the order of the file) and `target`.

    Raises RunError for a file that is not such a table, with the line where that shows.
    """
    delimiter = _DELIMITERS.get(delimiter, delimiter)
    if len(delimiter) != 1:
        raise RunError("`delimiter` must be one character", found=f"`{delimiter}`")
    where = f"`{path.name}`"
    with _rows(path, delimiter) as rows:
        first = next(rows, None)
    if first is None:
        raise RunError(f"{where} is empty", expected="a line of column names, then the examples")
    names = _header(first[1], where)
    text: frozenset[int] = frozenset()
    while True:
        try:
            arrays = _convert(path, delimiter, len(names), text)
            break
        except _TextFound as found:
            # A column that began with numbers: read again, now keeping its values as text.
            text |= found.places
    result = columns(dict(zip(names, arrays, strict=True)), where)
    return result if target is None else _supervised(result, target, where)


class _TextFound(Exception):
    def __init__(self, places: frozenset[int]) -> None:
        self.places = places
        super().__init__()


@contextmanager
def _rows(path: Path, delimiter: str) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """The rows of the file that are not blank, numbered; its faults come as RunErrors."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            try:
                yield _numbered(reader)
            except csv.Error as error:
                raise RunError(
                    f"`{path.name}` is not a CSV file", found=f"line {reader.line_num}: {error}"
                ) from error
    except UnicodeDecodeError as error:
        raise RunError(
            f"`{path.name}` is not text in UTF-8",
            found=f"byte {error.object[error.start]:#04x}",
        ) from error


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line that it begins on, from 1."""
    line = 1
    for row in reader:
        if row:
            yield line, row
        line = reader.line_num + 1


def _header(titles: list[str], where: str) -> list[str]:
    titles = [title.strip() for title in titles]
    if len(titles) == 1 and (other := next((c for c in ",;\t|" if c in titles[0]), None)):
        raise RunError(
            f"{where} has one column alone, by this delimiter",
            found=f"`{titles[0]}`".replace("\t", "<tab>"),
            hint=f'say which is its own: `delimiter = "{_WORDS.get(other, other)}"`',
        )
    if all(is_number(title) for title in titles):
        raise RunError(
            f"the first line of {where} holds numbers",
            expected="the names of the columns",
            found=", ".join(titles[:4]) + (", ..." if len(titles) > 4 else ""),
            hint="add a first line that names the columns",
        )
    return field_names(titles, where)


def is_number(text: str) -> bool:
    """Whether a table's text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _convert(path: Path, delimiter: str, width: int, text: frozenset[int]) -> list[Array]:
    """All columns of the file; those at the places in `text` as text.

    Raises _TextFound when a later chunk shows that a column of numbers is one of text.
    """
    parts: list[list[Array]] = [[] for _ in range(width)]
    with _rows(path, delimiter) as rows:
        next(rows)
        while chunk := list(islice(rows, _CHUNK)):
            for line, row in chunk:
                if len(row) != width:
                    raise RunError(
                        f"line {line} of `{path.name}` has {len(row)} values",
                        expected=f"{width}, one for each column that the first line names",
                        hint="is `delimiter` what the file uses?"
                        if 1 in (len(row), width)
                        else None,
                    )
            changed = set()
            for place, values in enumerate(zip(*(row for _, row in chunk), strict=True)):
                is_text = place in text or any(p.dtype.kind == "U" for p in parts[place][:1])
                part = _text(values) if is_text else _numbers(values)
                if part.dtype.kind == "U" and parts[place] and not is_text:
                    changed.add(place)
                parts[place].append(part)
            if changed:
                raise _TextFound(frozenset(changed))
    if not parts[0]:
        raise RunError(f"`{path.name}` has column names and no examples")
    return [np.concatenate(part) for part in parts]


def _text(values: tuple[str, ...]) -> Array:
    return np.array([value.strip() for value in values], dtype=np.str_)


def _numbers(values: tuple[str, ...]) -> Array:
    """The values as i64, else as f64, else as text."""
    joined = "".join(values)
    if "_" in joined or not joined.isascii():  # `1_000` is a number to Python, not to a table
        return _text(values)
    try:
        return np.array(values, dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        return np.array([value.strip() or "nan" for value in values], dtype=np.float64)
    except ValueError:
        return _text(values)


def _supervised(table: Columns, target: str, where: str) -> Columns:
    (name,) = field_names([target], where)
    if name not in table.arrays:
        raise RunError(
            f"{where} has no column `{target}`",
            expected=one_of(table.arrays),
            hint=did_you_mean(name, table.arrays),
        )
    others = [other for other in table.arrays if other != name]
    text = [other for other in others if other in table.classes]
    if text or not others:
        raise RunError(
            f"`features` of {where} needs columns of numbers beside `{target}`",
            found=f"text in {one_of(text)}" if text else "no other column",
            hint="leave out `target` to have each column as a field of its own" if text else None,
        )
    features = np.stack([table.arrays[other].astype(np.float32) for other in others], axis=1)
    classes = {"target": table.classes[name]} if name in table.classes else {}
    return Columns({"features": features, "target": table.arrays[name]}, classes)
