"""Kernels one after the other as one, where each row needs no other row's results.

    rows i   fold %0 = max x[i, j]                      a softmax: three kernels over the same
    rows i   e[i, j] = exp(x[i, j] - m[i]), fold sum    rows, each of which reads what the one
    points   y[i, j] = e[i, j] / s[i]                   before has left for its row

    rows i   three stages, one after the other, over a row that is still close at hand

Memory was planned for kernels that run one after the other, so a later kernel may write where an
earlier one reads. That is no matter where both mean the same elements of the same row; in any
other case they stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from weft.compiler.index import Atom, Axis, Datum, Floor, Index, along
from weft.compiler.kernel import Fold, Kernel, Nest, Port, Stage, Store, walk
from weft.compiler.scalar import Load, Result, Scalar


def joined(kernels: Iterable[Kernel], is_better: Callable[[Nest], bool]) -> list[Kernel]:
    """The kernels, with neighbours as one where that is right, and better for the one made."""
    found: list[Kernel] = []
    for kernel in kernels:
        last = found[-1] if found else None
        both = None
        if isinstance(last, Nest) and isinstance(kernel, Nest) and last.rows:
            both = _Pair.join(last, kernel)
        if both is not None and is_better(both):
            found[-1] = both
        else:
            found.append(kernel)
    return found


@dataclass(frozen=True)
class _Access:
    """Elements that a kernel reads or writes."""

    port: Port
    index: Index
    value: Scalar | None  # of what is written

    def meets(self, other: _Access) -> bool:
        """Whether the memory of both has bytes in common."""
        mine, others = _region(self.port), _region(other.port)
        return mine[0] == others[0] and mine[1] < others[2] and others[1] < mine[2]

    def starts_like(self, other: _Access) -> bool:
        """Whether element 0 is the same for both."""
        sizes = self.port.dtype.bytes, other.port.dtype.bytes
        return sizes[0] == sizes[1] and _start(self.port) == _start(other.port)


def _region(port: Port) -> tuple[object, int, int]:
    """What memory, and its first byte and the one after its last, for a port's whole buffer."""
    buffer = port.buffer
    if buffer.kind in ("arena", "scratch"):
        return "arena", buffer.offset, buffer.offset + buffer.bytes
    return id(buffer), 0, max(1, buffer.bytes)


def _start(port: Port) -> tuple[object, int]:
    memory, first, _ = _region(port)
    return memory, first + port.offset * port.dtype.bytes


def _accesses(nest: Nest) -> tuple[list[_Access], list[_Access]]:
    """What a nest reads, and what it writes."""
    reads: list[_Access] = []
    writes = []

    def visit(scalar: Scalar) -> None:
        if isinstance(scalar, Load):
            reads.append(_Access(nest.ports[scalar.port], scalar.index, None))

    for stage in nest.stages:
        walk(stage, visit)
        writes += [_Access(nest.ports[s.port], s.index, s.value) for s in stage.stores]
    return reads, writes


class _Pair:
    """Two nests, of which the second runs after the first."""

    def __init__(self, first: Nest, second: Nest, rows: Mapping[Axis, Axis]) -> None:
        self.first, self.second = first, second
        self.rows = rows  # of the second: those of the first that they are
        self.by = {axis: along(other) for axis, other in rows.items()}

    @classmethod
    def join(cls, first: Nest, second: Nest) -> Nest | None:
        """One nest for both, if there is one."""
        rows = _same_rows(first, second)
        if rows is None:
            return None
        return cls(first, second, rows).joined()

    def joined(self) -> Nest | None:
        reads, writes = _accesses(self.first)
        more_reads, more_writes = _accesses(self.second)
        for before, after in (
            *((w, r) for w in writes for r in more_reads),
            *((r, w) for r in reads for w in more_writes),
            *((w, v) for w in writes for v in more_writes),
        ):
            if before.meets(after) and not self.is_alike(before, after):
                return None
        moved = _Moved(self, writes)
        stages = [moved.stage(stage, axes) for stage, axes in self._stages()]
        nodes = (*self.first.nodes, *self.second.nodes)
        return replace(
            self.first, ports=tuple(moved.ports), stages=(*self.first.stages, *stages), nodes=nodes
        )

    @property
    def results(self) -> int:
        """How many results of folds the first nest has numbers for."""
        numbers = [fold.number for stage in self.first.stages for fold in stage.folds]
        return 1 + max(numbers, default=-1)

    def _stages(self) -> Iterator[tuple[Stage, tuple[Axis, ...]]]:
        """The second nest's stages, without the axes that are rows."""
        for stage in self.second.stages:
            yield stage, tuple(a for a in stage.axes if a not in self.rows)

    def is_alike(self, before: _Access, after: _Access) -> bool:
        """Whether both mean the same elements in each row, by one index for each."""
        mine, other = before.index, after.index.replaced(self.by)
        if not before.starts_like(after) or mine.constant != other.constant:
            return False
        rows = set(self.first.rows)
        steps = []
        for index in (mine, other):
            if not all(isinstance(atom, Axis) for atom, _ in index.terms):
                return False
            own = {a: f for a, f in index.terms if a in rows}
            steps.append((own, sorted((a.extent, f) for a, f in _axes(index) if a not in rows)))
        return steps[0] == steps[1]


def _is_kept(value: Scalar | None) -> bool:
    """Whether a value follows from results alone: what is read may change before it is needed."""
    if value is None or isinstance(value, Load) or value.indices:
        return False
    return all(_is_kept(part) for part in value.operands)


def _axes(index: Index) -> Iterator[tuple[Axis, int]]:
    for atom, factor in index.terms:
        if isinstance(atom, Axis):
            yield atom, factor


def _same_rows(first: Nest, second: Nest) -> dict[Axis, Axis] | None:
    """The axes of the second nest that are the first one's rows, by a result that it reads."""
    wanted = [axis for axis in first.rows if axis.extent > 1]
    if not second.rows and (len(second.stages) > 1 or second.stages[0].folds):
        return None
    candidates = second.rows or second.stages[0].axes
    _, writes = _accesses(first)
    reads, _ = _accesses(second)
    for write in writes:
        if write.index.axes != frozenset(wanted):
            continue
        for read in reads:
            if write.meets(read) and write.starts_like(read):
                found = _matched(write.index, read.index, candidates)
                if found is not None and _covers(found, second):
                    return found
    return None


def _matched(write: Index, read: Index, candidates: Sequence[Axis]) -> dict[Axis, Axis] | None:
    """The reader's axes by the writer's: those of the same steps and sizes."""
    found: dict[Axis, Axis] = {}
    by_step = {(axis.extent, factor): axis for axis, factor in _axes(write)}
    for atom, factor in read.terms:
        match = by_step.get((atom.extent, factor)) if isinstance(atom, Axis) else None
        if match is None or atom not in candidates or write.constant != read.constant:
            return None
        assert isinstance(atom, Axis)
        found[atom] = match
    whole = len(found) == len(by_step) == len(write.terms)
    return found if whole and len(set(found.values())) == len(found) else None


def _covers(found: Mapping[Axis, Axis], second: Nest) -> bool:
    """Whether these are all rows of the second nest, if it has rows."""
    return not second.rows or all(a in found for a in second.rows if a.extent > 1)


class _Moved:
    """Scalars of the second nest in the joined one: other axes, ports and numbers of results.

    What is read of `writes`, of what the first nest writes for its row, is taken as it is.
    """

    def __init__(self, pair: _Pair, writes: Sequence[_Access]) -> None:
        self.pair, self.writes = pair, writes
        self.ports, self.results = list(pair.first.ports), pair.results
        self._done: dict[int, tuple[Scalar, Scalar]] = {}

    def __call__(self, scalar: Scalar) -> Scalar:
        if id(scalar) not in self._done:
            self._done[id(scalar)] = scalar, self._made(scalar)
        return self._done[id(scalar)][1]

    def _made(self, scalar: Scalar) -> Scalar:
        if isinstance(scalar, Load):
            value = self._left(scalar)
            if value is not None:
                return value
            return Load(scalar.dtype, self.port(scalar.port), self.index(scalar.index))
        if isinstance(scalar, Result):
            return Result(scalar.dtype, scalar.number + self.results)
        if not scalar.operands and not scalar.indices:
            return scalar
        return scalar.rebuilt(
            tuple(self(part) for part in scalar.operands),
            tuple(self.index(index) for index in scalar.indices),
        )

    def _left(self, load: Load) -> Scalar | None:
        """What the first nest has left there for the row, if it is known without reading it.

        Memory may have been used twice in the first nest: what counts is the last write.
        """
        read = _Access(self.pair.second.ports[load.port], load.index, None)
        rows = set(self.pair.first.rows)
        for write in reversed(self.writes):
            if write.meets(read):
                known = write.index.axes <= rows and _is_kept(write.value)
                return write.value if known and self.pair.is_alike(write, read) else None
        return None

    def port(self, number: int) -> int:
        port = self.pair.second.ports[number]
        if port not in self.ports:
            self.ports.append(port)
        return self.ports.index(port)

    def index(self, index: Index) -> Index:
        total = Index((), index.constant)
        for atom, factor in index.terms:
            total = total + self._atom(atom) * factor
        return total

    def _atom(self, atom: Atom) -> Index:
        if isinstance(atom, Axis):
            return self.pair.by.get(atom, Index(((atom, 1),)))
        if isinstance(atom, Datum):
            return Index(((Datum(self(atom.scalar), atom.limit), 1),))
        inner = self.index(atom.index)
        return inner // atom.divisor if isinstance(atom, Floor) else inner % atom.divisor

    def stage(self, stage: Stage, axes: tuple[Axis, ...]) -> Stage:
        folds = tuple(
            Fold(f.number + self.results, f.how, self(f.value), f.dtype, f.place and self(f.place))
            for f in stage.folds
        )
        stores = tuple(
            Store(self.port(s.port), self.index(s.index), self(s.value)) for s in stage.stores
        )
        return Stage(axes, folds, stores)
