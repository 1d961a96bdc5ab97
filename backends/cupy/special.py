"""Ops with functions of their own: running sums, scattering, sorting. A printer for each.

cumsum        a block a row where the row is one run in memory, else a thread a row
scatter_add   few columns: a warp takes all updates of one column, 32 at a time
              many columns: the first update of each row adds all updates of that row
sorting       a block a row, in shared memory where the row fits
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from weft.backends.cupy.code import THREADS, Launch, scratch, stacked
from weft.backends.cupy.scattering import print_scatter_add
from weft.backends.cupy.views import Body
from weft.compiler.kernel import Port, Special
from weft.compiler.passes.elements import wide
from weft.compiler.types import I32

SHARED = 32_768  # bytes in which a block sorts a row
MOST_BLOCKS = 512  # that sort rows which are too long for that


def print_special(special: Special) -> list[Launch]:
    return PRINTERS[special.node.op.name](special)


# -- running sums ---------------------------------------------------------------------------------


def print_cumsum(special: Special) -> list[Launch]:
    x, out = special.views
    axis, backwards = special.node.attributes["axis"], special.node.attributes["reverse"]
    count, body = out.shape[axis], Body(special)
    type = body.element(x)
    others = out.shape[:axis] + out.shape[axis + 1 :]
    by_block = count > 32 and x.strides[axis] == 1
    rows = prod(others)
    row = "blockIdx.x" if by_block else f"blockIdx.x * {THREADS} + threadIdx.x"
    body.line(f"const {body.type} row = {row};")
    if not by_block:
        body.line(f"if (row >= {rows}) return;")
    at = body.spread("row", others)
    place = body.named("i", count)
    if backwards:
        place = place * -1 + (count - 1)
    at.insert(axis, place)
    body.function(f"read = [&](int i) -> {type}", lambda: [f"return {body.at(x, at)};"])
    body.function(f"write = [&](int i, {type} sum)", lambda: [f"{body.at(out, at)} = sum;"])
    if not by_block:
        body.line(f"order::sums_by_thread<{type}>({count}, read, write);")
        return [body.launch(-(-rows // THREADS), THREADS)]
    body.line(f"__shared__ {type} memory[{THREADS // 32}];")
    body.line(f"order::sums_by_block<{type}>({count}, read, write, memory);")
    return [body.launch(rows, THREADS)]


# -- sorting --------------------------------------------------------------------------------------


def print_sort(special: Special) -> list[Launch]:
    """`sort` and `arg_sort`."""
    attributes = special.node.attributes
    return _sorted(special, attributes["axis"], attributes["descending"])


def print_top_k(special: Special) -> list[Launch]:
    """`top_k` and `arg_top_k`, of the last axis."""
    return _sorted(special, len(special.views[0].shape) - 1, True)


def _sorted(special: Special, axis: int, descending: bool) -> list[Launch]:
    x, out = special.views
    count, wanted, body = x.shape[axis], out.shape[axis], Body(special)
    dtype, type, line = wide(special.ports[x.port].dtype), body.element(x), body.line
    others = x.shape[:axis] + x.shape[axis + 1 :]
    rows, room = prod(others), 1 << (count - 1).bit_length()
    inside = room * (dtype.bytes + 4) <= SHARED
    blocks = rows if inside else min(rows, MOST_BLOCKS)
    kept: list[Port] = []
    if inside:
        line(f"__shared__ {type} elements[{room}];")
        line(f"__shared__ int places[{room}];")
    else:
        size = blocks * room
        kept = stacked([scratch("elements", dtype, size), scratch("places", I32, size)])
        port = len(special.ports)
        line(f"{type}* elements = p{port} + (size_t)blockIdx.x * {room};")
        line(f"int* places = p{port + 1} + (size_t)blockIdx.x * {room};")
    with body.code.block(f"for ({body.type} row = blockIdx.x; row < {rows}; row += gridDim.x)"):
        at = body.spread("row", others)
        at.insert(axis, body.named("i", max(count, wanted)))
        result = "place" if special.node.op.name.startswith("arg_") else "element"
        body.function(f"read = [&](int i) -> {type}", lambda: [f"return {body.at(x, at)};"])
        body.function(
            f"write = [&](int i, {type} element, int place)",
            lambda: [f"{body.at(out, at)} = {result};"],
        )
        way = str(descending).lower()
        line(f"order::sort_row<{way}>({count}, {room}, {wanted}, read, write, elements, places);")
    threads = max(32, min(1_024 if not inside else THREADS, room // 2))
    return [body.launch(blocks, threads, kept)]


PRINTERS: Mapping[str, Callable[[Special], list[Launch]]] = {
    "sort": print_sort,
    "arg_sort": print_sort,
    "top_k": print_top_k,
    "arg_top_k": print_top_k,
    "cumsum": print_cumsum,
    "scatter_add": print_scatter_add,
}
