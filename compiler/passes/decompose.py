"""Composites become the primitives that they are made of."""

from __future__ import annotations

from weft.compiler.composites import bodies
from weft.compiler.graph import Graph, Node, locate, make, substitute, transform
from weft.compiler.loops import with_bodies
from weft.compiler.passes.same import unless_same


def inline_calls(graph: Graph, keep: frozenset[str] = frozenset()) -> Graph:
    """The graph with every call that is not named in `keep` replaced by its body, at any depth.

    Requires a verified graph. Ensures the same signature, types and values, and no call but the
    kept ones, whose own bodies stay as they are. Nodes of a body keep their places; those that
    have none get that of the call.
    """
    flat: dict[Graph, Graph] = {}

    def replace(node: Node, operands: tuple[Node, ...]) -> Node | None:
        if node.op.name == "scan":
            body = flat[node.attributes["body"]]
            if body is node.attributes["body"]:
                return None
            return make("scan", *operands, span=node.span, **{**node.attributes, "body": body})
        if node.op.name != "call" or node.attributes["name"] in keep:
            return None
        body = flat[node.attributes["body"]]
        values = dict(zip(body.inputs, operands, strict=True))
        return locate(substitute(body.outputs, values)[0], node.span)

    if all(_stays(node, keep) for node in graph.nodes):
        return graph
    # Innermost first, so that each distinct body is flattened once and depth costs no recursion.
    for body in bodies(graph):
        flat[body] = unless_same(body, transform(body, replace))
    return unless_same(graph, transform(graph, replace))


def _stays(node: Node, keep: frozenset[str]) -> bool:
    name = node.op.name
    return name != "scan" and (name != "call" or node.attributes["name"] in keep)


def drop_stop_gradient(graph: Graph) -> Graph:
    """The graph without `stop_gradient`, which means nothing once gradients are taken.

    Requires that nothing differentiates the graph any more. Ensures the same signature, types and
    values; bodies of kept calls stay as they are.
    """
    return _unmarked(with_bodies(graph, _unmarked))


def _unmarked(graph: Graph) -> Graph:
    if not any(node.op.name == "stop_gradient" for node in graph.nodes):
        return graph
    return unless_same(
        graph,
        transform(graph, lambda node, x: x[0] if node.op.name == "stop_gradient" else None),
    )
