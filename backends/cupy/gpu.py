"""An NVIDIA GPU through CuPy: modules by NVRTC, products by cuBLAS, steps as CUDA graphs.

    copy stream       batch t+1: pinned memory -> one of two staging places
    compute stream    staging place -> input, the graph of step t+1, outputs -> pinned memory

The host waits only for a staging place that is still being read, and for outputs that it asks for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from weft.backends.cupy.code import Gemm
from weft.backends.cupy.device import Memory, Replay, Span, Waiting
from weft.backends.cupy.library import WORKSPACE, Library, loaded
from weft.compiler.errors import RunError

OPTIONS = ("--std=c++17", "--diag-suppress=177")
PLACES = 2  # where batches wait


@cache
def device() -> Gpu:
    """The current GPU. Raises RunError that says what is missing."""
    install = "pip install 'weft[cuda]'"
    try:
        import cupy

        cublas = loaded()
        cupy.cuda.nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        raise RunError(
            "the cupy backend needs CuPy, cuBLAS and NVRTC, of CUDA 13",
            found=f"{error.__cause__ or error}".strip().splitlines()[0],
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
    return Gpu(cupy, cublas)


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
            # A GPU that shares the host's page tables may read the array later than this returns.
            self.gpu.compute.synchronize()

    def read(self, into: np.ndarray) -> None:
        self.gpu.compute.synchronize()
        if into.nbytes:
            self.pointer.copy_to_host(_host(into), into.nbytes)


@dataclass(eq=False)
class Gpu:
    cupy: Any
    cublas: Any
    flying: list[tuple[Any, Any]] = field(default_factory=list)  # events, and what waits for them

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
        try:
            pointer = self.cupy.cuda.alloc(max(1, size))
        except self.cupy.cuda.memory.OutOfMemoryError as error:
            raise RunError(
                "the GPU has not enough memory",
                found=f"{error}",
                hint="take smaller batches, or `precision = bf16`; `weft check --backend cupy` "
                "shows what a step needs",
            ) from error
        pointer.memset_async(0, max(1, size), self.compute)
        return GpuMemory(self, pointer)

    def load(self, headers: str, functions: Mapping[str, str]) -> Mapping[str, Any]:
        """One module; CuPy keeps what NVRTC made of it on disk, by its hash."""
        code = "\n".join((headers, *functions.values()))
        module = self.cupy.RawModule(code=code, options=OPTIONS, backend="nvrtc")
        found = {name: module.get_function(name) for name in functions}
        for function in found.values():
            _ = function.max_threads_per_block  # who asks for anything loads it: better now
        return found

    def launch(
        self, function: Any, grid: tuple[int, int, int], threads: int, addresses: Sequence[int]
    ) -> None:
        function(grid, (threads, 1, 1), tuple(addresses))

    @cached_property
    def library(self) -> Library:
        """With memory of its own, taken before anything is recorded."""
        self._workspace = self.allocate(WORKSPACE)
        return Library(self.cublas, self.compute.ptr, self._workspace.address)

    def gemm(self, gemm: Gemm, addresses: tuple[int, int, int]) -> None:
        self.library.gemm(gemm, addresses)

    def recorded(
        self, work: Callable[[], None], inputs: Sequence[Memory], outputs: Sequence[Span]
    ) -> Replay:
        return _Replay(self, work, inputs, outputs)

    def captured(self, work: Callable[[], None]) -> Any:
        """The graph of what work launches."""
        with self.compute:
            self.compute.begin_capture()
            try:
                work()
            except BaseException:
                with suppress(Exception):  # else the stream goes on recording
                    self.compute.end_capture()
                raise
            return self.compute.end_capture()

    def after(self, *memory: Any) -> Any:
        """The event that all work until now is done. Nobody else may have this memory before that,
        even if whoever asked for the work is gone.
        """
        done = self.cupy.cuda.Event(disable_timing=True)
        done.record(self.compute)
        self.flying = [pair for pair in self.flying if not pair[0].done]
        self.flying.append((done, memory))
        return done

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


class _Replay:
    """Work, and the places in which its inputs and outputs wait.

    The first time, work is launched call by call: libraries load code and take memory when they are
    called first, which may not happen while a graph is recorded. And what runs once needs no graph.
    """

    def __init__(
        self,
        gpu: Gpu,
        work: Callable[[], None],
        inputs: Sequence[Memory],
        outputs: Sequence[Span],
    ) -> None:
        self.gpu, self.work = gpu, work
        self.inputs, self.outputs = inputs, outputs
        self.graph: Any = None
        self.has_run = False
        self.places: list[_Place | None] = [None] * PLACES
        self.turn = 0

    def __call__(self, given: Sequence[np.ndarray]) -> Waiting:
        cupy, compute = self.gpu.cupy, self.gpu.compute
        if self.has_run and self.graph is None:
            self.graph = self.gpu.captured(self.work)
        if given:
            place = self.places[self.turn] or _Place(self.gpu, given)
            self.places[self.turn] = place
            self.turn = (self.turn + 1) % PLACES
            place.send(given, self.inputs)
        if self.graph is None:
            with compute:
                self.work()
            self.has_run = True
        else:
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
        done = self.gpu.after(found, self.places)

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
