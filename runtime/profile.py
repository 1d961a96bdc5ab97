"""Where the time of a step goes: each kernel against what the machine does at its best.

step, timed step, step, timed step, ...    each on the next batch of the training part
time of a kernel                           the median over the timed steps
floor of a kernel                          the longer of its operations at the rate of a large
                                           product, and its memory at the rate of a copy
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from time import perf_counter

import numpy as np

from weft.backends.base import Backend, Part, Peaks
from weft.compiler.collector import no_cycles
from weft.compiler.costs import Cost
from weft.compiler.graph import Graph, Node
from weft.compiler.ops import Kind
from weft.compiler.types import F32, DType, TensorType, static_shape
from weft.runtime.data.batches import BatchPlan
from weft.runtime.feed import Feed
from weft.runtime.loading import Loaded
from weft.runtime.session import Session, session_for

WARM_UP = 3
SECONDS = 2.0  # of steps, where nobody says how many
FEWEST, MOST = 5, 1000

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """A kernel, wherever in the step it is called: all sums are of one step.

    `seconds` is the median; `floor` is what the operations or the memory take at least on this
    machine; `lines` are the places in the spec that it comes from, as (file, line).
    """

    name: str
    kind: str
    calls: int
    seconds: float
    cost: Cost
    floor: float
    bound: str  # what the floor is made of: `arithmetic` or `memory`
    lines: tuple[tuple[str, int], ...]
    ops: tuple[str, ...]

    @property
    def flop_rate(self) -> float:
        """Operations a second."""
        return self.cost.flops / self.seconds if self.seconds else 0.0

    @property
    def byte_rate(self) -> float:
        """Bytes a second."""
        return self.cost.bytes / self.seconds if self.seconds else 0.0

    @property
    def of_peak(self) -> float:
        """The share of the machine's best: 1 for a kernel at its floor."""
        return self.floor / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """A graph's kernels, the slowest first. `seconds` is the median of whole steps without clocks.

    `made_up`: the data was not at hand, and inputs are random.
    """

    name: str
    graph: str
    backend: str
    batch: int
    steps: int
    threads: int
    made_up: bool
    seconds: float
    rows: tuple[Row, ...]
    peaks: Peaks

    @property
    def inside(self) -> float:
        """Seconds of a step that kernels take."""
        return sum(row.seconds for row in self.rows)


def profile(
    loaded: Loaded, backend: Backend, graph: str = "train_step", steps: int | None = None
) -> Profile:
    """Run a graph on full batches and time it whole and by kernel.

    Without `steps`, as many as fit into about two seconds, but no more than the training has.
    """
    session = session_for(loaded, backend)
    session.initialise(loaded.experiment.settings.seed)
    batch, batches, made_up = _batches(session, loaded, graph)
    plan = session.plan(graph, batch)
    with no_cycles():
        timed = backend.timed(plan)
        run, step = timed.bind(session.state), session.step(graph, batch)
    parts = _by_name(timed.parts)
    whole: list[float] = []
    inner: list[np.ndarray] = []
    with np.errstate(all="ignore"):
        begun = perf_counter()
        for _ in range(WARM_UP):
            dict(step(next(batches)))
            calls = run(next(batches)).calls
        wanted = steps or _fitting((perf_counter() - begun) / (2 * WARM_UP), loaded)
        for _ in range(wanted):
            inputs = next(batches)
            begun = perf_counter()
            dict(step(inputs))  # reading the outputs waits for them
            whole.append(perf_counter() - begun)
            inner.append(run(next(batches)).nanoseconds)
    peaks = backend.peaks(_widest(plan.graph))
    times = np.array(inner)
    rows = [
        _row(name, [timed.parts[i] for i in places], times[:, places], calls[places], peaks)
        for name, places in parts.items()
    ]
    rows.sort(key=lambda row: -row.seconds)
    return Profile(
        name=loaded.experiment.name,
        graph=graph,
        backend=backend.name,
        batch=batch,
        steps=wanted,
        threads=backend.threads,
        made_up=made_up,
        seconds=float(np.median(whole)),
        rows=tuple(rows),
        peaks=peaks,
    )


def _fitting(seconds: float, loaded: Loaded) -> int:
    most = min(MOST, loaded.experiment.settings.steps // 2)
    return max(FEWEST, min(most, int(SECONDS / (2 * seconds))))


def _by_name(parts: tuple[Part, ...]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, part in enumerate(parts):
        found.setdefault(part.name, []).append(number)
    return found


def _row(
    name: str, parts: list[Part], nanoseconds: np.ndarray, calls: np.ndarray, peaks: Peaks
) -> Row:
    cost, floor, arithmetic = Cost(), 0.0, 0.0
    for part, times in zip(parts, calls.tolist(), strict=True):
        cost += part.cost * times
        floor += times * peaks.floor(part.cost)
        arithmetic += times * part.cost.flops / peaks.flops
    nodes = [node for part in parts for node in part.nodes]
    places = {(n.span.source.name, n.span.line): None for n in nodes if n.span is not None}
    return Row(
        name=name,
        kind=parts[0].kind,
        calls=int(calls.sum()),
        seconds=float(np.median(nanoseconds.sum(axis=1))) * 1e-9,
        cost=cost,
        floor=floor,
        bound="arithmetic" if arithmetic > floor / 2 else "memory",
        lines=tuple(sorted(places)),
        ops=_ops(nodes),
    )


def _ops(nodes: list[Node]) -> tuple[str, ...]:
    """Their names, each once; those that only move values where there is nothing else."""
    work = [n for n in nodes if n.op.kind not in (Kind.MOVEMENT, Kind.SOURCE)]
    return tuple(dict.fromkeys(node.op.name for node in work or nodes))


def _widest(graph: Graph) -> DType:
    """The type that most of the graph's numbers have, of those that products can have."""
    found = [n.type.dtype for n in graph.nodes if n.type.dtype.kind == "float" and n.type.rank]
    return max(found, key=lambda dtype: (found.count(dtype), dtype.bytes), default=F32)


# -- what the steps read --------------------------------------------------------------------------


def _batches(session: Session, loaded: Loaded, graph: str) -> tuple[int, Iterator[Inputs], bool]:
    """The size of a full batch, such batches without an end, and whether they are made up."""
    settings, names = loaded.experiment.settings, session.fields(graph)
    if not loaded.at_hand:
        return settings.batch, _made_up(session, loaded, graph), True
    assert loaded.experiment.data is not None  # else nothing would be at hand
    plan = BatchPlan(
        loaded.parts["train"],
        settings.batch,
        settings.shuffle,
        settings.seed,
        f"{loaded.experiment.data.name}.order",
        settings.drop_last,
    )
    feed = Feed(loaded.fields, plan, names, session.backend)

    def batches() -> Iterator[Inputs]:
        step = 0
        while True:
            size, window = feed.window(step, step + settings.steps)
            step += len(window)
            if size == plan.size(0):
                yield from window

    return plan.size(0), batches(), False


def _made_up(session: Session, loaded: Loaded, graph: str) -> Iterator[Inputs]:
    """One batch of random numbers again and again; labels are below their number of classes."""
    spec, batch = loaded.experiment.data, loaded.experiment.settings.batch
    classes = {f.name: f.classes for f in spec.fields} if spec is not None else {}
    draw = np.random.Generator(np.random.PCG64(loaded.experiment.settings.seed))
    inputs = {
        node.name: _random(draw, node.type, batch, classes.get(node.name))
        for node in session.graph(graph).inputs
        if node.name in session.fields(graph)
    }
    for _ in count():
        yield inputs


def _random(
    draw: np.random.Generator, type: TensorType, batch: int, classes: int | None
) -> np.ndarray:
    shape = static_shape((batch, *type.shape[1:]))
    if type.dtype.kind == "float":
        return draw.standard_normal(shape).astype(type.dtype.numpy)
    return draw.integers(0, classes or 2, shape).astype(type.dtype.numpy)
