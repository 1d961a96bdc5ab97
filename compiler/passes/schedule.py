"""The order of execution: groups in order, readers of a state before its writer where possible."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from weft.compiler.graph import Graph, Node
from weft.compiler.ops import Kind
from weft.compiler.passes.fuse import Group

T = TypeVar("T", bound=Hashable)


def schedule(
    graph: Graph, groups: Sequence[Group], bound: frozenset[str]
) -> tuple[tuple[Group, ...], tuple[Node, ...]]:
    """Groups, each whole, and their nodes; both as given but for readers of states that move up.

    A state's new value can be written over the old one only after all readers of the old one.
    """
    home = {node: group for group in groups for node in group.nodes}
    wishes = [
        (reader, writer)
        for reader, writer in _wishes(graph, bound)
        if reader is not writer and writer in home  # sources are in no group
    ]
    needs = {group: {home[i]: None for i in group.inputs if i in home} for group in groups}
    between = [(home[a], home[b]) for a, b in wishes if home[a] is not home[b]]
    within: dict[Group, list[tuple[Node, Node]]] = {}
    for a, b in wishes:
        if home[a] is home[b]:
            within.setdefault(home[a], []).append((a, b))
    order: list[Node] = []
    arranged = _arrange(groups, needs, between)
    for group in arranged:
        inside = {
            node: {i: None for i in node.inputs if i in group.members} for node in group.nodes
        }
        order += _arrange(group.nodes, inside, within.get(group, []))
    return tuple(arranged), tuple(order)


def _wishes(graph: Graph, bound: frozenset[str]) -> list[tuple[Node, Node]]:
    """(reader of the old value, writer of the new one) for every state that is updated."""
    wishes = []
    for name, value in graph.named_outputs.items():
        old = graph.named_inputs.get(name)
        if old is None or name not in bound or value is old:
            continue
        while value.op.name == "reshape":
            value = value.inputs[0]
        if value.op.name != "input":
            wishes += [(reader, value) for reader in _readers(graph, old)]
    return wishes


def _readers(graph: Graph, node: Node) -> list[Node]:
    """Who reads a value, also through movement."""
    found: dict[Node, None] = {}
    stack = [node]
    seen = {node}
    while stack:
        for user in graph.users[stack.pop()]:
            if user not in seen:
                seen.add(user)
                found[user] = None
                if user.op.kind is Kind.MOVEMENT and user.op.name != "concat":
                    stack.append(user)
    return list(found)


def _arrange(
    items: Sequence[T], needs: Mapping[T, Mapping[T, None]], wishes: Sequence[tuple[T, T]]
) -> list[T]:
    """A topological order near the given one that grants the wishes `(before, after)` it can."""
    place = {item: i for i, item in enumerate(items)}
    if all(place[a] < place[b] for a, b in wishes):
        return list(items)
    after: dict[T, dict[T, None]] = {item: {} for item in items}
    for item in items:
        for need in needs[item]:
            after[need][item] = None
    for a, b in sorted(set(wishes), key=lambda w: (place[w[0]] > place[w[1]], place[w[0]])):
        if place[a] < place[b] or not _reaches(after, b, a):
            after[a][b] = None
    waits = dict.fromkeys(items, 0)
    for followers in after.values():
        for item in followers:
            waits[item] += 1
    ready = [place[item] for item in items if not waits[item]]
    order: list[T] = []
    while ready:
        item = items[heapq.heappop(ready)]
        order.append(item)
        for follower in after[item]:
            waits[follower] -= 1
            if not waits[follower]:
                heapq.heappush(ready, place[follower])
    assert len(order) == len(items), "the order has a cycle"
    return order


def _reaches(after: Mapping[T, Mapping[T, None]], start: T, goal: T) -> bool:
    stack, seen = [start], {start}
    while stack:
        for item in after[stack.pop()]:
            if item is goal:
                return True
            if item not in seen:
                seen.add(item)
                stack.append(item)
    return False
