"""The receptive field of each convolution and pooling: how much of the input one place of it sees.

    x: [B, C, H, W] --conv 3--> 3 every 1 --pool 2--> 4 every 2 --conv 3--> 8 every 2

It follows from the graph alone, whatever the numbers in it are. The borders are left out: a field
may be larger than the input. Where a place sees all there is, as behind a mean over the picture, or
what a place sees depends on data, nothing is said from there on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from weft.compiler.graph import Graph, Node, topological
from weft.compiler.ops import Kind
from weft.compiler.receptive_steps import Step, steps, windows
from weft.compiler.types import static_shape


@dataclass(frozen=True)
class ReceptiveField:
    """How many places of the input one place sees, and how far apart neighbours see, by axis.

    The largest where places differ, as behind a transposed convolution.
    """

    size: tuple[int, ...]
    stride: tuple[Fraction, ...]

    def __str__(self) -> str:
        """`212 x 212 every 32`."""
        even = len(set(self.stride)) == 1
        strides = self.stride[:1] if even else self.stride
        return f"{' x '.join(map(str, self.size))} every {' x '.join(map(str, strides))}"


_Span = tuple[int, int]  # the first and the last place


@dataclass(frozen=True)
class _Sight:
    """What the places along an axis of a node see of an axis of the input.

    Place `p q + r`, for p phases r, sees `phases[r] + advance q`, or nothing where that is None. An
    axis that reshapes have put together from several has such places as one digit of its own: its
    place i stands for place `i // repeats % count`.
    """

    axis: int
    count: int
    repeats: int = 1
    advance: int = 1
    phases: tuple[_Span | None, ...] = ((0, 0),)

    @property
    def size(self) -> int:
        return max((high - low + 1 for low, high in filter(None, self.phases)), default=0)

    @property
    def stride(self) -> Fraction:
        return Fraction(abs(self.advance), len(self.phases))

    def at(self, place: int) -> _Span | None:
        turn, phase = divmod(place, len(self.phases))
        span, moved = self.phases[phase], turn * self.advance
        return (span[0] + moved, span[1] + moved) if span is not None else None


_Sights = dict[tuple[str, int], _Sight | None]  # by input and its axis; None: nothing can be said


def receptive_fields(graph: Graph, states: Iterable[str]) -> dict[Node, ReceptiveField]:
    """The fields of the convolutions and windows of a graph, where they are known.

    Requires numbers as sizes, and no calls. The input is what the graph reads beside its states,
    along all axes but the first, the batch.
    """
    inner = frozenset(states)
    sights: dict[Node, _Sights] = {}
    found: dict[Node, ReceptiveField] = {}
    for node in graph.nodes:
        seen: _Sights = {}
        if node.op.name == "input" and node.name not in inner:
            axes = range(1, node.type.rank)
            seen = {(node.name, axis): _Sight(axis, _sizes(node)[axis]) for axis in axes}
        for number, operand in enumerate(node.inputs):
            if sights[operand]:
                _add(seen, sights[operand], node, number)
        sights[node] = seen
        if seen and (node.op.name == "conv" or node.op.kind is Kind.WINDOW):
            field = _field([_whole(s, node) for s in seen.values() if s is not None], windows(node))
            if field is not None:
                found[node] = field
    return found


def by_kernel(found: Mapping[Node, ReceptiveField]) -> dict[str, ReceptiveField]:
    """The fields of convolutions by the inputs that their kernels are made of, the largest."""
    fields: dict[str, ReceptiveField] = {}
    for node, field in found.items():
        if node.op.name == "conv":
            kernel = topological([node.inputs[1]])
            for name in (n.name for n in kernel if n.op.name == "input"):
                fields[name] = largest([fields.get(name, field), field])
    return fields


def largest(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """The one that sees most places; of equals the last."""
    return max(reversed(fields), key=lambda field: math.prod(field.size))


def _field(sights: Iterable[_Sight | None], axes: Iterable[int]) -> ReceptiveField | None:
    """Along some axes of a map; None where one of them has no description."""
    known = [s for s in sights if s is not None]
    by_axis = [[s for s in known if s.axis == axis] for axis in axes]
    if not all(by_axis):
        return None
    widest = [max(along, key=lambda s: s.size) for along in by_axis]
    return ReceptiveField(tuple(s.size for s in widest), tuple(s.stride for s in widest))


# -- through one node ------------------------------------------------------------------------------


def _add(seen: _Sights, sights: _Sights, node: Node, number: int) -> None:
    """What a node sees through one more of its operands."""
    known, operand = steps(node, number), node.inputs[number]
    for key, sight in sights.items():
        behind = None
        if sight is not None and node.op.name == "reshape":
            behind = _reshaped(sight, _sizes(operand), _sizes(node))
        elif sight is not None and sight.axis in known:
            step = known[sight.axis]
            if step is None:
                continue
            behind = _behind(sight, step, node, operand)
        seen[key] = _union(seen[key], behind, node) if key in seen else behind


def _behind(sight: _Sight, step: Step, node: Node, operand: Node) -> _Sight | None:
    if step.same_places:
        return replace(sight, axis=step.axis)
    whole = _whole(sight, operand)
    return _through(whole, step, _sizes(node)[step.axis]) if whole is not None else None


def _reshaped(sight: _Sight, before: tuple[int, ...], after: tuple[int, ...]) -> _Sight | None:
    """Along the axis that has the places as a digit, or the first of those that share them.

    There, a place sees what its block of places saw.
    """
    behind = len(before) - sight.axis
    if before[-behind:] == after[-behind:]:
        return replace(sight, axis=len(after) - behind)
    if sight.count == 1:
        return None  # such an axis could be anywhere
    below = sight.repeats * math.prod(before[sight.axis + 1 :])  # elements between two places
    above = sight.count * below
    for axis, count in enumerate(after):
        inner = math.prod(after[axis + 1 :])
        if below % inner == 0 and inner * count % above == 0:
            return replace(sight, axis=axis, repeats=below // inner)
        if inner % below == 0 and below < inner < inner * count == above:
            block = inner // below
            return _through(sight, Step(axis, (range(block),), block), count)
    return None


def _whole(sight: _Sight, node: Node) -> _Sight | None:
    """The same with the places of the axis themselves, if it has no digit above."""
    count = _sizes(node)[sight.axis]
    if sight.repeats * sight.count != count:
        return None
    repeat = Step(sight.axis, ((0,),) * sight.repeats)
    return _through(sight, repeat, count) if sight.repeats > 1 else sight


def _through(sight: _Sight, step: Step, count: int) -> _Sight:
    """What the places behind a step see."""
    period = len(sight.phases)
    turns = period // math.gcd(period, step.advance)  # of the step, until the phases come again
    phases = tuple(
        _hull(sight.at(place + turn * step.advance) for place in reads)
        for turn in range(turns)
        for reads in step.reads
    )
    advance = turns * step.advance // period * sight.advance
    return _Sight(step.axis, count, 1, advance, phases)


def _union(one: _Sight | None, two: _Sight | None, node: Node) -> _Sight | None:
    one, two = (_whole(s, node) if s is not None else None for s in (one, two))
    if one is None or two is None or one.axis != two.axis:
        return None
    period = math.lcm(len(one.phases), len(two.phases))
    advance = one.advance * period // len(one.phases)
    if advance != two.advance * period // len(two.phases):
        return None
    phases = tuple(_hull((one.at(place), two.at(place))) for place in range(period))
    return replace(one, advance=advance, phases=phases)


def _hull(spans: Iterable[_Span | None]) -> _Span | None:
    known = [span for span in spans if span is not None]
    return (min(s[0] for s in known), max(s[1] for s in known)) if known else None


def _sizes(node: Node) -> tuple[int, ...]:
    return static_shape(node.type.shape)
