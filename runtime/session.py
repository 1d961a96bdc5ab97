"""A program at work: its state in arenas, its graphs compiled for the batches that come.

with arenas:  | loss: theta | adam.m | adam.v | ... and single tensors for what is in no group
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from weft.backends.base import Backend
from weft.compiler.errors import RunError
from weft.compiler.graph import Graph
from weft.compiler.passes.memory import Plan
from weft.compiler.passes.pack import Arena, layout, views
from weft.compiler.philox import seed_words
from weft.compiler.pipeline import Target, compile_plan
from weft.compiler.program import Program

Arrays = Mapping[str, np.ndarray]
Step = Callable[[Arrays], dict[str, np.ndarray]]
ALIGNMENT = 64


@dataclass(eq=False)
class Session:
    """The state of one run, and the compiled graphs over it; each is compiled when first needed."""

    program: Program
    backend: Backend
    arenas: tuple[Arena, ...] = ()
    state: dict[str, np.ndarray] = field(default_factory=dict)  # arenas and single tensors
    _steps: dict[tuple[str, int], Step] = field(default_factory=dict)
    _plans: dict[tuple[str, int], Plan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arenas = arenas_of(self.program)
        inside = {m.name for arena in self.arenas for m in arena.members}
        for arena in self.arenas:
            self.state[arena.name] = aligned_zeros(arena.type.shape, arena.dtype.numpy)
        for state in self.program.states.values():
            if state.name not in inside:
                self.state[state.name] = aligned_zeros(state.type.shape, state.type.dtype.numpy)

    # -- state ------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, np.ndarray]:
        """Every state by its own name; members of arenas are views."""
        named: dict[str, np.ndarray] = {}
        for arena in self.arenas:
            named.update(views(self.state[arena.name], arena))
        named.update({k: v for k, v in self.state.items() if k in self.program.states})
        return {name: named[name] for name in self.program.states}

    def initialise(self, seed: int) -> None:
        """Draw the initial state: a pure function of the seed."""
        values = self.run("init", {"seed": seed_words(seed)})
        self.load(values)

    def load(self, values: Arrays) -> None:
        """Take over a state by name, from `init` or a checkpoint."""
        mine = self.tensors()
        missing = [n for n in mine if n not in values]
        extra = [n for n in values if n not in mine]
        if missing or extra:
            raise RunError(
                "the saved state is of another model",
                expected=f"`{(missing or extra)[0]}`" if missing else "only the spec's own state",
                found=f"{len(missing)} tensors missing, {len(extra)} unknown",
            )
        for name, array in mine.items():
            if values[name].shape != array.shape or values[name].dtype != array.dtype:
                raise RunError(
                    f"the saved `{name}` has another type",
                    expected=f"{array.dtype}{list(array.shape)}",
                    found=f"{values[name].dtype}{list(values[name].shape)}",
                )
        for name, array in mine.items():
            array[...] = values[name]

    # -- graphs -----------------------------------------------------------------------------------

    def graph(self, name: str) -> Graph:
        return getattr(self.program, name)  # type: ignore[no-any-return]

    def target(self, name: str, batch: int) -> Target:
        """What the graph is lowered for: this batch size, this layout of state, this backend."""
        is_init = name == "init"
        return Target(
            sizes={"batch": batch},
            arenas=() if is_init else self.arenas,
            composites=self.backend.composites,
            abilities=self.backend.abilities,
            bound=frozenset() if is_init else frozenset(self.state),
        )

    def plan(self, name: str, batch: int = 1) -> Plan:
        key = name, batch
        if key not in self._plans:
            self._plans[key] = compile_plan(self.graph(name), self.target(name, batch))
        return self._plans[key]

    def step(self, name: str, batch: int = 1) -> Step:
        """The compiled graph for a batch size, bound to the state."""
        key = name, batch
        if key not in self._steps:
            executable = self.backend.compile(self.plan(name, batch))
            self._steps[key] = executable.bind(self.state)
        return self._steps[key]

    def run(self, name: str, inputs: Arrays, batch: int = 1) -> dict[str, np.ndarray]:
        """Run a graph once on inputs by name; inputs that it doesn't read are ignored."""
        step = self.step(name, batch)
        wanted = {n.name for n in self.plan(name, batch).graph.inputs} - set(self.state)
        if name == "init":
            wanted = {"seed"}
        return dict(step({k: v for k, v in inputs.items() if k in wanted}))


def arenas_of(program: Program) -> tuple[Arena, ...]:
    """One arena for each group of states that are updated together."""
    arenas = []
    for names in program.groups:
        states = [program.states[n] for n in names]
        kind = states[0].role if states[0].role != "slot" else names[0].split("/")[0]
        name = f"arena.{len(arenas)}.{kind}"
        arenas.append(layout(name, states[0].type.dtype, [(s.name, s.type.shape) for s in states]))
    return tuple(arenas)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A zero array that starts on a 64-byte boundary."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    skip = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[skip : skip + size].view(dtype).reshape(shape)
