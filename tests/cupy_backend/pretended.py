"""A module that pretends to be CuPy, over the emulator: what `gpu.py` calls, with CUDA's meaning.

Work of a stream is done at once, or kept while it is captured. cuBLAS is NumPy on matrices that lie
column by column.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from cupy_backend.emulator import EmulatedMemory, Emulator
from weft.compiler.types import BF16, F16, F32, F64

Work = Callable[[], None]


class Stream:
    current: Stream | None = None

    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking
        self.ptr = id(self)
        self.captured: list[Work] | None = None
        _STREAMS[self.ptr] = self

    def __enter__(self) -> Stream:
        Stream.current = self
        return self

    def __exit__(self, *error: object) -> None:
        Stream.current = None

    def do(self, work: Work) -> None:
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def begin_capture(self) -> None:
        self.captured = []

    def end_capture(self) -> Graph:
        assert self.captured is not None
        made, self.captured = Graph(self.captured), None
        return made

    def synchronize(self) -> None:
        assert self.captured is None, "nothing may wait while launches are recorded"

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)


class Graph:
    def __init__(self, works: list[Work]) -> None:
        self.works = works

    def launch(self, stream: Stream) -> None:
        for work in self.works:
            stream.do(work)


class Event:
    done = True

    def __init__(self, disable_timing: bool = False) -> None:
        self.timed = not disable_timing

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)

    def synchronize(self) -> None:
        pass


_STREAMS: dict[int, Stream] = {}


class Pointer:
    """Memory of the device. It is not zero before somebody says so."""

    def __init__(self, size: int) -> None:
        assert size > 0
        self.memory = EmulatedMemory(size)
        self.memory.bytes[...] = 0xAB
        self.ptr = self.memory.address

    def memset_async(self, value: int, size: int, stream: Stream) -> None:
        ctypes.memset(self.ptr, value, size)

    def copy_from_host_async(self, source: ctypes.c_void_p, size: int, stream: Stream) -> None:
        ctypes.memmove(self.ptr, source, size)

    def copy_to_host(self, target: ctypes.c_void_p, size: int) -> None:
        ctypes.memmove(target, self.ptr, size)


class Module:
    def __init__(self, emulator: Emulator, code: str) -> None:
        headers, *sources = re.split(r'(?=^extern "C" __global__)', code, flags=re.MULTILINE)
        named = {re.search(r"\) (\w+)\(", source)[1]: source for source in sources}  # type: ignore[index]
        self.emulator, self.functions = emulator, emulator.load(headers, named)

    def get_function(self, name: str) -> Callable[..., None]:
        function = self.functions[name]

        def call(grid: tuple[int, int, int], block: tuple[int, int, int], args: Any) -> None:
            assert Stream.current is not None
            assert block[1:] == (1, 1)
            Stream.current.do(lambda: self.emulator.launch(function, grid, block[0], args))

        call.max_threads_per_block = 1_024  # type: ignore[attr-defined]
        return call


def _copy(target: int, source: int, size: int, kind: int, stream: int) -> None:
    assert kind in (1, 2, 3)
    _STREAMS[stream].do(lambda: ctypes.memmove(target, source, size) and None)


class Blas:
    CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_GEMM_DEFAULT = 0, 1, -1
    CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_32F_FAST_TF32 = 68, 70, 77

    def setStream(self, handle: str, stream: int) -> None:
        assert handle == "handle"
        self.stream = _STREAMS[stream]

    def gemmStridedBatchedEx(
        self, handle: str, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int,
        a: int, a_type: int, lda: int, a_step: int, b: int, b_type: int, ldb: int, b_step: int,
        beta: int, c: int, c_type: int, ldc: int, c_step: int, count: int, compute: int, algo: int,
    ) -> None:  # fmt: skip
        """`C = op(A) op(B)` with m x k and k x n factors; columns are `ld` elements apart."""
        dtype, kept = _TYPES[a_type].numpy, _TYPES[c_type].numpy
        wide = np.dtype(np.float64 if compute == self.CUBLAS_COMPUTE_64F else np.float32)
        assert a_type == b_type
        assert (dtype == np.float64) == (wide == np.float64)
        assert kept in (dtype, wide)
        assert _scalar(alpha, wide) == 1
        assert _scalar(beta, wide) == 0
        assert lda >= (k if op_a else m) and ldb >= (n if op_b else k) and ldc >= m  # noqa: PT018

        def work() -> None:
            for i in range(count):
                left = _matrix(a, i * a_step, lda, (k, m) if op_a else (m, k), dtype)
                right = _matrix(b, i * b_step, ldb, (n, k) if op_b else (k, n), dtype)
                out = _matrix(c, i * c_step, ldc, (m, n), kept)
                left, right = (x.astype(wide) for x in (left, right))
                if compute == self.CUBLAS_COMPUTE_32F_FAST_TF32:
                    left, right = _to_tf32(left), _to_tf32(right)
                out[...] = (left.T if op_a else left) @ (right.T if op_b else right)

        self.stream.do(work)


_TYPES = {0: F32, 1: F64, 2: F16, 14: BF16}


def _to_tf32(x: np.ndarray) -> np.ndarray:
    """With 10 bits after the point, by halves away from zero."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _scalar(address: int, dtype: np.dtype) -> float:
    return float(_matrix(address, 0, 1, (1, 1), dtype)[0, 0])


def _matrix(
    address: int, start: int, step: int, shape: tuple[int, int], dtype: np.dtype
) -> np.ndarray:
    size = dtype.itemsize
    held = (ctypes.c_char * (((shape[1] - 1) * step + shape[0]) * size)).from_address(
        address + start * size
    )
    return np.ndarray(shape, dtype, held, 0, (size, step * size))


def cupy(emulator: Emulator) -> Any:
    """The pretended package."""
    runtime = SimpleNamespace(
        memcpyAsync=_copy,
        **{f"CUDA_R_{name}": number for number, name in enumerate(("32F", "64F", "16F"))},
        CUDA_R_16BF=14,
        getDeviceProperties=lambda number: {"name": b"Pretended"},
    )
    device = SimpleNamespace(get_cublas_handle=lambda: "handle", get_device_id=lambda: 0)
    cuda = SimpleNamespace(
        Stream=Stream,
        Event=Event,
        alloc=Pointer,
        alloc_pinned_memory=bytearray,
        get_elapsed_time=lambda a, b: 0.001,
        device=device,
        runtime=runtime,
    )
    return SimpleNamespace(
        cuda=cuda,
        RawModule=lambda code, options, backend: Module(emulator, code),
    )
