"""The CuPy backend: compiles a plan to one module of kernels and binds it to arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from weft.backends.arrays import checked_state
from weft.backends.base import Arrays, Step
from weft.backends.cupy.code import WORK, Gemm, headers
from weft.backends.cupy.device import Device, Memory
from weft.backends.cupy.program import ARENA, Address, Program
from weft.compiler.composites import bodies
from weft.compiler.errors import RunError
from weft.compiler.graph import Node
from weft.compiler.ops import OPS
from weft.compiler.passes.kernels import kernels
from weft.compiler.passes.turn_kernels import loop_scratch
from weft.compiler.passes.views import Layout
from weft.compiler.plan import Abilities, Buffer, Plan
from weft.compiler.types import static_shape


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
    device: Device
    source: str

    @cached_property
    def functions(self) -> Any:
        return self.device.load(headers(), self.program.functions)

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """See `Executable.bind`."""
        return _Bound(self, state).step


class _Bound:
    """A step over state. Memory on the device is taken once; a batch is copied into its place."""

    def __init__(self, executable: CupyExecutable, state: Arrays) -> None:
        self.executable = executable
        self.plan, self.device = executable.plan, executable.device
        self.state = {
            b.name: checked_state(b.name, self.plan, state)
            for b in self.plan.buffers
            if b.kind == "state"
        }
        self.memory: dict[Buffer | str, Memory] = {
            ARENA: self.device.allocate(max(1, self.plan.arena_bytes)),
            WORK: self.device.allocate(max(1, executable.program.work_bytes)),
        }
        for buffer in self.plan.buffers:
            if buffer.kind not in ("arena", "scratch", "register"):
                self._allocate(buffer)
        for run in executable.program.runs:
            for address in run.addresses:
                if isinstance(address.base, Buffer) and address.base not in self.memory:
                    self._allocate(address.base)  # a constant of a loop's body
        self.replay = self.device.recorded(self._launch())

    def _allocate(self, buffer: Buffer) -> None:
        memory = self.memory[buffer] = self.device.allocate(max(1, buffer.bytes))
        if buffer.kind == "constant":
            node = buffer.nodes[0]
            evaluate = OPS[node.op.name].evaluate
            assert evaluate is not None
            memory.write(np.ascontiguousarray(evaluate(**node.attributes)))

    def _launch(self) -> Callable[[], None]:
        """All launches in order, with the addresses that they have in this binding."""
        functions, device = self.executable.functions, self.device
        calls: list[Callable[[], None]] = []
        for run in self.executable.program.runs:
            call, addresses = run.call, [self._address(a) for a in run.addresses]
            if isinstance(call, Gemm):
                lhs, rhs, out = addresses
                calls.append(
                    lambda c=call, a=(lhs, rhs, out): device.gemm(
                        c.dtype, c.sizes, a, c.steps, c.count, c.batch
                    )
                )
            else:
                function = functions[call.function.name]
                calls.append(
                    lambda f=function, c=call, a=addresses: device.launch(f, c.grid, c.threads, a)
                )

        def work() -> None:
            for call in calls:
                call()

        return work

    def _address(self, address: Address) -> int:
        return self.memory[address.base].address + address.offset

    def step(self, inputs: Arrays) -> dict[str, np.ndarray]:
        for buffer in self.plan.buffers:
            if buffer.kind == "state":
                self.memory[buffer].write(self.state[buffer.name])
            elif buffer.kind == "input":
                self.memory[buffer].write(self._given(buffer.name, inputs))
        self.replay()
        results = {
            name: self._result(node)
            for name, node in self.plan.graph.named_outputs.items()
            if name not in self.plan.bound
        }
        stored = [(s, self._result(s.source)) for s in self.plan.stores]
        for buffer in self.plan.buffers:
            if buffer.kind == "state" and self.state[buffer.name].size:
                self.memory[buffer].read(self.state[buffer.name])
        for store, value in stored:
            self.state[store.name][...] = value
        return results

    def _given(self, name: str, inputs: Arrays) -> np.ndarray:
        type = self.plan.graph.named_inputs[name].type
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

    def _result(self, node: Node) -> np.ndarray:
        place = self.plan.places[node]
        buffer, layout = place.buffer, place.layout
        if not layout.size:
            return np.zeros(layout.shape, buffer.dtype.numpy)
        inside = buffer.kind in ("arena", "scratch")
        memory = self.memory[ARENA if inside else buffer]
        low, high = _reach(layout)
        size = buffer.dtype.bytes
        span = np.empty(high - low + 1, buffer.dtype.numpy)
        memory.read(span, (buffer.offset if inside else 0) + low * size)
        strides = tuple(step * size for step in layout.strides)
        start = (layout.offset - low) * size
        return np.ndarray(layout.shape, span.dtype, span, start, strides).copy()


def _reach(layout: Layout) -> tuple[int, int]:
    """The first and the last element of a buffer that a value has."""
    ends = [(n - 1) * step for n, step in zip(layout.shape, layout.strides, strict=True)]
    low = layout.offset + sum(min(0, end) for end in ends)
    return low, layout.offset + sum(max(0, end) for end in ends)


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

    def compile(self, plan: Plan) -> CupyExecutable:
        """Kernels from the plan's groups, and CUDA from them."""
        for node in (n for part in (plan.graph, *bodies(plan.graph)) for n in part.nodes):
            if node.type.dtype.name in ("f16", "bf16"):
                raise RunError(
                    "the cupy backend computes in f32 and f64",
                    node.span,
                    found=f"`{node.type}`",
                    hint="train with `precision = f32`",
                )
        program = Program(kernels(plan, self.abilities))
        source = "\n".join(program.functions.values())
        return CupyExecutable(plan, program, self.device, source)
