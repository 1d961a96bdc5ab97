"""Arrays in files: what `weft predict` reads and writes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weft.cli.output import writable
from weft.compiler.errors import RunError, did_you_mean, one_of
from weft.compiler.program import Program

if TYPE_CHECKING:
    from weft.runtime.loading import Loaded

Arrays = Mapping[str, NDArray[Any]]
KINDS = (".npz", ".npy", ".csv")

# The names of arrays that a file does not name: of an `.npy`, and of the numbers of a `.csv`.
NAMELESS = ""


def kind(path: Path) -> str:
    """`.npz`, `.npy` or `.csv`. Raises RunError for a file of another kind."""
    if path.suffix.lower() not in KINDS:
        raise RunError(
            f"`{path.name}` is no kind of file for arrays",
            expected=f"a name that ends in {one_of(KINDS)}",
        )
    return path.suffix.lower()


@dataclass(frozen=True)
class Given:
    """The arrays of a file by name; `text` names those that were text, and are class numbers now.

    Which number a text has depends on the other texts of the file, so that none is used.
    """

    arrays: Arrays
    text: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name in self.text:
            raise RunError(
                f"the input's `{name}` is text" if name else "the input is text",
                expected="numbers: for a label, its class as a number from 0",
            )
        return self.arrays[name]


def read(path: Path) -> Given:
    """The arrays of a file by name. Raises RunError when it can't be read."""
    from weft.runtime.data.sources import load

    if path.is_dir():
        raise RunError(f"`{path}` is a folder", expected=f"a file, {one_of(KINDS)}")
    suffix, base = kind(path), path.parent
    if not path.is_file():
        raise _missing(path)
    match suffix:
        case ".npz":
            columns = load("npz", (path.name,), {}, base)
        case ".npy":
            columns = load("npy", (), {"x": path.name}, base)
            text = frozenset({NAMELESS} if columns.classes else ())
            return Given({NAMELESS: next(iter(columns.arrays.values()))}, text)
        case _:
            columns = load("csv", (path.name,), {}, base)
    return Given(columns.arrays, frozenset(columns.classes))


def _missing(path: Path) -> RunError:
    folder = path.parent
    if not folder.is_dir():
        return RunError(f"there is no file `{path}`", found=f"no folder `{folder}`")
    near = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in KINDS and p.is_file())
    beside = f"beside it: {', '.join(f'`{name}`' for name in near[:5])}" if near else None
    return RunError(f"there is no file `{path}`", hint=did_you_mean(path.name, near) or beside)


def prepared(loaded: Loaded, given: Given) -> Given:
    """The fields that the model reads, from the columns of the source, as the data block says."""
    from weft.compiler.evaluate import evaluate
    from weft.compiler.graph import Graph, topological

    experiment, data = loaded.experiment, loaded.experiment.data
    if data is None:
        raise RunError("the spec has no data, so that nothing can be prepared", hint="drop --raw")
    prepare, fitted = loaded.preparation
    wanted = {node.name for node in experiment.predict_inputs} & set(prepare.output_names)
    graph = prepare.with_outputs({n: prepare.named_outputs[n] for n in sorted(wanted)})
    reached = set(topological(graph.outputs))
    inputs = tuple(node for node in graph.inputs if node in reached)
    asked = [node for node in inputs if node.name not in fitted]
    columns = _columns(given, [node.name for node in asked], data.options)
    rows = len(next(iter(columns.values()))) if columns else 0
    ready = dict(fitted)
    for node in asked:
        array = columns[node.name]
        if array.shape[1:] != node.type.shape[1:]:
            raise RunError(
                f"the column `{node.name}` has another shape than in training",
                expected=f"{list(node.type.shape[1:])} for each row",
                found=str(list(array.shape[1:])),
            )
        ready[node.name] = np.ascontiguousarray(array, node.type.dtype.numpy)
    used = Graph(graph.name, inputs, graph.outputs, graph.output_names)
    return Given(evaluate(used, ready, {"batch": rows}))


def _columns(given: Given, wanted: list[str], options: Mapping[str, Any]) -> Arrays:
    """The wanted columns; where training had a `target`, a table's other columns are `features`."""
    arrays = given.arrays
    if NAMELESS in arrays and len(wanted) == 1:
        return dict.fromkeys(wanted, given[NAMELESS])
    target = options.get("target")
    others = [name for name in arrays if name != target]
    if wanted == ["features"] and target is not None and "features" not in arrays and others:
        return {"features": np.stack([given[n].astype(np.float32) for n in others], 1)}
    for name in wanted:
        if name not in arrays:
            known = [n or "an array without a name" for n in arrays]
            raise RunError(
                f"the input has no column `{name}`",
                expected=f"columns {one_of(wanted)}",
                found=one_of(known),
                hint=did_you_mean(name, known),
            )
    return {name: given[name] for name in wanted}


def fields(program: Program, given: Given) -> Any:
    """The given arrays as the fields that the model reads; arrays of other names are left out."""
    arrays = given.arrays
    wanted = {n.name: n.type for n in program.predict.inputs if n.name not in program.states}
    if NAMELESS in arrays and wanted:
        return given[NAMELESS]
    if set(wanted) <= set(arrays):
        return {name: given[name] for name in wanted}
    if len(wanted) == 1 and all(array.ndim == 1 for array in arrays.values()):
        # A table: a column for each number of the only field.
        ((name, type),) = wanted.items()
        if type.rank == 2 and type.shape[1] == len(arrays):
            return {name: np.stack([given[column] for column in arrays], 1)}
    missing = [name for name in wanted if name not in arrays]
    raise RunError(
        f"the input has no field `{missing[0]}`",
        expected=", ".join(f"`{name}`: {type}" for name, type in wanted.items()),
        found=", ".join(f"`{name}` {list(a.shape)}" for name, a in list(arrays.items())[:8]),
        hint=did_you_mean(missing[0], arrays)
        or "for columns as the data source has them, add `--raw`",
    )


def write(path: Path, arrays: Arrays) -> None:
    """The arrays as a file of the kind that its name tells, whole or not at all."""
    from weft.runtime.files import write_atomically

    writable(path)
    match kind(path):
        case ".npz":
            stream = io.BytesIO()
            np.savez(stream, allow_pickle=False, **arrays)
            content = stream.getvalue()
        case ".npy":
            if len(arrays) != 1:
                raise RunError(
                    "an `.npy` file holds one array",
                    found=f"{len(arrays)} outputs: {one_of(arrays)}",
                    hint="write an `.npz` file",
                )
            stream = io.BytesIO()
            np.save(stream, next(iter(arrays.values())), allow_pickle=False)
            content = stream.getvalue()
        case _:
            content = _csv(arrays).encode()
    write_atomically(path, content)


def _csv(arrays: Arrays) -> str:
    """A column for each number of an output: `price`, or `net_0`, `net_1`, ..."""
    import csv

    rows = max(len(a) if a.ndim else 1 for a in arrays.values())
    titles: list[str] = []
    parts = []
    for name, array in arrays.items():
        flat = np.broadcast_to(array, (rows,)) if not array.ndim else array.reshape(rows, -1)
        flat = flat.reshape(rows, -1)
        size = flat.shape[1]
        titles += [name] if array.ndim < 2 else [f"{name}_{i}" for i in range(size)]
        parts.append(flat)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(titles)
    for row in range(rows):
        writer.writerow([str(value) for part in parts for value in part[row].tolist()])
    return stream.getvalue()
