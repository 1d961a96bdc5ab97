"""Products of matrices outright: blocks of results stay in registers while the depth runs.

    for each part of the depth
      for each panel of columns              a few vectors wide
        copy the panel                       where rows are many, or its columns contiguous
        for each block of rows
          sums[row, vector] += left[row, k] * right[k, vector]        for each k of the part

BLAS first copies both operands to an order of its own, which pays where there are many rows. With
few of them the copies cost as much as the product, and so does the call with small matrices. The
left factor is read where it is: a few rows at a time, in pieces too short for the processor to
guess the next. So while a block is computed, memory is asked for what the block below reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.types import DType

PART = 256  # of the depth: a panel's part stays in the cache while rows go by
MANY_ROWS = 128  # which read a panel often enough for a copy of it to pay
SUMS = 6  # for each vector of a panel, at least: rows, which share what is loaded
LINE = 64  # bytes that memory hands over at once


@dataclass(frozen=True)
class Operand:
    """A matrix in memory: its first element, and steps to the next row and to the next column."""

    buffer: Buffer
    start: Expr
    row: int
    column: int

    def at(self, row: Expr, column: Expr) -> Expr:
        steps = row * tir.number(self.row) + column * tir.number(self.column)
        return self.start + steps


def multiplied(
    dtype: DType,
    sizes: tuple[int, int, int],
    left: Operand,
    right: Operand,
    out: Operand,
    add: bool | Expr = False,
) -> list[Stmt]:
    """`out = left @ right + add * out` for [m, k] and [k, n]; the result is in rows."""
    m, n, k = sizes
    blocks = _Blocks(dtype, m, left, right, out)
    panels = _panels(dtype, m, n)

    def part(first: Expr, size: int, add: bool | Expr) -> list[Stmt]:
        return [s for panel in panels for s in blocks.panel(panel, (first, size), add)]

    size = _part(k)
    full, rest = divmod(k, size)

    def another(number: Expr) -> list[Stmt]:
        grows = add
        if full > 1 and add is not True:
            grows = number > tir.number(0)
            grows = grows if add is False else tirx.any(grows, add)
        return part(number * tir.number(size), size, grows)

    found = [tir.loop(full, another, name="part")]
    return found + (part(tir.number(full * size), rest, True) if rest else [])


def _part(depth: int) -> int:
    """Of the depth: an even share of it where there is one of a fitting size."""
    if depth <= PART:
        return depth
    fit = (size for size in range(PART, PART // 2, -1) if depth % size == 0)
    return next(fit, PART)


@dataclass(frozen=True)
class _Panel:
    """`count` panels of so many vectors, side by side from a column on."""

    first: int
    count: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        return self.vectors * self.lanes


def _panels(dtype: DType, rows: int, columns: int) -> list[_Panel]:
    """The columns: wide panels, the vectors that are left, and single columns."""
    lanes = vectors.lanes_for(dtype)
    whole, rest = divmod(columns, lanes)
    found: list[_Panel] = []
    if whole:
        wide = min(
            range(min(vectors.registers() // SUMS, whole), 0, -1),
            key=lambda w: _cost(rows, whole, w),
        )
        found.append(_Panel(0, whole // wide, wide, lanes))
        if whole % wide:
            found.append(_Panel(whole // wide * wide * lanes, 1, whole % wide, lanes))
    first = whole * lanes
    while rest:
        lanes //= 2
        if rest >= lanes:
            found.append(_Panel(first, 1, 1, lanes))
            first, rest = first + lanes, rest - lanes
    return found


def _cost(rows: int, whole: int, wide: int) -> float:
    """Of an element of the depth: what is multiplied and half of what is loaded."""

    def panel(wide: int) -> float:
        return sum(
            count * (size * wide + (size + wide) / 2) for size, count in _runs(rows, wide) if wide
        )

    return whole // wide * panel(wide) + (panel(whole % wide) if whole % wide else 0)


def _runs(rows: int, wide: int) -> list[tuple[int, int]]:
    """The rows in blocks that fit in the registers, as even as can be: sizes and counts."""
    blocks = -(-rows // max(1, vectors.registers() // wide))
    size, more = divmod(rows, blocks)
    return [(s, count) for s, count in ((size + 1, more), (size, blocks - more)) if count]


@dataclass(frozen=True)
class _Blocks:
    dtype: DType
    rows: int
    left: Operand
    right: Operand
    out: Operand

    def panel(self, panel: _Panel, depth: tuple[Expr, int], add: bool | Expr) -> list[Stmt]:
        """All rows of the panels, for a part of the depth: its first element, and how many."""

        def one(number: Expr) -> list[Stmt]:
            first = tir.number(panel.first) + number * tir.number(panel.width)
            made: list[Stmt] = []
            start = self.right.at(depth[0], first)
            right = Operand(self.right.buffer, start, self.right.row, self.right.column)
            if panel.lanes > 1 and (self.right.column != 1 or self.rows >= MANY_ROWS):
                right, made = self._copied(right, panel, depth[1])
            row = 0
            for size, count in _runs(self.rows, panel.vectors):
                begin = row

                def run(i: Expr, size: int = size, begin: int = begin) -> list[Stmt]:
                    at = tir.number(begin) + i * tir.number(size)
                    return self._block(panel, right, (at, size), first, depth, add)

                made.append(tir.loop(count, run, name="rows"))
                row += size * count
            return made

        return [tir.loop(panel.count, one, name="panel")]

    def _copied(self, right: Operand, panel: _Panel, depth: int) -> tuple[Operand, list[Stmt]]:
        """The panel in rows, in memory of its own."""
        lanes, width = panel.lanes, panel.width
        buffer, make = tir.local("panel", tir.stored(self.dtype), depth * width, "global")

        def line(k: Expr) -> list[Stmt]:
            return [
                vectors.store(
                    buffer,
                    k * tir.number(width) + tir.number(v * lanes),
                    vectors.load(right.buffer, right.at(k, tir.number(v * lanes)), lanes),
                    lanes,
                )
                for v in range(panel.vectors)
            ]

        def square(at: Expr, vector: Expr, count: int) -> list[Stmt]:
            registers = vectors.Registers(tir.stored(self.dtype), lanes)
            first = vector * tir.number(lanes)
            lines = [(right.buffer, right.at(at, first + tir.number(j))) for j in range(lanes)]
            moves, columns = vectors.turned(registers, lines, count)
            stores = [
                vectors.store(
                    buffer,
                    (at + tir.number(i)) * tir.number(width) + first,
                    column.value,
                    lanes,
                )
                for i, column in enumerate(columns)
            ]
            return [*registers.made, *moves, *stores]

        def vector(v: Expr) -> list[Stmt]:
            full, rest = divmod(depth, lanes)
            found = []
            if full:
                squares = tir.loop(
                    full, lambda b: square(b * tir.number(lanes), v, lanes), name="square"
                )
                found.append(squares)
            return found + (square(tir.number(full * lanes), v, rest) if rest else [])

        if right.column == 1:
            copy = tir.loop(depth, line, name="k")
        else:
            copy = tir.loop(panel.vectors, vector, name="vector")
        return Operand(buffer, tir.number(0), width, 1), [make, copy]

    def _block(
        self,
        panel: _Panel,
        right: Operand,
        rows: tuple[Expr, int],
        column: Expr,
        depth: tuple[Expr, int],
        add: bool | Expr,
    ) -> list[Stmt]:
        """The sums of some rows and a panel's columns."""
        lanes = panel.lanes
        registers = vectors.Registers(tir.stored(self.dtype), lanes)
        sums = [[registers.new() for _ in range(panel.vectors)] for _ in range(rows[1])]
        places = [
            [
                self.out.at(rows[0] + tir.number(i), column + tir.number(v * lanes))
                for v in range(panel.vectors)
            ]
            for i in range(rows[1])
        ]
        pairs = [
            (sum_, place)
            for line, where in zip(sums, places, strict=True)
            for sum_, place in zip(line, where, strict=True)
        ]
        zeros = [sum_.set(registers.zero()) for sum_, _ in pairs]
        loads = [sum_.set(vectors.load(self.out.buffer, at, lanes)) for sum_, at in pairs]
        begin: Sequence[Stmt]
        if isinstance(add, bool):
            begin = loads if add else zeros
        else:
            begin = [tir.either(add, tir.sequence(loads), tir.sequence(zeros))]
        wide = lanes == vectors.lanes_for(self.dtype)
        if wide and add is False:
            begin = [*begin, *(vectors.fetch(self.out.buffer, at, write=True) for _, at in pairs)]
        factors = [registers.new() for _ in range(panel.vectors)]
        one = registers.new()

        def step(k: Expr) -> list[Stmt]:
            made = [
                factor.set(vectors.load(right.buffer, right.at(k, tir.number(v * lanes)), lanes))
                for v, factor in enumerate(factors)
            ]
            for i, line in enumerate(sums):
                at = self.left.at(rows[0] + tir.number(i), depth[0] + k)
                value = tir.load(self.left.buffer, at)
                made.append(one.set(vectors.spread(value, lanes)))
                made += [
                    sum_.add_product(one.value, factor.value)
                    for sum_, factor in zip(line, factors, strict=True)
                ]
            return made

        steps = self._steps(step, rows, depth, ahead=wide and rows[1] < self.rows)
        ends = [vectors.store(self.out.buffer, at, sum_.value, lanes) for sum_, at in pairs]
        return [*registers.made, *begin, *steps, *ends]

    def _steps(
        self,
        step: Callable[[Expr], list[Stmt]],
        rows: tuple[Expr, int],
        depth: tuple[Expr, int],
        ahead: bool,
    ) -> list[Stmt]:
        """All of the depth; `ahead`, and the lines of memory in which the rows below lie there."""
        left, height, size = self.left, rows[1], depth[1]
        line = LINE // self.dtype.bytes

        def below(row: int, k: Expr) -> Stmt:
            return vectors.fetch(
                left.buffer, left.at(rows[0] + tir.number(height + row), depth[0] + k)
            )

        if ahead and left.column == 1 and size >= line:

            def stretch(number: Expr) -> list[Stmt]:
                first = number * tir.number(line)
                lines = [below(row, first) for row in range(height)]
                return [*lines, tir.loop(line, lambda k: step(first + k), name="k")]

            whole, rest = divmod(size, line)
            first = tir.number(whole * line)
            found = [tir.loop(whole, stretch, name="stretch")]
            return found + ([tir.loop(rest, lambda k: step(first + k), name="k")] if rest else [])
        if ahead and left.row == 1:
            last = range(height - 1, -1, -line)
            return [tir.loop(size, lambda k: [*(below(i, k) for i in last), *step(k)], name="k")]
        return [tir.loop(size, step, name="k")]
