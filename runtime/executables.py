"""Graphs as executables: compiled, or found among those that earlier processes compiled.

graph, target --hash--> the user's cache --found--> loaded
                                         --else---> lowered, planned, compiled, kept, loaded
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from pathlib import Path

import weft.backends
import weft.compiler
from weft.backends.base import Backend, Executable, Keeper, Keeping, NotKept
from weft.compiler.collector import no_cycles
from weft.compiler.errors import Diagnostic
from weft.compiler.graph import Graph
from weft.compiler.plan import Plan, Target
from weft.compiler.text import print_graph
from weft.runtime.cache import Cache, user_cache


@no_cycles()
def executable(
    backend: Backend, graph: Graph, target: Target, plan: Callable[[], Plan]
) -> Executable:
    """The graph for that target; `plan` is asked for where it must be compiled."""
    if not isinstance(backend, Keeping):
        return backend.compile(plan())
    kept, key = user_cache(), key_of(backend, graph, target)
    found = _loaded(kept, key, backend.keeper, kept.get(key))
    return found or _made(backend, plan(), kept, key)


def warnings(backend: Backend) -> tuple[Diagnostic, ...]:
    """Why what this process compiled is not kept, if it isn't."""
    problem = user_cache().problem if isinstance(backend, Keeping) else None
    if problem is None:
        return ()
    return (
        Diagnostic(
            "compiled code is not kept: the next start compiles it again",
            found=problem.found,
            hint=problem.hint,
            severity="warning",
        ),
    )


def _made(backend: Keeping, plan: Plan, kept: Cache, key: str) -> Executable:
    """Compiled, and loaded as a later process will load it, so that both run the same code."""
    compiled = backend.compile(plan)
    folder = kept.put(key, lambda folder: backend.keeper.save(compiled, folder))
    return _loaded(kept, key, backend.keeper, folder) or compiled


def _loaded(kept: Cache, key: str, keeper: Keeper, folder: Path | None) -> Executable | None:
    if folder is None:
        return None
    try:
        return keeper.load(folder)
    except NotKept as problem:
        kept.problem = problem
        kept.drop(key)
        return None


def key_of(backend: Keeping, graph: Graph, target: Target) -> str:
    """A hash of all that decides on the code.

    The graph is as it comes, not lowered: lowering it takes longer than what the hash saves.
    """
    held = (
        sorted((name, str(size)) for name, size in target.sizes.items()),
        target.arenas,
        sorted(target.composites),
        sorted(target.bound),
    )
    digest = blake2b(digest_size=20)
    for part in (
        _sources(),
        backend.name,
        backend.keeper.identity(),
        repr(held),
        print_graph(graph),
    ):
        content = part.encode()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


@cache
def _sources() -> str:
    """A hash of the compiler and the backends themselves: other sources, other code."""
    digest = blake2b(digest_size=20)
    for package in (weft.compiler, weft.backends):
        root = Path(package.__path__[0])
        for path in sorted((*root.rglob("*.py"), *root.rglob("*.ll"))):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)} {len(content)} ".encode())
            digest.update(content)
    return digest.hexdigest()
