"""`scatter_add`: sums of updates at rows that data name, always in the same order.

few columns     a warp takes all updates of one column, 32 at a time
many columns    the first update of each row adds all updates of that row
many updates    they are sorted by row first, and the first of each run adds the run
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from weft.backends.cupy import scalar
from weft.backends.cupy.code import THREADS, Launch, launch, scratch, stacked
from weft.backends.cupy.views import Body
from weft.compiler.index import Index
from weft.compiler.kernel import Port, Special
from weft.compiler.types import I32, U32

WARPS = THREADS // 32
COLUMNS = 4  # of a row that a lane adds
NARROW = 32  # columns below which lanes share updates rather than columns
MANY = 4_096  # updates that are sorted
BUSY = 1_024  # warps that keep a GPU busy, so that each may take many updates
LOT, DIGITS = 1_024, 256  # of `scattering.cuh`


def print_scatter_add(special: Special) -> list[Launch]:
    made = _Scatter(special)
    many = made.count > MANY
    narrow = made.width < NARROW and not (many and prod(made.batch) * made.width < BUSY)
    if narrow and made.in_memory:
        return made.by_columns()
    return made.sorted() if many else made.by_updates()


class _Scatter:
    def __init__(self, special: Special) -> None:
        self.special = special
        self.indices, self.updates, self.out = special.views
        lead = special.node.attributes["batch_dims"]
        shape = self.out.shape
        self.batch, self.rows, self.trailing = shape[:lead], shape[lead], shape[lead + 1 :]
        self.points = self.indices.shape[lead:]
        self.count, self.width = prod(self.points), prod(self.trailing)
        # A sum that is put down now and then is rounded as often.
        dtype = special.ports[self.out.port].dtype
        self.in_memory, self.kept = not dtype.is_narrow, scalar.type_name(dtype)

    def by_columns(self) -> list[Launch]:
        body = Body(self.special)
        type, jobs = body.element(self.out), prod(self.batch) * self.width
        self._job(body, jobs)
        body.line(f"const {body.type} lot = job / {self.width}, column = job % {self.width};")
        self._functions(body, body.spread("lot", self.batch))
        body.function("value = [&](int p)", lambda: ["return value_of(p, column);"])
        add = "target(row, column) = op::add(target(row, column), sum);"
        body.function(f"add = [&](int row, {type} sum)", lambda: [add])
        body.line(f"scatter::by_warp<{type}>({self.count}, row_of, value, add);")
        return [body.launch(-(-jobs // WARPS), THREADS)]

    def by_updates(self) -> list[Launch]:
        body = Body(self.special)
        chunks = -(-self.width // (32 * COLUMNS))
        jobs = prod(self.batch) * self.count * chunks
        self._job(body, jobs)
        body.line(f"const {body.type} lot = job / {self.count * chunks};")
        body.line(f"const int update = job / {chunks} % {self.count};")
        self._functions(body, body.spread("lot", self.batch))
        self._sums(body, chunks, "")
        body.line(f"scatter::by_update(update, {self.count}, row_of, begin, sum, end);")
        return [body.launch(-(-jobs // WARPS), THREADS)]

    # -- sorted -----------------------------------------------------------------------------------

    def sorted(self) -> list[Launch]:
        """By the number of the row in all of the batch."""
        total, rows = prod(self.batch) * self.count, prod(self.batch) * self.rows
        blocks = -(-total // LOT)
        ports = stacked(
            [
                *(scratch(name, U32, total) for name in ("keys", "other_keys")),
                *(scratch(name, I32, total) for name in ("places", "other_places")),
                *(scratch(name, I32, DIGITS * blocks) for name in ("counts", "ends")),
            ]
        )
        keys, others, places, other_places, counts, ends = ports
        found = [self._keys(total, keys, places)]
        for shift in range(0, max(1, (rows - 1).bit_length()), 8):
            found += _pass(total, shift, keys, places, counts, ends, others, other_places)
            keys, others = others, keys
            places, other_places = other_places, places
        return [*found, self._runs(total, keys, places)]

    def _keys(self, total: int, keys: Port, places: Port) -> Launch:
        body, port = Body(self.special), len(self.special.ports)
        body.line(f"const int i = blockIdx.x * {THREADS} + threadIdx.x;")
        body.line(f"if (i >= {total}) return;")
        body.line(f"const int lot = i / {self.count}, p = i % {self.count};")
        at = [*body.spread("lot", self.batch), *body.spread("p", self.points)]
        index = body.at(self.indices, at)
        body.line(f"p{port}[i] = lot * {self.rows} + int(clamped({index}, {self.rows}));")
        body.line(f"p{port + 1}[i] = i;")
        return body.launch(-(-total // THREADS), THREADS, (keys, places))

    def _runs(self, total: int, keys: Port, places: Port) -> Launch:
        body, port = Body(self.special), len(self.special.ports)
        chunks = -(-self.width // (32 * COLUMNS))
        jobs = total * chunks
        self._job(body, jobs)
        body.line(f"const int run = job / {chunks};")
        body.line(f"const {body.type} lot = p{port}[run] / {self.rows};")
        self._functions(body, body.spread("lot", self.batch))
        self._sums(body, chunks, f" % {self.rows}", f" % {self.count}")
        body.line(f"scatter::by_run(run, {total}, p{port}, p{port + 1}, begin, sum, end);")
        return body.launch(-(-jobs // WARPS), THREADS, (keys, places))

    # -- parts of functions -----------------------------------------------------------------------

    def _job(self, body: Body, jobs: int) -> None:
        """The number of the warp."""
        body.line(f"const {body.type} job = ({body.type})blockIdx.x * {WARPS} + threadIdx.x / 32;")
        body.line(f"if (job >= {jobs}) return;")

    def _functions(self, body: Body, lot: list[Index]) -> None:
        """The row and the elements of update p, and the elements that they are added to."""
        type, where = body.element(self.out), f"{body.type} column"

        def row_of() -> Sequence[str]:
            index = body.at(self.indices, [*lot, *body.spread("p", self.points)])
            return [f"return clamped({index}, {self.rows});"]

        def value_of() -> Sequence[str]:
            place, across = body.spread("p", self.points), body.spread("column", self.trailing)
            return [f"return {body.at(self.updates, [*lot, *place, *across])};"]

        def target() -> Sequence[str]:
            across = body.spread("column", self.trailing)
            row = body.named("row", self.rows)
            return [f"return {body.at(self.out, [*lot, row, *across])};"]

        body.function("row_of = [&](int p)", row_of)
        body.function(f"value_of = [&](int p, {where}) -> {type}", value_of)
        body.function(f"target = [&](int row, {where}) -> {self.kept}&", target)

    def _sums(self, body: Body, chunks: int, row: str, place: str = "") -> None:
        """Sums of a few columns in each lane; `row` and `place` make numbers of what is given."""
        type = body.element(self.out)
        body.line(f"const int first = job % {chunks} * {32 * COLUMNS} + threadIdx.x % 32;")
        body.line(f"{type} sums[{COLUMNS}];")
        for head, words in (
            ("begin = [&](int row)", f"sums[c] = target(row{row}, column);"),
            ("sum = [&](int p)", f"sums[c] = op::add(sums[c], value_of(p{place}, column));"),
            ("end = [&](int row)", f"target(row{row}, column) = sums[c];"),
        ):
            loop = f"for (int c = 0, column = first; c < {COLUMNS}; c++, column += 32)"
            line = f"{loop} if (column < {self.width}) {words}"
            body.function(head, lambda line=line: [line])  # type: ignore[misc]


def _pass(
    total: int,
    shift: int,
    keys: Port,
    places: Port,
    counts: Port,
    ends: Port,
    new_keys: Port,
    new_places: Port,
) -> list[Launch]:
    """The keys in order of one digit more."""
    blocks = -(-total // LOT)
    counted = [
        f"    __shared__ int memory[{DIGITS}];",
        f"    scatter::count({total}, {shift}, p0, p1, memory);",
    ]
    summed = [
        f"    __shared__ int memory[{DIGITS // 32}];",
        "    const auto read = [&](int i) { return p0[i]; };",
        "    const auto write = [&](int i, int sum) { p1[i] = sum; };",
        f"    order::sums_by_block<int>({DIGITS * blocks}, read, write, memory);",
    ]
    moved = [
        f"    __shared__ int memory[{DIGITS * (1 + DIGITS // 32)}];",
        f"    scatter::move({total}, {shift}, p0, p1, p2, p3, p4, p5, memory);",
    ]
    every, one = (blocks, 1, 1), (1, 1, 1)
    target = (keys, places, counts, ends, new_keys, new_places)
    return [
        launch("digits", (keys, counts), counted, every, DIGITS),
        launch("sums", (counts, ends), summed, one, DIGITS),
        launch("sorted", target, moved, every, DIGITS),
    ]
