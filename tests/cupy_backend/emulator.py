"""A device for tests that runs CUDA on the CPU: the same source, compiled by g++.

Every launch runs its blocks one after the other, and the threads of a block as fibers, in an order
that differs from one step to the next: a result that depends on it differs too.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from weft.backends.cupy.code import Gemm
from weft.backends.cupy.device import Replay, Span, Waiting
from weft.compiler.types import DType

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / ".pytest_cache" / "emulator"
COMPILER = shutil.which("g++")
INCLUDED = ("emulator.hpp", "emulated_ptx.hpp")
PIECE = 60  # functions that are compiled together
_HEAD = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\(([^)]*)\)')
_WAITS = re.compile(r"__shared__|__sync|over_team|order::|scatter::")


class EmulatedMemory:
    def __init__(self, size: int) -> None:
        raw = np.zeros(size + 256, np.uint8)
        skip = -raw.__array_interface__["data"][0] % 256
        self.bytes = raw[skip : skip + size]

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

    run: Any
    entry: Any
    waits: bool
    shared: tuple[int, int]
    count: int


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
        assert len(addresses) == function.count
        table = (ctypes.c_void_p * max(1, len(addresses)))(*addresses)
        failed = function.run(
            function.entry, table, *grid, threads, function.waits, self.order, *function.shared
        )
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
        assert head[1] == name
        types = [words.rsplit(" ", 1)[0] for words in head[2].split(", ")]
        given = ", ".join(f"({type})a[{i}]" for i, type in enumerate(types))
        parts.append(f'extern "C" void call_{name}(void** a) {{ {name}({given}); }}')
        if "__shared__" in source:
            parts.append(f"extern char __start_shared_{name}[], __stop_shared_{name}[];")
            parts.append(f'extern "C" char* start_{name}() {{ return __start_shared_{name}; }}')
            parts.append(f'extern "C" char* stop_{name}() {{ return __stop_shared_{name}; }}')
    text = "\n".join(parts)
    included = "".join((HERE / name).read_text() for name in INCLUDED)
    stem = blake2b((included + text).encode(), digest_size=10).hexdigest()
    KEPT.mkdir(parents=True, exist_ok=True)
    made = KEPT / f"{stem}.so"
    if not made.exists():
        # Other processes may be at the same code: each has files of its own until it is done.
        own = f"{stem}.{os.getpid()}.{threading.get_ident()}"
        source, partial = KEPT / f"{own}.cpp", KEPT / f"{own}.so"
        source.write_text(text)
        assert COMPILER is not None
        subprocess.run(
            [
                COMPILER, "-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-I", str(HERE),
                str(source), "-o", str(partial),
            ],
            check=True,
        )  # fmt: skip
        partial.replace(made)
        source.unlink()
    return ctypes.CDLL(str(made))


def _found(library: ctypes.CDLL, name: str, source: str) -> Compiled:
    shared = (0, 0)
    if "__shared__" in source:
        ends = [getattr(library, f"{end}_{name}") for end in ("start", "stop")]
        for end in ends:
            end.restype = ctypes.c_void_p
        shared = (ends[0](), ends[1]())
    run = library.weft_run
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int] * 6, *[ctypes.c_void_p] * 2]
    entry = ctypes.cast(getattr(library, f"call_{name}"), ctypes.c_void_p)
    head = _HEAD.search(source)
    assert head is not None
    waits = _WAITS.search(source) is not None
    return Compiled(run, entry, waits, shared, len(head[2].split(", ")))
