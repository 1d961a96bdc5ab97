"""A device for tests that runs CUDA on the CPU: the same source, compiled by g++.

Every launch runs its blocks one after the other, and the threads of a block as fibers, in an order
that differs from one step to the next: a result that depends on it differs too. The first launches
of a function are watched: an access outside of memory, or one that races with another, is an error
(`watching.cpp`).
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from weft.backends.cupy.code import Gemm
from weft.backends.cupy.device import Replay, Span, Waiting
from weft.compiler.types import DType

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / ".pytest_cache" / "emulator"
COMPILER = shutil.which("g++")
INCLUDED = ("emulator.hpp", "emulated_ptx.hpp")
PIECE = 60  # functions that are compiled together
WATCHED = 3  # launches of a function that are watched
# What CUDA allows of a launch on any GPU.
MOST_BLOCKS, MOST_THREADS = (2**31 - 1, 65_535, 65_535), 1_024
MOST_SHARED = 48 << 10  # bytes of memory that a block shares
MOST_POINTERS = 512  # 4 kB of arguments
_HEAD = re.compile(r'extern "C" __global__ void __launch_bounds__\((\d+)\) (\w+)\(([^)]*)\)')
_WAITS = re.compile(r"__shared__|__sync|over_team|order::|scatter::")


class EmulatedMemory:
    every: ClassVar[weakref.WeakSet[EmulatedMemory]] = weakref.WeakSet()

    def __init__(self, size: int) -> None:
        raw = np.zeros(size + 256, np.uint8)
        skip = -raw.__array_interface__["data"][0] % 256
        self.bytes = raw[skip : skip + size]
        EmulatedMemory.every.add(self)

    @property
    def address(self) -> int:
        found: int = self.bytes.__array_interface__["data"][0]
        return found

    def write(self, array: np.ndarray) -> None:
        self.bytes[: array.nbytes] = array.reshape(-1).view(np.uint8)

    def read(self, into: np.ndarray) -> None:
        into.reshape(-1).view(np.uint8)[...] = self.bytes[: into.nbytes]


@dataclass
class Compiled:
    """A function in a library: how to run it, where it is called, and its shared memory."""

    name: str
    run: Any
    entry: Any
    waits: bool
    shared: tuple[int, int]
    count: int
    threads: int  # of a block, at most
    launches: int = 0


@dataclass
class Emulator:
    """The device. Functions are compiled once, and kept on disk."""

    name: str = "emulator"
    order: int = 0  # of threads and blocks: forwards, backwards, or even ones after odd ones
    arch: int = 800  # the GPU whose instructions it has, as `__CUDA_ARCH__` says it
    known: dict[str, Compiled] = field(default_factory=dict)

    def allocate(self, size: int) -> EmulatedMemory:
        return EmulatedMemory(size)

    def load(self, headers: str, functions: Mapping[str, str]) -> Mapping[str, Compiled]:
        missing = [name for name in functions if name not in self.known]
        _watcher()
        pieces = [missing[i : i + PIECE] for i in range(0, len(missing), PIECE)]
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(_library, headers, {n: functions[n] for n in piece}, self.arch)
                for piece in pieces
            ]
            for job, piece in zip(jobs, pieces, strict=True):
                library = job.result()
                for name in piece:
                    self.known[name] = _found(library, name, functions[name])
        return {name: self.known[name] for name in functions}

    def launch(
        self,
        function: Compiled,
        grid: tuple[int, int, int],
        threads: int,
        addresses: Sequence[int],
    ) -> None:
        assert len(addresses) == function.count <= MOST_POINTERS
        assert threads == function.threads <= MOST_THREADS
        assert threads % 32 == 0
        assert all(1 <= size <= most for size, most in zip(grid, MOST_BLOCKS, strict=True))
        assert function.shared[1] - function.shared[0] <= MOST_SHARED
        function.launches += 1
        watched = function.launches <= WATCHED
        if watched:
            _watch(addresses)
        table = (ctypes.c_void_p * max(1, len(addresses)))(*addresses)
        failed = function.run(
            function.entry,
            table,
            *grid,
            threads,
            function.waits,
            self.order,
            *function.shared,
            watched,
        )
        found = _watcher().weft_watched().decode()
        assert not found, f"{function.name}: {found}"
        assert not failed, "threads wait for others that never come"

    def gemm(self, gemm: Gemm, addresses: tuple[int, int, int]) -> None:
        m, n, k = gemm.sizes
        shapes = ((m, k), (k, n), (m, n))
        lhs, rhs, out = (
            _array(address, gemm.dtype, (gemm.count, *shape), (jump, *step))
            for address, shape, jump, step in zip(
                addresses, shapes, gemm.batch, gemm.steps, strict=True
            )
        )
        out[...] = lhs @ rhs

    def timed(self, pieces: Sequence[Callable[[], None]]) -> Sequence[float]:
        marks = [time.perf_counter_ns()]
        for piece in pieces:
            piece()
            marks.append(time.perf_counter_ns())
        return [float(b - a) for a, b in pairwise(marks)]

    def recorded(
        self,
        work: Callable[[], None],
        inputs: Sequence[EmulatedMemory],
        outputs: Sequence[Span],
    ) -> Replay:
        def replay(given: Sequence[np.ndarray]) -> Waiting:
            for array, memory in zip(given, inputs, strict=True):
                memory.write(array)
            work()
            self.order = (self.order + 1) % 3
            found = [_span(span) for span in outputs]
            return lambda: found

        return replay


def _span(span: Span) -> np.ndarray:
    assert isinstance(span.memory, EmulatedMemory)
    size = span.count * span.dtype.itemsize
    return span.memory.bytes[span.offset : span.offset + size].copy().view(span.dtype)


def _array(
    address: int, dtype: DType, shape: tuple[int, ...], steps: tuple[int, ...]
) -> np.ndarray:
    reach = 1 + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    held = (ctypes.c_char * (reach * dtype.bytes)).from_address(address)
    strides = tuple(step * dtype.bytes for step in steps)
    return np.ndarray(shape, dtype.numpy, held, 0, strides)


def _library(headers: str, functions: Mapping[str, str], arch: int) -> ctypes.CDLL:
    """Compiles functions to a library, or takes the one that was made from the same text."""
    parts = [f"#define WEFT_ARCH {arch}", *(f'#include "{n}"' for n in INCLUDED), headers]
    for name, source in functions.items():
        parts.append(source.replace("__shared__", f"SHARED({name})"))
        head = _HEAD.search(source)
        assert head is not None, source
        assert head[2] == name
        types = [words.rsplit(" ", 1)[0] for words in head[3].split(", ")]
        given = ", ".join(f"({type})a[{i}]" for i, type in enumerate(types))
        parts.append(f'extern "C" void call_{name}(void** a) {{ {name}({given}); }}')
        if "__shared__" in source:
            parts.append(f"extern char __start_shared_{name}[], __stop_shared_{name}[];")
            parts.append(f'extern "C" char* start_{name}() {{ return __start_shared_{name}; }}')
            parts.append(f'extern "C" char* stop_{name}() {{ return __stop_shared_{name}; }}')
    text = "\n".join(parts)
    return _made(text, *_WATCHED)


# For the compiler only: the linker would add libraries that have what `watching.cpp` has.
_WATCHED = (
    "-fsanitize=thread",
    *("--param", "tsan-instrument-func-entry-exit=0"),
    "-fsanitize=alignment,signed-integer-overflow,integer-divide-by-zero,shift,float-cast-overflow",
)


def _made(text: str, *options: str) -> ctypes.CDLL:
    """A library of a text, which is compiled once."""
    included = "".join(path.read_text() for path in sorted(HERE.glob("*.hpp")))
    stem = blake2b(f"{included}{text}{options}".encode(), digest_size=10).hexdigest()
    KEPT.mkdir(parents=True, exist_ok=True)
    made = KEPT / f"{stem}.so"
    if not made.exists():
        # Other processes may be at the same code: each has files of its own until it is done.
        own = f"{stem}.{os.getpid()}.{threading.get_ident()}"
        source, compiled, partial = (KEPT / f"{own}.{end}" for end in ("cpp", "o", "so"))
        source.write_text(text)
        assert COMPILER is not None
        flags = ["-std=c++17", "-O1", "-w", "-fPIC", "-I", str(HERE), *options]
        subprocess.run([COMPILER, *flags, "-c", str(source), "-o", str(compiled)], check=True)
        subprocess.run([COMPILER, "-shared", str(compiled), "-o", str(partial)], check=True)
        partial.replace(made)
        source.unlink()
        compiled.unlink()
    return ctypes.CDLL(str(made))


# -- watching --------------------------------------------------------------------------------------


@cache
def _watcher() -> ctypes.CDLL:
    """Where all libraries find what their functions call before they access memory."""
    text = (HERE / "watching.cpp").read_text()
    library = _made(text, "-O2")
    library = ctypes.CDLL(library._name, ctypes.RTLD_GLOBAL)
    library.weft_watch.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.weft_watched.restype = ctypes.c_char_p
    return library


def _watch(addresses: Sequence[int]) -> None:
    """From now on, with all memory that has one of these."""
    every = ((m.address, m.address + m.bytes.size) for m in EmulatedMemory.every)
    ranges = [r for r in every if any(r[0] <= a < r[1] for a in addresses)]
    table = (ctypes.c_size_t * (2 * len(ranges)))(*chain.from_iterable(ranges))
    _watcher().weft_watch(table, len(ranges))


def _found(library: ctypes.CDLL, name: str, source: str) -> Compiled:
    shared = (0, 0)
    if "__shared__" in source:
        ends = [getattr(library, f"{end}_{name}") for end in ("start", "stop")]
        for end in ends:
            end.restype = ctypes.c_void_p
        shared = (ends[0](), ends[1]())
    run = library.weft_run
    run.argtypes = [
        *[ctypes.c_void_p] * 2, *[ctypes.c_int] * 6, *[ctypes.c_void_p] * 2, ctypes.c_int
    ]  # fmt: skip
    entry = ctypes.cast(getattr(library, f"call_{name}"), ctypes.c_void_p)
    head = _HEAD.search(source)
    assert head is not None
    waits = _WAITS.search(source) is not None
    return Compiled(name, run, entry, waits, shared, len(head[3].split(", ")), int(head[1]))
