"""What a graph is lowered for, and the memory plan that a backend turns into code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from weft.compiler.graph import Graph, Node, make
from weft.compiler.philox import stream_id
from weft.compiler.types import U32, Dim, DType

if TYPE_CHECKING:
    from weft.compiler.passes.fuse import Group
    from weft.compiler.passes.pack import Arena
    from weft.compiler.passes.views import Layout

ALIGNMENT = 64


def _no_scratch(node: Node) -> int:
    return 0


@dataclass(frozen=True)
class Abilities:
    """What a backend can do with memory.

    `views`: ops whose result it reads through the operand's memory; `strided`: also where that
    needs strides; `in_place`: ops that may write over an operand of the same layout;
    `registers`: scalars live outside memory; `folded`: ops without operands that it runs once;
    `scratch`: bytes that an op needs while it runs; `kernels`: a group is one kernel, and what is
    used only inside of it is never in memory; `attention`: the largest size of values for which it
    has attention as kernels of their own (`passes/attention.py`), 0 for none.
    """

    views: frozenset[str] = frozenset({"reshape", "slice"})
    strided: bool = False
    in_place: frozenset[str] = frozenset()
    registers: bool = False
    folded: frozenset[str] = frozenset({"constant"})
    scratch: Callable[[Node], int] = _no_scratch
    kernels: bool = False
    attention: int = 0


@dataclass(frozen=True)
class Target:
    """What a graph is lowered for: sizes, the layout of state, and what the backend can do."""

    sizes: Mapping[str, Dim] = field(default_factory=dict)
    arenas: tuple[Arena, ...] = ()
    composites: frozenset[str] = frozenset()
    abilities: Abilities = field(default_factory=Abilities)
    bound: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Buffer:
    """A run of memory. `kind`: `state`, `input`, `constant`, `register`, `arena` or `scratch`.

    It is live from step `first` to step `last` of the order; `offset` is in bytes, in the arena.
    """

    name: str
    kind: str
    dtype: DType
    size: int
    first: int
    last: int
    nodes: tuple[Node, ...]
    offset: int = 0

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is: elements of a buffer."""

    buffer: Buffer
    layout: Layout


@dataclass(frozen=True)
class Store:
    """At the end of the step: the value of `source` becomes the state `name`.

    `early` sources are saved first: they are old values that other stores overwrite.
    """

    name: str
    source: Node
    early: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """A graph with an order, and a place for every value."""

    graph: Graph
    groups: tuple[Group, ...]
    order: tuple[Node, ...]
    bound: frozenset[str]
    places: Mapping[Node, Place]
    views: frozenset[Node]
    registers: frozenset[Node]
    stores: tuple[Store, ...]
    scratch: Mapping[Node, Buffer]
    buffers: tuple[Buffer, ...]
    arena_bytes: int

    @cached_property
    def streams(self) -> Mapping[str, tuple[Buffer, int]]:
        """Where the two words of the name of each random stream are: in one constant, from there.

        They are data, so that draws under other names are the same code.
        """
        drawn = (node for node in self.graph.nodes if node.op.name == "random_bits")
        names = list(dict.fromkeys(str(node.attributes["stream"]) for node in drawn))
        words = tuple(word for name in names for word in stream_id(name))
        table = make("constant", value=words, dtype=U32, shape=(len(words),))
        last = len(self.order)
        buffer = Buffer("streams", "constant", U32, len(words), 0, last, (table,))
        return {name: (buffer, 2 * number) for number, name in enumerate(names)}

    @cached_property
    def peak_bytes(self) -> int:
        """Arena, state, inputs, constants and copies of the outputs: all that a step touches."""
        outside = sum(b.bytes for b in self.buffers if b.kind in ("state", "input", "constant"))
        outputs = sum(
            node.type.bytes
            for name, node in self.graph.named_outputs.items()
            if name not in self.bound
        )
        return self.arena_bytes + outside + outputs

    @cached_property
    def live_at_peak(self) -> tuple[Buffer, ...]:
        """The arena's buffers at the time when most of it is in use, largest first."""
        mine = [b for b in self.buffers if b.kind in ("arena", "scratch")]
        if not mine:
            return ()

        change: dict[int, int] = {}  # bytes that come into use at a time, less those that go
        for buffer in mine:
            change[buffer.first] = change.get(buffer.first, 0) + buffer.bytes
            change[buffer.last + 1] = change.get(buffer.last + 1, 0) - buffer.bytes
        times = sorted(change)
        in_use = list(accumulate(change[time] for time in times))
        best = times[in_use.index(max(in_use))]
        live = [b for b in mine if b.first <= best <= b.last]
        return tuple(sorted(live, key=lambda b: (-b.bytes, b.name)))
