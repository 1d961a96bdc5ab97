"""Splits: disjoint parts of a data set, the same whatever the training seed is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from weft.compiler.errors import RunError
from weft.runtime.permutation import Indices, Permutation

SPLIT_SEED = 0


@dataclass(frozen=True)
class Part:
    """Positions `start` to `start + size` of an order of the rows; `order` None is the file's."""

    size: int
    start: int = 0
    order: Permutation | None = None

    def __call__(self, positions: Indices) -> Indices:
        """The rows of the data set at positions 0..size-1 of this part."""
        shifted = positions + self.start
        return shifted if self.order is None else self.order(shifted)

    def rows(self) -> Indices:
        """All rows of the part, in its order."""
        return self(np.arange(self.size, dtype=np.int64))


def split(
    size: int, parts: Mapping[str, float], name: str, ordered: bool = False
) -> dict[str, Part]:
    """Cuts `size` rows, in a random order that only `name` and `size` decide, into named parts.

    `ordered` rows are cut as they come: the first part is the beginning of a text.

    All values of `parts` are fractions (floats that sum to 1) or all are counts (integers that
    sum to at most `size`; further rows are in no part). Fractions are rounded by largest
    remainder, so the parts always cover the rows, each within one of its exact share. The order
    comes from the stream `<name>.split` with seed 0: training with another seed keeps the split.

    Raises RunError for other values, and for a part that would be empty.
    """
    counts = _counts(size, parts, name)
    empty = next((part for part, count in counts.items() if count == 0), None)
    if empty is not None:
        raise RunError(
            f"the part `{empty}` of `{name}` would be empty",
            expected="at least one example in each part",
            found=f"{parts[empty]:.4g} of {size} examples",
        )
    order = None if ordered else Permutation(size, SPLIT_SEED, f"{name}.split")
    found: dict[str, Part] = {}
    start = 0
    for part, count in counts.items():
        found[part] = Part(count, start, order)
        start += count
    return found


def _counts(size: int, parts: Mapping[str, float], name: str) -> dict[str, int]:
    values = list(parts.values())
    if not values:
        raise RunError(f"the split of `{name}` names no parts")
    negative = next((part for part, value in parts.items() if not value >= 0), None)
    if negative is not None:
        raise RunError(f"the part `{negative}` of `{name}` is negative", found=f"{parts[negative]}")
    whole = {part: value for part, value in parts.items() if isinstance(value, int)}
    if len(whole) == len(parts):
        if sum(whole.values()) > size:
            raise RunError(
                f"the split of `{name}` asks for more examples than there are",
                expected=f"at most {size} in all",
                found=f"{sum(whole.values())}",
            )
        return whole
    if whole:
        raise RunError(
            f"the split of `{name}` mixes fractions and counts",
            expected="all fractions, such as `80%`, or all numbers of examples",
        )
    if abs(sum(values) - 1) > 1e-6:
        raise RunError(
            f"the split of `{name}` does not add up",
            expected="fractions that sum to 100%",
            found=f"{100 * sum(values):.6g}%",
        )
    # The decimal fraction that was written, not its binary neighbour: 10% of 1000 is 100.
    shares = [Fraction(value).limit_denominator(10**6) * size for value in values]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: size - sum(counts)]:
        counts[i] += 1
    return dict(zip(parts, counts, strict=True))
