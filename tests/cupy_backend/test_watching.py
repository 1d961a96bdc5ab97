"""What the emulator finds wrong in functions that are wrong on purpose, and not in others."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from conformance.backends import compare, run_twice
from cupy_backend.emulated import emulated
from cupy_backend.emulator import Emulator
from cupy_backend.test_sizes import CASES as CASES_OF_SIZES
from cupy_backend.test_sizes import executable, inputs
from weft.backends.cupy import bound
from weft.backends.cupy.backend import CupyBackend
from weft.backends.cupy.code import headers
from weft.compiler.evaluate import evaluate
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan

COUNT = 256  # floats in each of the two pieces of memory
pytestmark = emulated


@dataclass(frozen=True)
class Case:
    """A body over `a` and `b`, for `blocks` of `threads`, and what is found in it."""

    body: str
    found: str | None = None
    threads: int = 64
    blocks: int = 1


ELEMENT = "const int i = blockIdx.x * blockDim.x + threadIdx.x;"
LEFT_TO_RIGHT = (
    "__shared__ float s[64]; const int t = threadIdx.x; s[t] = a[t]; %s b[t] = s[t ^ %d];"
)

CASES = {
    "points": Case(f"{ELEMENT} b[i] = a[i];", blocks=4),
    "points that all read one": Case(f"{ELEMENT} b[i] = a[0];", blocks=4),
    "in place": Case(f"{ELEMENT} a[i] = 2 * a[i];", blocks=4),
    "in place, from a neighbour": Case(f"{ELEMENT} a[i] = a[i ^ 1];", "race of global"),
    "in place, from another block": Case(
        f"{ELEMENT} a[i] = a[i ^ 64];", "race of global memory", blocks=2
    ),
    "one place for all blocks": Case(
        f"{ELEMENT} if (threadIdx.x == 0) b[0] = i;", "two writes race of global", blocks=2
    ),
    "shared, with a barrier": Case(LEFT_TO_RIGHT % ("__syncthreads();", 33)),
    "shared, without one": Case(LEFT_TO_RIGHT % ("", 33), "race of shared memory, byte"),
    "shared within warps": Case(LEFT_TO_RIGHT % ("__syncwarp();", 1)),
    "shared within warps, without": Case(LEFT_TO_RIGHT % ("", 1), "race of shared"),
    "shared between warps": Case(LEFT_TO_RIGHT % ("__syncwarp();", 33), "race of shared"),
    "shared, written again": Case(
        "__shared__ float s[1]; const int t = threadIdx.x;"
        "for (int i = 0; i < 2; i++) { if (t == 0) s[0] = a[i]; __syncthreads(); b[t] = s[0]; }",
        "race of shared memory, byte 0",
    ),
    "shared, written again after a barrier": Case(
        "__shared__ float s[1]; const int t = threadIdx.x; for (int i = 0; i < 2; i++) {"
        "__syncthreads(); if (t == 0) s[0] = a[i]; __syncthreads(); b[t] = s[0]; }"
    ),
    "shuffles order no memory": Case(
        "a[threadIdx.x] = 1; const float x = order::of_lane(1.0f, 0); b[threadIdx.x] = x * a[0];",
        "race of global",
    ),
    "atomic sums": Case(
        "__shared__ int s[1]; if (threadIdx.x == 0) s[0] = 0; __syncthreads();"
        "atomicAdd(&s[0], 1); __syncthreads(); b[threadIdx.x] = s[0];"
    ),
    "atomic sums that nobody waits for": Case(
        "__shared__ int s[2]; const int t = threadIdx.x;atomicAdd(&s[t & 1], 1); b[t] = s[~t & 1];",
        "race of shared",
    ),
    "behind the end": Case(f"{ELEMENT} b[i] = a[i + {COUNT - 63}];", "read of 4 bytes outside"),
    "before the beginning": Case(f"{ELEMENT} b[i - 1] = a[i];", "write of 4 bytes outside"),
    "behind what is shared": Case(
        "__shared__ float s[64]; s[threadIdx.x + 1] = 0;", "write of 4 bytes outside"
    ),
    "vectors": Case(f"{ELEMENT} store(b + 4 * i, load<4>(a + 4 * i));"),
    "vectors from any place": Case(
        f"{ELEMENT} if (i < 63) store(b + 4 * i, load<4>(a + 4 * i + 1));", "type_mismatch"
    ),
    "a number too large": Case(
        f"{ELEMENT} const int most = 2147483647; b[i] = (most - 62 + i) % 64;", "add_overflow"
    ),
    "who never comes": Case("if (threadIdx.x) __syncthreads();", "wait for others"),
}


@pytest.fixture(scope="module")
def device() -> Emulator:
    """All functions are compiled together."""
    found = Emulator()
    found.load(headers(), {_name(n): _source(n, case) for n, case in CASES.items()})
    return found


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("name", CASES)
def test_what_is_found(name: str, order: int, device: Emulator) -> None:
    case = CASES[name]
    a, b = (device.allocate(4 * COUNT) for _ in "ab")
    device.order = order
    function = device.known[_name(name)]
    function.launches = 0

    def launch() -> None:
        device.launch(function, (case.blocks, 1, 1), case.threads, (a.address, b.address))

    if case.found is None:
        launch()
        return
    with pytest.raises(AssertionError, match=case.found):
        launch()


@pytest.mark.parametrize(
    ("grid", "threads"),
    [((1, 1, 1), 32), ((1, 1, 1), 96), ((0, 1, 1), 64), ((1, 65_536, 1), 64), ((2**31, 1, 1), 64)],
)
def test_launches_that_cuda_refuses(
    grid: tuple[int, int, int], threads: int, device: Emulator
) -> None:
    a, b = (device.allocate(4 * COUNT) for _ in "ab")
    with pytest.raises(AssertionError):
        device.launch(device.known[_name("points")], grid, threads, (a.address, b.address))


BARRIERS = [match.start() for match in re.finditer(r"__sync(threads|warp)\(\);", headers())]


@pytest.mark.thorough
@pytest.mark.parametrize("place", BARRIERS)
def test_every_barrier_is_needed(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, some kernel of many sizes has a race, or computes something else."""
    words = headers()
    end = words.index(";", place)
    monkeypatch.setattr(bound, "headers", lambda: words[:place] + words[end:])
    backend = CupyBackend(Emulator())
    with pytest.raises(AssertionError):
        run_all(backend)


def run_all(backend: CupyBackend) -> None:
    for case in CASES_OF_SIZES:
        graph = executable(case)[1]
        program = backend.compile(plan(graph, fuse(graph), backend.abilities))
        compare(run_twice(program, graph, inputs(graph)), evaluate(graph, inputs(graph)))


def _name(case: str) -> str:
    return re.sub(r"\W+", "_", case)


def _source(name: str, case: Case) -> str:
    head = f'extern "C" __global__ void __launch_bounds__({case.threads}) {_name(name)}'
    return f"{head}(float* a, float* b) {{\n    {case.body}\n}}\n"
