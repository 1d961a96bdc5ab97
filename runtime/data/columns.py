"""What a data source gives: named arrays of equal length, of types that a graph can hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.compiler.errors import RunError

Array = NDArray[Any]

# Types that graphs lack, and the next that holds all their values.
_WIDENED = {"int16": "int32", "uint16": "int32"}
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_KNOWN = frozenset((*_INTEGERS, "bool", "float16", "float32", "float64"))


@dataclass(frozen=True)
class Columns:
    """The fields of a data set: each an array whose first axis runs over the examples.

    `classes` names the classes of the fields that hold class numbers: class i of field `f` is
    `classes[f][i]`. `ordered` examples are pieces of one whole, whose parts are cut in its order.
    """

    arrays: Mapping[str, Array]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ordered: bool = False

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(next(iter(self.arrays.values())))


def columns(arrays: Mapping[str, Array], where: str) -> Columns:
    """Columns of the arrays, checked, with text turned into class numbers.

    A field of text holds the numbers of its distinct values in sorted order (by code point).
    16-bit integers become i32, foreign byte orders the machine's own; every other array is taken
    as it is, so memory-mapped files stay on disk. `where` names the source in errors.

    Raises RunError for no fields, no examples, unequal lengths and types without a meaning here.
    """
    names = field_names(list(arrays), where)
    found: dict[str, Array] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for name, array in zip(names, arrays.values(), strict=True):
        if array.ndim == 0:
            raise RunError(
                f"`{name}` in {where} is a single value",
                expected="an array whose first axis runs over the examples",
            )
        if array.dtype.kind in "US":
            found[name], classes[name] = class_numbers(array)
        else:
            found[name] = _numeric(name, array, where)
    if not found:
        raise RunError(f"{where} holds no arrays")
    first, *others = found
    for name in others:
        if len(found[name]) != len(found[first]):
            raise RunError(
                f"`{first}` and `{name}` in {where} have different lengths",
                expected="the same number of examples in every field",
                found=f"{len(found[first])} in `{first}`, {len(found[name])} in `{name}`",
            )
    if not len(found[first]):
        raise RunError(f"{where} has no examples")
    return Columns(found, classes)


def class_numbers(text: Array) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Each text's place among the sorted distinct texts (i64), and these."""
    if text.dtype.kind == "S":
        text = np.char.decode(text, "utf-8", "replace")
    names, numbers = np.unique(text, return_inverse=True)
    return numbers.reshape(text.shape).astype(np.int64), tuple(str(name) for name in names)


def field_names(titles: list[str], where: str) -> list[str]:
    """A name that a spec can write for each title: `sepal length (cm)` is `sepal_length_cm`.

    Raises RunError where a title gives no name, or two give the same.
    """
    names: dict[str, str] = {}
    for place, title in enumerate(titles, 1):
        name = re.sub(r"\W+", "_", title).strip("_")
        if not name or name[0].isdigit():
            name = f"c{place}" if not name else f"c{name}"
        if name in names:
            raise RunError(
                f"two fields of {where} have the name `{name}`",
                found=f"`{names[name]}` and `{title}`",
                hint="rename one of them in the file",
            )
        names[name] = title
    return list(names)


def _numeric(name: str, array: Array, where: str) -> Array:
    kind = array.dtype.name
    if kind not in _KNOWN:
        raise RunError(
            f"`{name}` in {where} has a type that Weft does not read",
            expected="numbers (up to 64 bits), booleans or text",
            found="Python objects" if array.dtype.hasobject else f"`{array.dtype}`",
        )
    target = np.dtype(_WIDENED.get(kind, kind))
    return array if array.dtype == target else array.astype(target)
