"""What is verified, and where: a spec's graphs, a state it could be in, batches it could see.

The point is random and the same each time. Parameters are the spec's own first values moved at
random, so that no zero hides a gradient; two steps of the reference then give optimisers, running
statistics and averages values that belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from weft.backends.base import Backend
from weft.compiler.analysis import executed, flops
from weft.compiler.composites import bodies
from weft.compiler.errors import RunError
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node
from weft.compiler.passes.bind import bind
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.passes.widen import widen
from weft.compiler.philox import seed_words
from weft.compiler.program import Field
from weft.compiler.types import TensorType, static_shape
from weft.runtime.data.batches import BatchPlan
from weft.runtime.feed import Rows
from weft.runtime.loading import Loaded, assemble
from weft.runtime.session import Session, session_for

Arrays = dict[str, np.ndarray]

GRAPHS = ("train_step", "eval_step", "predict", "init", "epoch_end")

WORK = 1.2e8  # what one evaluation of a step by the reference may cost, in FLOPs
NODE = 2e4  # an operation of no size costs the reference as much as so many FLOPs
WINDOWS = 3  # a convolution costs the reference so many times its FLOPs: it copies every window
LARGEST = 1e9  # above this a step on a single example is not verified
FEW = 4  # examples of the small batch, on which much is evaluated many times
MOVED = 0.1  # how far parameters are moved, as a share of their size


@dataclass(eq=False)
class Subject:
    """A spec on a backend, in its own precision and in double."""

    loaded: Loaded
    backend: Backend
    _drawn: dict[tuple[int, int], Arrays] = field(default_factory=dict)

    @cached_property
    def session(self) -> Session:
        """The compiled program; its state is that of `state`."""
        session = session_for(self.loaded, self.backend)
        session.load(self.state)
        return session

    @cached_property
    def wide(self) -> Loaded:
        """The spec elaborated with `precision = f64`: its rules and passes without rounding."""
        loaded = self.loaded
        overrides = {**loaded.overrides, "precision": "f64"}
        return assemble(loaded.source, loaded.base, overrides, loaded.opener, loaded.opener)

    @cached_property
    def batch(self) -> int:
        """The batch of most checks: the spec's own, or the largest that is not too much work."""
        one = self.work("train_step", 1)
        if one > LARGEST:
            raise RunError(
                "the step is too large for the reference to check",
                expected=f"at most {LARGEST:.2g} operations for a single example",
                found=f"{one:.2g}",
                hint="verify the same layers at a small setting: `import` the file in another, "
                "with a smaller model and smaller examples",
            )
        return self._affordable("train_step", self.loaded.experiment.settings.batch)

    def _affordable(self, name: str, batch: int) -> int:
        """This batch, or the largest odd one for which the graph is not too much work."""
        one, some = (self.work(name, size) for size in (1, 2))
        room = 1 + int((WORK - one) / max(1.0, some - one))
        return batch if batch <= room else min(batch, max(3, room - 1 | 1))

    def sizes_of(self, name: str) -> tuple[int, ...]:
        """The batches that a graph runs on."""
        if name in ("init", "epoch_end"):
            return (1,)
        return tuple({self._affordable(name, size): None for size in self.sizes})

    @property
    def few(self) -> int:
        """The batch of what is evaluated many times."""
        return min(FEW, self.batch)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The batches that the graphs run on: the main one, the last of an epoch, and one row."""
        settings = self.loaded.experiment.settings
        found = {self.batch: None}
        spec = self.loaded.experiment.data
        if spec is not None and not settings.drop_last:
            plan = BatchPlan(self.loaded.parts["train"], settings.batch, False, 0, "order")
            found[min(self.batch, plan.size(plan.steps_per_epoch - 1))] = None
        if len(found) == 1:
            found[self.batch // 2 | 1] = None
        found[1] = None
        return tuple(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the whole."""
        whole = self.loaded.experiment.settings.batch
        found = []
        if self.batch < whole:
            found.append(f"batches of {self.batch} stand for those of {whole}")
        if self.loaded.experiment.data is not None and not self.loaded.at_hand:
            found.append("the data are not given: examples are drawn of their types")
        return tuple(found)

    def work(self, name: str, batch: int) -> float:
        """What evaluating a graph costs the reference."""
        return work(opened(self.built(name), batch))

    def built(self, name: str) -> Graph:
        """A graph of the program, as the front end and `training` made it."""
        graph: Graph = getattr(self.loaded.program, name)
        return graph

    def graph(self, name: str) -> Graph:
        """The same without calls: what the passes begin with."""
        return inline_calls(self.built(name), frozenset())

    def wide_graph(self, name: str) -> Graph:
        """The same of the program in double precision."""
        graph: Graph = getattr(self.wide.program, name)
        return inline_calls(graph, frozenset())

    # -- the point --------------------------------------------------------------------------------

    @cached_property
    def state(self) -> Arrays:
        """A value of every state, in its own type."""
        program = self.loaded.program
        first = evaluate(program.init, {"seed": seed_words(self.loaded.experiment.settings.seed)})
        rng = np.random.default_rng(1)
        for name, state in program.states.items():
            if state.role == "parameter":
                first[name] = _moved(first[name], rng)
        for owner, value in list(first.items()):
            if f"average/{owner}" in first:
                first[f"average/{owner}"] = value.copy()
        stepped = dict(first)
        for turn in (1, 2):
            stepped |= self._stepped(stepped, turn)
        whole = all(np.isfinite(v).all() for v in stepped.values() if v.dtype.kind == "f")
        return stepped if whole else first

    def _stepped(self, state: Arrays, turn: int) -> Arrays:
        graph = self.built("train_step")
        fields = self.fields(self.few, turn)
        used = {n.name: state.get(n.name, fields.get(n.name)) for n in graph.inputs}
        made = evaluate(
            graph, {k: v for k, v in used.items() if v is not None}, {"batch": self.few}
        )
        return {name: value for name, value in made.items() if name in state}

    def fields(self, batch: int, turn: int = 0) -> Arrays:
        """Examples: of the part that trains where the data are at hand, else drawn."""
        key = batch, turn
        if key not in self._drawn:
            spec = self.loaded.experiment.data
            rng = np.random.default_rng((7, turn))
            if spec is None:
                self._drawn[key] = {}
            elif self.loaded.at_hand:
                self._drawn[key] = self._rows(batch, rng)
            else:
                self._drawn[key] = {f.name: _drawn(f, batch, rng) for f in spec.fields}
        return self._drawn[key]

    def _rows(self, batch: int, rng: np.random.Generator) -> Arrays:
        part, fields = self.loaded.parts["train"], self.loaded.fields
        names = frozenset(f.name for f in fields.spec.fields)
        rows = part(np.sort(rng.permutation(part.size)[:batch]))
        found = Rows(fields, names, self.backend)(rows)
        return {name: np.ascontiguousarray(value) for name, value in found.items()}

    def inputs(self, name: str, batch: int) -> Arrays:
        """A value for every input of a graph, in its own type."""
        known = {**self.state, **self.fields(batch)}
        if name == "init":
            known["seed"] = seed_words(self.loaded.experiment.settings.seed)
        rng = np.random.default_rng(5)
        return {
            node.name: known[node.name] if node.name in known else _measured(node.type, rng)
            for node in self.built(name).inputs
        }


def opened(graph: Graph, batch: int) -> Graph:
    """A graph without calls, for a batch of this size."""
    return bind(inline_calls(graph, frozenset()), {"batch": batch})


def work(graph: Graph) -> float:
    """What evaluating a graph costs the reference, in FLOPs of a product of matrices."""
    return sum(times * _cost(node) for node, times in executed(graph))


def _cost(node: Node) -> float:
    dilated = prod(node.attributes["lhs_dilation"]) if node.op.name == "conv" else 1
    slower = WINDOWS if node.op.name == "conv" else 1  # zeros between are multiplied too
    return NODE + slower * dilated * flops(node)


def widened(values: Mapping[str, np.ndarray]) -> Arrays:
    """The same numbers in double precision."""
    return {
        name: value.astype(np.float64) if value.dtype.kind not in "iub" else value
        for name, value in values.items()
    }


def observe(
    graph: Graph, values: Mapping[str, np.ndarray], keep: Callable[[Node, np.ndarray], None]
) -> None:
    """Let `keep` see the value of each node of a graph, in double precision."""
    wide = widen(graph)
    own = dict(zip(wide.nodes, graph.nodes, strict=True))
    evaluate(wide, widened(values), None, lambda node, value: keep(own[node], value))


def inner_graphs(graph: Graph) -> list[Graph]:
    """The graph and the bodies of its loops."""
    return [graph, *bodies(graph)]


def _moved(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if value.dtype.kind in "iub" or not value.size:
        return value
    size = float(np.sqrt(np.mean(np.square(value.astype(np.float64))))) or 1.0
    noise = MOVED * size * rng.standard_normal(value.shape)
    return np.asarray(value + noise, value.dtype)


def _drawn(declared: Field, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Values of a field that no source gives."""
    shape, dtype = (batch, *static_shape(declared.type.shape)), declared.type.dtype
    if declared.classes is not None:
        return rng.integers(0, declared.classes, shape).astype(dtype.numpy)
    if dtype.kind == "float":
        return rng.uniform(0, 1, shape).astype(dtype.numpy)
    return rng.integers(0, 2, shape).astype(dtype.numpy)


def _measured(type: TensorType, rng: np.random.Generator) -> np.ndarray:
    """An input that is no state and no field: a metric of another part of the data."""
    return np.asarray(rng.uniform(0.5, 1, static_shape(type.shape)), type.dtype.numpy)
