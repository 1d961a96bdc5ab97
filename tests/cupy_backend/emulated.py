"""The CuPy backend on the emulator: graphs compiled together, and programs run there."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cupy_backend.emulator import COMPILER, Emulator
from weft.backends.cupy.backend import CupyBackend
from weft.backends.cupy.bound import CupyExecutable
from weft.backends.cupy.code import headers
from weft.compiler.graph import Graph
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan

EMULATOR = Emulator()
BACKEND = CupyBackend(EMULATOR)

emulated = pytest.mark.skipif(COMPILER is None, reason="the emulator compiles with g++")


def compiled(graphs: Sequence[Graph], backend: CupyBackend = BACKEND) -> list[CupyExecutable]:
    """Executables of graphs; all of their functions are compiled at once, which is quicker.

    The backend's device keeps what it has compiled, as the emulator does.
    """
    made = [backend.compile(plan(g, fuse(g), backend.abilities)) for g in graphs]
    functions = {n: source for one in made for n, source in one.program.functions.items()}
    backend.device.load(headers(), functions)
    return made
