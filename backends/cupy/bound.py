"""A program on a device, bound to state: its memory, its recorded work, and its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from weft.backends.arrays import checked_state
from weft.backends.base import Arrays, Step
from weft.backends.cupy.code import WORK, Gemm, headers
from weft.backends.cupy.device import Device, Memory, Replay, Span, Waiting
from weft.backends.cupy.held import DeviceState
from weft.backends.cupy.program import ARENA, Address, Program, Run
from weft.compiler.errors import RunError
from weft.compiler.ops import OPS
from weft.compiler.passes.views import Layout
from weft.compiler.plan import Buffer, Place, Plan
from weft.compiler.types import TensorType, static_shape


@dataclass(frozen=True, eq=False)
class CupyExecutable:
    """A plan as functions on a device."""

    plan: Plan
    program: Program
    outputs: Mapping[str, Place]
    device: Device

    @property
    def source(self) -> str:
        return self.program.source

    @cached_property
    def functions(self) -> Mapping[str, Any]:
        return self.device.load(headers(), self.program.functions)

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """See `Executable.bind`."""
        if isinstance(state, DeviceState):
            return Bound(self, state).recorded().step
        return Bound(self, DeviceState(self.device, state)).recorded().step_of_the_host


class Bound:
    """A step over state. Memory on the device is taken once; a batch is copied into its place."""

    def __init__(self, executable: CupyExecutable, state: DeviceState) -> None:
        self.executable, self.state = executable, state
        self.plan, self.device = executable.plan, executable.device
        self.names = [b.name for b in self.plan.buffers if b.kind == "state"]
        for name in self.names:
            checked_state(name, self.plan, state)
        self.memory: dict[Buffer | str, Memory] = {
            ARENA: self.device.allocate(self.plan.arena_bytes),
            WORK: self.device.allocate(executable.program.work_bytes),
        }
        used = (a.base for run in executable.program.runs for a in run.addresses)
        for buffer in (*self.plan.buffers, *(base for base in used if isinstance(base, Buffer))):
            if buffer.kind not in ("arena", "scratch") and buffer not in self.memory:
                self.memory[buffer] = self._allocated(buffer)
        inputs = {b.name: b for b in self.plan.buffers if b.kind == "input"}
        self.inputs = {
            node.name: node.type for node in self.plan.graph.inputs if node.name in inputs
        }
        self.replay: Replay | None = None
        self.places = [self.memory[inputs[name]] for name in self.inputs]

    def _allocated(self, buffer: Buffer) -> Memory:
        if buffer.kind == "state":
            return self.state.memory(buffer.name)
        memory = self.device.allocate(buffer.bytes)
        if buffer.kind == "constant":
            node = buffer.nodes[0]
            evaluate = OPS[node.op.name].evaluate
            assert evaluate is not None
            memory.write(np.ascontiguousarray(evaluate(**node.attributes)))
        return memory

    def recorded(self) -> Bound:
        """All launches in order, with the addresses that they have in this binding."""
        calls = [self.call(run) for run in self.executable.program.runs]

        def work() -> None:
            for call in calls:
                call()

        spans = [self._span(place) for place in self.executable.outputs.values()]
        self.replay = self.device.recorded(work, self.places, spans)
        return self

    def call(self, run: Run) -> Callable[[], None]:
        """What launches a run."""
        call, addresses = run.call, [self._address(a) for a in run.addresses]
        if isinstance(call, Gemm):
            lhs, rhs, out = addresses
            return partial(self.device.gemm, call, (lhs, rhs, out))
        function = self.executable.functions[call.function.name]
        return partial(self.device.launch, function, call.grid, call.threads, addresses)

    def _address(self, address: Address) -> int:
        return self.memory[address.base].address + address.offset

    def _span(self, place: Place) -> Span:
        """All elements between the first and the last of a value."""
        buffer, layout = place.buffer, place.layout
        inside = buffer.kind in ("arena", "scratch")
        memory = self.memory[ARENA if inside else buffer]
        low, high = _reach(layout)
        start = (buffer.offset if inside else 0) + low * buffer.dtype.bytes
        return Span(memory, start, buffer.dtype.numpy, high - low)

    # -- steps ------------------------------------------------------------------------------------

    def give(self, inputs: Arrays) -> None:
        """Bring state and inputs to the device, for work that is not the recorded one."""
        self.state.send(self.names)
        for memory, (name, type) in zip(self.places, self.inputs.items(), strict=True):
            memory.write(self._given(name, type, inputs))

    def step(self, inputs: Arrays) -> Arrays:
        given = [self._given(name, type, inputs) for name, type in self.inputs.items()]
        self.state.send(self.names)
        assert self.replay is not None
        waiting = self.replay(given)
        self.state.written(self.plan.bound & set(self.plan.graph.output_names))
        layouts = {name: place.layout for name, place in self.executable.outputs.items()}
        return Results(layouts, waiting)

    def step_of_the_host(self, inputs: Arrays) -> Arrays:
        """With the state's arrays up to date before and after."""
        self.state.changed()
        results = dict(self.step(inputs))
        for name in self.names:
            self.state[name]
        return results

    def _given(self, name: str, type: TensorType, inputs: Arrays) -> np.ndarray:
        if name not in inputs:
            raise RunError(f"input `{name}` is missing")
        array = inputs[name]
        if array.shape != static_shape(type.shape) or array.dtype != type.dtype.numpy:
            raise RunError(
                f"input `{name}` has another type",
                expected=f"`{type}`",
                found=f"{array.dtype} of shape {array.shape}",
            )
        return np.ascontiguousarray(array)


class Results(Mapping[str, np.ndarray]):
    """The outputs of a step, waited for when the first of them is read."""

    def __init__(self, layouts: Mapping[str, Layout], waiting: Waiting) -> None:
        self._layouts, self._waiting = layouts, waiting

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            name: _value(span, layout)
            for (name, layout), span in zip(self._layouts.items(), self._waiting(), strict=True)
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layouts)

    def __len__(self) -> int:
        return len(self._layouts)


def _value(span: np.ndarray, layout: Layout) -> np.ndarray:
    """A value out of its span, as an array of its own."""
    if not layout.size:
        return np.zeros(layout.shape, span.dtype)
    low, _ = _reach(layout)
    size = span.dtype.itemsize
    strides = tuple(step * size for step in layout.strides)
    view = np.ndarray(layout.shape, span.dtype, span, (layout.offset - low) * size, strides)
    return view.copy()


def _reach(layout: Layout) -> tuple[int, int]:
    """The first element of a buffer that a value has, and the one after its last."""
    if not layout.size:
        return 0, 0
    ends = [(n - 1) * step for n, step in zip(layout.shape, layout.strides, strict=True)]
    low = layout.offset + sum(min(0, end) for end in ends)
    return low, layout.offset + sum(max(0, end) for end in ends) + 1
