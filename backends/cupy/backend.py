"""The CuPy backend: compiles a plan to one module of kernels and binds it to arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from weft.backends.arrays import checked_state
from weft.backends.base import Arrays, Step
from weft.backends.cupy.code import WORK, Gemm, headers
from weft.backends.cupy.device import Device, Memory, Span, Waiting
from weft.backends.cupy.held import DeviceState
from weft.backends.cupy.program import ARENA, Address, Program
from weft.compiler.composites import bodies
from weft.compiler.errors import RunError
from weft.compiler.graph import Node
from weft.compiler.kernel import Nest
from weft.compiler.ops import OPS
from weft.compiler.passes.kernels import kernels
from weft.compiler.passes.turn_kernels import copied, loop_scratch
from weft.compiler.passes.views import Layout, contiguous
from weft.compiler.plan import Abilities, Buffer, Place, Plan
from weft.compiler.types import TensorType, static_shape


def _scratch(node: Node) -> int:
    return loop_scratch(node, ABILITIES) if node.op.name == "scan" else 0


ABILITIES = Abilities(
    views=frozenset(
        {"reshape", "transpose", "broadcast_in_dim", "slice", "reverse", "stop_gradient"}
    ),
    strided=True,
    folded=frozenset({"constant"}),
    kernels=True,
    scratch=_scratch,
)


@dataclass(frozen=True, eq=False)
class CupyExecutable:
    """A plan as functions on a device."""

    plan: Plan
    program: Program
    outputs: Mapping[str, Place]
    device: Device
    source: str

    @cached_property
    def functions(self) -> Mapping[str, Any]:
        return self.device.load(headers(), self.program.functions)

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """See `Executable.bind`."""
        if isinstance(state, DeviceState):
            return _Bound(self, state).step
        return _Bound(self, DeviceState(self.device, state)).step_of_the_host


class _Bound:
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
        self.replay = self.device.recorded(
            self._work(),
            [self.memory[inputs[name]] for name in self.inputs],
            [self._span(place) for place in executable.outputs.values()],
        )

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

    def _work(self) -> Callable[[], None]:
        """All launches in order, with the addresses that they have in this binding."""
        functions, device = self.executable.functions, self.device

        def work() -> None:
            for run in self.executable.program.runs:
                call, addresses = run.call, [self._address(a) for a in run.addresses]
                if isinstance(call, Gemm):
                    lhs, rhs, out = addresses
                    device.gemm(call, (lhs, rhs, out))
                else:
                    function = functions[call.function.name]
                    device.launch(function, call.grid, call.threads, addresses)

        return work

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

    def step(self, inputs: Arrays) -> Arrays:
        given = [self._given(name, type, inputs) for name, type in self.inputs.items()]
        self.state.send(self.names)
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


@dataclass(frozen=True)
class Made:
    """A plan's program, and where the outputs are when it has run."""

    program: Program
    outputs: Mapping[str, Place]


def program_of(plan: Plan) -> Made:
    """Needs no device. Raises RunError for what the backend can't say."""
    for node in (n for part in (plan.graph, *bodies(plan.graph)) for n in part.nodes):
        if node.type.dtype.name in ("f16", "bf16"):
            raise RunError(
                "the cupy backend computes in f32 and f64",
                node.span,
                found=f"`{node.type}`",
                hint="train with `precision = f32`",
            )
    endings, outputs = _endings(plan)
    return Made(Program((*kernels(plan, ABILITIES), *endings)), outputs)


def _endings(plan: Plan) -> tuple[list[Nest], dict[str, Place]]:
    """What brings new values of states to their place, and where the outputs are then.

    Old values that are still wanted, by other states or as outputs, are saved first.
    """
    first: list[Nest] = []
    last: list[Nest] = []

    def saved(node: Node) -> Place:
        source = plan.places[node]
        name = f"saved {len(first)}"
        buffer = Buffer(name, "saved", source.buffer.dtype, source.layout.size, 0, 0, (node,))
        place = Place(buffer, contiguous(source.layout.shape))
        first.append(copied(source, place, (node,)))
        return place

    for store in plan.stores:
        target = plan.places[plan.graph.named_inputs[store.name]]
        if target.layout.size:
            source = saved(store.source) if store.early else plan.places[store.source]
            last.append(copied(source, target, (store.source,)))
    changing = {s.name for s in plan.stores}
    outputs = {}
    for name, node in plan.graph.named_outputs.items():
        if name not in plan.bound:
            place = plan.places[node]
            old = place.buffer.kind == "state" and place.buffer.name in changing
            outputs[name] = saved(node) if old and place.layout.size else place
    return [*first, *last], outputs


@dataclass(frozen=True)
class CupyBackend:
    """CUDA kernels, in f32 and f64."""

    device: Device = field(compare=False)
    name: str = "cupy"
    composites: frozenset[str] = frozenset()
    abilities: Abilities = ABILITIES

    @cached_property
    def ops(self) -> frozenset[str]:
        return frozenset(OPS.keys() - {"call"})

    def hold(self, arrays: Arrays) -> DeviceState:
        return DeviceState(self.device, arrays)

    def compile(self, plan: Plan) -> CupyExecutable:
        """Kernels from the plan's groups, and CUDA from them."""
        made = program_of(plan)
        source = "\n".join(made.program.functions.values())
        return CupyExecutable(plan, made.program, made.outputs, self.device, source)
