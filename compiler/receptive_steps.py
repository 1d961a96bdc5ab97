"""Where the axes of an operand go in an op, and which places of them each place there reads.

    conv, stride 2, kernel 3        (place q of y) reads (places 2 q - 1 to 2 q + 1 of x)
    transpose                       the same places, along another axis
    reduce_sum                      the axis goes nowhere, and all of it is read

`receptive.py` puts these steps together from the input to each map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.ops import Kind
from weft.compiler.types import static_shape


@dataclass(frozen=True)
class Step:
    """One axis: place `p q + r` of `axis`, for p phases r, reads `reads[r] + advance q` of it.

    Places before the first and behind the last are read as if there were some.
    """

    axis: int
    reads: tuple[Sequence[int], ...] = ((0,),)
    advance: int = 1

    @property
    def same_places(self) -> bool:
        """Whether each place reads the one that it was."""
        return (self.reads, self.advance) == (((0,),), 1)


Steps = Mapping[int, Step | None]
"""By the operand's axis. None: there it is but a border; one that is not in it can't be said."""

_Rule = Callable[[Node, int], Steps]  # of a node and the number of an operand


def steps(node: Node, number: int) -> Steps:
    """The steps of the axes of one operand of a node."""
    if node.op.name in _RULES:
        return _RULES[node.op.name](node, number)
    if node.op.kind is Kind.ELEMENTWISE:
        return _kept(node.type.rank)
    return {}


def windows(node: Node) -> range:
    """The axes that a convolution or a reduction of windows slides along: its last ones."""
    return range(node.type.rank - len(node.attributes["strides"]), node.type.rank)


def _kept(rank: int, *without: int) -> dict[int, Step | None]:
    """Axes that stay as they are, but for some."""
    return {axis: Step(axis) for axis in range(rank) if axis not in without}


# -- windows ---------------------------------------------------------------------------------------


def _window(
    axis: int, size: int, stride: int, low: int, dilation: int = 1, spread: int = 1
) -> Step:
    """A window over an axis with `low` places before it and `spread - 1` zeros between elements."""
    period = spread // math.gcd(spread, stride)
    reads = []
    for phase in range(period):
        places = [phase * stride - low + tap * dilation for tap in range(size)]
        reads.append(tuple(place // spread for place in places if place % spread == 0))
    return Step(axis, tuple(reads), period * stride // spread)


def _conv(node: Node, number: int) -> Steps:
    if number:
        return {}  # a kernel is read whole
    found: dict[int, Step | None] = {0: Step(0)}
    a, sizes = node.attributes, static_shape(node.inputs[1].type.shape)[2:]
    for i, axis in enumerate(windows(node)):
        (low, _), gap, spread = a["padding"][i], a["rhs_dilation"][i], a["lhs_dilation"][i]
        found[axis] = _window(axis, sizes[i], a["strides"][i], low, gap, spread)
    return found


def _reduce_window(node: Node, number: int) -> Steps:
    a = node.attributes
    found = _kept(windows(node).start)
    for i, axis in enumerate(windows(node)):
        low, _ = a["padding"][i]
        found[axis] = _window(axis, a["window"][i], a["strides"][i], low, a["dilation"][i])
    return found


def _pad(node: Node, number: int) -> Steps:
    a = node.attributes
    sides = enumerate(zip(a["low"], a["interior"], strict=True))
    return {axis: _window(axis, 1, 1, low, spread=gap + 1) for axis, (low, gap) in sides}


def _slice(node: Node, number: int) -> Steps:
    a = node.attributes
    sides = enumerate(zip(a["start"], a["strides"], strict=True))
    return {axis: _window(axis, 1, s, -low) for axis, (low, s) in sides}


def _reverse(node: Node, number: int) -> Steps:
    sizes = static_shape(node.type.shape)
    back = {axis: Step(axis, ((sizes[axis] - 1,),), -1) for axis in node.attributes["axes"]}
    return _kept(node.type.rank) | back


def _concat(node: Node, number: int) -> Steps:
    """A part that is longer than all others together has those as its borders, as in padding."""
    axis = node.attributes["axis"]
    sizes = [static_shape(part.type.shape)[axis] for part in node.inputs]
    others = _kept(node.type.rank, axis)
    if 2 * max(sizes) <= sum(sizes):
        return others
    longest = sizes[number] == max(sizes)
    return {**others, axis: Step(axis, ((-sum(sizes[:number]),),)) if longest else None}


# -- axes that go elsewhere ------------------------------------------------------------------------


def _transpose(node: Node, number: int) -> Steps:
    return {axis: Step(place) for place, axis in enumerate(node.attributes["permutation"])}


def _broadcast(node: Node, number: int) -> Steps:
    before, after = node.inputs[0].type.shape, node.type.shape
    dims = enumerate(node.attributes["dims"])
    return {axis: Step(place) for axis, place in dims if before[axis] == after[place]}


def _reduced(node: Node, number: int) -> Steps:
    return _without(node, node.attributes["axes"])


def _chosen(node: Node, number: int) -> Steps:
    return _without(node, (node.attributes["axis"],))


def _without(node: Node, gone: Sequence[int]) -> Steps:
    """Some axes of the operand are gone; the others close ranks."""
    left = [axis for axis in range(node.inputs[0].type.rank) if axis not in gone]
    return {axis: Step(place) for place, axis in enumerate(left)}


def _mixed(node: Node, number: int) -> Steps:
    return _kept(node.type.rank, node.attributes["axis"])


# -- products and choices --------------------------------------------------------------------------


def _dot_general(node: Node, number: int) -> Steps:
    """Free axes stay; along a summed one a constant matrix, as of `resize_linear`, is a window."""
    contract, batch = node.attributes["contract"], node.attributes["batch"]
    mine, other = node.inputs[number], node.inputs[1 - number]
    gone = {*contract[number], *batch[number]}
    free = [axis for axis in range(mine.type.rank) if axis not in gone]
    others = other.type.rank - len(contract[0]) - len(batch[0])
    first = len(batch[0]) + (others if number else 0)
    found = {axis: Step(place) for place, axis in enumerate(batch[number])}
    found |= {axis: Step(first + place) for place, axis in enumerate(free)}
    matrix = _constant(other) if other.type.rank == 2 and others == len(contract[0]) == 1 else None
    if matrix is not None:
        rows = matrix if contract[1 - number] == (1,) else matrix.T
        step = _repeated(0 if number else len(free), map(np.flatnonzero, rows), rows.shape[1])
        found |= {contract[number][0]: step} if step is not None else {}
    return found


def _gather(node: Node, number: int) -> Steps:
    """Places that are constant, as in `resize_nearest`, are a window too."""
    x, indices = node.inputs
    shared = node.attributes["batch_dims"]
    if number:
        return _kept(indices.type.rank)
    more = indices.type.rank - shared - 1
    found = _kept(shared) | {a: Step(a + more) for a in range(shared + 1, x.type.rank)}
    places = _constant(indices) if indices.type.rank == 1 and not shared else None
    if places is not None:
        step = _repeated(0, places.reshape(-1, 1), static_shape(x.type.shape)[0])
        found |= {0: step} if step is not None else {}
    return found


def _constant(node: Node) -> np.ndarray | None:
    """The value of a node that depends on no input."""
    if any(n.op.name == "input" for n in topological([node])):
        return None
    return evaluate(Graph("constant", (), (node,)), {})["out"]


def _repeated(axis: int, reads: Iterable[np.ndarray], size: int) -> Step | None:
    """A list of what each place reads of `size` places, if it repeats but for the borders."""
    spans = [(int(r.min()), int(r.max())) if r.size else None for r in reads]
    common = math.gcd(len(spans), size)
    if not common:
        return None
    period, advance = len(spans) // common, size // common
    phases: list[range] = []
    for phase in range(period):
        turns = enumerate(spans[phase::period])
        known = [(s[0] - advance * turn, s[1] - advance * turn) for turn, s in turns if s]
        low, high = min((s[0] for s in known), default=0), max((s[1] for s in known), default=-1)
        if any(s[1] - s[0] == high - low for s in known) or not known:
            phases.append(range(low, high + 1))
        else:
            return None
    return Step(axis, tuple(phases), advance)


_RULES: dict[str, _Rule] = {
    "conv": _conv,
    "reduce_window": _reduce_window,
    "arg_reduce_window": _reduce_window,
    "pad": _pad,
    "slice": _slice,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "dot_general": _dot_general,
    "gather": _gather,
    "reverse": _reverse,
    "concat": _concat,
    **dict.fromkeys(("sort", "arg_sort", "cumsum"), _mixed),
    **dict.fromkeys(("arg_max", "arg_min"), _chosen),
    **dict.fromkeys(
        ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or"),
        _reduced,
    ),
}
"""Where axes go in ops that aren't elementwise. In others than these, nothing is said of them."""
