"""What a trained state measures and predicts: sweeps over parts of the data, any arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from weft.compiler.errors import RunError, did_you_mean, one_of
from weft.compiler.types import TensorType, static_shape
from weft.runtime.data.batches import sweep
from weft.runtime.data.columns import Array
from weft.runtime.data.splits import Part
from weft.runtime.permutation import Indices
from weft.runtime.session import Session

PREDICTED = 256  # rows predicted at once

Rows = Callable[[Indices], Mapping[str, Array]]


def evaluate(session: Session, part: Part, batch: int, rows: Rows) -> dict[str, float]:
    """The means of losses and metrics over a part: each batch counts by its examples."""
    total: dict[str, float] = {}
    for indices in sweep(part, batch):
        size = len(indices)
        for name, value in session.run("eval_step", rows(indices), size).items():
            total[name] = total.get(name, 0.0) + float(value) * size
    return {name: value / part.size for name, value in total.items()}


def predict(session: Session, arrays: Mapping[str, Array], size: int) -> dict[str, np.ndarray]:
    """The outputs of `predict` for `size` rows of its inputs, checked before, in batches."""
    parts: dict[str, list[np.ndarray]] = {}
    for rows in _pieces(size):
        inputs = {name: array[rows] for name, array in arrays.items()}
        for name, value in session.run("predict", inputs, rows.stop - rows.start).items():
            parts.setdefault(name, []).append(np.array(value))
    return {
        name: pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        for name, pieces in parts.items()
    }


def draw(session: Session, arrays: Any, rows: int | None) -> dict[str, np.ndarray]:
    """The outputs of a model that reads no field and draws `rows` rows of its own, all at once.

    Raises RunError without `rows`, and for arrays, which nothing reads.
    """
    if rows is None or (arrays is not None and len(arrays)):
        raise RunError(
            "the model reads no field: it makes what it gives from random numbers",
            expected="a number of rows alone: `rows` in Python, `--rows` on the command line",
            found=None if rows is None else "arrays",
        )
    if rows < 1:
        raise RunError("a prediction has at least one row", found=str(rows))
    results = session.run("predict", {}, rows)
    return {name: np.array(value) for name, value in results.items()}


def _pieces(size: int) -> Iterator[slice]:
    for start in range(0, size, PREDICTED):
        yield slice(start, min(start + PREDICTED, size))


def checked(arrays: Mapping[str, Any], types: Mapping[str, TensorType]) -> dict[str, Array]:
    """The arrays that `types` (of one example) name, as these types, with equal leading axes.

    Numbers are converted where a kind of number allows it: integers to floats, and any width to
    another, but no fraction to an integer. Raises RunError for a missing, unknown or misshapen one.
    """
    for name in arrays:
        if name not in types:
            raise RunError(
                f"the model reads no field `{name}`",
                expected=one_of(types),
                hint=did_you_mean(name, types),
            )
    found: dict[str, Array] = {}
    for name, type in types.items():
        if name not in arrays:
            raise RunError(
                f"the field `{name}` is missing", expected=f"an array of {_wanted(type)}"
            )
        found[name] = _checked(name, _array(name, arrays[name], type), type)
    sizes = {name: len(array) for name, array in found.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} in `{name}`" for name, size in sizes.items())
        raise RunError("the fields have different numbers of rows", found=told)
    if not all(sizes.values()):
        raise RunError("there is nothing to predict from", found="arrays of 0 rows")
    return found


def _array(name: str, value: Any, type: TensorType) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise RunError(
            f"the field `{name}` is no array", expected=_wanted(type), found=str(error)
        ) from error


def _checked(name: str, array: Array, type: TensorType) -> Array:
    shape, target = static_shape(type.shape), type.dtype.numpy
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        one_row = array.shape == shape
        raise RunError(
            f"the field `{name}` has another shape",
            expected=_wanted(type),
            found=f"{array.dtype} of shape {array.shape}",
            hint="a single example still needs a leading axis: `x[None]`" if one_row else None,
        )
    allowed = np.can_cast(array.dtype, target, "same_kind")
    if not allowed and array.dtype.kind in "iu" and target.kind in "iu":
        limits = np.iinfo(target)
        allowed = bool(array.size == 0 or (array.min() >= 0 and array.max() <= limits.max))
    if not allowed:
        raise RunError(
            f"the field `{name}` has another element type",
            expected=_wanted(type),
            found=f"{array.dtype} of shape {array.shape}",
        )
    try:
        with np.errstate(over="raise"):
            return np.ascontiguousarray(array, dtype=target)
    except FloatingPointError:
        raise RunError(
            f"the field `{name}` has numbers that {type.dtype} does not reach",
            expected=f"at most {np.finfo(target).max:.3g}",
            found=f"{np.abs(array[np.isfinite(array)]).max():.3g}",
        ) from None


def _wanted(type: TensorType) -> str:
    sizes = "".join(f", {d}" for d in type.shape)
    return f"{type.dtype} of shape (rows{sizes})"
