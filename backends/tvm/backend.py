"""The TVM backend: compiles a plan to one native function and binds it to arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from weft.backends.arrays import aligned, checked_state
from weft.backends.base import Arrays, Held, HostState, Part, Peaks, Step, Timing
from weft.backends.tvm import blas, native, target
from weft.backends.tvm.peaks import peaks
from weft.backends.tvm.pool import POOL
from weft.backends.tvm.program import ARENA, CLOCK, Program
from weft.compiler.composites import bodies
from weft.compiler.costs import kernel_cost
from weft.compiler.errors import RunError
from weft.compiler.graph import Node
from weft.compiler.kernel_text import text
from weft.compiler.ops import OPS
from weft.compiler.passes.kernels import kernels
from weft.compiler.passes.turn_kernels import loop_scratch
from weft.compiler.passes.views import Layout
from weft.compiler.plan import Abilities, Buffer, Plan
from weft.compiler.types import DType, static_shape


def _scratch(node: Node) -> int:
    return loop_scratch(node, _ABILITIES) if node.op.name == "scan" else 0


_ABILITIES = Abilities(
    views=frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "reverse"}),
    strided=True,
    folded=frozenset({"constant"}),
    kernels=True,
    scratch=_scratch,
)


@dataclass(frozen=True, eq=False)
class TvmExecutable:
    """A plan as a native function of a table of addresses."""

    plan: Plan
    program: Program
    run: Callable[[Any], Any]
    source: str

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """See `Executable.bind`."""
        return _Bound(self, state).step


class _Bound:
    """A step over state: the table of addresses, filled but for the inputs."""

    def __init__(self, executable: TvmExecutable, state: Arrays) -> None:
        plan = executable.plan
        self.run = executable.run
        self.arena = aligned(max(1, plan.arena_bytes))
        self.kept: list[np.ndarray] = [self.arena]
        slots = executable.program.slots
        self.table = np.zeros(len(slots), np.uint64)
        self.pointer = _void(self.table)
        self.table[slots[ARENA]] = _place(self.arena)
        self.bases: dict[Buffer, np.ndarray] = {}
        for buffer in plan.buffers:
            if buffer.kind == "state":
                self.bases[buffer] = checked_state(buffer.name, plan, state)
        shown = (plan.places[node].buffer for node in plan.graph.outputs)
        for used in (*slots, *shown):
            if isinstance(used, Buffer) and used.kind == "constant" and used not in self.bases:
                self.bases[used] = _constant(used)
        for buffer, array in self.bases.items():
            if buffer in slots:
                self.table[slots[buffer]] = _place(array)
        names = {b.name: b for b in plan.buffers if b.kind == "input"}
        self.inputs = [
            (node.name, static_shape(node.type.shape), node.type, names[node.name])
            for node in plan.graph.inputs
            if node.name not in plan.bound
        ]
        self.slots = slots
        self.outputs = [
            (name, node)
            for name, node in plan.graph.named_outputs.items()
            if name not in plan.bound
        ]
        self.plan = plan
        self.states = plan.graph.named_inputs

    def step(self, inputs: Arrays) -> dict[str, np.ndarray]:
        table, held = self.table, dict(self.bases)
        for name, shape, type, buffer in self.inputs:
            if name not in inputs:
                raise RunError(f"input `{name}` is missing")
            array = inputs[name]
            if array.shape != shape or array.dtype != type.dtype.numpy:
                raise RunError(
                    f"input `{name}` has another type",
                    expected=f"`{type}`",
                    found=f"{array.dtype} of shape {array.shape}",
                )
            array = np.ascontiguousarray(array).reshape(shape)
            held[buffer] = array
            if buffer in self.slots:
                table[self.slots[buffer]] = _place(array)
        POOL.prepare()
        self.run(self.pointer)
        results = {name: self._result(node, held) for name, node in self.outputs}
        for store, value in [(s, self._result(s.source, held)) for s in self.plan.stores]:
            self.bases[self.plan.places[self.states[store.name]].buffer][...] = value
        return results

    def _result(self, node: Node, held: dict[Buffer, np.ndarray]) -> Any:
        place = self.plan.places[node]
        buffer = place.buffer
        if buffer in held:
            return _view(held[buffer].reshape(-1), place.layout, 0, buffer).copy()
        return _view(self.arena, place.layout, buffer.offset, buffer).copy()


def _view(base: np.ndarray, layout: Layout, start: int, buffer: Buffer) -> np.ndarray:
    if not layout.size:
        return np.zeros(layout.shape, buffer.dtype.numpy)
    size = buffer.dtype.bytes
    strides = tuple(s * size for s in layout.strides)
    return np.ndarray(layout.shape, buffer.dtype.numpy, base, start + layout.offset * size, strides)


def _constant(buffer: Buffer) -> np.ndarray:
    node = buffer.nodes[0]
    evaluate = OPS[node.op.name].evaluate
    assert evaluate is not None
    value = evaluate(**node.attributes)
    held = aligned(max(1, value.nbytes))[: value.nbytes].view(value.dtype)
    held[...] = value.reshape(-1)
    return held


def _place(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _void(array: np.ndarray) -> Any:
    import ctypes

    return ctypes.c_void_p(_place(array))


@dataclass(frozen=True, eq=False)
class TvmTimed:
    """The same kernels, called by a step that reads a clock after each."""

    executable: TvmExecutable

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return tuple(
            Part(name, type(kernel).__name__.lower(), kernel.nodes, kernel_cost(kernel))
            for name, kernel in self.executable.program.calls
        )

    def bind(self, state: Arrays) -> Callable[[Arrays], Timing]:
        """See `Timed.bind`."""
        bound = _Bound(self.executable, state)
        clock = np.zeros((1 + len(self.parts), 2), np.int64)
        bound.kept.append(clock)
        bound.table[bound.slots[CLOCK]] = _place(clock)

        def run(inputs: Arrays) -> Timing:
            clock[...] = 0
            bound.step(inputs)
            return Timing(clock[1:, 0].copy(), clock[1:, 1].copy())

        return run


@dataclass(frozen=True)
class TvmBackend:
    """Native code for the CPU, in f32 and f64."""

    name: str = "tvm"
    composites: frozenset[str] = frozenset()
    abilities: Abilities = _ABILITIES
    packages: tuple[str, ...] = ("apache-tvm", "scipy-openblas32")

    @cached_property
    def ops(self) -> frozenset[str]:
        return frozenset(OPS.keys() - {"call"})

    def hold(self, arrays: Arrays) -> Held:
        return HostState(arrays)

    @property
    def threads(self) -> int:
        return POOL.width

    def use_threads(self, count: int) -> None:
        """See `Backend.use_threads`."""
        POOL.use(count)

    @property
    def traits(self) -> Mapping[str, object]:
        """The processor that code is made for. How many threads there are does not matter."""
        return {"processor": target.processor()}

    def compile(self, plan: Plan) -> TvmExecutable:
        """Kernels from the plan's groups, and native code from them."""
        return self._compile(plan)

    def timed(self, plan: Plan) -> TvmTimed:
        """See `Backend.timed`: a part is a call of a kernel, as it stands in the code."""
        return TvmTimed(self._compile(plan, timed=True))

    def peaks(self, dtype: DType) -> Peaks:
        """See `Backend.peaks`."""
        return peaks(dtype)

    def _compile(self, plan: Plan, timed: bool = False) -> TvmExecutable:
        for node in (n for part in (plan.graph, *bodies(plan.graph)) for n in part.nodes):
            if node.type.dtype.name in ("f16", "bf16"):
                raise RunError(
                    "the tvm backend computes in f32 and f64",
                    node.span,
                    found=f"`{node.type}`",
                    hint="train with `precision = f32`",
                )
        blas.load()
        made = kernels(plan, self.abilities)
        program = Program(made, timed)
        module = native.compiled(program.module(), target.host())
        source = "\n".join(text(kernel) for kernel in made)
        return TvmExecutable(plan, program, module["step"], source)


BACKEND = TvmBackend()
