"""Nodes of a syntax tree: what all have, the three kinds that most are of, and walks over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TypeVar, dataclass_transform

from weft.compiler.errors import Span

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def syntax(cls: type[T]) -> type[T]:
    """A kind of node: a dataclass that is frozen for type checkers.

    While a process runs it is not. Each start makes all of these classes, and code that refuses
    assignments takes as long to make as all the rest of them.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@syntax
class Node:
    """Anything in the tree."""

    span: Span = field(compare=False, repr=False, kw_only=True)


@syntax
class Expression(Node):
    """Something that has a value."""


@syntax
class Statement(Node):
    """A line of a body, or an item of a `data`, `train` or `study` block."""


@syntax
class Declaration(Node):
    """A top-level item. `doc` is the text of the comment lines directly above it."""

    doc: str = field(default="", compare=False, repr=False, kw_only=True)


def part(span: Span, text: str, skip: int = 0) -> Span:
    """The place of a node's name, the first `text` after `skip` characters of its span."""
    start = span.source.text.find(text, span.start + skip, span.end)
    return span if start < 0 else Span(span.source, start, start + len(text))


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below, in source order."""
    for item in fields(node):
        value = getattr(node, item.name)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from (part for part in value if isinstance(part, Node))


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, parents before children, in source order."""
    pending = [node]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed(list(children(current))))
