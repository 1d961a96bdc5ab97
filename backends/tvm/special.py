"""Ops with kernels of their own: running sums, scattering, sorting. A printer for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from weft.backends.tvm import grids, scalar, tir
from weft.backends.tvm.lines import Lines
from weft.backends.tvm.sorting import print_sort, print_top_k
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Special, View
from weft.compiler.types import BOOL, DType

LANES = 32  # columns that are worked on together


def print_special(special: Special, buffers: list[Buffer]) -> list[Stmt]:
    return PRINTERS[special.node.op.name](special, buffers)


def print_cumsum(special: Special, buffers: list[Buffer]) -> list[Stmt]:
    """Sums one after the other; neighbouring columns as lanes of a vector."""
    x, out = special.views
    axis, backwards = special.node.attributes["axis"], special.node.attributes["reverse"]
    dtype, count = special.ports[out.port].dtype, out.shape[axis]
    others = [i for i in range(len(out.shape)) if i != axis]
    columns = others.pop() if axis < len(out.shape) - 1 and out.strides[-1] == 1 else None
    width = 1 if columns is None else out.shape[columns]

    def chunk(at: list[Expr], start: Expr, lanes: int) -> list[Stmt]:
        sums, make = tir.local("sums", tir.stored(dtype), lanes)
        before = {view: grids.element([view.strides[i] for i in others], at) for view in (x, out)}

        def element(i: Expr) -> list[Stmt]:
            i = tir.number(count - 1) - i if backwards else i

            def lane(number: Expr) -> list[Stmt]:
                def index(view: View) -> Expr:
                    across = 0 if columns is None else view.strides[columns]
                    steps = view.strides[axis], across
                    return before[view] + grids.element(steps, [i, start + number])

                lines = Lines(number, lanes)
                value = tir.load(buffers[x.port], index(x))
                total = _plus(lines, tir.load(sums, number), value, dtype)
                return [
                    *lines.statements,
                    tir.store(sums, number, total),
                    tir.store(buffers[out.port], index(out), total),
                ]

            return [tir.loop(lanes, lane, "vectorized", "lane")]

        zero = scalar.literal(-0.0, dtype)  # adding it changes nothing, not even the sign of zero
        clear = tir.loop(lanes, lambda n: tir.store(sums, n, zero), "vectorized", "lane")
        return [make, clear, tir.loop(count, element)]

    shape = [out.shape[i] for i in others]
    return grids.in_chunks(shape, width, LANES, count, chunk)


def print_scatter_add(special: Special, buffers: list[Buffer]) -> list[Stmt]:
    """Updates in order, for a few columns of one part of the batch at a time."""
    indices, updates, out = special.views
    lead = special.node.attributes["batch_dims"]
    dtype = special.ports[out.port].dtype
    trailing = list(out.shape[lead + 1 :])
    width = trailing.pop() if trailing else 1
    inner = len(trailing)
    points = indices.shape[lead:]
    rank = len(indices.shape)
    size = out.shape[lead]

    def chunk(at: list[Expr], start: Expr, lanes: int) -> list[Stmt]:
        batch, column = at[:lead], at[lead:]
        lanes_of = (
            updates.strides[rank:],
            out.strides[lead + 1 :],
        )

        def point(place: list[Expr]) -> list[Stmt]:
            lines = Lines()
            index = tir.load(
                buffers[indices.port], grids.element(indices.strides, [*batch, *place])
            )
            row = lines.let(grids.row(index, size))
            source = lines.let(
                grids.element(updates.strides[: rank + inner], [*batch, *place, *column])
            )
            target = lines.let(
                grids.element(out.strides[: lead + 1 + inner], [*batch, row, *column])
            )
            across = [strides[-1] if strides else 0 for strides in lanes_of]

            def lane(number: Expr) -> list[Stmt]:
                inside = Lines(number, lanes)
                from_, to = (
                    tir.number(0) if not step else (start + number) * tir.number(step)
                    for step in across
                )
                old = tir.load(buffers[out.port], target + to)
                new = tir.load(buffers[updates.port], source + from_)
                total = _plus(inside, old, new, dtype)
                return [*inside.statements, tir.store(buffers[out.port], target + to, total)]

            vector = across[1] == 1 and across[0] in (0, 1)
            return [
                *lines.statements,
                tir.loop(lanes, lane, "vectorized" if vector else "serial", "lane"),
            ]

        return [grids.grid(points, point)]

    shape = [*out.shape[:lead], *trailing]
    return grids.in_chunks(shape, width, LANES, prod(points), chunk)


def _plus(lines: Lines, left: Expr, right: Expr, dtype: DType) -> Expr:
    how = "or" if dtype is BOOL else "add"
    return scalar.apply(lines, how, [left, right], dtype, [dtype, dtype])


Printer = Callable[[Special, list[Buffer]], list[Stmt]]

PRINTERS: Mapping[str, Printer] = {
    "sort": print_sort,
    "arg_sort": print_sort,
    "top_k": print_top_k,
    "arg_top_k": print_top_k,
    "cumsum": print_cumsum,
    "scatter_add": print_scatter_add,
}
