"""Sorting: rows in parallel, each by merging sorted runs, or by keeping a short list of the best.

    sort, arg_sort       runs of 1, 2, 4, ... merged in pairs, to and fro between two halves of
                         scratch memory
    top_k, arg_top_k     the best so far as a sorted list, where few are wanted; else a sort

Of equals the first stays first, whichever way the order goes, and NaN is larger than any number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from weft.backends.tvm import grids, tir
from weft.backends.tvm.lines import Lines, is_nan, negated
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Special, View
from weft.compiler.types import DType

SHORT_LIST = 32  # how many of the best are kept in a list rather than found by sorting
COST = 8  # operations that go into one step of a sort


def print_sort(special: Special, buffers: list[Buffer]) -> list[Stmt]:
    """`sort` and `arg_sort`."""
    attributes = special.node.attributes
    axis, descending = attributes["axis"], attributes["descending"]
    return _over_rows(special, buffers, axis, descending, _by_merging)


def print_top_k(special: Special, buffers: list[Buffer]) -> list[Stmt]:
    """`top_k` and `arg_top_k`, of the last axis."""
    few = special.node.attributes["k"] <= SHORT_LIST
    axis = len(special.views[0].shape) - 1
    return _over_rows(special, buffers, axis, True, _by_keeping if few else _by_merging)


@dataclass(frozen=True)
class _Row:
    """A row to be ordered: `count` elements, of which the first `wanted` are written."""

    count: int
    wanted: int
    dtype: DType
    descending: bool
    positions: bool  # wanted rather than the elements
    element: Callable[[Expr], Expr]
    write: Callable[[Expr, Expr], Stmt]

    def goes_before(self, a: Expr, b: Expr) -> Expr:
        """Whether `a` has to stand before `b` wherever they are."""
        better = a > b if self.descending else a < b
        if self.dtype.kind != "float":
            return better
        first, last = (a, b) if self.descending else (b, a)
        odd = tirx.all(is_nan(first), negated(is_nan(last)))
        return tirx.any(better, odd)

    def room(self, size: int) -> tuple[list[Stmt], _Room]:
        """Memory for elements, and for where they come from."""
        elements, make = tir.local("elements", tir.stored(self.dtype), size, "global")
        if not self.positions:
            return [make], _Room(elements, None)
        places, more = tir.local("places", "int32", size, "global")
        return [make, more], _Room(elements, places)


@dataclass(frozen=True)
class _Room:
    elements: Buffer
    places: Buffer | None

    def put(self, at: Expr, element: Expr, place: Expr) -> list[Stmt]:
        found = [tir.store(self.elements, at, element)]
        if self.places is not None:
            found.append(tir.store(self.places, at, place))
        return found

    def place(self, at: Expr) -> Expr:
        return tir.number(0) if self.places is None else tir.load(self.places, at)

    def result(self, at: Expr) -> Expr:
        if self.places is None:
            return tir.load(self.elements, at)
        return tir.load(self.places, at).astype("int64")


def _over_rows(
    special: Special,
    buffers: list[Buffer],
    axis: int,
    descending: bool,
    order: Callable[[_Row], list[Stmt]],
) -> list[Stmt]:
    x, out = special.views
    rows = x.shape[:axis] + x.shape[axis + 1 :]
    count = x.shape[axis]

    def row(at: list[Expr]) -> list[Stmt]:
        lines = Lines()
        start, into = (lines.let(_start(view, axis, at)) for view in (x, out))

        def element(i: Expr) -> Expr:
            return tir.load(buffers[x.port], start + i * tir.number(x.strides[axis]))

        def write(i: Expr, value: Expr) -> Stmt:
            place = into + i * tir.number(out.strides[axis])
            return tir.store(buffers[out.port], place, value)

        dtype = special.ports[x.port].dtype
        positions = special.node.op.name.startswith("arg_")
        made = _Row(count, out.shape[axis], dtype, descending, positions, element, write)
        return [*lines.statements, *order(made)]

    return [grids.grid(rows, row, COST * count * count.bit_length())]


def _start(view: View, axis: int, at: list[Expr]) -> Expr:
    strides = view.strides[:axis] + view.strides[axis + 1 :]
    return grids.element(strides, at)


def _by_merging(row: _Row) -> list[Stmt]:
    """Runs of equal length, the last one perhaps shorter, merged into runs of twice that."""
    count, zero, one = row.count, tir.number(0), tir.number(1)
    size, last = tir.number(count), tir.number(count - 1)
    makes, room = row.room(2 * count)
    heads, make = tir.local("heads", "int32", 2)
    passes = (count - 1).bit_length()

    def step(start: Expr, end: Expr, middle: Expr, source: Expr, target: Expr) -> list[Stmt]:
        lines = Lines()
        i, j = (lines.let(tir.load(heads, n)) for n in (zero, one))
        left, right = (lines.let(source + tirx.min(n, last)) for n in (i, j))
        a, b = (lines.let(tir.load(room.elements, n)) for n in (left, right))
        of_right = tirx.all(j < end, tirx.any(i >= middle, row.goes_before(b, a)))
        of_right = lines.let(tirx.Select(of_right, one, zero))
        is_right = of_right > zero
        place = tirx.Select(is_right, room.place(right), room.place(left))
        return [
            *lines.statements,
            *room.put(target + start, tirx.Select(is_right, b, a), place),
            tir.store(heads, zero, i + one - of_right),
            tir.store(heads, one, j + of_right),
        ]

    def merge(number: Expr, width: Expr, source: Expr, target: Expr) -> list[Stmt]:
        lines = Lines()
        start = lines.let(number * width * tir.number(2))
        middle = lines.let(tirx.min(start + width, size))
        end = lines.let(tirx.min(start + width * tir.number(2), size))
        return [
            *lines.statements,
            tir.store(heads, zero, start),
            tir.store(heads, one, middle),
            tir.loop(end - start, lambda k: step(start + k, end, middle, source, target)),
        ]

    def pass_over(number: Expr) -> list[Stmt]:
        lines = Lines()
        width = lines.let(tirx.shift_left(one, number))
        source = lines.let(tirx.bitwise_and(number, one) * size)
        target = lines.let(size - source)
        runs = lines.let(tirx.truncdiv(last, width * tir.number(2)) + one)
        pairs = tir.loop(runs, lambda n: merge(n, width, source, target), name="pair")
        return [*lines.statements, pairs]

    first = tir.number(passes % 2 * count)
    return [
        *makes,
        make,
        tir.loop(count, lambda i: room.put(i, row.element(i), i)),
        tir.loop(passes, pass_over, name="pass"),
        tir.loop(row.wanted, lambda i: row.write(i, room.result(first + i))),
    ]


def _by_keeping(row: _Row) -> list[Stmt]:
    """Each element goes through the sorted list of the best, and pushes others on."""
    wanted, zero = row.wanted, tir.number(0)
    makes, best = row.room(wanted)
    more, moving = row.room(1)
    pushes, make = tir.local("pushes", "bool", 1)

    def push(at: Expr, i: Expr) -> list[Stmt]:
        lines = Lines()
        here, there = (lines.let(tir.load(r.elements, n)) for r, n in ((best, at), (moving, zero)))
        here_place, there_place = lines.let(best.place(at)), lines.let(moving.place(zero))
        is_free = at >= i
        does = lines.let(
            tirx.any(tir.load(pushes, zero), tirx.any(is_free, row.goes_before(there, here)))
        )
        swap = [
            *best.put(at, there, there_place),
            *moving.put(zero, here, here_place),
            tir.store(pushes, zero, tirx.const(True, "bool")),
        ]
        return [*lines.statements, tir.when(does, tir.sequence(swap))]

    def enter(i: Expr) -> list[Stmt]:
        lines = Lines()
        element = lines.let(row.element(i))
        worst = lines.let(tir.load(best.elements, tir.number(wanted - 1)))
        enters = tirx.any(i < tir.number(wanted), row.goes_before(element, worst))
        length = tirx.min(i + tir.number(1), tir.number(wanted))
        goes_in = [
            *moving.put(zero, element, i),
            tir.store(pushes, zero, tirx.const(False, "bool")),
            tir.loop(length, lambda at: push(at, i), name="at"),
        ]
        return [*lines.statements, tir.when(enters, tir.sequence(goes_in))]

    return [
        *makes,
        *more,
        make,
        tir.loop(row.count, enter),
        tir.loop(wanted, lambda i: row.write(i, best.result(i))),
    ]
