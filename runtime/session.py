"""A program at work: its state in arenas, its graphs compiled for the batches that come.

with arenas:  | loss: theta | adam.m | adam.v | ... and single tensors for what is in no group
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from weft.backends.base import Backend, Held, Step
from weft.compiler.builder import input_
from weft.compiler.errors import RunError
from weft.compiler.graph import Graph
from weft.compiler.passes.pack import Arena, layout, views
from weft.compiler.philox import seed_words
from weft.compiler.plan import Plan, Target
from weft.compiler.program import Program, State
from weft.compiler.training import SEED, build
from weft.compiler.types import static_shape
from weft.runtime.executables import executable
from weft.runtime.loading import Loaded

Arrays = Mapping[str, np.ndarray]
ALIGNMENT = 64


@dataclass(eq=False)
class Session:
    """The state of one run, and the compiled graphs over it; all is made when first needed.

    Steps don't silence floating-point warnings: callers run them inside `np.errstate`, as `run`
    does.
    """

    program: Program
    backend: Backend
    _steps: dict[tuple[str, int], Step] = field(default_factory=dict)
    _plans: dict[tuple[str, int], Plan] = field(default_factory=dict)

    @cached_property
    def arenas(self) -> tuple[Arena, ...]:
        """How the state lies in memory, but for single tensors."""
        return arenas_of(self.program)

    @cached_property
    def _singles(self) -> tuple[State, ...]:
        """The states that lie in no arena."""
        inside = {m.name for arena in self.arenas for m in arena.members}
        return tuple(s for s in self.program.states.values() if s.name not in inside)

    @cached_property
    def state(self) -> Held:
        """The arrays of arenas and single tensors, by name. A plan alone needs none of them."""
        found = {a.name: aligned_zeros((a.size,), a.dtype.numpy) for a in self.arenas}
        for state in self._singles:
            shape = static_shape(state.type.shape)
            found[state.name] = aligned_zeros(shape, state.type.dtype.numpy)
        return self.backend.hold(found)

    # -- state ------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, np.ndarray]:
        """Every state by its own name; members of arenas are views."""
        named: dict[str, np.ndarray] = {}
        for arena in self.arenas:
            named.update(views(self.state[arena.name], arena))
        named.update({k: v for k, v in self.state.items() if k in self.program.states})
        return {name: named[name] for name in self.program.states}

    def initialise(self, seed: int) -> None:
        """Draw the initial state: a pure function of the seed, which is part of it."""
        self.tensors()[SEED][...] = seed_words(seed)
        self.state.changed()
        self.run("init", {})

    def load(self, values: Arrays) -> None:
        """Take over a state by name, from `init` or a checkpoint."""
        mine = self.tensors()
        missing = [n for n in mine if n not in values]
        extra = [n for n in values if n not in mine]
        if missing or extra:
            raise RunError(
                "the saved state is of another model",
                expected=f"`{missing[0]}`" if missing else "only the spec's own state",
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
        self.state.changed()

    def copy(self) -> dict[str, np.ndarray]:
        """The state as it is now, for `restore`."""
        return {name: array.copy() for name, array in self.state.items()}

    def restore(self, saved: Arrays) -> None:
        """Back to a state that `copy` gave."""
        for name, array in self.state.items():
            array[...] = saved[name]
        self.state.changed()

    @property
    def bytes(self) -> int:
        """The size of the state."""
        return sum(array.nbytes for array in self.state.values())

    # -- graphs -----------------------------------------------------------------------------------

    def graph(self, name: str) -> Graph:
        """`init`, `train_step`, `eval_step`, `predict` or `epoch_end`, as a step over the state.

        `init` makes all of the state from the seed. As a step it takes the old state too, which it
        doesn't read, so that new values are written where the old ones are.
        """
        graph: Graph = getattr(self.program, name)
        if name != "init":
            return graph
        states = self.program.states.values()
        inputs = {s.name: input_(s.name, s.type) for s in states} | {**graph.named_inputs}
        return replace(graph, inputs=tuple(inputs.values()))

    def target(self, name: str, batch: int) -> Target:
        """What the graph is lowered for: this batch size, this layout of state, this backend."""
        held = [*(a.name for a in self.arenas), *(s.name for s in self._singles)]
        return Target(
            sizes={"batch": batch},
            arenas=self.arenas,
            composites=self.backend.composites,
            abilities=self.backend.abilities,
            bound=frozenset(held),
        )

    def plan(self, name: str, batch: int = 1) -> Plan:
        """Where every value of a graph lives, for a batch size."""
        from weft.compiler.pipeline import compile_plan

        key = name, batch
        if key not in self._plans:
            self._plans[key] = compile_plan(self.graph(name), self.target(name, batch))
        return self._plans[key]

    def step(self, name: str, batch: int = 1) -> Step:
        """The compiled graph for a batch size, bound to the state."""
        key = name, batch
        if key not in self._steps:
            graph, target = self.graph(name), self.target(name, batch)
            found = executable(self.backend, graph, target, lambda: self.plan(name, batch))
            self._steps[key] = found.bind(self.state, quiet=True)
        return self._steps[key]

    def fields(self, name: str) -> frozenset[str]:
        """The inputs of a graph that are not state."""
        names = {node.name for node in self.graph(name).inputs}
        return frozenset(names - set(self.program.states))

    def run(self, name: str, inputs: Arrays, batch: int = 1) -> Arrays:
        """Run a graph once on inputs by name; inputs that it doesn't read are ignored."""
        step, wanted = self.step(name, batch), self.fields(name)
        with np.errstate(all="ignore"):
            return step({k: v for k, v in inputs.items() if k in wanted})


def session_for(loaded: Loaded, backend: Backend) -> Session:
    """A session of a spec, with the composites whole that the backend takes whole."""
    if not backend.composites:
        return Session(loaded.program, backend)
    return Session(build(loaded.experiment, backend.composites), backend)


def compiled(graph: Graph, backend: Backend, sizes: Mapping[str, int]) -> Step:
    """A graph without state, compiled for these sizes of its symbolic dimensions."""
    target = Target(
        sizes=sizes,
        composites=backend.composites,
        abilities=backend.abilities,
        bound=frozenset(),
    )

    def plan() -> Plan:
        from weft.compiler.pipeline import compile_plan

        return compile_plan(graph, target)

    return executable(backend, graph, target, plan).bind({})


def arenas_of(program: Program) -> tuple[Arena, ...]:
    """One arena for each group of states that are updated together."""
    arenas: list[Arena] = []
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
