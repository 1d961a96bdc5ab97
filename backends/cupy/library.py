"""Products by cuBLAS, called directly: CuPy's own calls refuse to be recorded into a graph.

A device has one handle, whose work space is its own: what is recorded takes no memory, and equal
products give equal results. Sums are in `f32` or `f64`, split or not, whatever their factors are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from weft.backends.cupy.code import Gemm
from weft.compiler.errors import RunError
from weft.compiler.types import BF16, F16, F32, F64, DType

WORKSPACE = 32 << 20  # bytes, which cuBLAS asks for on the larger GPUs

# Numbers of `library_types.h` and `cublas_api.h`.
TYPES: Mapping[DType, int] = {F32: 0, F64: 1, F16: 2, BF16: 14}
AS_IT_IS, TRANSPOSED = 0, 1
SUM_F32, SUM_F64, SUM_F32_OF_TF32 = 68, 70, 77
SUMS_UNROUNDED = 16  # the mode in which parts of a sum are not rounded to a result's 16 bits
ANY_ALGORITHM = -1

_HANDLE, _INT, _LONG, _POINTER = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_longlong,
    ctypes.c_void_p,
)
_MATRIX = (_POINTER, _INT, _INT, _LONG)  # where, type, from line to line, from matrix to matrix
SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (ctypes.POINTER(_HANDLE),),
    "cublasSetStream_v2": (_HANDLE, _POINTER),
    "cublasSetWorkspace_v2": (_HANDLE, _POINTER, ctypes.c_size_t),
    "cublasSetMathMode": (_HANDLE, _INT),
    "cublasGemmStridedBatchedEx": (
        _HANDLE, _INT, _INT, _INT, _INT, _INT,
        _POINTER, *_MATRIX, *_MATRIX, _POINTER, *_MATRIX, _INT, _INT, _INT,
    ),
}  # fmt: skip


def loaded() -> Any:
    """cuBLAS, where CuPy finds it. Raises ImportError where it is not."""
    from cuda import pathfinder

    try:
        found = pathfinder.load_nvidia_dynamic_lib("cublas")
    except pathfinder.DynamicLibNotFoundError as error:
        raise ImportError(f"cuBLAS is not installed: {error}") from error
    library = ctypes.CDLL(found.abs_path)
    for name, types in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, _INT
    library.cublasGetStatusString.argtypes = (_INT,)
    library.cublasGetStatusString.restype = ctypes.c_char_p
    return library


class Library:
    """cuBLAS with a handle on the current device, for one stream."""

    def __init__(self, cublas: Any, stream: int, workspace: int) -> None:
        self._cublas, self._handle = cublas, ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._call("cublasSetStream_v2", self._handle, stream)
        # After the stream, whose setting takes the work space back.
        self._call("cublasSetWorkspace_v2", self._handle, workspace, WORKSPACE)
        self._call("cublasSetMathMode", self._handle, SUMS_UNROUNDED)

    def gemm(self, gemm: Gemm, addresses: tuple[int, int, int]) -> None:
        """The library's matrices are column by column: the transposed product, seen so."""
        (m, n, k), (lhs, rhs, out) = gemm.sizes, addresses
        steps, batch = list(gemm.steps), list(gemm.batch)
        if steps[2][1] != 1:  # column by column already: the product of the transposed
            m, n, lhs, rhs = n, m, rhs, lhs
            steps = [(b, a) for a, b in (steps[1], steps[0], steps[2])]
            batch = [batch[1], batch[0], batch[2]]
        left, left_step = _seen(steps[0], k)
        right, right_step = _seen(steps[1], n)
        double = gemm.dtype == F64
        type, kept = TYPES[gemm.dtype], TYPES[gemm.ports[2].dtype]
        sums = SUM_F64 if double else SUM_F32
        if gemm.tf32:  # of this call alone, whatever the mode of the library is
            sums = SUM_F32_OF_TF32
        number = ctypes.c_double if double else ctypes.c_float
        one, zero = number(1), number(0)
        self._call(
            "cublasGemmStridedBatchedEx",
            self._handle, right, left, n, m, k, ctypes.addressof(one),
            rhs, type, right_step, batch[1], lhs, type, left_step, batch[0],
            ctypes.addressof(zero), out, kept, max(n, steps[2][0]), batch[2],
            gemm.count, sums, ANY_ALGORITHM,
        )  # fmt: skip

    def _call(self, name: str, *arguments: Any) -> None:
        function: Callable[..., int] = getattr(self._cublas, name)
        if status := function(*arguments):
            told = self._cublas.cublasGetStatusString(status).decode()
            raise RunError(f"cuBLAS failed: `{name}`", found=told)


def _seen(steps: tuple[int, int], columns: int) -> tuple[int, int]:
    """How the library sees a factor, of so many columns: transposed or not, and its long step."""
    row, column = steps
    if column == 1:
        return AS_IT_IS, max(row, columns)
    return TRANSPOSED, column
