"""The pipeline on one page: which passes run, in which order, from a graph to a memory plan.

    Experiment --training.build--> Program: its graphs, typed, with a symbolic batch
    graph --share, bind, pack, decompose, optimise--> primitives of known sizes over arenas
          --attend, fuse--> groups --plan--> places and an order --backend--> code

Every pass is a pure function. The graph is verified after the last one; where something is wrong,
before the first and after each, to name the one that did it. `stop_after` names the pass after
which `lower` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from weft.compiler.collector import no_cycles
from weft.compiler.errors import CompileError, InternalError, did_you_mean, one_of
from weft.compiler.graph import Graph, Node
from weft.compiler.loops import with_bodies
from weft.compiler.passes.bind import bind
from weft.compiler.passes.cleanup import cse
from weft.compiler.passes.decompose import drop_stop_gradient, inline_calls
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.loops import join, trim
from weft.compiler.passes.memory import plan
from weft.compiler.passes.motion import hoist, sink
from weft.compiler.passes.pack import pack
from weft.compiler.passes.recompute import recompute
from weft.compiler.passes.simplify import simplify
from weft.compiler.plan import Abilities, Plan, Target
from weft.compiler.verify import verify

MAX_ROUNDS = 8


@dataclass(frozen=True)
class Pass:
    name: str
    run: Callable[[Graph, Target], Graph]
    summary: str


def optimise(graph: Graph) -> Graph:
    """Simplify, share and move work out of loops, inner ones first, until nothing changes."""
    graph = join(graph)
    tried: set[Node] = set()
    shared: Graph | None = None
    for _ in range(MAX_ROUNDS):
        before = graph
        graph = simplify(graph, tried)
        if graph is shared:  # so that nothing has happened since
            break
        shared = cse(graph)
        graph = hoist(sink(trim(with_bodies(join(shared), optimise))))
        if graph is before:
            break
    return graph


PASSES: tuple[Pass, ...] = (
    Pass("share", lambda g, t: cse(g), "one node for all that are equal"),
    Pass("bind", lambda g, t: bind(g, t.sizes), "numbers for symbolic sizes"),
    Pass("pack", lambda g, t: pack(g, t.arenas), "state as slices of arenas"),
    Pass("decompose", lambda g, t: inline_calls(g, t.composites), "composites opened"),
    Pass("strip", lambda g, t: drop_stop_gradient(g), "marks of differentiation gone"),
    Pass("optimise", lambda g, t: optimise(g), "algebra, constant folding, sharing"),
)


@no_cycles()
def lower(graph: Graph, target: Target, stop_after: str | None = None) -> Graph:
    """The graph in the backend's ops; or as it is after the pass `stop_after`."""
    names = [p.name for p in PASSES]
    if stop_after is not None and stop_after not in names:
        raise CompileError(
            f"there is no pass `{stop_after}`",
            expected=one_of(names),
            hint=did_you_mean(stop_after, names),
        )
    steps = PASSES if stop_after is None else PASSES[: names.index(stop_after) + 1]
    try:
        lowered = graph
        for step in steps:
            lowered = step.run(lowered, target)
        verify(lowered)
    except CompileError:
        raise
    except Exception:
        _find_fault(graph, target, steps)
        raise
    return lowered


def _find_fault(graph: Graph, target: Target, steps: Sequence[Pass]) -> None:
    """Go the way again, with a look at each graph on it: raises for the first that is wrong."""
    _checked(graph, "the front end")
    for step in steps:
        graph = step.run(graph, target)
        _checked(graph, f"the pass `{step.name}`")


def _checked(graph: Graph, origin: str) -> None:
    try:
        verify(graph)
    except InternalError as error:
        raise InternalError(f"{origin} made a graph that is wrong: {error}") from error


@no_cycles()
def compile_plan(graph: Graph, target: Target) -> Plan:
    """The whole way down: lower, and plan."""
    return plan_lowered(lower(graph, target), target.abilities, target.bound)


def plan_lowered(
    lowered: Graph, abilities: Abilities, bound: Collection[str] | None = None
) -> Plan:
    """From the backend's ops: set attention apart, fuse, choose what to compute again, plan."""
    regions: Sequence[Sequence[Node]] = ()
    if abilities.attention:
        from weft.compiler.passes.attention import attend  # it brings all forms of kernels

        lowered, regions = attend(lowered, abilities.attention)
    groups = fuse(lowered, regions)
    if abilities.kernels:
        lowered, groups = recompute(lowered, groups)
    return plan(lowered, groups, abilities, bound)
