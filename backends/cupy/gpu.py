"""An NVIDIA GPU through CuPy: modules by NVRTC, products by cuBLAS, steps as CUDA graphs.

    copy stream       batch t+1: pinned memory -> one of two staging places
    compute stream    staging place -> input, the graph of step t+1, outputs -> pinned memory

The host waits only for a staging place that is still being read, and for outputs that it asks for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from weft.backends.cupy.code import Gemm
from weft.backends.cupy.device import Memory, Replay, Span, Waiting
from weft.compiler.errors import RunError
from weft.compiler.types import BF16, F16, F32, F64

OPTIONS = ("--std=c++17", "--diag-suppress=177")
PLACES = 2  # where batches wait


@cache
def device() -> Gpu:
    """The current GPU. Raises RunError that says what is missing."""
    install = "pip install 'weft[cuda]'"
    try:
        import cupy
        from cupy_backends.cuda.libs import cublas, nvrtc
    except ImportError as error:
        raise RunError(
            "the cupy backend needs CuPy, cuBLAS and NVRTC, of CUDA 13",
            found=f"{error}".splitlines()[0],
            hint=f"install them with `{install}`, or use `--backend auto`",
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        count, told = 0, str(error)
    else:
        told = "no device"
    if not count:
        raise RunError(
            "the cupy backend needs an NVIDIA GPU and its driver",
            found=told,
            hint="use `--backend auto`, which takes what this machine has",
        )
    return Gpu(cupy, cublas, nvrtc)


@dataclass(frozen=True, eq=False)
class GpuMemory:
    gpu: Gpu
    pointer: Any

    @property
    def address(self) -> int:
        found: int = self.pointer.ptr
        return found

    def write(self, array: np.ndarray) -> None:
        if array.nbytes:
            self.pointer.copy_from_host_async(_host(array), array.nbytes, self.gpu.compute)

    def read(self, into: np.ndarray) -> None:
        self.gpu.compute.synchronize()
        if into.nbytes:
            self.pointer.copy_to_host(_host(into), into.nbytes)


@dataclass(eq=False)
class Gpu:
    cupy: Any
    cublas: Any
    nvrtc: Any

    @cached_property
    def name(self) -> str:
        cuda = self.cupy.cuda
        found: bytes = cuda.runtime.getDeviceProperties(cuda.device.get_device_id())["name"]
        return found.decode()

    @cached_property
    def compute(self) -> Any:
        return self.cupy.cuda.Stream(non_blocking=True)

    @cached_property
    def copies(self) -> Any:
        return self.cupy.cuda.Stream(non_blocking=True)

    def allocate(self, size: int) -> GpuMemory:
        pointer = self.cupy.cuda.alloc(max(1, size))
        pointer.memset_async(0, max(1, size), self.compute)
        return GpuMemory(self, pointer)

    def load(self, headers: str, functions: Mapping[str, str]) -> Mapping[str, Any]:
        """One module; CuPy keeps what NVRTC made of it on disk, by its hash."""
        code = "\n".join((headers, *functions.values()))
        module = self.cupy.RawModule(code=code, options=OPTIONS, backend="nvrtc")
        found = {name: module.get_function(name) for name in functions}
        # Asking for anything loads a function: better now than while launches are recorded.
        assert all(function.max_threads_per_block for function in found.values())
        return found

    def launch(
        self, function: Any, grid: tuple[int, int, int], threads: int, addresses: Sequence[int]
    ) -> None:
        function(grid, (threads, 1, 1), tuple(addresses))

    def gemm(self, gemm: Gemm, addresses: tuple[int, int, int]) -> None:
        """The library's matrices are column by column: the transposed product, seen so."""
        cublas, handle = self.cublas, self.cupy.cuda.device.get_cublas_handle()
        cublas.setStream(handle, self.compute.ptr)
        (m, n, k), (lhs, rhs, out) = gemm.sizes, addresses
        steps, batch = list(gemm.steps), list(gemm.batch)
        if steps[2][1] != 1:  # column by column already: the product of the transposed
            m, n, lhs, rhs = n, m, rhs, lhs
            steps = [(b, a) for a, b in (steps[1], steps[0], steps[2])]
            batch = [batch[1], batch[0], batch[2]]
        left, left_step = _library(steps[0], k, cublas)
        right, right_step = _library(steps[1], n, cublas)
        runtime, double = self.cupy.cuda.runtime, gemm.dtype == F64
        types = {
            F16: runtime.CUDA_R_16F,
            BF16: runtime.CUDA_R_16BF,
            F32: runtime.CUDA_R_32F,
            F64: runtime.CUDA_R_64F,
        }
        type, kept = types[gemm.dtype], types[gemm.ports[2].dtype]
        compute = cublas.CUBLAS_COMPUTE_64F if double else cublas.CUBLAS_COMPUTE_32F
        if gemm.tf32:  # of this call alone, whatever the mode of the library is
            compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32
        one, zero = (np.array(x, np.float64 if double else np.float32) for x in (1, 0))
        cublas.gemmStridedBatchedEx(
            handle, right, left, n, m, k, one.ctypes.data,
            rhs, type, right_step, batch[1], lhs, type, left_step, batch[0], zero.ctypes.data,
            out, kept, max(n, steps[2][0]), batch[2], gemm.count, compute,
            cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip

    def recorded(
        self, work: Callable[[], None], inputs: Sequence[Memory], outputs: Sequence[Span]
    ) -> Replay:
        self.cupy.cuda.device.get_cublas_handle()  # made now, as it takes memory
        with self.compute:
            self.compute.begin_capture()
            work()
            graph = self.compute.end_capture()
        return _Replay(self, graph, inputs, outputs)

    def timed(self, pieces: Sequence[Callable[[], None]]) -> Sequence[float]:
        cuda = self.cupy.cuda
        marks = [cuda.Event() for _ in range(len(pieces) + 1)]
        with self.compute:
            marks[0].record(self.compute)
            for piece, mark in zip(pieces, marks[1:], strict=True):
                piece()
                mark.record(self.compute)
        self.compute.synchronize()
        return [1e6 * cuda.get_elapsed_time(a, b) for a, b in pairwise(marks)]


def _library(steps: tuple[int, int], columns: int, cublas: Any) -> tuple[int, int]:
    """How the library sees a factor, of so many columns: transposed or not, and its long step."""
    row, column = steps
    if column == 1:
        return cublas.CUBLAS_OP_N, max(row, columns)
    return cublas.CUBLAS_OP_T, column


class _Replay:
    """A graph, and the places in which its inputs and outputs wait."""

    def __init__(
        self, gpu: Gpu, graph: Any, inputs: Sequence[Memory], outputs: Sequence[Span]
    ) -> None:
        self.gpu, self.graph = gpu, graph
        self.inputs, self.outputs = inputs, outputs
        self.places: list[_Place | None] = [None] * PLACES
        self.turn = 0
        self.flying: list[tuple[Any, list[np.ndarray]]] = []  # outputs on their way to the host

    def __call__(self, given: Sequence[np.ndarray]) -> Waiting:
        cupy, compute = self.gpu.cupy, self.gpu.compute
        if given:
            place = self.places[self.turn] or _Place(self.gpu, given)
            self.places[self.turn] = place
            self.turn = (self.turn + 1) % PLACES
            place.send(given, self.inputs)
        self.graph.launch(compute)
        found = []
        for span in self.outputs:
            size = span.count * span.dtype.itemsize
            pinned = cupy.cuda.alloc_pinned_memory(max(1, size))
            array = np.frombuffer(pinned, span.dtype, span.count)
            source = span.memory.address + span.offset
            if size:
                _copy(cupy, array.ctypes.data, source, size, _TO_HOST, compute)
            found.append(array)
        done = cupy.cuda.Event(disable_timing=True)
        done.record(compute)
        # Nobody else may have this memory before it is filled, even if nobody waits for it.
        self.flying = [pair for pair in self.flying if not pair[0].done]
        self.flying.append((done, found))

        def wait() -> Sequence[np.ndarray]:
            done.synchronize()
            return found

        return wait


class _Place:
    """Where a batch waits: pinned on the host, and on the device."""

    def __init__(self, gpu: Gpu, arrays: Sequence[np.ndarray]) -> None:
        cuda = gpu.cupy.cuda
        self.gpu = gpu
        sizes = [max(1, a.nbytes) for a in arrays]
        self.pinned = [cuda.alloc_pinned_memory(size) for size in sizes]
        self.staged = [cuda.alloc(size) for size in sizes]
        self.arrived, self.taken = (cuda.Event(disable_timing=True) for _ in range(2))
        self.taken.record(gpu.compute)

    def send(self, arrays: Sequence[np.ndarray], targets: Sequence[Memory]) -> None:
        cupy, compute, copies = self.gpu.cupy, self.gpu.compute, self.gpu.copies
        self.arrived.synchronize()  # the host's side is free when the last copy has left it
        copies.wait_event(self.taken)  # and the device's when the last step has taken it
        for array, pinned, staged in zip(arrays, self.pinned, self.staged, strict=True):
            if array.nbytes:
                host = np.frombuffer(pinned, array.dtype, array.size)
                host[...] = array.reshape(-1)
                _copy(cupy, staged.ptr, host.ctypes.data, array.nbytes, _TO_DEVICE, copies)
        self.arrived.record(copies)
        compute.wait_event(self.arrived)
        for array, staged, target in zip(arrays, self.staged, targets, strict=True):
            if array.nbytes:
                _copy(cupy, target.address, staged.ptr, array.nbytes, _WITHIN, compute)
        self.taken.record(compute)


_TO_DEVICE, _TO_HOST, _WITHIN = 1, 2, 3  # kinds of cudaMemcpy


def _copy(cupy: Any, target: int, source: int, size: int, kind: int, stream: Any) -> None:
    cupy.cuda.runtime.memcpyAsync(target, source, size, kind, stream.ptr)


def _host(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
