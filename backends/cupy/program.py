"""A plan as functions of one module and the calls of a step, with the turns of loops written out.

Addresses are relative to where each buffer is, so that a program can be bound many times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from weft.backends.cupy.attention import print_attention
from weft.backends.cupy.code import WORK, Call, Launch
from weft.backends.cupy.convolutions import print_convolution
from weft.backends.cupy.nests import keeps_busy, print_nest
from weft.backends.cupy.products import print_product
from weft.backends.cupy.special import print_special
from weft.compiler.kernel import (
    Attention,
    Convolution,
    Kernel,
    Nest,
    Port,
    Product,
    Special,
    Track,
    Turns,
)
from weft.compiler.kernel_text import text
from weft.compiler.passes.rows import joined
from weft.compiler.plan import Buffer

ALIGNED = 16  # bytes that a thread reads at once
ARENA = "arena"


@dataclass(frozen=True)
class Address:
    """Bytes after the beginning of a buffer's memory, of the arena or of the work space."""

    base: Buffer | str
    offset: int

    def __add__(self, more: int) -> Address:
        return Address(self.base, self.offset + more)


@dataclass(frozen=True)
class Run:
    """A call with the address of each of its ports."""

    call: Call
    addresses: tuple[Address, ...]


Locate = Callable[[Port], Address]


@dataclass(eq=False)
class Program:
    """The functions of a plan's kernels, and the runs of each kernel when a step runs it."""

    kernels: Sequence[Kernel]
    kernels_run: list[tuple[Kernel, tuple[Run, ...]]] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)
    work_bytes: int = 0
    _printed: dict[tuple[str, frozenset[int]], tuple[Call, ...]] = field(default_factory=dict)
    _texts: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kernel in joined(self.kernels, keeps_busy):
            self._add(kernel, _outside)

    def _add(self, kernel: Kernel, locate: Locate) -> None:
        if isinstance(kernel, Turns):
            self._turns(kernel, locate)
            return
        places = [locate(port) for port in kernel.ports]
        aligned = frozenset(i for i, p in enumerate(places) if p.offset % ALIGNED == 0)
        runs = [
            Run(call, tuple(self._place(port, places) for port in call.ports))
            for call in self._calls(kernel, aligned)
        ]
        self.kernels_run.append((kernel, tuple(runs)))

    @property
    def source(self) -> str:
        """For people: the functions in the order of the step, each with what it computes."""
        known: set[str] = set()
        lines = [f"// {len(list(self.runs))} calls a step, {len(self.functions)} functions\n"]
        for kernel, runs in self.kernels_run:
            for run in runs:
                if not isinstance(run.call, Launch):
                    lines.append(f"// {run.call}\n")
                    continue
                if run.call.function.name in known:
                    continue
                known.add(run.call.function.name)
                work = " ".join(node.op.name for node in kernel.nodes)
                blocks = "x".join(str(size) for size in run.call.grid)
                lines.append(f"// {work}")
                lines.append(f"// {blocks} blocks of {run.call.threads}")
                lines.append(run.call.function.source)
        return "\n".join(lines)

    @property
    def runs(self) -> Iterator[Run]:
        """All calls of a step in order."""
        return (run for _, runs in self.kernels_run for run in runs)

    def _calls(self, kernel: Kernel, aligned: frozenset[int]) -> tuple[Call, ...]:
        """The calls of a kernel, whose ports are numbered: kernels of one text share them."""
        words = self._texts.setdefault(id(kernel), "") or text(kernel)
        self._texts[id(kernel)] = words
        key = words, aligned
        if key not in self._printed:
            numbered = tuple(
                Port(replace(p.buffer, kind=f"{_NUMBERED}{i}"), 0)
                for i, p in enumerate(kernel.ports)
            )
            calls = tuple(print_kernel(replace(kernel, ports=numbered), aligned))
            for call in calls:
                if isinstance(call, Launch):
                    self.functions[call.function.name] = call.function.source
            self._printed[key] = calls
        return self._printed[key]

    def _place(self, port: Port, places: Sequence[Address]) -> Address:
        buffer = port.buffer
        if buffer.kind == WORK:
            self.work_bytes = max(self.work_bytes, buffer.offset + buffer.bytes)
            return Address(WORK, buffer.offset)
        return places[int(buffer.kind.removeprefix(_NUMBERED))]

    def _turns(self, turns: Turns, locate: Locate) -> None:
        starts = [locate(port) for port in turns.ports]
        for turn in range(turns.length):
            moved = {
                buffer: _moved(starts, track, turn, buffer.dtype.bytes, turns.length)
                for buffer, track in turns.tracks.items()
            }

            def inside(port: Port, moved: dict[Buffer, Address] = moved) -> Address:
                buffer = port.buffer
                start = port.offset * buffer.dtype.bytes
                if buffer in moved:
                    return moved[buffer] + start
                if buffer.kind == "constant":
                    return _outside(port)
                return starts[turns.arena] + (buffer.offset + start)

            for kernel in turns.kernels:
                self._add(kernel, inside)


_NUMBERED = "port "


def _outside(port: Port) -> Address:
    """Where a port of the plan itself is."""
    buffer, start = port.buffer, port.offset * port.buffer.dtype.bytes
    if buffer.kind in ("arena", "scratch"):
        return Address(ARENA, buffer.offset + start)
    return Address(buffer, start)


def _moved(starts: Sequence[Address], track: Track, turn: int, size: int, length: int) -> Address:
    """Where a track is in a turn, for elements of that size."""
    if turn == length - 1 and track.last is not None:
        return starts[track.last]
    if turn == 0 and track.first is not None:
        return starts[track.first]
    count = turn if track.period is None else turn % track.period
    return starts[track.port] + count * track.step * size


def print_kernel(kernel: Kernel, aligned: frozenset[int]) -> Sequence[Call]:
    """The calls of a kernel; `aligned` are its ports that begin on a 16-byte boundary."""
    match kernel:
        case Nest():
            return print_nest(kernel, aligned)
        case Product():
            return print_product(kernel, aligned)
        case Convolution():
            return print_convolution(kernel, aligned)
        case Attention():
            return [print_attention(kernel, aligned)]
        case Special():
            return print_special(kernel)
    raise AssertionError(kernel)
