"""A hash of data, to notice that it has changed since a run began."""

from __future__ import annotations

import hashlib

import numpy as np

from weft.runtime.data.columns import Array, Columns

SAMPLES = 64  # pieces of a file on disk that are looked at
SAMPLE_BYTES = 1 << 16


def data_digest(columns: Columns) -> str:
    """128 bits in hexadecimal of names, types, shapes and bytes.

    Of memory-mapped columns only evenly spaced pieces are read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(columns.arrays):
        array = columns.arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        for piece in _pieces(array):
            digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _pieces(array: Array) -> list[Array]:
    rows = max(1, SAMPLE_BYTES // max(1, array.nbytes // len(array)))
    if not isinstance(array, np.memmap) or rows * SAMPLES >= len(array):
        return [np.asarray(array)]
    starts = np.linspace(0, len(array) - rows, SAMPLES).astype(np.int64)
    return [np.asarray(array[start : start + rows]) for start in starts]
