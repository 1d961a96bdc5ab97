"""Scalars and indices of kernels as lines of CUDA C++, each computed once where it is used twice.

Where neighbours along an axis are worked on together, a value that depends on that axis is as many
names as there are lanes; what is next to each other in memory is read at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from weft.backends.cupy import scalar as s
from weft.compiler.index import Atom, Axis, Datum, Floor, Index
from weft.compiler.kernel import Store
from weft.compiler.scalar import Apply, Bits, Bound, Guard, Literal, Load, Position, Result, Scalar

Lanes = tuple[str, ...]
"""A value: one name for all lanes, or one for each."""


@dataclass(eq=False)
class Namer:
    """Counts the names of a function, so that each is new."""

    count: int = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"


@dataclass(eq=False)
class Emitter:
    """Prints at one place of a function: `axes` gives each axis its value there.

    `vector` is the axis of which `lanes` neighbours are worked on together, from the value that
    `axes` gives it; `aligned` are the ports whose memory begins on a 16-byte boundary.
    """

    axes: dict[Axis, str]
    names: Namer
    index_type: str = "int"
    results: Mapping[int, str] = field(default_factory=dict)
    vector: Axis | None = None
    lanes: int = 1
    aligned: frozenset[int] = frozenset()
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    _scopes: list[dict[int, tuple[Scalar, Lanes]]] = field(default_factory=lambda: [{}])

    # -- lines ------------------------------------------------------------------------------------

    def line(self, words: str) -> None:
        self.lines.append("    " * self.depth + words)

    def say(self, lines: Sequence[str]) -> None:
        for words in lines:
            self.line(words)

    @contextmanager
    def block(self, head: str, end: str = "}") -> Iterator[None]:
        """Lines between braces; what is computed there is not known after them."""
        self.line(f"{head} {{")
        self.depth += 1
        self._scopes.append({})
        yield
        self._scopes.pop()
        self.depth -= 1
        self.line(end)

    def let(self, type: str, expression: str, stem: str = "v") -> str:
        name = self.names.fresh(stem)
        self.line(f"const {type} {name} = {expression};")
        return name

    # -- indices ----------------------------------------------------------------------------------

    def index(self, index: Index, lane: int = 0) -> str:
        parts = []
        for atom, factor in index.terms:
            part = self._atom(atom, lane)
            parts.append(part if factor == 1 else f"{factor} * {part}")
        if index.constant or not parts:
            parts.append(str(index.constant))
        return " + ".join(parts).replace("+ -", "- ")

    def _atom(self, atom: Atom, lane: int) -> str:
        if isinstance(atom, Axis):
            place = self.axes[atom]
            return f"({place} + {lane})" if lane and atom is self.vector else place
        if isinstance(atom, Datum):
            names = self.value(atom.scalar)
            position = names[lane if len(names) > 1 else 0]
            return f"({self.index_type})clamped({position}, {atom.limit})"
        inner, shift = self.index(atom.index, lane), 0
        low = atom.index.bounds[0]
        if low < 0:  # C++ rounds towards zero; of what is not negative that is down
            shift = -(low // atom.divisor)
            inner = f"{inner} + {shift * atom.divisor}"
        if isinstance(atom, Floor):
            quotient = f"({inner}) / {atom.divisor}"
            return f"({quotient} - {shift})" if shift else f"({quotient})"
        return f"(({inner}) % {atom.divisor})"

    def is_run(self, index: Index) -> bool:
        """Whether the lanes of the vector are neighbours there, from a multiple of `lanes` on."""
        multiple = self.lanes
        if self.vector is None or index.factor(self.vector) != 1:
            return False
        rest = (factor for atom, factor in index.terms if atom is not self.vector)
        return index.constant % multiple == 0 and all(factor % multiple == 0 for factor in rest)

    # -- values -----------------------------------------------------------------------------------

    def value(self, value: Scalar) -> Lanes:
        for scope in self._scopes:
            if id(value) in scope:
                return scope[id(value)][1]
        names = self._names(value)
        self._scopes[-1][id(value)] = value, names
        return names

    def one(self, value: Scalar) -> str:
        (name,) = self.value(value)
        return name

    def lane(self, value: Scalar, lane: int) -> str:
        names = self.value(value)
        return names[lane if len(names) > 1 else 0]

    def _count(self, value: Scalar) -> int:
        return self.lanes if self.vector in value.axes and self.lanes > 1 else 1

    def _names(self, value: Scalar) -> Lanes:
        type = s.type_name(value.dtype)
        lanes = range(self._count(value))
        match value:
            case Literal():
                return (s.literal(value.value, value.dtype),)
            case Load():
                return self._load(value)
            case Position():
                return tuple(
                    self.let(type, f"op::cast<{type}>({self.index(value.index, i)})") for i in lanes
                )
            case Apply():
                return tuple(
                    self.let(
                        type,
                        s.apply(value.op, [self.lane(p, i) for p in value.parts], value.dtype),
                    )
                    for i in lanes
                )
            case Guard():
                return self._guard(value)
            case Bits():
                return self._bits(value)
            case Result():
                return (self.results[value.number],)
        raise AssertionError(value)

    def _load(self, value: Load) -> Lanes:
        type, count = s.type_name(value.dtype), self._count(value)
        if count > 1 and value.port in self.aligned and self.is_run(value.index):
            return self._pack(value)
        return tuple(
            self.let(type, f"p{value.port}[{self.index(value.index, i)}]") for i in range(count)
        )

    def _pack(self, value: Load) -> Lanes:
        place = f"p{value.port} + {self.index(value.index)}"
        pack = self.let("auto", f"load<{self.lanes}>({place})", "q")
        return tuple(f"{pack}.at[{i}]" for i in range(self.lanes))

    def _guard(self, guard: Guard) -> Lanes:
        test = self.test(guard.tests, guard.bounds)
        if not test:
            return self.value(guard.value)
        type = s.type_name(guard.dtype)
        names = tuple(self.names.fresh("v") for _ in range(self._count(guard)))
        self.line(f"{type} {', '.join(names)};")
        for head, value in ((f"if ({test})", guard.value), ("else", guard.other)):
            with self.block(head):
                for i, name in enumerate(names):
                    self.line(f"{name} = {self.lane(value, i)};")
        return names

    def test(self, indices: Sequence[Index], bounds: Sequence[Bound]) -> str:
        """Whether indices keep their bounds; nothing where they always do."""
        tests = []
        for index, bound in zip(indices, bounds, strict=True):
            low, high = index.bounds
            place = self.index(index)
            if low < bound.low:
                tests.append(f"{place} >= {bound.low}")
            if high >= bound.high:
                tests.append(f"{place} < {bound.high}")
            if bound.step > 1:
                lift = -((low - bound.low) // bound.step) * bound.step - bound.low
                tests.append(f"({place} + {lift}) % {bound.step} == 0")
        return " && ".join(tests)

    def _bits(self, bits: Bits) -> Lanes:
        key = ", ".join(self.one(word) for word in bits.key)
        if self._count(bits) == 4 and self.is_run(bits.position):
            block = f"unsigned(({self.index(bits.position)}) >> 2)"
            words = self.let("Words", f"philox({key}, {block})", "w")
            return tuple(f"{words}.at[{i}]" for i in range(4))
        return tuple(
            self.let("unsigned", f"random_word({key}, {self.index(bits.position, i)})")
            for i in range(self._count(bits))
        )

    # -- stores -----------------------------------------------------------------------------------

    def stores(self, stores: Sequence[Store]) -> None:
        """All values first, for a store may overwrite what another value is made from."""
        values = [self.value(store.value) for store in stores]
        places = [[self.index(store.index, i) for i in range(self.lanes)] for store in stores]
        for store, names, place in zip(stores, values, places, strict=True):
            lanes = names * (self.lanes if len(names) == 1 else 1)
            if self.lanes > 1 and store.port in self.aligned and self.is_run(store.index):
                type = s.type_name(store.value.dtype)
                pack = f"Pack<{type}, {self.lanes}>{{{{{', '.join(lanes)}}}}}"
                self.line(f"store(p{store.port} + {place[0]}, {pack});")
                continue
            for at, name in zip(place, lanes, strict=True):
                self.line(f"p{store.port}[{at}] = {name};")
