"""Ops with functions of their own: running sums, scattering, sorting. A printer for each.

cumsum        a block a row where the row is one run in memory, else a thread a row
scatter_add   few columns: a warp takes all updates of one column, 32 at a time
              many columns: the first update of each row adds all updates of that row
sorting       a block a row, in shared memory where the row fits
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from weft.backends.cupy import scalar
from weft.backends.cupy.code import THREADS, Launch, launch, scratch, stacked
from weft.backends.cupy.emit import Emitter, Namer
from weft.backends.cupy.nests import spread
from weft.compiler.index import Axis, Index, along, flat
from weft.compiler.kernel import Port, Special, View
from weft.compiler.types import I32

WARPS = THREADS // 32
SHARED = 32_768  # bytes in which a block sorts a row
MOST_BLOCKS = 512  # that sort rows which are too long for that
COLUMNS = 4  # of a row that a lane adds


def print_special(special: Special) -> list[Launch]:
    return PRINTERS[special.node.op.name](special)


class _Body:
    """The lines of a function over views."""

    def __init__(self, special: Special) -> None:
        self.special = special
        longest = max(map(_reach, special.views))
        self.type = "int" if longest < 1 << 30 else "long long"
        self.code = Emitter({}, Namer(), self.type)

    def line(self, words: str) -> None:
        self.code.line(words)

    def element(self, view: View) -> str:
        """The C++ type of a view's elements."""
        return scalar.type_name(self.special.ports[view.port].dtype)

    def spread(self, number: str, shape: Sequence[int]) -> list[Index]:
        """The indices of a point, for its number."""
        axes = [Axis(size) for size in shape]
        spread(self.code, number, axes)
        return [along(axis) for axis in axes]

    def named(self, name: str, extent: int) -> Index:
        """An index that a C++ variable holds."""
        axis = Axis(extent + 2)
        self.code.axes[axis] = name
        return along(axis)

    def at(self, view: View, indices: Sequence[Index]) -> str:
        """The element of a view."""
        return f"p{view.port}[{self.code.index(flat(indices, view.strides))}]"

    def function(self, head: str, lines: Callable[[], Sequence[str]]) -> None:
        """A local function; `lines` may need lines before them."""
        with self.code.block(f"const auto {head}", "};"):
            self.code.say(lines())

    def launch(self, blocks: int, threads: int, ports: Sequence[Port] = ()) -> Launch:
        every = (*self.special.ports, *ports)
        return launch(self.special.node.op.name, every, self.code.lines, (blocks, 1, 1), threads)


def _reach(view: View) -> int:
    return sum(abs(step) * size for step, size in zip(view.strides, view.shape, strict=True))


# -- running sums ---------------------------------------------------------------------------------


def print_cumsum(special: Special) -> list[Launch]:
    x, out = special.views
    axis, backwards = special.node.attributes["axis"], special.node.attributes["reverse"]
    count, body = out.shape[axis], _Body(special)
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
    body.line(f"__shared__ {type} memory[{WARPS}];")
    body.line(f"order::sums_by_block<{type}>({count}, read, write, memory);")
    return [body.launch(rows, THREADS)]


# -- scattering -----------------------------------------------------------------------------------


def print_scatter_add(special: Special) -> list[Launch]:
    indices, updates, out = special.views
    lead = special.node.attributes["batch_dims"]
    batch, trailing = out.shape[:lead], out.shape[lead + 1 :]
    points, width = indices.shape[lead:], prod(trailing)
    count, body = prod(points), _Body(special)
    type = body.element(out)
    line = body.line
    narrow = width < 32
    line(f"const {body.type} job = (({body.type})blockIdx.x * {THREADS} + threadIdx.x) / 32;")
    if narrow:
        jobs = prod(batch) * width
        line(f"if (job >= {jobs}) return;")
        line(f"const {body.type} lot = job / {width}, column = job % {width};")
    else:
        chunks = -(-width // (32 * COLUMNS))
        jobs = prod(batch) * count * chunks
        line(f"if (job >= {jobs}) return;")
        line(f"const {body.type} lot = job / {count * chunks};")
        line(f"const int update = job / {chunks} % {count};")
        line(f"const int first = job % {chunks} * {32 * COLUMNS} + threadIdx.x % 32;")
    lot = body.spread("lot", batch)

    def row_of() -> list[str]:
        place = body.spread("p", points)
        return [f"return clamped({body.at(indices, [*lot, *place])}, {out.shape[lead]});"]

    def value_of() -> list[str]:
        place, across = body.spread("p", points), body.spread("column", trailing)
        return [f"return {body.at(updates, [*lot, *place, *across])};"]

    def target() -> list[str]:
        across = body.spread("column", trailing)
        row = body.named("row", out.shape[lead])
        return [f"return {body.at(out, [*lot, row, *across])};"]

    where = f"{body.type} column"
    body.function("row_of = [&](int p)", row_of)
    body.function(f"value_of = [&](int p, {where}) -> {type}", value_of)
    body.function(f"target = [&](int row, {where}) -> {type}&", target)
    if narrow:
        body.function("value = [&](int p)", lambda: ["return value_of(p, column);"])
        add = "target(row, column) = op::add(target(row, column), sum);"
        body.function(f"add = [&](int row, {type} sum)", lambda: [add])
        line(f"order::scatter_by_warp<{type}>({count}, row_of, value, add);")
    else:
        line(f"{type} sums[{COLUMNS}];")
        for head, words in (
            ("begin = [&](int row)", "sums[c] = target(row, column);"),
            ("sum = [&](int p)", "sums[c] = op::add(sums[c], value_of(p, column));"),
            ("end = [&](int row)", "target(row, column) = sums[c];"),
        ):
            loop = f"for (int c = 0, column = first; c < {COLUMNS}; c++, column += 32)"
            body.function(head, lambda w=words, h=loop: [f"{h} if (column < {width}) {w}"])  # type: ignore[misc]
        line(f"order::scatter_by_update(update, {count}, row_of, begin, sum, end);")
    return [body.launch(-(-jobs // WARPS), THREADS)]


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
    count, wanted, body = x.shape[axis], out.shape[axis], _Body(special)
    dtype, type, line = special.ports[x.port].dtype, body.element(x), body.line
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
