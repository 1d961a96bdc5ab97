"""The invariants of a graph, checked between passes with the very rules that inferred its types."""

from __future__ import annotations

from collections.abc import Iterable

from weft.compiler.attributes import attribute_fault
from weft.compiler.composites import bodies
from weft.compiler.errors import InternalError
from weft.compiler.graph import Graph, Node
from weft.compiler.ops import OPS
from weft.compiler.text import print_node


def verify(graph: Graph) -> None:
    """Raise InternalError, naming the node and its place, unless all of this holds:

    inputs are distinct `input` nodes with distinct names, and no other `input` node is read;
    outputs have distinct names; an output with an input's name has that input's type; every node
    has the operands and attributes that its op states, and the type that its op's rule infers;
    the same of every composite's body, and a stated gradient takes the body's inputs and the
    result's cotangent and gives one cotangent an input.
    """
    for part in (*bodies(graph), graph):
        _signature(part)
        for node in part.nodes:
            fault = _fault(node)
            if fault is not None:
                raise InternalError(_message(part, node, fault))


def _signature(graph: Graph) -> None:
    for node in graph.inputs:
        if node.op.name != "input":
            raise InternalError(_message(graph, node, "an input must be an `input` node"))
    owned = set(graph.inputs)
    for node in graph.nodes:
        for operand in node.inputs:
            if operand.op.name == "input" and operand not in owned:
                fault = f"it reads input `{operand.name}`, which is not the graph's"
                raise InternalError(_message(graph, node, fault))
    for node in graph.outputs:
        if node.op.name == "input" and node not in owned:
            raise InternalError(f"`{graph.name}` returns input `{node.name}`, not its own")
    for what, names in (
        ("input", [node.name for node in graph.inputs]),
        ("output", graph.output_names),
    ):
        if (name := _repeated(names)) is not None:
            raise InternalError(f"`{graph.name}` has two {what}s named `{name}`")
        if not all(names):
            raise InternalError(f"`{graph.name}` has an {what} without a name")
    for name, node in graph.named_outputs.items():
        state = graph.named_inputs.get(name)
        if state is not None and state.type != node.type:
            fault = f"it updates state `{name}` of type {state.type}"
            raise InternalError(_message(graph, node, fault))


def _repeated(names: Iterable[str]) -> str | None:
    seen = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _fault(node: Node) -> str | None:
    """What is wrong with one node, given that its operands are right."""
    op = node.op
    if OPS.get(op.name) is not op:
        return "its op is not in the table"
    if op.arity is not None and len(node.inputs) != op.arity:
        return f"`{op.name}` takes {op.arity} operands, got {len(node.inputs)}"
    attributes = node.attributes
    if (attributes or op.attributes) and (fault := attribute_fault(op, attributes)):
        return fault
    types = [operand.type for operand in node.inputs]
    try:
        inferred = op.infer(*types, **attributes) if attributes else op.infer(*types)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        return str(error)
    if inferred != node.type:
        return f"the type rule gives {inferred}"
    return _gradient_fault(node) if op.name == "call" else None


def _gradient_fault(call: Node) -> str | None:
    """A stated gradient maps (arguments, cotangent of the result) to cotangents of arguments."""
    gradient: Graph | None = call.attributes["gradient"]
    if gradient is None:
        return None
    arguments = [operand.type for operand in call.inputs]
    takes = [node.type for node in gradient.inputs]
    if takes != [*arguments, call.type]:
        return f"its gradient must take {[*arguments, call.type]}, not {takes}"
    gives = [node.type for node in gradient.outputs]
    if gives != arguments:
        return f"its gradient must give {arguments}, not {gives}"
    return None


def _message(graph: Graph, node: Node, fault: str) -> str:
    place = f" (from {node.span})" if node.span else ""
    return f"in `{graph.name}`: {_shown(graph, node)}: {fault}{place}"


def _shown(graph: Graph, node: Node) -> str:
    try:
        return print_node(graph, node)
    except (InternalError, AttributeError, KeyError):
        # The node is so broken that it has no text.
        return repr(node)
