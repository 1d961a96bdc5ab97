"""The graphs inside a graph: the bodies of its calls and loops, and stated gradients."""

from __future__ import annotations

from weft.compiler.graph import Graph, Node


def carried(node: Node) -> tuple[Graph, ...]:
    """The body of a call or loop, a call's stated gradient if it has one; else nothing."""
    if node.op.name == "scan":
        return (node.attributes["body"],)
    if node.op.name != "call":
        return ()
    body, gradient = node.attributes["body"], node.attributes["gradient"]
    return (body,) if gradient is None else (body, gradient)


def bodies(graph: Graph) -> list[Graph]:
    """Every distinct graph reached through calls and loops, innermost first, without `graph`."""
    order: list[Graph] = []
    seen = {graph}
    stack = [(graph, iter([g for node in graph.nodes for g in carried(node)]))]
    while stack:
        current, inner = stack[-1]
        for body in inner:
            if body not in seen:
                seen.add(body)
                stack.append((body, iter([g for node in body.nodes for g in carried(node)])))
                break
        else:
            stack.pop()
            order.append(current)
    return order[:-1]
