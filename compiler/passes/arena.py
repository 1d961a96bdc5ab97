"""The arena: one piece of memory, whose places are shared by buffers of different times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from weft.compiler.graph import Node
from weft.compiler.plan import ALIGNMENT
from weft.compiler.types import DType


@dataclass(eq=False, slots=True)
class Slot:
    """A buffer while its users are still being found."""

    name: str
    kind: str
    dtype: DType
    size: int
    nodes: list[Node] = field(default_factory=list)
    first: int = 0
    last: int = 0
    offset: int = 0
    counted: int = 0  # how many of the nodes `until` knows of
    until: float = 0  # the last time that one of those is needed

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.bytes


def pack(slots: Sequence[Slot]) -> int:
    """Give offsets to slots, big ones first, into the tightest gap; return the arena's size.

    Raises MemoryError for a tensor that no address reaches.
    """
    largest = max((slot.bytes for slot in slots), default=0)
    if largest >> 62:
        raise MemoryError(f"a tensor of {largest:,} bytes")
    ordered = sorted(slots, key=lambda s: (-s.bytes, s.first, s.name))
    # Of each slot that has a place, by offset: first and last step, offset, aligned end.
    placed = np.zeros((4, len(slots)), np.int64)
    count = total = 0
    for slot in ordered:
        size = slot.bytes
        first, last, offsets, ends = placed[:, :count]
        meets = ((first <= slot.last) & (last >= slot.first)).nonzero()[0]
        rivals = offsets[meets]
        free = np.zeros(len(meets) + 1, np.int64)  # where the space before each rival begins
        np.maximum.accumulate(ends[meets], out=free[1:])
        gaps = rivals - free[:-1]
        fits = (gaps >= size).nonzero()[0]
        slot.offset = int(free[fits[gaps[fits].argmin()]] if fits.size else free[-1])
        total = max(total, slot.offset + size)
        if not size:
            continue  # takes no place, so it meets nothing
        place = int(np.searchsorted(offsets, slot.offset, side="right"))
        placed[:, place + 1 : count + 1] = placed[:, place:count]
        placed[:, place] = slot.first, slot.last, slot.offset, aligned(slot.offset + size)
        count += 1
    return aligned(total)


def aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
