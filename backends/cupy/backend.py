"""The CuPy backend: compiles a plan to one module of kernels and binds it to arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from weft.backends.base import Arrays, Peaks
from weft.backends.cupy.attention import WIDEST
from weft.backends.cupy.bound import CupyExecutable
from weft.backends.cupy.device import Device
from weft.backends.cupy.held import DeviceState
from weft.backends.cupy.program import Program
from weft.backends.cupy.timing import CupyTimed, peaks
from weft.compiler.errors import InternalError
from weft.compiler.graph import Node
from weft.compiler.kernel import Nest
from weft.compiler.kernel_text import text
from weft.compiler.ops import OPS
from weft.compiler.passes.kernels import kernels
from weft.compiler.passes.turn_kernels import copied, loop_scratch
from weft.compiler.passes.views import contiguous
from weft.compiler.plan import Abilities, Buffer, Place, Plan
from weft.compiler.types import DType


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
    attention=WIDEST,
)


@dataclass(frozen=True)
class Made:
    """A plan's program, and where the outputs are when it has run."""

    program: Program
    outputs: Mapping[str, Place]


def program_of(plan: Plan) -> Made:
    """Needs no device."""
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
    """CUDA kernels, in every type."""

    device: Device = field(compare=False)
    name: str = "cupy"
    composites: frozenset[str] = frozenset()
    abilities: Abilities = ABILITIES
    forms: tuple[str, ...] = ("kernel", "cuda")
    packages: tuple[str, ...] = ("cupy-cuda13x", "nvidia-cublas", "nvidia-cuda-nvrtc")
    threads: int = 1  # the host only launches

    @cached_property
    def ops(self) -> frozenset[str]:
        return frozenset(OPS.keys() - {"call"})

    @property
    def traits(self) -> Mapping[str, object]:
        """The GPU: the library chooses how to multiply by it."""
        return {"gpu": self.device.name}

    def hold(self, arrays: Arrays) -> DeviceState:
        return DeviceState(self.device, arrays)

    def compile(self, plan: Plan) -> CupyExecutable:
        """Kernels from the plan's groups, and CUDA from them."""
        made = program_of(plan)
        return CupyExecutable(plan, made.program, made.outputs, self.device)

    def listing(self, plan: Plan, form: str) -> str:
        """See `Backend.listing`."""
        program = program_of(plan).program
        if form == "cuda":
            return program.source
        return "\n".join(text(kernel) for kernel, _ in program.kernels_run)

    def timed(self, plan: Plan) -> CupyTimed:
        """See `Backend.timed`: a part is a kernel."""
        return CupyTimed(self.compile(plan))

    def peaks(self, dtype: DType) -> Peaks:
        """See `Backend.peaks`."""
        return peaks(self.device, dtype)


class _Nowhere:
    """Stands for a device where there is none, and none is needed."""

    def __getattr__(self, name: str) -> Any:
        raise InternalError(f"code is shown, not run: no device has a `{name}`")


SHOWN = CupyBackend(_Nowhere())
"""The backend for those who want to see its code."""
