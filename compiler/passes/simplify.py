"""Algebra: rewrites a graph with the tables of identities, and folds, until nothing applies."""

from __future__ import annotations

from weft.compiler.graph import Graph, Node
from weft.compiler.passes.algebra import ALGEBRA
from weft.compiler.passes.fold import FOLDING
from weft.compiler.passes.movement import MOVEMENT
from weft.compiler.pattern import rewrite

RULES = ALGEBRA + MOVEMENT + FOLDING


def simplify(graph: Graph, tried: set[Node] | None = None) -> Graph:
    """The graph with every identity of `algebra` and `movement` applied, and constants folded.

    Requires a verified graph. Ensures the same signature, types and values, but for the exceptions
    that `algebra` lists; idempotent; bodies of calls stay as they are. The same graph object comes
    back when nothing applies. `tried` is what `rewrite` keeps from one call to the next.
    """
    return rewrite(graph, RULES, tried)
