"""Algebra: rewrites a graph with the tables of identities until none applies."""

from __future__ import annotations

from weft.compiler.graph import Graph
from weft.compiler.passes.algebra import ALGEBRA
from weft.compiler.passes.movement import MOVEMENT
from weft.compiler.pattern import rewrite

RULES = ALGEBRA + MOVEMENT


def simplify(graph: Graph) -> Graph:
    """The graph with every identity of `algebra` and `movement` applied.

    Requires a verified graph. Ensures the same signature, types and values, but for the exceptions
    that `algebra` lists; idempotent; bodies of calls stay as they are. The same graph object comes
    back when nothing applies.
    """
    return rewrite(graph, RULES)
