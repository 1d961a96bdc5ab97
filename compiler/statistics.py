"""What fields of the data take from all examples that train, such as a mean: found and set apart.

prepare --split--> stages: columns, piece by piece -> parts of sums --put together--> statistics
               --> prepare, with an input for each statistic
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.compiler.builder import input_
from weft.compiler.graph import Graph, Node, substitute, topological
from weft.compiler.ops import Kind
from weft.compiler.types import SymDim

# The ops that may run over the examples: how the results of two pieces are put together.
COMBINED: Mapping[str, Callable[[Any, Any], Any]] = {
    "reduce_sum": np.add,
    "reduce_prod": np.multiply,
    "reduce_max": np.maximum,
    "reduce_min": np.minimum,
    "reduce_and": np.logical_and,
    "reduce_or": np.logical_or,
    "dot_general": np.add,
}


@dataclass(frozen=True, eq=False)
class Stage:
    """Statistics that one pass over the examples makes, once those of the stages before are known.

    `pieces` gives, from the columns of some examples, what each of `combined` works on: names of
    its outputs, a tuple for each. `made` are statistics computed from those, for all examples.
    """

    pieces: Graph
    combined: Mapping[str, tuple[Node, tuple[str, ...]]]
    made: Graph


@dataclass(frozen=True, eq=False)
class Split:
    """The stages in order, and `prepare` with the inputs that they give values to."""

    stages: tuple[Stage, ...]
    prepare: Graph

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs of `prepare` that are statistics."""
        return tuple(n.name for n in self.prepare.inputs if n.name.startswith(_PREFIX))


_PREFIX = "fitted."  # no column has a dot in its name


def mixing(graph: Graph, batch: SymDim) -> Node | None:
    """The first node of a graph without calls that mixes examples, other than by a statistic."""
    reached = set(graph.inputs)
    for node in graph.nodes:
        operands = [i for i in node.inputs if i in reached]
        if not operands:
            continue
        reached.add(node)
        across = any(varies(i, batch) for i in operands) and not varies(node, batch)
        if (across and node.op.name not in COMBINED) or _reorders(node, batch):
            return node
    return None


def varies(node: Node, batch: SymDim) -> bool:
    """Whether a node has a value for each example."""
    return any(_of(size, batch) for size in node.type.shape)


def _of(size: object, batch: SymDim) -> bool:
    return isinstance(size, SymDim) and batch.symbols <= size.symbols


def _reorders(node: Node, batch: SymDim) -> bool:
    """Whether an op that keeps its operand's shape runs along the examples."""
    if node.op.kind is not Kind.ORDER and node.op.name != "reverse":
        return False
    along = node.attributes.get("axes", (node.attributes.get("axis", -1),))
    return any(_of(node.inputs[0].type.shape[axis], batch) for axis in along)


def split(prepare: Graph, batch: SymDim) -> Split:
    """`prepare` (without calls, see `mixing`) and the stages that make its statistics."""
    levels = _levels(prepare, batch)
    wanted = _wanted(prepare, levels, batch)
    known: dict[Node, Node] = {}
    stages: list[Stage] = []
    for level in sorted({levels[node] for node in wanted}):
        now = [node for node in wanted if levels[node] == level]
        combined = [node for node in now if _combines(node, batch)]
        names = {node: f"{_PREFIX}{len(known) + i}" for i, node in enumerate(now)}
        operands = list(dict.fromkeys(i for node in combined for i in node.inputs))
        places = {operand: str(i) for i, operand in enumerate(operands)}
        pieces = _graph("pieces", substitute(operands, known), places.values())
        known |= {node: input_(names[node], node.type) for node in combined}
        others = [node for node in now if node not in known]
        made = _graph("made", substitute(others, known), [names[node] for node in others])
        known |= {node: input_(names[node], node.type) for node in others}
        told = {names[n]: (n, tuple(places[i] for i in n.inputs)) for n in combined}
        stages.append(Stage(pieces, told, made))
    outputs = substitute(prepare.outputs, known)
    fitted = [n for n in topological(outputs) if n in set(known.values())]
    inputs = (*prepare.inputs, *fitted)
    return Split(tuple(stages), Graph(prepare.name, inputs, tuple(outputs), prepare.output_names))


def _graph(name: str, outputs: Iterable[Node], names: Iterable[str]) -> Graph:
    """A graph over just the inputs that it reads."""
    found = tuple(outputs)
    inputs = tuple(n for n in topological(found) if n.op.name == "input")
    return Graph(name, inputs, found, tuple(names))


def _combines(node: Node, batch: SymDim) -> bool:
    return not varies(node, batch) and any(varies(i, batch) for i in node.inputs)


def _levels(graph: Graph, batch: SymDim) -> dict[Node, int]:
    """The nodes that depend on examples, or on how many they are, by the passes that they need."""
    levels: dict[Node, int] = {}
    for node in graph.nodes:
        if node.op.name == "input" or (node.op.name == "dim_size" and _sized(node, batch)):
            levels[node] = 0
        elif any(i in levels for i in node.inputs):
            before = max(levels[i] for i in node.inputs if i in levels)
            levels[node] = before + _combines(node, batch)
    return levels


def _sized(node: Node, batch: SymDim) -> bool:
    return _of(node.attributes["dim"], batch)


def _wanted(graph: Graph, levels: Mapping[Node, int], batch: SymDim) -> list[Node]:
    """The statistics: what is put together of pieces, and what else each example's values read."""
    read = {i for node in graph.nodes if varies(node, batch) for i in node.inputs}
    return [
        node
        for node in graph.nodes
        if node in levels and not varies(node, batch) and (_combines(node, batch) or node in read)
    ]
