"""The template of `scan`: a function for one turn, bound to the memory of each turn beforehand.

    def bind_turn(state, arena):               one turn's code, over arrays that it is given
        ...
        def turn(): ...
    turns = bound(bind_turn, ...).turns        its views are made once for every turn
    def step(inputs):
        for turn in turns:
            turn()

The results of a loop are nodes of one group; the loop runs when the last of them is due. What a
turn is, and where its memory is, says `compiler/passes/turn.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weft.backends.numpy.template import shape_of
from weft.compiler.graph import Node
from weft.compiler.loops import Loop
from weft.compiler.passes.turn import Room, Turn, room_of, turn_of
from weft.compiler.passes.views import Layout, contiguous, view
from weft.compiler.plan import Abilities
from weft.compiler.types import U8, static_shape

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

Array = np.ndarray


# -- working memory -------------------------------------------------------------------------------


def _room(loop: Loop, turn: Turn) -> Room:
    copies = (i for i, v in enumerate(loop.steps, len(loop.start)) if _may_be_copied(v))
    return room_of(loop, turn, copies)


def _may_be_copied(value: Node) -> bool:
    """Whether a stack may lie in an array of one call, or a turn's part of it not in one piece."""
    chain = []
    while value.op.name in ("reshape", "transpose", "broadcast_in_dim", "slice", "reverse"):
        chain.append(value)
        value = value.inputs[0]
    layout: Layout | None = contiguous(shape_of(value))
    for node in reversed(chain):
        layout = view(node, layout) if layout is not None else None
        layout = layout or contiguous(shape_of(node))
    return value.op.name == "input" or not (layout and _in_pieces(layout))


def _in_pieces(layout: Layout) -> bool:
    """Whether each part along axis 0 lies in one piece."""
    part = Layout(0, layout.shape[1:], layout.strides[1:])
    return part.is_contiguous


def loop_scratch(node: Node, abilities: Abilities) -> int:
    """Bytes of working memory that a loop takes."""
    loop = Loop.of(node)
    return _room(loop, turn_of(loop, abilities)).bytes


# -- the template ---------------------------------------------------------------------------------


def scan_template(p: Printer, node: Node) -> None:
    """The loop, when the last of its results is due."""
    mine = p.together(node)
    if node is not mine[-1]:
        return
    results = {n.attributes["result"]: n for n in mine}
    loop = Loop.of(node)
    turn = turn_of(loop, p.abilities)
    room, count = _room(loop, turn), len(loop.start)
    bind = p.function(turn.plan)
    names = [n.name for n in loop.body.inputs]

    def memory(skip: int, like: Node) -> str:
        return p.scratch(node, shape_of(like), like.type.dtype, skip)

    steps, fixed = {}, {}
    for place, value in enumerate(loop.steps, count):
        kept = memory(room.copies[place], value) if place in room.copies else None
        steps[names[place]] = _steady(p, value, _in_pieces, kept)
    for place, value in enumerate(loop.fixed, count + len(loop.steps)):
        fixed[names[place]] = _steady(p, value, lambda layout: layout.is_contiguous, None)
    stacks = {}
    for k, name in turn.stacks.items():
        whole = results.get(count + k)
        stacks[name] = p.array(whole) if whole else _unread(p, loop, k)
    carried = []
    for j, value in enumerate(loop.start):
        places = [memory(skip, value) for skip in room.carried[j]]
        end = results.get(j)
        final = p.array(end) if end and end.type.rank else "None"
        kinds = (turn.before, turn.behind)
        made = [results.get(count + kind[j]) if j in kind else None for kind in kinds]
        shown = [p.array(n) if n else "None" for n in made]
        carried.append(
            f"Carried({names[j]!r}, {turn.after[j]!r}, {', '.join((*places, final, *shown))})"
        )
    (length,) = static_shape((loop.length,))
    order = f"range({length})"
    if loop.reverse:
        order = f"range({length - 1}, -1, -1)"
    p.use("Carried", Carried)
    arena = p.scratch(node, (max(1, turn.plan.arena_bytes),), U8)
    setup = p.setup(
        "loop",
        f"{p.use('bound', bound)}({bind}, {arena}, {order}, "
        f"{_record(steps | stacks)}, {_record(fixed)}, [{', '.join(carried)}])",
    )
    _print_turns(p, loop, turn, results, setup)


def _print_turns(
    p: Printer, loop: Loop, turn: Turn, results: Mapping[int, Node], setup: str
) -> None:
    """The lines of a step: the first carries, all turns, and what the carries come to."""
    count = len(loop.start)
    (length,) = static_shape((loop.length,))
    for j, value in enumerate(loop.start):
        first = p.setup("first", f"{setup}.carried[{j}].memory[0]")
        p.line(f"{first}[...] = {p.operand(value)}")
    turns = p.setup("turns", f"{setup}.turns")
    p.line(f"for turn in {turns}:")
    p.line("    turn()")
    for j in range(count):
        end = results.get(j)
        if end is None:
            continue
        last = p.setup("last", f"{setup}.carried[{j}].memory[-1]")
        if p.is_register(end):
            p.assign(end, f"{last}[()]")
        elif not length or (j in turn.behind and count + turn.behind[j] in results):
            p.line(f"{p.array(end)}[...] = {last}")


def _record(arrays: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{k!r}: {v}" for k, v in arrays.items()) + "}"


def _unread(p: Printer, loop: Loop, k: int) -> str:
    """Memory for a stack that nobody reads: one place for all turns."""
    node = loop.stacked[k]
    shape = (loop.length, *shape_of(node))
    part = p.setup("unread", f"view(None, {p.dtype(node.type.dtype)}, {shape_of(node)}, 0)")
    return f"{p.use('broadcast_to', _spread)}({part}, {shape})"


def _steady(p: Printer, value: Node, fits: Callable[[Layout], bool], kept: str | None) -> str:
    """The operand as an array that stays where it is from call to call; copied if it has to be."""
    place = p.plan.places[value]
    known = place.buffer.kind != "input" or place.buffer.nodes[0].type.rank == 0
    if known and fits(place.layout):
        return p.array(value)
    if kept is None:
        text = f"view(None, {p.dtype(value.type.dtype)}, {shape_of(value)}, 0)"
        kept = p.setup("copy", text)
    p.line(f"{kept}[...] = {p.operand(value)}")
    return kept


# -- what the printed code calls ------------------------------------------------------------------


@dataclass
class Carried:
    """Where a carried value is: `memory[k]` before turn `k`, the last one after all turns."""

    name: str
    after: str
    first: Array
    second: Array
    final: Array | None
    before: Array | None  # the stack of what comes in
    behind: Array | None  # the stack of what goes out
    memory: Sequence[Array] = ()

    def place(self, order: range) -> None:
        """Decide on the memory for turns in this order."""
        two, count = (self.first, self.second), len(order)
        if self.before is not None:
            memory = [self.before[t, ...] for t in order]
            memory.append(two[0] if self.final is None or not count else self.final)
        elif self.behind is not None:
            memory = [self.first, *(self.behind[t, ...] for t in order)]
        else:
            memory = [two[k % 2] for k in range(count + 1)]
            if self.final is not None and count:
                memory[-1] = self.final
        self.memory = memory


@dataclass(frozen=True)
class Bound:
    """The turns of a loop in their order, each over its own memory."""

    turns: Sequence[Callable[[], None]]
    carried: Sequence[Carried]


def bound(
    bind: Callable[[Mapping[str, Array], Array], Callable[[], None]],
    arena: Array,
    order: range,
    stacks: Mapping[str, Array],
    fixed: Mapping[str, Array],
    carried: Sequence[Carried],
) -> Bound:
    """Bind a turn's code to the memory of every turn."""
    for value in carried:
        value.place(order)
    turns = []
    for k, t in enumerate(order):
        state = {name: stack[t, ...] for name, stack in stacks.items()}
        for value in carried:
            state[value.name], state[value.after] = value.memory[k], value.memory[k + 1]
        turns.append(bind({**state, **fixed}, arena))
    return Bound(turns, carried)


def _spread(part: Array, shape: tuple[int, ...]) -> Array:
    """One part's memory for all positions of a stack; it can be written."""
    return np.lib.stride_tricks.as_strided(part, shape, (0, *part.strides))
