"""What the front end asks of the data while it checks a spec: types of columns, sizes of splits.

`Opener` opens the sources, once each, and holds what is given for data without a source;
`Recorded` answers from what a run wrote down, so that a finished model can be used where its data
is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.compiler.errors import RunError
from weft.compiler.types import DTYPES, TensorType, dtype_of, static_shape
from weft.frontends.dsl.data import Opened
from weft.runtime.data.columns import Columns
from weft.runtime.data.outside import Given, read_given
from weft.runtime.data.sources import load
from weft.runtime.data.splits import Part, split


@dataclass(frozen=True)
class OpenData:
    """An opened source: its columns, the rows of each part, and their types for the front end.

    `columns` is None for data from outside that is not given.
    """

    columns: Columns | None
    parts: Mapping[str, Part]
    opened: Opened


@dataclass(frozen=True)
class Opener:
    """Opens data sources, with paths relative to `base`, and keeps them by the data's name.

    `outside` has what is given for data without a source, by its name.
    """

    base: Path
    outside: Mapping[str, Given] = field(default_factory=dict)
    data: dict[str, OpenData] = field(default_factory=dict)

    def open(
        self,
        data: str,
        source: str,
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
        split_: Mapping[str, float | int],
    ) -> Opened:
        """See `DataProvider.open`. Raises RunError when the source can't be read or split."""
        if data not in self.data:
            columns = load(source, arguments, options, self.base)
            parts = split(columns.size, split_, data, columns.ordered)
            types = {n: TensorType(dtype_of(a), a.shape[1:]) for n, a in columns.arrays.items()}
            sizes = {name: part.size for name, part in parts.items()}
            self.data[data] = OpenData(columns, parts, Opened(types, sizes, columns.classes))
        return self.data[data].opened

    def given(
        self, data: str, columns: Mapping[str, TensorType], split_: Mapping[str, int]
    ) -> Opened:
        """See `DataProvider.given`. Raises RunError for arrays that are not what is asked for."""
        if data not in self.data:
            size = sum(split_.values())
            parts = split(size, split_, data)
            found = None
            if data in self.outside:
                found = read_given(self.outside[data], data, columns)
                if found.size != size:
                    raise RunError(
                        f"the split of `{data}` is for another number of examples than is given",
                        expected=f"{size:,} examples in all",
                        found=f"{found.size:,}",
                    )
            self.data[data] = OpenData(found, parts, Opened(columns, split_))
        return self.data[data].opened


@dataclass(frozen=True)
class Recorded:
    """Answers as `Opener` did when `record` was written."""

    record: Mapping[str, Any]

    def open(
        self,
        data: str,
        source: str,
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
        split_: Mapping[str, float | int],
    ) -> Opened:
        """See `DataProvider.open`. Raises RunError for data that the record does not know."""
        if data not in self.record:
            raise RunError(f"the run has no record of the data `{data}`")
        known = self.record[data]
        types = {
            name: TensorType(DTYPES[kind], tuple(shape)) for name, kind, shape in known["columns"]
        }
        classes = {name: tuple(names) for name, names in known.get("classes", {}).items()}
        return Opened(types, dict(known["examples"]), classes)

    def given(
        self, data: str, columns: Mapping[str, TensorType], split_: Mapping[str, int]
    ) -> Opened:
        """See `DataProvider.given`."""
        return Opened(columns, split_)


def record(name: str, data: OpenData) -> dict[str, Any]:
    """What `Recorded` needs, as JSON knows it; the order of columns and parts is kept."""
    columns = [
        [column, type.dtype.name, list(static_shape(type.shape))]
        for column, type in data.opened.columns.items()
    ]
    examples = [[part, size] for part, size in data.opened.examples.items()]
    classes = {column: list(names) for column, names in data.opened.classes.items()}
    return {name: {"columns": columns, "examples": examples, "classes": classes}}
