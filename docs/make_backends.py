"""Writes docs/backends.md: how each backend says each primitive, as its compiler shows it.

    python docs/make_backends.py

tests/conformance/cases.py --every backend compiles them--> what came out --> a row a primitive
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
PAGE = FOLDER / "backends.md"
sys.path.insert(0, str(FOLDER.parent / "tests"))

from conformance.cases import Case, cases  # noqa: E402
from weft.backends.cupy.backend import ABILITIES as CUPY_ABILITIES  # noqa: E402
from weft.backends.cupy.backend import program_of  # noqa: E402
from weft.backends.cupy.code import Launch  # noqa: E402
from weft.backends.numpy.backend import BACKEND as NUMPY  # noqa: E402
from weft.backends.onnx.export import export_graph  # noqa: E402
from weft.compiler.graph import Graph  # noqa: E402
from weft.compiler.kernel import (  # noqa: E402
    Convolution,
    Kernel,
    Nest,
    Product,
    Special,
    Turns,
)
from weft.compiler.ops import OPS, Kind  # noqa: E402
from weft.compiler.passes.decompose import inline_calls  # noqa: E402
from weft.compiler.passes.kernels import kernels  # noqa: E402
from weft.compiler.pipeline import plan_lowered  # noqa: E402
from weft.compiler.plan import Abilities, Plan  # noqa: E402
from weft.compiler.types import F64  # noqa: E402

HALF = {"f16", "bf16"}
# What every step of the NumPy backend calls, whatever it computes.
PLUMBING = {"ascontiguousarray", "bound", "copy", "ndarray", "range", "refuse", "reshape", "view"}
SHOWN = 4  # operators that a cell names before it says how many more there are

INTRODUCTION = """\
# Backends

How each backend says each primitive: what its compiler made of the cases of `tests/conformance`.
This page is written by `python docs/make_backends.py`.

- **numpy** prints Python; a cell names what it calls. Runs wherever NumPy does.
- **tvm** and **cupy** share one form of kernels as loops (`compiler/kernel.py`). What `tvm` does is
  loops that it generates; the functions of `cupy` are CUDA C++.
- **onnx** is export; a cell names the operators.

"no work" is what costs nothing when the step runs: another view of the same memory, or a value
that was there before. All backends compute in `f32` and `f64`; in the 16-bit floats of
`precision = bf16` and `f16`, `numpy`, `cupy` and ONNX models do, so `auto` is one of them then.

## The CuPy backend

`pip install "weft[cuda]"` and an NVIDIA GPU with a driver for CUDA 13 (compute capability 7.5 and
later); of several GPUs the first one, which `CUDA_VISIBLE_DEVICES` chooses. A program is one
module, compiled by NVRTC and kept on disk by CuPy under its hash. State stays on the GPU; the next
batch is copied while a step runs. A step is one CUDA graph from its second run on; the first run
launches its kernels one by one, so that libraries load what they need. cuBLAS is called directly:
CuPy's own calls refuse to be part of a graph.

| Kernel | How it runs |
| --- | --- |
| points | a thread a few neighbours, 16 bytes at a time where memory is aligned |
| rows, parts | folds by teams of threads (shuffles, then shared memory); few long rows in parts |
| product | tiles in shared memory with the epilogue in them; from 2^24 multiplications cuBLAS |
| convolution | tiles whose images are gathered as they are fetched (implicit GEMM) |
| attention | a tile of queries against tiles of keys, with a softmax that goes along |
| cumsum | scans of blocks; a thread a row where rows are not runs in memory |
| scatter_add | in order, no atomic sums: one thread adds equal rows; many updates are sorted |
| sorts | bitonic, a block a row, in shared memory up to 2,048 `f64` or 4,096 `f32` |

Neighbouring kernels over the same rows become one (a softmax, a layer normalisation). No result
depends on the order in which threads run, and none on the GPU's size: sums are cut and joined by
the sizes of the graph alone. Functions are those of CUDA's mathematics, without fast variants;
`backends/cupy/prelude.cuh` states their errors. CuPy compiles so that `f32` below the smallest
normal number (1.2e-38) is 0, as operand and as result; `f64` keeps such numbers.

Floats of 16 bits are in memory only: kernels compute in `f32` registers and round each result, as
the reference does, whatever is fused. Tiles and folds add up in `f32`; so does cuBLAS.
Products are in full `f32`, but for `precision = tf32`: then the calls of cuBLAS and the tiles that
say so in `--emit cuda` round their factors, each for itself.

Tiles of products, convolutions and attention whose factors are `f16`, `bf16` or TF32 are multiplied
by tensor cores (`mma.sync`): `f16` from compute capability 7.5 on, the others from 8.0 on. Where a
GPU has none for a type, the same tiles are multiplied in `f32`, and TF32 rounds nothing there.
Large tiles are 128 x 128 with eight warps, others 64 x 64 or 32 x 32 with four; in attention, each
of four warps has 16 rows. They take between 5 and 20 KB of shared memory. Factors are fetched while
those before them are multiplied: 16 bytes at a time where they lie so in memory; of a convolution,
in the order of the kernel's places, so that neighbouring channels share what is worked out for a
place. None of this has been timed.

Attention, `softmax(q k^T) v` with whatever scales and masks the scores, is three kernels in a
training step (`compiler/passes/attention.py`): one for the result, one for the gradient of queries,
one for those of keys and values. None keeps a value of queries by keys: memory grows with the
length of a sequence, not with its square. The first leaves the maximum and the sum of each row of
scores, from which the others compute the weights again (Dao et al. 2022). Masks that follow from
positions, `causal_mask` or a window, are computed, and tiles that they hide as a whole skipped,
unless a row has nothing else to look at; padding masks are read. Dropout of the weights is drawn
again where it is needed: its bits follow from the position. Other code stays as separate products
and a softmax of rows:

- heads of more than 128 numbers;
- weights that something else reads: a result, a metric, a penalty on them;
- scores to which something trained is added, such as a bias of relative positions;
- gradients of gradients, and attention in the body of a `scan`.

On a machine without a GPU, the tests compile the functions with NVRTC for `sm_75`, `sm_80`, `sm_90`
and `sm_100` (a sample; with `pytest --thorough`, those of every example), and run the same code on
the CPU: `tests/cupy_backend/emulator.py` compiles it with g++, with threads as fibers and the
instructions of tensor cores as their documentation states them. The emulator watches each access
of a function's first launches: none may be outside of memory, and no two may race, whatever the
order of threads (`tests/cupy_backend/watching.cpp`). What stands in for CuPy there does work later
than it is told to, and refuses what CUDA and CuPy refuse.
`pytest -m gpu` runs what needs a GPU.

## Primitives

"""


def page() -> str:
    """The whole page."""
    names = list(COLUMNS)
    lines = [
        f"| Primitive | {' | '.join(names)} |",
        f"| --- |{' --- |' * len(names)}",
    ]
    for op in sorted(OPS):
        cells = [cell(op, name) for name in names]
        lines.append(f"| `{op}` | {' | '.join(cells)} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def cell(op: str, backend: str) -> str:
    """How a backend says an op; nothing if no case of it compiles."""
    found: dict[str, None] = {}
    for case in graphs(op):
        found.update(dict.fromkeys(COLUMNS[backend](op, case)))
    words = list(found) or ["no work"]
    if len(words) > 1 and "no work" in words:
        words.remove("no work")
        words.append("or no work")
    if len(words) > SHOWN + 1:
        words = [*words[:SHOWN], f"and {len(words) - SHOWN} more"]
    return ", ".join(words)


def graphs(op: str) -> Iterator[Graph]:
    """The cases of an op in f64."""
    for case in cases():
        if case.op == op and not _is_half(case):
            graph, _ = case.graph(F64)
            yield graph


def _is_half(case: Case) -> bool:
    return any(getattr(v, "name", None) in HALF for v in case.attributes.values())


# -- a column each --------------------------------------------------------------------------------


def _planned(graph: Graph, abilities: Abilities) -> Plan:
    return plan_lowered(inline_calls(graph), abilities)


def _numpy(op: str, graph: Graph) -> Iterable[str]:
    """What the step calls."""
    source = NUMPY.compile(_planned(graph, NUMPY.abilities)).source
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [call.id for call in calls if isinstance(call, ast.Name)]
    names += [call.attr for call in calls if isinstance(call, ast.Attribute)]
    named = [f"`{name}`" for name in names if name not in PLUMBING and not name.startswith("_")]
    return named or ["a view or an assignment"]


def _tvm(op: str, graph: Graph) -> Iterable[str]:
    found = [_loops(kernel) for kernel in kernels(_planned(graph, CUPY_ABILITIES), CUPY_ABILITIES)]
    return found or ["no work"]


def _loops(kernel: Kernel) -> str:
    match kernel:
        case Nest() if any(stage.folds for stage in kernel.stages):
            return "fold in a loop"
        case Nest():
            return "fused loop"
        case Product():
            return "product in registers"
        case Convolution():
            return "convolution"
        case Special():
            return "its own loops"
        case Turns():
            return "a loop of kernels"
    raise AssertionError(kernel)


def _cupy(op: str, graph: Graph) -> Iterable[str]:
    program = program_of(_planned(graph, CUPY_ABILITIES)).program
    found = []
    for run in program.runs:
        name = run.call.function.name if isinstance(run.call, Launch) else "cuBLAS_"
        found.append(name.rpartition("_")[0])
    if OPS[op].kind is Kind.LOOP:
        return ["its kernels, turn by turn"]
    return found or ["no work"]


def _onnx(op: str, graph: Graph) -> Iterable[str]:
    model = export_graph(graph)
    names = [node.op_type for node in model.graph.node]
    names += [node.op_type for function in model.functions for node in function.node]
    return [f"`{name}`" for name in names if name != "Identity"] or ["no work"]


COLUMNS: Mapping[str, Callable[[str, Graph], Iterable[str]]] = {
    "numpy": _numpy,
    "tvm": _tvm,
    "cupy": _cupy,
    "onnx": _onnx,
}


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        PAGE.write_text(page(), encoding="utf-8")
