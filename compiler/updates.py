"""Updates over flat vectors: which equations work element by element, and those equations there.

An update whose every element depends on its own element alone is the same for a matrix and for all
parameters laid end to end. Scalars such as the rate may come from anywhere but the elements.
"""

from __future__ import annotations

from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node, rebuild, topological
from weft.compiler.ops import Kind
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.program import Update
from weft.compiler.text import print_graph
from weft.compiler.types import TensorType


def equations(update: Update) -> str | None:
    """The equations as text, without the shape; None where they aren't element by element.

    Parameters with equal equations can be updated as one vector.
    """
    flat = flattened(update, 1)
    return None if flat is None else print_graph(flat.graph)


def flattened(update: Update, size: int) -> Update | None:
    """The update of a vector of `size` elements, if it is element by element.

    Slots of the parameter's shape become vectors too; scalar slots stay, if no element acts on
    them: one is enough then for all parameters. Any other slot ties the update to one parameter.
    """
    graph = inline_calls(update.graph, frozenset())
    theta = graph.named_inputs["theta"]
    received = {e.received for e in update.exchanges if e.kind != "together"}
    per_element = {"theta", "grad"} | received
    per_element |= {n for n in update.initial if graph.named_inputs[n].type == theta.type}
    shared = update.initial.keys() - per_element
    inputs = {
        n: b.input_(n.name, TensorType(n.type.dtype, (size,))) if n.name in per_element else n
        for n in graph.inputs
    }
    vectors: dict[Node, Node] = {n: v for n, v in inputs.items() if n.name in per_element}
    tied: set[Node] = set(vectors)  # what depends on elements
    for node in topological(graph.outputs):
        if node in vectors or node.op.name == "input":
            continue
        if any(i in tied for i in node.inputs):
            tied.add(node)
        elif node.type.rank == 0:
            continue
        vector = _vector(node, vectors, tied, size) if node.type.shape == theta.type.shape else None
        if vector is not None:
            vectors[node] = vector
        elif node in tied:
            return None
    outputs: dict[str, Node] = {}
    for name, node in graph.named_outputs.items():
        if name in shared:
            if node in tied or node.type.rank:
                return None
            outputs[name] = node
        elif node in vectors:
            outputs[name] = vectors[node]
        elif node.type.rank == 0 and theta.type.rank == 0:
            outputs[name] = b.broadcast(node, (size,), ())
        else:
            return None
    flat = Graph(graph.name, tuple(inputs.values()), tuple(outputs.values()), tuple(outputs))
    return Update(flat, update.initial, update.exchanges)


def _vector(node: Node, vectors: dict[Node, Node], tied: set[Node], size: int) -> Node | None:
    """The node for a vector of `size` elements; None where it is more than element by element."""
    if node.op.name == "broadcast_in_dim" and node.inputs[0].type.rank == 0:
        return None if node in tied else b.broadcast(node.inputs[0], (size,), ())
    if node.op.kind is not Kind.ELEMENTWISE:
        return None
    operands = []
    for operand in node.inputs:
        if operand in vectors:
            operands.append(vectors[operand])
        elif operand.type.rank == 0 and operand not in tied:
            operands.append(b.broadcast(operand, (size,), ()))
        else:
            return None
    return rebuild(node, tuple(operands))
