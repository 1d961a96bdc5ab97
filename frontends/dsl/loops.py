"""`scan`: a cell, elaborated once, as the body of a loop in the graph.

    let last, all = x |> scan(cell, start = h, over = T)      cell(x_t, h) -> h, or h, y

What the cell reads beside its arguments (parameters, names of the caller) is a fixed operand. Draws
in a cell have a seed of their own in each turn: words 2 t and 2 t + 1 of the stream `PLACE.scan`,
drawn where the loop stands. So a turn's draws don't depend on how many turns there are, and loops
in loops draw like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node, locate, make, substitute, topological
from weft.compiler.loops import Loop, fresh, unrolled
from weft.compiler.types import U32, Dim, SymDim, TensorType
from weft.frontends.dsl.arguments import Given
from weft.frontends.dsl.axes import axis_index
from weft.frontends.dsl.parameters import draw_name
from weft.frontends.dsl.registry import SEED
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import (
    Builtin,
    Closure,
    Label,
    Model,
    Partial,
    Tensor,
    Value,
    as_dim,
    describe,
    shape_text,
)

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter

_SEED = TensorType(U32, (2,))


def scan(
    site: Site,
    x: Value,
    cell: Value,
    start: Value,
    over: Value = 0,
    length: Value = None,
    reverse: Value = False,
    unroll: Value = False,
    **settings: Value,
) -> Value:
    """`cell(x_t, carried)` for each position of the axis `over`: the last carried value, and all.

    The cell gives what it carries on, and behind it what is stacked; a cell that gives only what
    it carries on has that stacked. Several `x` or carried values are lists. `settings` go to the
    cell.
    """
    if not isinstance(cell, Closure | Model | Builtin | Partial):
        raise site.wrong_value(cell, "the cell is a function, a layer or a model")
    for name, flag in (("reverse", reverse), ("unroll", unroll)):
        if not isinstance(flag, bool):
            raise site.wrong_value(flag, f"`{name}` is true or false")
    line = _line(site, x, over, length)
    if unroll and isinstance(line.length, SymDim):
        raise site.wrong(
            "only a known number of turns can be unrolled",
            found=f"{line.length} turns",
            hint="leave `unroll` out: a loop takes any number of turns",
        )
    site.interpreter.effects += 1
    carried = [site.tensor(v) for v in _items(start)]
    body = _Body(site, cell, line, carried)
    results = body.run(settings)
    own, extra = results[: len(carried)], results[len(carried) :]
    loop = body.loop(results, reverse)
    count = len(loop.body.outputs)
    made = unrolled(loop) if unroll else [loop.result(i) for i in range(count)]
    for node in made:
        locate(node, site.interpreter.site or site.span)
    last = [
        Tensor(node, tuple(a or c for a, c in zip(old.axes, new.axes, strict=True)))
        for node, old, new in zip(made, carried, own, strict=False)
    ]
    stacks = zip(made[len(carried) :], extra or own, strict=True)
    every = [line.put_back(node, part) for node, part in stacks]
    several = isinstance(start, list | tuple)
    single = len(extra) == 1 or (not extra and not several)
    return last if several else last[0], every[0] if single else every


@dataclass(frozen=True)
class _Line:
    """The axis that a loop goes along: of each `x`, the axis in front."""

    steps: tuple[Tensor, ...]
    length: Dim
    place: int  # of the axis in the first `x`, and so in what is stacked
    label: Label | None

    def put_back(self, node: Node, part: Tensor) -> Tensor:
        """A stack with its first axis where that of the first `x` was."""
        place = min(self.place, part.rank)
        order = [*range(1, place + 1), 0, *range(place + 1, node.type.rank)]
        axes = (*part.axes[:place], self.label, *part.axes[place:])
        return Tensor(b.transpose(node, order), axes)


def _items(value: Value) -> list[Value]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _line(site: Site, x: Value, over: Value, length: Value) -> _Line:
    tensors = [site.tensor(v) for v in _items(x)]
    places = [axis_index(t, over, site.place(over)) for t in tensors]
    moved = []
    for tensor, place in zip(tensors, places, strict=True):
        order = [place, *(i for i in range(tensor.rank) if i != place)]
        axes = tuple(tensor.axes[i] for i in order)
        moved.append(Tensor(b.transpose(tensor.node, order), axes, tensor.classes))
    sizes: list[Dim] = [t.type.shape[0] for t in moved]
    if length is not None:
        known = as_dim(length)
        if known is None or (isinstance(known, int) and known < 0):
            raise site.wrong_value(length, "`length` is a number of turns")
        sizes.append(known)
    if not sizes:
        raise site.wrong("a loop without `x` needs its `length`")
    if any(size != sizes[0] for size in sizes):
        raise site.wrong(
            "goes along axes of one length",
            expected="the same number of turns for all",
            found=", ".join(str(s) for s in sizes),
        )
    label = next((t.axes[0] for t in moved if t.axes[0] is not None), None)
    return _Line(tuple(moved), sizes[0], places[0] if places else 0, label)


class _Body:
    """The cell applied once, to inputs that stand for any turn's values."""

    def __init__(self, site: Site, cell: Value, line: _Line, carried: Sequence[Tensor]) -> None:
        self.site, self.cell, self.line, self.carried = site, cell, line, carried
        self.interpreter: Interpreter = site.interpreter
        self.taken: set[str] = set()
        names = self._names()
        self.turn = [
            Tensor(self._input(name, t.type.with_shape(t.type.shape[1:])), t.axes[1:], t.classes)
            for name, t in zip(names, line.steps, strict=False)
        ]
        rest = names[len(line.steps) :]
        self.now = [
            Tensor(self._input(name, t.type), t.axes, t.classes)
            for name, t in zip(rest, carried, strict=True)
        ]
        self.seed = self._input("turn.seed", _SEED)

    def _names(self) -> list[str]:
        """What the cell calls its arguments."""
        count = len(self.line.steps) + len(self.carried)
        cell = self.cell.function if isinstance(self.cell, Model | Partial) else self.cell
        known = [p.name for p in cell.decl.parameters or ()] if isinstance(cell, Closure) else []
        return [*known[:count], *(f"value_{i}" for i in range(len(known), count))]

    def _input(self, name: str, type: TensorType) -> Node:
        return b.input_(fresh(name, self.taken), type)

    def run(self, settings: dict[str, Value]) -> list[Tensor]:
        """What the cell gives: carried values, checked, and what is stacked."""
        site, interpreter = self.site, self.interpreter
        given = [Given(None, t, site.span) for t in (*self.turn, *self.now)]
        places = {g.name: g.span for g in site.given}
        given += [Given(k, v, places.get(k, site.span)) for k, v in settings.items()]
        with self._inside():
            value = interpreter.call(self.cell, given, site.span, site.scope)
        results = [site.tensor(v) for v in _items(value)]
        if len(results) < len(self.carried):
            raise site.wrong(
                "the cell gives too little",
                expected=f"{len(self.carried)} values to carry on, and any others to stack",
                found=describe(value),
            )
        for i, (old, new) in enumerate(zip(self.carried, results, strict=False)):
            if old.type != new.type:
                which = f"carried value {i + 1}" if len(self.carried) > 1 else "the carried value"
                raise site.wrong(
                    f"{which} changes its type in a turn",
                    expected=f"{shape_text(old)}, as it starts",
                    found=shape_text(new),
                    hint="a loop's values have the same shape in every turn",
                )
        return results

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """States may be read in a turn, but not updated; draws use the turn's seed."""
        interpreter = self.interpreter
        current, updates = dict(interpreter.current), dict(interpreter.updates)
        interpreter.current[SEED] = self.seed
        try:
            yield
            changed = [k for k, v in interpreter.updates.items() if updates.get(k) is not v]
            if changed:
                raise self.site.wrong(
                    f"the cell updates its state `{changed[0]}`",
                    expected="states that are updated once a step, outside of a loop",
                    hint="carry the value from turn to turn, and update the state with the last",
                )
        finally:
            interpreter.current, interpreter.updates = current, updates

    def loop(self, results: Sequence[Tensor], reverse: bool) -> Loop:
        """The loop over what the cell gave, and over what it read from around."""
        count = len(self.carried)
        outputs = [t.node for t in results[:count]]
        outputs += [t.node for t in results[count:] or results]
        formal = [t.node for t in (*self.now, *self.turn)]
        steps = [t.node for t in self.line.steps]
        if self.seed in topological(outputs):
            formal.append(self.seed)
            steps.append(self._seeds())
        outer = _around(outputs, {*formal})
        fixed = {
            n: self._input(n.name if n.op.name == "input" else n.op.name, n.type) for n in outer
        }
        body = Graph(self._name(), (*formal, *fixed.values()), tuple(substitute(outputs, fixed)))
        return Loop(
            start=tuple(t.node for t in self.carried),
            steps=tuple(steps),
            fixed=tuple(outer),
            body=body,
            length=self.line.length,
            reverse=reverse,
            span=self.interpreter.site or self.site.span,
        )

    def _seeds(self) -> Node:
        interpreter = self.interpreter
        step = b.cast(interpreter.clock(), U32)
        shape, stream = (self.line.length, 2), draw_name(interpreter, "scan")
        return make("random_bits", interpreter.read(SEED), step, shape=shape, stream=stream)

    def _name(self) -> str:
        name: str = getattr(self.cell, "name", "cell")
        return name


def _around(outputs: Sequence[Node], formal: set[Node]) -> list[Node]:
    """The values that a body reads and doesn't make; what no input leads to, it makes itself."""
    inside, grounded = set(formal), set(formal)
    order = topological(outputs)
    for node in order:
        if node.op.name == "input" or any(i in grounded for i in node.inputs):
            grounded.add(node)
        if any(i in inside for i in node.inputs):
            inside.add(node)
    read = [i for n in order if n in inside for i in n.inputs]
    read += outputs
    found = [_unspread(n) for n in read if n in grounded and n not in inside]
    return list(dict.fromkeys(found))


def _unspread(node: Node) -> Node:
    """What is broadcast: the body does that itself, and sums its gradient before it adds up."""
    while node.op.name == "broadcast_in_dim":
        (node,) = node.inputs
    return node
