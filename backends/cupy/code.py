"""Functions of the generated module, and how they are launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.resources import files

from weft.backends.cupy import scalar
from weft.compiler.kernel import Port
from weft.compiler.plan import Buffer
from weft.compiler.types import DType

THREADS = 256  # of a block, unless a kernel says otherwise
HEADERS = (
    "prelude.cuh",
    "folds.cuh",
    "mma.cuh",
    "cores.cuh",
    "tiles.cuh",
    "attention.cuh",
    "ordering.cuh",
    "scattering.cuh",
)


@dataclass(frozen=True)
class Function:
    """A `__global__` function of pointers. Equal code has an equal name."""

    name: str
    source: str


@dataclass(frozen=True)
class Launch:
    """A function over `grid` blocks of `threads`, with the addresses of these ports."""

    function: Function
    grid: tuple[int, int, int]
    threads: int
    ports: tuple[Port, ...]


@dataclass(frozen=True)
class Gemm:
    """`out[i] = lhs[i] @ rhs[i]` for `count` matrices, by the vendor's library.

    A matrix is where its port says, and `batch` elements after the one before; element (row,
    column) is `row * r + column * c` elements further, where one of the two is 1. With `tf32` the
    library may round factors to that; else it may not.
    """

    ports: tuple[Port, Port, Port]  # lhs, rhs, out
    count: int
    sizes: tuple[int, int, int]  # m, n, k
    batch: tuple[int, int, int]
    steps: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    tf32: bool = False

    @property
    def dtype(self) -> DType:
        """Of the factors. The result has this type, or is the f32 in which products are summed."""
        return self.ports[0].dtype

    def __str__(self) -> str:
        m, n, k = self.sizes
        factors = "factors rounded to TF32" if self.tf32 else f"factors in {self.dtype}"
        return f"cuBLAS: {self.count} of {m} x {k} by {k} x {n}, {factors}"


Call = Launch | Gemm


def launch(
    stem: str,
    ports: Sequence[Port],
    body: Sequence[str],
    grid: tuple[int, int, int],
    threads: int = THREADS,
) -> Launch:
    """The launch of a function with this body over `p0`, `p1`, ..., the ports' memory."""
    given = ", ".join(f"{scalar.type_name(p.dtype)}* p{i}" for i, p in enumerate(ports))
    words = "\n".join(body)
    digest = blake2b(f"{given}\n{words}\n{threads}".encode(), digest_size=6).hexdigest()
    name = f"{stem}_{digest}"
    head = f'extern "C" __global__ void __launch_bounds__({threads}) {name}({given}) {{'
    return Launch(Function(name, f"{head}\n{words}\n}}\n"), grid, threads, tuple(ports))


def scratch(name: str, dtype: DType, size: int) -> Port:
    """Memory for what one kernel leaves to the next; every kernel's lies at the same place."""
    return Port(Buffer(name, WORK, dtype, size, 0, 0, ()), 0)


def stacked(ports: Sequence[Port]) -> list[Port]:
    """Scratch memory of one kernel, one after the other."""
    found, start = [], 0
    for port in ports:
        found.append(Port(replace(port.buffer, offset=start), 0))
        start += -(-port.buffer.bytes // 256) * 256
    return found


WORK = "work"
"""The kind of buffers that hold something only between the launches of one kernel."""


def headers() -> str:
    """What every module begins with."""
    here = files("weft.backends.cupy")
    found = (here.joinpath(name).read_text() for name in HEADERS)
    return "\n".join(text.replace("#pragma once\n", "") for text in found)
