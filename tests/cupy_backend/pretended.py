"""A module that pretends to be CuPy, over the emulator: what `gpu.py` calls, with CUDA's meaning.

Streams are queues: what the host puts there is done some time later, when the host waits for it, or
when another stream does, or when a clock that nobody knows says so. So memory that is read too
early or written again too soon shows. What CUDA and CuPy refuse while a graph is recorded is
refused here. cuBLAS is NumPy on matrices that lie column by column.
"""

from __future__ import annotations

import ctypes
import random
import re
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np

from cupy_backend.emulator import EmulatedMemory, Emulator
from weft.backends.cupy.library import (
    ANY_ALGORITHM,
    SUM_F32,
    SUM_F32_OF_TF32,
    SUM_F64,
    SUMS_UNROUNDED,
    TRANSPOSED,
    TYPES,
    WORKSPACE,
)

Work = Callable[[], None]


class Clock:
    """How far streams come by themselves while the host does something."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.pace = 0  # works that are done between two calls of the host, at most

    def pass_by(self) -> None:
        if self.pace:
            for stream in self.random.sample(list(_STREAMS.values()), len(_STREAMS)):
                stream.go(self.random.randrange(self.pace + 1))


CLOCK = Clock()


class Stream:
    current: Stream | None = None

    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking
        self.ptr = id(self)
        self.captured: list[Work] | None = None
        self.queue: list[Work] = []
        self.done = 0  # works
        _STREAMS[self.ptr] = self

    def __enter__(self) -> Self:
        Stream.current = self
        return self

    def __exit__(self, *error: object) -> None:
        Stream.current = None

    def do(self, work: Work) -> None:
        if self.captured is None:
            self.queue.append(work)
            CLOCK.pass_by()
        else:
            self.captured.append(work)

    def go(self, count: int) -> None:
        for _ in range(min(count, len(self.queue))):
            work = self.queue.pop(0)
            self.done += 1
            work()

    def reach(self, place: int) -> None:
        self.go(place - self.done)

    def begin_capture(self) -> None:
        assert self.captured is None
        self.captured = []

    def end_capture(self) -> Graph:
        assert self.captured is not None
        made, self.captured = Graph(self.captured), None
        return made

    def synchronize(self) -> None:
        nothing_is_recorded()
        self.go(len(self.queue))

    def wait_event(self, event: Event) -> None:
        nothing_is_recorded()
        self.do(event.reached())


class Graph:
    def __init__(self, works: list[Work]) -> None:
        self.works = works

    def launch(self, stream: Stream) -> None:
        nothing_is_recorded()
        for work in self.works:
            stream.do(work)


class Event:
    """A place in a stream's queue, if it has been recorded."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.timed = not disable_timing
        self.place: tuple[Stream, int] | None = None

    def record(self, stream: Stream) -> None:
        nothing_is_recorded()
        self.place = stream, stream.done + len(stream.queue)

    def reached(self) -> Work:
        """What gets the event's stream to where the event is now."""
        place = self.place
        return lambda: place[0].reach(place[1]) if place else None

    @property
    def done(self) -> bool:
        nothing_is_recorded()
        return self.place is None or self.place[0].done >= self.place[1]

    def synchronize(self) -> None:
        nothing_is_recorded()
        self.reached()()


_STREAMS: dict[int, Stream] = {}


def nothing_is_recorded() -> None:
    assert all(stream.captured is None for stream in _STREAMS.values())


class Pointer:
    """Memory of the device. It is not zero before somebody says so."""

    most: int | None = None  # bytes at once
    free: ClassVar[dict[int, list[EmulatedMemory]]] = {}  # what nobody has, for who asks next

    def __init__(self, size: int) -> None:
        assert size > 0
        if Pointer.most is not None and size > Pointer.most:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        same = Pointer.free.setdefault(size, [])
        self.memory = same.pop() if same else EmulatedMemory(size)
        weakref.finalize(self, same.append, self.memory)
        self.ptr = self.memory.address

    def memset_async(self, value: int, size: int, stream: Stream) -> None:
        target = self.ptr
        stream.do(lambda: ctypes.memset(target, value, size) and None)

    def copy_from_host_async(self, source: ctypes.c_void_p, size: int, stream: Stream) -> None:
        assert stream.captured is None, "CuPy refuses this while a graph is recorded"
        target, read = self.ptr, source.value
        assert read is not None
        stream.do(lambda: ctypes.memmove(target, read, size) and None)

    def copy_to_host(self, target: ctypes.c_void_p, size: int) -> None:
        """By a stream that does not wait for others."""
        nothing_is_recorded()
        ctypes.memmove(target, self.ptr, size)


class OutOfMemoryError(MemoryError):
    pass


class Pinned:
    """The host's memory for copies. When nobody has it any more, no copy may touch it."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []
        self.free: list[tuple[int, int]] = []

    def allocate(self, size: int) -> Any:
        memory = np.full(size, 0xCD, np.uint8)
        self.kept.append(memory)
        start = memory.ctypes.data
        given = (ctypes.c_char * size).from_buffer(memory)
        weakref.finalize(given, self.free.append, (start, start + size))
        return given

    def check(self, address: int) -> None:
        assert not any(start <= address < end for start, end in self.free), "memory is freed"


PINNED = Pinned()


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
    host = {1: source, 2: target}.get(kind)

    def work() -> None:
        if host is not None:
            PINNED.check(host)
        ctypes.memmove(target, source, size)

    _STREAMS[stream].do(work)


class Blas:
    """The functions of the library, in C's terms."""

    def __init__(self) -> None:
        self.called: set[tuple[int, ...]] = set()
        self.stream: Stream | None = None

    def cublasCreate_v2(self, handle: Any) -> int:
        nothing_is_recorded()
        handle._obj.value = 1
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: int) -> int:
        assert handle.value == 1
        self.stream, self.workspace, self.mode = _STREAMS[stream], 0, 0
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, address: int, size: int) -> int:
        assert handle.value == 1
        assert address % 256 == 0
        self.workspace = size
        return 0

    def cublasSetMathMode(self, handle: Any, mode: int) -> int:
        self.mode = mode
        return 0

    def cublasGetStatusString(self, status: int) -> bytes:
        return f"error {status}".encode()

    def cublasGemmStridedBatchedEx(
        self, handle: Any, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int,
        a: int, a_type: int, lda: int, a_step: int, b: int, b_type: int, ldb: int, b_step: int,
        beta: int, c: int, c_type: int, ldc: int, c_step: int, count: int, compute: int, algo: int,
    ) -> int:  # fmt: skip
        """`C = op(A) op(B)` with m x k and k x n factors; columns are `ld` elements apart."""
        if lda < (k if op_a else m) or ldb < (n if op_b else k) or ldc < m:
            return 7
        stream = self.stream
        assert stream is not None
        assert (self.workspace, self.mode) == (WORKSPACE, SUMS_UNROUNDED)
        # What is called for the first time may load code, for which a recording can't wait.
        call = (op_a, op_b, m, n, k, a_type, lda, ldb, c_type, ldc, count, compute)
        assert call in self.called or stream.captured is None
        self.called.add(call)
        dtype, kept = _DTYPES[a_type].numpy, _DTYPES[c_type].numpy
        wide = {SUM_F32: np.float32, SUM_F32_OF_TF32: np.float32, SUM_F64: np.float64}[compute]
        assert a_type == b_type
        assert algo == ANY_ALGORITHM
        assert (dtype == np.float64) == (wide == np.float64)
        assert compute != SUM_F32_OF_TF32 or dtype == np.float32
        assert kept in (dtype, wide)
        assert _scalar(alpha, np.dtype(wide)) == 1
        assert _scalar(beta, np.dtype(wide)) == 0

        def work() -> None:
            for i in range(count):
                left = _matrix(a, i * a_step, lda, (k, m) if op_a else (m, k), dtype)
                right = _matrix(b, i * b_step, ldb, (n, k) if op_b else (k, n), dtype)
                out = _matrix(c, i * c_step, ldc, (m, n), kept)
                left, right = (x.astype(wide) for x in (left, right))
                if compute == SUM_F32_OF_TF32:
                    left, right = _to_tf32(left), _to_tf32(right)
                left = left.T if op_a == TRANSPOSED else left
                out[...] = left @ (right.T if op_b == TRANSPOSED else right)

        stream.do(work)
        return 0


_DTYPES = {number: dtype for dtype, number in TYPES.items()}


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
        memcpyAsync=_copy, getDeviceProperties=lambda number: {"name": b"Pretended"}
    )
    cuda = SimpleNamespace(
        Stream=Stream,
        Event=Event,
        alloc=Pointer,
        alloc_pinned_memory=PINNED.allocate,
        get_elapsed_time=lambda a, b: 0.001,
        device=SimpleNamespace(get_device_id=lambda: 0),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=runtime,
    )
    return SimpleNamespace(
        cuda=cuda,
        RawModule=lambda code, options, backend: Module(emulator, code),
    )
