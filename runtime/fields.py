"""The fields of the data: columns as the `data` block prepares and promises them.

in memory       columns --prepare, in chunks--> fields, once
memory-mapped   columns stay on disk; each batch is prepared when it comes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from weft.compiler.errors import CompileError, Diagnostic, InternalError
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.program import DataSpec, Field
from weft.compiler.statistics import split
from weft.compiler.types import symbol
from weft.runtime.data.batches import gather
from weft.runtime.data.columns import Array, Columns
from weft.runtime.data.splits import Part
from weft.runtime.data.tables import is_number
from weft.runtime.fitted import fit
from weft.runtime.permutation import Indices

CHUNK = 8192  # rows prepared at once


@dataclass(frozen=True, eq=False)
class Fields:
    """The prepared fields of a data set, by row.

    What they take from all examples is that of the part `train`, or `known` from an earlier time;
    `fitted` has it by the names of the inputs of `prepare`. Raises CompileError, at the field, for
    a label outside its classes.
    """

    spec: DataSpec
    columns: Columns
    train: Part
    known: Mapping[str, Array] | None = None
    prepare: Graph = field(init=False)
    fitted: Mapping[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        found = split(inline_calls(self.spec.prepare, frozenset()), symbol("batch"))
        object.__setattr__(self, "prepare", found.prepare)
        known = self.known or {}
        if not known.keys() >= set(found.names):
            known = fit(found, self._trained, self.train.size)
        object.__setattr__(self, "fitted", known)
        self._check_labels()

    @property
    def size(self) -> int:
        """The number of examples."""
        return self.columns.size

    @property
    def mapped(self) -> bool:
        """Whether a column is a file on disk, of which only the rows in use are read."""
        return any(isinstance(a, np.memmap) for a in self.columns.arrays.values())

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """All rows of every field, for data in memory; computed at the first use."""
        whole: dict[str, Array] = {}
        for rows, chunk in self._chunks(self.prepare):
            for name, values in chunk.items():
                if name not in whole:
                    whole[name] = np.empty((self.size, *values.shape[1:]), values.dtype)
                whole[name][rows] = values
        return whole

    @cached_property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """Fields that take text for numbers, and, of data in memory, that aren't finite."""
        found = [self._text(f) for f in self.spec.fields]
        if not self.mapped:
            found += [_non_finite(f, self.arrays[f.name]) for f in self.spec.fields]
        return tuple(warning for warning in found if warning is not None)

    def _text(self, declared: Field) -> Diagnostic | None:
        """A column of text whose class numbers a field of floats has as if they were amounts."""
        if declared.type.dtype.kind != "float":
            return None
        for node in _amounts(self.prepare.named_outputs[declared.name]):
            if node.op.name == "input" and node.name in self.columns.classes:
                return _text_as_numbers(declared, node.name, self.columns.classes[node.name])
        return None

    def raw(self, rows: Indices) -> dict[str, Array]:
        """The columns of these rows that `prepare` reads."""
        wanted = {n.name: n for n in topological(self.prepare.outputs) if n.op.name == "input"}
        found = gather({n: a for n, a in self.columns.arrays.items() if n in wanted}, rows)
        return {n: _typed(a, wanted[n]) for n, a in found.items()}

    def _trained(self, inputs: Iterable[Node]) -> Iterator[tuple[dict[str, Array], int]]:
        """These columns of the examples that train, some rows at a time, in the data's order."""
        wanted = list(inputs)
        rows = np.sort(self.train.rows())
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            read = gather({n.name: self.columns.arrays[n.name] for n in wanted}, some)
            yield {n.name: _typed(read[n.name], n) for n in wanted}, len(some)

    def _chunks(self, graph: Graph) -> Iterator[tuple[slice, dict[str, Array]]]:
        """The graph's outputs over all rows, some rows at a time; only what it reads is read."""
        reached = set(topological(graph.outputs))
        inputs = tuple(n for n in graph.inputs if n in reached)
        used = Graph(graph.name, inputs, graph.outputs, graph.output_names)
        for start in range(0, self.size, CHUNK):
            rows = slice(start, min(start + CHUNK, self.size))
            read = {n.name: self._value(n, rows) for n in inputs}
            yield rows, evaluate(used, read, {"batch": rows.stop - rows.start})

    def _value(self, node: Node, rows: slice) -> Array:
        if node.name in self.fitted:
            return self.fitted[node.name]
        return _typed(self.columns.arrays[node.name][rows], node)

    def _check_labels(self) -> None:
        labels = {f.name: f for f in self.spec.fields if f.classes is not None}
        if not labels:
            return
        outputs = {n: self.prepare.named_outputs[n] for n in labels}
        for rows, chunk in self._chunks(self.prepare.with_outputs(outputs)):
            for name, values in chunk.items():
                _check_label(labels[name], values, rows.start)


def _typed(values: Array, column: Node) -> Array:
    """The values in the column's type; a file from outside may hold them in another."""
    return np.asarray(values).astype(column.type.dtype.numpy, copy=False)


def _check_label(label: Field, values: Array, start: int) -> None:
    if label.classes is None:
        raise InternalError(f"`{label.name}` is no label")
    wrong = np.argwhere((values < 0) | (values >= label.classes))
    if not wrong.size:
        return
    row, *place = (int(i) for i in wrong[0])
    value = values[(row, *place)]
    hint = None
    if int(value) == label.classes:
        hint = f"count classes from 0, or declare it as `class[{label.classes + 1}]`"
    raise CompileError(
        f"a label of `{label.name}` is out of range",
        label.span,
        expected=f"whole numbers from 0 to {label.classes - 1}",
        found=f"{value}{f' at {place}' if place else ''} in row {start + row} (rows count from 0)",
        hint=hint,
    )


# Operations whose result is an amount where their operands are.
_MOVING = {"cast", "reshape", "transpose", "broadcast_in_dim", "concat", "slice"}
_KEEPING = frozenset({*_MOVING, "add", "subtract", "multiply", "divide", "negate"})


def _amounts(node: Node) -> Iterator[Node]:
    """What a value is made of by plain arithmetic alone: no comparison, no choice."""
    waiting, seen = [node], {node}
    while waiting:
        node = waiting.pop()
        yield node
        if node.op.name in _KEEPING:
            waiting += [i for i in node.inputs if i not in seen]
            seen.update(node.inputs)


def _text_as_numbers(declared: Field, column: str, classes: Sequence[str]) -> Diagnostic:
    odd = [text for text in classes if not is_number(text)] or list(classes)
    shown = ", ".join(f"`{text}`" for text in odd[:3]) + (", ..." if len(odd) > 3 else "")
    numeric = len(odd) < len(classes)
    return Diagnostic(
        f"`{declared.name}` takes the text of the column `{column}` as numbers",
        declared.span,
        expected="numbers in every row" if numeric else None,
        found=f"{shown}: texts count as 0, 1, ... in sorted order",
        hint="leave the place of a missing number empty"
        if numeric
        else f"`one_hot({column}, {len(classes)})` gives each text a number of its own",
        severity="warning",
    )


def _non_finite(declared: Field, values: Array) -> Diagnostic | None:
    if values.dtype.kind != "f":
        return None
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    wrong = np.flatnonzero(~finite)
    if not wrong.size:
        return None
    return Diagnostic(
        f"`{declared.name}` has values that are not finite",
        declared.span,
        found=f"{wrong.size} of {len(values)} rows, the first of them row {wrong[0]}",
        hint="one of them in a batch makes the loss, and so every parameter, not finite",
        severity="warning",
    )
