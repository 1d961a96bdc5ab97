"""A turn of a loop as a plan of its own, and the working memory of all turns.

A turn reads and writes stacks in place. A carried value lives in its stack where it has one, else
in two places in turn, so that a turn never writes what it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from weft.compiler import builder as b
from weft.compiler.graph import Graph
from weft.compiler.loops import Loop, fresh
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan
from weft.compiler.plan import ALIGNMENT, Abilities, Plan


@dataclass(frozen=True, eq=False)
class Turn:
    """A body as a step over arrays: every output is written into an array that the turn is given.

    `after[j]` names where carried value `j` goes, `stacks[k]` where output `k` goes. Outputs in
    `before` are carried values as they come in, those in `behind` as they go out: they are in
    memory without being written by the turn.
    """

    plan: Plan
    after: tuple[str, ...]
    stacks: Mapping[int, str]
    before: Mapping[int, int]  # carried value -> the output that stacks it as it comes in
    behind: Mapping[int, int]


def turn_of(loop: Loop, abilities: Abilities) -> Turn:
    """One turn of a loop, planned."""
    return _turn(loop.body, len(loop.start), abilities)


@lru_cache(maxsize=64)
def _turn(body: Graph, count: int, abilities: Abilities) -> Turn:
    taken = {node.name for node in body.inputs}
    carried, after = body.inputs[:count], body.outputs[:count]
    stacked = body.outputs[count:]
    before = {j: stacked.index(c) for j, c in enumerate(carried) if c in stacked}
    behind = {
        j: stacked.index(n)
        for j, n in enumerate(after)
        if n in stacked and j not in before and n not in after[:j]
    }
    silent = {*before.values(), *behind.values()}
    names = [fresh(f"next_{c.name}", taken) for c in carried]
    outputs = dict(zip(names, after, strict=True))
    stacks = {}
    for k, node in enumerate(stacked):
        if k not in silent:
            stacks[k] = fresh(f"stack_{k}", taken)
            outputs[stacks[k]] = node
    inputs = (*body.inputs, *(b.input_(n, node.type) for n, node in outputs.items()))
    graph = Graph(body.name, inputs, tuple(outputs.values()), tuple(outputs))
    made = plan(graph, fuse(graph), abilities, bound=graph.named_inputs)
    return Turn(made, tuple(names), stacks, before, behind)


@dataclass(frozen=True)
class Room:
    """Offsets into a loop's working memory, where the turn's arena comes first."""

    carried: tuple[tuple[int, int], ...]  # two places each
    copies: Mapping[int, int]  # of operands, by their number
    parts: Mapping[int, int]  # of stacks that nobody may read: one part, by their number
    bytes: int


def room_of(loop: Loop, turn: Turn, copies: Iterable[int], parts: Iterable[int] = ()) -> Room:
    """Working memory for a loop with copies of these operands and parts of these stacks."""
    end = _aligned(max(1, turn.plan.arena_bytes))

    def take(size: int) -> int:
        nonlocal end
        start = end
        end += _aligned(size)
        return start

    carried = tuple((take(v.type.bytes), take(v.type.bytes)) for v in loop.start)
    operands = (*loop.start, *loop.steps, *loop.fixed)
    copied = {i: take(operands[i].type.bytes) for i in copies}
    kept = {k: take(loop.stacked[k].type.bytes) for k in parts}
    return Room(carried, copied, kept, end)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
