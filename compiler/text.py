"""Graphs as stable, readable text, which `parse` reads back.

    graph train_step(x: f32[batch, 64], "w/1": f32[64, 10]) {
      %0 = dot_general(x, "w/1") contract=((1,), (0,)) batch=((), ()) : f32[batch, 10]
      %1 = call(%0) name="relu" body=@relu config=() gradient=none : f32[batch, 10]
      return out=%1
    }

The text holds everything but source places, in ASCII. Bodies of calls come first, each distinct
one once; a body whose name another graph has gets a suffix (`relu.1`). A dimension's symbol that
is no plain name, or that reads as another value, is written `$"..."`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from weft.compiler.composites import bodies
from weft.compiler.errors import InternalError
from weft.compiler.graph import Graph, Node
from weft.compiler.parse import parse_graph
from weft.compiler.types import DTYPES, Dim, DType, FloorDiv, SymDim, TensorType

__all__ = ["graph_hash", "parse_graph", "print_graph", "print_node", "print_type"]

WIDTH = 100
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_INTEGERS = frozenset({int})
_WORDS = frozenset({"true", "false", "none", "inf", "nan", *DTYPES})


def print_graph(graph: Graph) -> str:
    """The graph's text, ending with a line break. The same graph always gives the same bytes."""
    names: dict[Graph, str] = {}
    known: dict[tuple[str, str], str] = {}
    taken = {graph.name}
    parts = []
    for body in bodies(graph):
        text = _definition(body, names)
        key = (body.name, text)
        if key not in known:
            known[key] = _fresh(body.name, taken)
            parts.append(f"graph {_name(known[key])}{text}")
        names[body] = known[key]
    parts.append(f"graph {_name(graph.name)}{_definition(graph, names)}")
    return "\n".join(parts)


def graph_hash(graph: Graph) -> str:
    """A 128-bit BLAKE2b digest of the graph's text in hexadecimal."""
    return blake2b(print_graph(graph).encode(), digest_size=16).hexdigest()


def print_node(graph: Graph, node: Node) -> str:
    """The node's line in the graph's text, for messages; bodies appear by their own names."""
    if node.op.name == "input":
        return f"{_name(node.name)}: {print_type(node.type)}"
    references = _references(graph)
    for operand in node.inputs:
        own = operand.op.name == "input"
        references.setdefault(operand, _name(operand.name) if own else f"<{operand.op.name}>")
    return _line(node, references, {body: body.name for body in bodies(graph)}).lstrip()


@lru_cache(maxsize=1 << 10)  # a graph has few types and many nodes
def print_type(type: TensorType) -> str:
    """Such as `f32[batch, 2*(n // 3)]`, readable by the parser."""
    return f"{type.dtype.name}[{', '.join(map(_dim, type.shape))}]"


def _fresh(name: str, taken: set[str]) -> str:
    chosen, number = name, 0
    while chosen in taken:
        number += 1
        chosen = f"{name}.{number}"
    taken.add(chosen)
    return chosen


def _references(graph: Graph) -> dict[Node, str]:
    """How operands name each node."""
    references = {node: _name(node.name) for node in graph.inputs}
    first = len(graph.inputs)
    for number, node in enumerate(graph.nodes[first:]):
        references[node] = f"%{number}"
    return references


def _definition(graph: Graph, names: Mapping[Graph, str]) -> str:
    """All of a graph's text after its name."""
    references = _references(graph)
    inputs = [f"{references[node]}: {print_type(node.type)}" for node in graph.inputs]
    lines = [f"{_list('', '(', inputs, ')')} {{"]
    lines += [_line(node, references, names) for node in graph.nodes[len(graph.inputs) :]]
    outputs = [
        f"{_name(name)}={references[node]}"
        for name, node in zip(graph.output_names, graph.outputs, strict=True)
    ]
    lines += [_list("  return", " ", outputs, "").rstrip(), "}", ""]
    return "\n".join(lines)


def _list(before: str, opening: str, items: list[str], closing: str) -> str:
    """Items on one line, or one a line where that would be too long."""
    line = f"{before}{opening}{', '.join(items)}{closing}"
    if len(line) <= WIDTH:
        return line
    indent = " " * (len(before) - len(before.lstrip()) + 2)
    separator = f",\n{indent}"
    end = f"\n{indent[2:]}{closing}" if closing else ""
    return f"{before}{opening.rstrip()}\n{indent}{separator.join(items)}{end}"


def _line(node: Node, references: Mapping[Node, str], names: Mapping[Graph, str]) -> str:
    operands = ", ".join([references[operand] for operand in node.inputs])
    attributes = "".join([f" {k}={_value(v, names)}" for k, v in node.attributes.items()])
    type = print_type(node.type)
    return f"  {references[node]} = {node.op.name}({operands}){attributes} : {type}"


def _value(value: Any, names: Mapping[Graph, str]) -> str:
    writer = _WRITERS.get(type(value))
    if writer is not None:
        return writer(value)
    if type(value) is tuple:
        if _INTEGERS.issuperset(map(type, value)):
            return repr(value)
        inner = [_value(item, names) for item in value]
        return f"({inner[0]},)" if len(inner) == 1 else f"({', '.join(inner)})"
    if isinstance(value, Graph):
        return f"@{_name(names[value])}"
    raise InternalError(f"a graph's text can't say {value!r} of type {type(value).__name__}")


def _dim(dim: Dim) -> str:
    """A polynomial with sums in parentheses under `//`, so that precedence is plain."""
    if not isinstance(dim, SymDim):
        return str(dim)
    text = ""
    for monomial, factor in dim.terms:
        sign = " - " if factor < 0 else " + "
        if not text:
            sign = sign.strip(" +")
        atoms = [_atom(atom) for atom in monomial]
        if abs(factor) != 1 or not atoms:
            atoms.insert(0, str(abs(factor)))
        text += sign + "*".join(atoms)
    return text


def _atom(atom: str | FloorDiv) -> str:
    if isinstance(atom, FloorDiv):
        dividend = _dim(atom.dividend)
        if not _PLAIN.fullmatch(dividend):
            dividend = f"({dividend})"
        return f"({dividend} // {atom.divisor})"
    return atom if _PLAIN.fullmatch(atom) and atom not in _WORDS else f"${json.dumps(atom)}"


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


_WRITERS: Mapping[type, Callable[[Any], str]] = {
    int: str,
    float: repr,
    bool: lambda value: "true" if value else "false",
    str: json.dumps,
    type(None): lambda _: "none",
    SymDim: _dim,
    DType: lambda dtype: dtype.name,
    TensorType: print_type,
}
