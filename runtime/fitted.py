"""The statistics that fields take from the examples that train: sums in pieces, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from weft.compiler.evaluate import evaluate, evaluate_node
from weft.compiler.graph import Graph, Node, substitute, topological
from weft.compiler.statistics import COMBINED, Split
from weft.runtime.data.columns import Array

Pieces = Callable[[Iterable[Node]], Iterable[tuple[Mapping[str, Array], int]]]
"""For inputs of a graph: their values for some examples at a time, and how many these are."""


def fit(split: Split, pieces: Pieces, size: int) -> dict[str, Array]:
    """The values of the inputs that a split of `prepare` has for statistics, of `size` examples.

    Sums are added up in f64, whatever the type of the fields.
    """
    known: dict[str, Array] = {}
    for stage in split.stages:
        totals: dict[str, Any] = {}
        columns = [n for n in stage.pieces.inputs if n.name not in known]
        if stage.combined:
            for values, count in pieces(columns):
                sizes = {"batch": count}
                found = evaluate(stage.pieces, {**known, **values}, sizes)
                for name, (node, operands) in stage.combined.items():
                    part = evaluate_node(node, [_wide(found[o]) for o in operands], sizes)
                    before = totals.get(name)
                    together = COMBINED[node.op.name]
                    totals[name] = part if before is None else together(before, part)
        for name, (node, _) in stage.combined.items():
            known[name] = np.asarray(totals[name]).astype(node.type.dtype.numpy)
        known |= evaluate(stage.made, known, {"batch": size})
    return {name: known[name] for name in split.names}


def _wide(values: Array) -> Array:
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def from_columns(predict: Graph, prepare: Graph) -> Graph:
    """A graph over fields as one over what `prepare` makes them of."""
    fields = prepare.named_outputs
    made = {node: fields[node.name] for node in predict.inputs if node.name in fields}
    outputs = tuple(substitute(predict.outputs, made))
    reached = set(topological(outputs))
    inputs = [node for node in (*predict.inputs, *prepare.inputs) if node in reached]
    return Graph(predict.name, tuple(inputs), outputs, predict.output_names)
