"""Loops over shapes, for kernels whose values lie in views of any strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from tvm import tirx

from weft.backends.tvm import tir
from weft.backends.tvm.nests import PARALLEL_WORK
from weft.backends.tvm.tir import Expr, Stmt

Place = list[Expr]


def element(strides: Sequence[int], at: Sequence[Expr]) -> Expr:
    """The number of the element at these indices."""
    total = tir.number(0)
    for index, stride in zip(at, strides, strict=True):
        if stride:
            total = total + index * tir.number(stride)
    return total


def grid(sizes: Sequence[int], body: Callable[[Place], list[Stmt]], work: int = 0) -> Stmt:
    """`body` at each index; in parallel if that much work at each of them makes it worth it."""
    count = prod(sizes)

    def at(flat: Expr) -> list[Stmt]:
        place, step = [], 1
        for number, size in enumerate(reversed(sizes)):
            index = tirx.truncdiv(flat, tir.number(step)) if step > 1 else flat
            if number < len(sizes) - 1:
                index = tirx.truncmod(index, tir.number(size))
            place.append(index if size > 1 else tir.number(0))
            step *= size
        return body(place[::-1])

    parallel = count > 1 and count * work > PARALLEL_WORK
    return tir.loop(count, at, "parallel" if parallel else "serial", "at")


def in_chunks(
    sizes: Sequence[int],
    width: int,
    lanes: int,
    work: int,
    body: Callable[[Place, Expr, int], list[Stmt]],
) -> list[Stmt]:
    """`body` at each index for some of `width` columns: from a column on, that many.

    `work` is that of one column.
    """
    full, rest = divmod(width, lanes)
    found = []
    if full:

        def whole(at: Place) -> list[Stmt]:
            return body(at[:-1], at[-1] * tir.number(lanes), lanes)

        found.append(grid((*sizes, full), whole, work * lanes))
    if rest:
        start = tir.number(full * lanes)
        found.append(grid(sizes, lambda at: body(at, start, rest), work * rest))
    return found


def row(index: Expr, size: int) -> Expr:
    """A position that was read, of any whole type, moved into 0 .. `size` - 1."""
    if str(index.ty.dtype) == "uint64":
        return tirx.min(index, tirx.const(size - 1, "uint64")).astype("int32")
    wide = index.astype("int64")
    low, high = tirx.const(0, "int64"), tirx.const(size - 1, "int64")
    return tirx.max(tirx.min(wide, high), low).astype("int32")
