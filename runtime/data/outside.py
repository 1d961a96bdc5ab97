"""Data from outside: the arrays that a `data` block without a source asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weft.compiler.errors import RunError, did_you_mean, one_of
from weft.compiler.types import TensorType, static_shape
from weft.runtime.data.columns import Array, Columns, columns
from weft.runtime.data.sources import load

# A `.npz` file, a folder of `.npy` files, or arrays by name.
Given = str | Path | Mapping[str, Any]

FORMS = "a `.npz` file, or a folder with a `.npy` file for each field"


def read_given(given: Given, data: str, types: Mapping[str, TensorType]) -> Columns:
    """The columns of `data`, of which `types` says what one example is; others are left out.

    Arrays in memory get exactly these types. Files of a folder stay on disk as they are: what
    reads rows converts them. Raises RunError for what is missing, misshapen, or of a kind that
    does not convert without loss (fractions to integers, integers beyond the range).
    """
    found = _read(given, data)
    arrays: dict[str, Array] = {}
    for name, type in types.items():
        if name not in found.arrays:
            raise RunError(
                f"what is given for `{data}` has no array `{name}`",
                expected=f"`{type}` for each example",
                found=one_of(found.arrays),
                hint=did_you_mean(name, found.arrays),
            )
        arrays[name] = _typed(name, found.arrays[name], type)
    return Columns(arrays, {n: c for n, c in found.classes.items() if n in arrays})


def _read(given: Given, data: str) -> Columns:
    if isinstance(given, Mapping):
        arrays: dict[str, Array] = {}
        for name, value in given.items():
            try:
                arrays[name] = np.asarray(value)
            except ValueError as error:  # lists of different lengths
                raise RunError(f"`{name}` of `{data}` is no array", found=str(error)) from error
        return columns(arrays, f"`{data}`")
    if not isinstance(given, str | Path):
        raise RunError(
            f"what is given for `{data}` is no data",
            expected=f"arrays by name, or {FORMS}",
            found=f"a `{type(given).__name__}`",
        )
    path = Path(given)
    if path.is_dir():
        files = {file.stem: file.name for file in sorted(path.glob("*.npy"))}
        if not files:
            raise RunError(f"the folder `{path}` has no `.npy` files", expected=FORMS)
        return load("npy", (), files, path)
    if path.is_file() and path.suffix == ".npz":
        return load("npz", (path.name,), {}, path.parent)
    wrong = path.exists() or not path.parent.is_dir()
    siblings = [] if wrong else [p.name for p in path.parent.iterdir()]
    raise RunError(
        f"`{path}` holds no data for `{data}`" if path.exists() else f"there is no `{path}`",
        expected=FORMS,
        hint=did_you_mean(path.name, siblings) or f"say where it is: `--data {data}=PATH`",
    )


def _typed(name: str, array: Array, type: TensorType) -> Array:
    found = f"`{array.dtype}{[*array.shape[1:]]}`"
    if array.shape[1:] != static_shape(type.shape):
        raise RunError(
            f"the array `{name}` has another shape than its type says",
            expected=f"`{type}` for each example",
            found=found,
        )
    target = type.dtype.numpy
    if not _holds(target, array):
        raise RunError(
            f"the array `{name}` has numbers that its type does not hold",
            expected=f"`{type}` for each example",
            found=found,
        )
    return array if isinstance(array, np.memmap) else array.astype(target, copy=False)


def _holds(target: np.dtype, array: Array) -> bool:
    """Whether a type has the array's numbers, apart from the rounding of floats."""
    if target.kind not in "iub" or np.can_cast(array.dtype, target):
        return True
    if target.kind == "b" or array.dtype.kind not in "iu":
        return False
    limits = np.iinfo(target)
    return bool(limits.min <= array.min() and array.max() <= limits.max)
