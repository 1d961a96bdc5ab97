"""The gradient of a loop is a loop the other way, over what the forward turns saved.

    forward     next, stacked             = body(carried, stepped, shared)
    backward    d carried, d stepped, ... = vjp of the body, at cotangents of next and stacked

The backward loop carries the cotangents of the carried values, and one sum for each fixed operand.
The forward loop gets a stack more for each value that the backward body reads. It has the operands
of the loop that was differentiated, and `optimise` makes the two one. Values that are but moved or
cast, or that depend on fixed operands alone, are made again instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from weft.compiler import builder as b
from weft.compiler.composites import bodies
from weft.compiler.graph import Graph, Node, below, substitute, topological
from weft.compiler.loops import Loop, fresh, turning
from weft.compiler.ops import Kind
from weft.compiler.passes.decompose import inline_calls

T = TypeVar("T")
Pull = Callable[[Sequence[Node], Sequence[Node], Sequence[Node]], list[Node]]
"""`vjp(outputs, cotangents, wrt)`"""

_KEPT = frozenset({"concat", "pad"})  # movement that makes something new


def scan_gradient(
    pull: Pull, cts: Sequence[Node | None], node: Node, *operands: Node
) -> tuple[Node | None, ...]:
    """The cotangents of a loop's operands for those of its results (None where there is none)."""
    loop = Loop.of(node, operands)
    loop = replace(loop, body=_opened(loop.body))
    taken = {i.name for i in loop.body.inputs}
    ends, stacks = cts[: len(loop.start)], cts[len(loop.start) :]
    carried = [n for n in loop.carried if _is_float(n)]
    shared = [n for n in loop.shared if _is_float(n)]
    stepped = [n for n in loop.stepped if _is_float(n)]
    d_next = {n: _input("d", n, taken) for n in carried}
    sums = {n: _input("sum", n, taken) for n in shared}
    d_stacked = {
        i: b.input_(fresh(f"d_{name}", taken), loop.stacked[i].type)
        for i, (ct, name) in enumerate(zip(stacks, _names(loop), strict=True))
        if ct is not None
    }
    outputs = [n for n, c in zip(loop.next, loop.carried, strict=True) if c in d_next]
    outputs += [loop.stacked[i] for i in d_stacked]
    parts = pull(outputs, [*d_next.values(), *d_stacked.values()], [*carried, *stepped, *shared])
    d_carried = _cut(parts, carried)
    d_stepped = _cut(parts[len(carried) :], stepped)
    d_shared = _cut(parts[len(carried) + len(stepped) :], shared)

    values = _saved(loop, parts)
    saved = {n: _input("", n, taken) for n in values}
    seen = {n: _input("", n, taken) for n in _read(parts, loop.body, saved)}
    steps = {d_stacked[i]: ct for i, ct in enumerate(stacks) if ct is not None}
    steps |= {saved[n]: stack for n, stack in values.items()}
    outer = dict(zip(loop.body.inputs, operands, strict=True))
    steps |= {place: outer[n] for n, place in seen.items() if n in loop.stepped}
    fixed = {place: outer[n] for n, place in seen.items() if n not in loop.stepped}
    ends_of = dict(zip(loop.carried, ends, strict=True))
    next_ = [*d_carried.values(), *(sums[n] + d for n, d in d_shared.items())]
    inner: Mapping[Node, Node] = saved | seen
    back = Loop(
        start=(
            *(ends_of[n] or b.zeros(n.type) for n in carried),
            *(b.zeros(n.type) for n in shared),
        ),
        steps=tuple(steps.values()),
        fixed=tuple(fixed.values()),
        body=Graph(
            f"{loop.body.name}_gradient",
            (*d_next.values(), *sums.values(), *steps, *fixed),
            tuple(substitute([*next_, *d_stepped.values()], inner)),
        ),
        length=loop.length,
        reverse=not loop.reverse,
        span=node.span,
    )
    places = {n: i for i, n in enumerate((*carried, *shared, *stepped))}
    return tuple(back.result(places[n]) if n in places else None for n in loop.body.inputs)


def _opened(body: Graph) -> Graph:
    """The body without calls but those that state their gradient, so that its nodes stay."""
    stated = {
        str(n.attributes["name"])
        for part in (body, *bodies(body))
        for n in part.nodes
        if n.op.name == "call" and n.attributes["gradient"] is not None
    }
    return inline_calls(body, frozenset(stated))


def _saved(loop: Loop, parts: Sequence[Node]) -> dict[Node, Node]:
    """The values that the gradients read, with their stacks: results of a loop that has them."""
    inside = set(loop.body.nodes)
    turns = turning((*loop.carried, *loop.stepped), loop.body.outputs)
    wanted: dict[Node, None] = {}
    stack = [n for n in topological(parts) if n not in inside]
    pending = [i for n in stack for i in n.inputs if i in inside]
    pending += [n for n in parts if n in inside]
    seen: set[Node] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op.name == "input":
            if node in loop.carried:
                wanted[node] = None
        elif node not in turns or _is_moved(node):
            pending.extend(node.inputs)
        else:
            wanted[node] = None
    order = [n for n in loop.body.nodes if n in wanted]
    outputs = (*loop.body.outputs, *order)
    wider = replace(loop, body=Graph(loop.body.name, loop.body.inputs, outputs))
    first = len(loop.body.outputs)
    return {n: wider.result(first + i) for i, n in enumerate(order)}


def _is_moved(node: Node) -> bool:
    moves = node.op.kind is Kind.MOVEMENT and node.op.name not in _KEPT
    return moves or node.op.name in ("cast", "stop_gradient")


def _read(parts: Sequence[Node], body: Graph, saved: Mapping[Node, Node]) -> list[Node]:
    """The body's inputs that the gradients still read where the saved values are at hand."""
    seen = set(below(parts, saved))
    return [n for n in body.inputs if n in seen]


def _names(loop: Loop) -> list[str]:
    return list(loop.body.output_names[len(loop.start) :])


def _cut(parts: Sequence[Node], keys: Sequence[T]) -> dict[T, Node]:
    return dict(zip(keys, parts, strict=False))


def _input(prefix: str, like: Node, taken: set[str]) -> Node:
    """A new input of a node's type, named after it."""
    name = like.name if like.op.name == "input" else like.op.name
    return b.input_(fresh(f"{prefix}_{name}" if prefix else name, taken), like.type)


def _is_float(node: Node) -> bool:
    return node.type.dtype.kind == "float"
