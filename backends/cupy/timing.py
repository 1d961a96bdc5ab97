"""A step with a clock between its kernels, and what the device does at its best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from weft.backends.base import Arrays, Part, Peaks, Timing
from weft.backends.cupy.bound import Bound, CupyExecutable
from weft.backends.cupy.code import Call, Gemm, Launch, headers
from weft.backends.cupy.device import Device
from weft.backends.cupy.held import DeviceState
from weft.backends.cupy.points import print_points
from weft.compiler.costs import kernel_cost
from weft.compiler.index import Axis, along
from weft.compiler.kernel import Port, Stage, Store
from weft.compiler.plan import Buffer
from weft.compiler.scalar import Load
from weft.compiler.types import DType

COPIES = tuple(1 << power for power in range(18, 31, 2))  # bytes that a copy touches
PRODUCT = 4_096  # rows and columns of matrices
TRIES = 20


@dataclass(frozen=True, eq=False)
class CupyTimed:
    """The same functions, launched one by one: a part is a kernel, all of its functions."""

    executable: CupyExecutable

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self._numbered[0].values())

    @cached_property
    def _numbered(self) -> tuple[dict[str, Part], list[int]]:
        """Parts by name, and the number of the part of each kernel that the step runs."""
        found: dict[str, Part] = {}
        order = []
        for kernel, runs in self.executable.program.kernels_run:
            name = _name(runs[0].call)
            if name not in found:
                kind = type(kernel).__name__.lower()
                found[name] = Part(name, kind, kernel.nodes, kernel_cost(kernel))
            order.append(list(found).index(name))
        return found, order

    def bind(self, state: Arrays) -> Callable[[Arrays], Timing]:
        """See `Timed.bind`."""
        device = self.executable.device
        held = state if isinstance(state, DeviceState) else DeviceState(device, state)
        bound = Bound(self.executable, held)
        pieces = [
            partial(_all, [bound.call(run) for run in runs])
            for _, runs in self.executable.program.kernels_run
        ]
        order = np.array(self._numbered[1], np.int64)

        def run(inputs: Arrays) -> Timing:
            bound.give(inputs)
            times = np.array(device.timed(pieces))
            count = len(self.parts)
            return Timing(np.bincount(order, times, count), np.bincount(order, minlength=count))

        return run


def _name(call: Call) -> str:
    if isinstance(call, Launch):
        return call.function.name
    sizes = "x".join(map(str, (call.count, *call.sizes)))
    factors = "tf32" if call.tf32 else call.dtype
    return f"library_{factors}_{sizes}_{''.join(map(str, call.steps))}"


def _all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


def peaks(
    device: Device, dtype: DType, product: int = PRODUCT, copies: Sequence[int] = COPIES
) -> Peaks:
    """The library's product of large matrices, and a copy by a kernel of our own."""
    size = product * product * dtype.bytes
    matrices = [device.allocate(size) for _ in range(3)]
    left, right, out = (memory.address for memory in matrices)
    port = Port(Buffer("matrix", "input", dtype, product * product, 0, 0, ()), 0)
    square = (product, 1)
    gemm = Gemm((port, port, port), 1, (product,) * 3, (0, 0, 0), (square, square, square))
    best = _best(device, lambda: device.gemm(gemm, (left, right, out)))
    rates = []
    for bytes_ in copies:
        count = bytes_ // 2 // dtype.bytes
        launch = _copy(dtype, count)
        functions = device.load(headers(), {launch.function.name: launch.function.source})
        function = functions[launch.function.name]
        memories = [device.allocate(count * dtype.bytes) for _ in range(2)]
        places = [memory.address for memory in memories]
        work = partial(device.launch, function, launch.grid, launch.threads, places)
        rates.append((bytes_, bytes_ / _best(device, work)))
    return Peaks(2 * product**3 / best, tuple(rates))


def _copy(dtype: DType, count: int) -> Launch:
    ports = [Port(Buffer(name, "input", dtype, count, 0, 0, ()), 0) for name in ("from", "to")]
    axis = Axis(count)
    stage = Stage((axis,), (), (Store(1, along(axis), Load(dtype, 0, along(axis))),))
    return print_points(ports, stage, frozenset((0, 1)), "copy")


def _best(device: Device, work: Callable[[], None]) -> float:
    """Seconds that the work takes when nothing is in its way."""
    return min(device.timed([work] * TRIES)) / 1e9
