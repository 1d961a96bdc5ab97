"""Where a number that is not finite came from: the first operation, and the line of the spec.

The step is run again from the state before it, operation by operation, by the reference. From the
result that is wrong the search goes down, from each wrong value to a wrong operand, until it stands
at an operation that made one out of finite numbers. Where that is a loop, its turns are run one by
one, and the search goes on in the body, in the first turn that gave a wrong value.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from weft.compiler.errors import Note, RunError, Span
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.loops import Loop
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.types import bind_dim, static_shape

Array = np.ndarray


@dataclass(frozen=True)
class _Seen:
    """What is remembered of a value: whether it has NaNs or infinities, and its finite range."""

    nan: bool
    infinite: bool
    low: float
    high: float

    @property
    def wrong(self) -> bool:
        return self.nan or self.infinite

    @property
    def wrongness(self) -> str:
        return "NaN" if self.nan else "infinity"

    def __str__(self) -> str:
        return self.wrongness if self.wrong else f"{self.low:.6g} to {self.high:.6g}"


@dataclass(frozen=True)
class Origin:
    """The operation that made a value that is not finite, out of what."""

    node: Node
    made: str
    operands: tuple[str, ...]
    backward: bool  # it belongs to a gradient or an update, not to the forward pass
    turns: tuple[int, ...] = ()  # positions of the loops that it is in, the outer first


def origin(
    graph: Graph, inputs: Mapping[str, np.ndarray], batch: int, losses: Sequence[str]
) -> Origin | None:
    """The operation of a training step that first gives a number that is not finite.

    Looks behind the losses first, then behind the other outputs. Where no operation made one, it is
    the input that has one already. None when every output is finite.
    """
    opened = inline_calls(graph, frozenset())
    run = _Run(opened, {node.name: inputs[node.name] for node in opened.inputs}, {"batch": batch})
    run.evaluate()
    outputs = opened.named_outputs
    forward = set(topological([outputs[name] for name in losses]))
    order = [*(outputs[name] for name in losses), *opened.outputs]
    given: Node | None = None
    for node in order:
        if node in run.seen and run.seen[node].wrong:
            found = run.down(node)
            if found.op.name == "input":
                given = given or found
                continue
            culprit, turn, turns = _in_loops(run, found)
            seen = turn.seen
            operands = tuple(str(seen[i]) for i in culprit.inputs if i in seen)
            return Origin(culprit, seen[culprit].wrongness, operands, found not in forward, turns)
    return Origin(given, run.seen[given].wrongness, (), False) if given else None


@dataclass(frozen=True)
class _Run:
    """A graph without calls, or a turn of a loop: what it is run on, and what was seen of it."""

    graph: Graph
    inputs: Mapping[str, np.ndarray]
    sizes: Mapping[str, int]
    innocent: frozenset[Node] = frozenset()  # values that are given, and are as they should be
    seen: dict[Node, _Seen] = field(default_factory=dict)

    def evaluate(self, keep: Container[Node] = ()) -> tuple[dict[str, Array], dict[Node, Array]]:
        """The outputs by name, and the values of the nodes to keep."""
        kept: dict[Node, Array] = {}

        def observe(node: Node, value: Array) -> None:
            if node.type.dtype.kind == "float":
                self.seen[node] = _look(value)
            if node in keep:
                kept[node] = value

        return evaluate(self.graph, self.inputs, self.sizes, observe), kept

    def down(self, node: Node) -> Node:
        """From a wrong value to the operation that made it, or to a wrong input."""
        while True:
            wrong = [
                i
                for i in node.inputs
                if i in self.seen
                and self.seen[i].wrong
                and i not in self.innocent
                and not _constant(i)
            ]
            if not wrong:
                return node
            node = next((i for i in wrong if self.seen[i].nan), wrong[0])


def _in_loops(run: _Run, node: Node) -> tuple[Node, _Run, tuple[int, ...]]:
    """The operation in the body of a loop that made its result wrong, and the turns it is in."""
    turns: tuple[int, ...] = ()
    while node.op.name == "scan":
        found = _first_turn(run, node)
        if found is None:  # wrong as it was given: there is nothing to say of the body
            break
        node, run, turn = found
        turns = (*turns, turn)
    return node, run, turns


def _first_turn(run: _Run, scan: Node) -> tuple[Node, _Run, int] | None:
    """The first turn whose body gives a value that is wrong as the loop's result is."""
    loop, nan = Loop.of(scan), run.seen[scan].nan
    _, values = run.evaluate(frozenset(scan.inputs))
    carried = [values[i] for i in loop.start]
    (length,) = static_shape((bind_dim(loop.length, run.sizes),))
    for turn in reversed(range(length)) if loop.reverse else range(length):
        now = [*carried, *(values[i][turn] for i in loop.steps), *(values[i] for i in loop.fixed)]
        inputs = {n.name: np.asarray(v) for n, v in zip(loop.body.inputs, now, strict=True)}
        inner = _Run(loop.body, inputs, run.sizes, frozenset(loop.body.inputs))
        made, _ = inner.evaluate()
        result = loop.body.outputs[scan.attributes["result"]]
        for node in (result, *loop.body.outputs):
            seen = inner.seen.get(node)
            wrong = seen is not None and (seen.nan if nan else seen.wrong)
            if wrong and node not in inner.innocent:
                return inner.down(node), inner, turn
        carried = list(made.values())[: len(carried)]
    return None


def _constant(node: Node) -> bool:
    """Whether the value is written in the program: a mask's minus infinity is no mistake."""
    while node.op.name in ("broadcast_in_dim", "reshape", "cast"):
        (node,) = node.inputs
    return node.op.name == "constant"


def _look(value: np.ndarray) -> _Seen:
    finite = np.isfinite(value)
    if finite.all():
        low, high = (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
        return _Seen(False, False, low, high)
    good = value[finite]
    low, high = (float(good.min()), float(good.max())) if good.size else (0.0, 0.0)
    nan = bool(np.isnan(value).any())
    return _Seen(nan, bool(np.isinf(value).any()), low, high)


def failure(
    step: int, what: str, found: Origin | None, fields: Mapping[str, Span | None]
) -> RunError:
    """The error for a run that stops at `step` because `what` is not finite.

    `fields` has the places where the data's fields are declared.
    """
    message = f"{what} is not finite at step {step}"
    if found is None:
        return RunError(
            message,
            found="an overflow that the reference, operation by operation, does not have",
            hint=_SMALLER,
        )
    if found.node.op.name == "input":
        name = found.node.name
        return RunError(
            message,
            fields.get(name, found.node.span),
            found=f"{found.made} in the data: in `{name}` of this batch",
            hint="leave such rows out, or replace the values: `where(is_finite(x), x, 0)`",
        )
    span: Span | None = found.node.span
    operands = ", ".join(found.operands)
    where = "in the gradient or the update of this, " if found.backward else ""
    if found.turns:
        several = "s" if len(found.turns) > 1 else ""
        positions = " and ".join(map(str, found.turns))
        where += f"at position{several} {positions} of the loop{several}, "
    notes = []
    if span is None:
        notes.append(Note("the operation belongs to no line of the spec"))
    return RunError(
        message,
        span,
        found=f"{where}`{found.node.op.name}` gave {found.made}"
        + (f" from {operands}" if operands else ""),
        hint=_hint(found),
        notes=notes,
    )


_SMALLER = "a smaller learning rate, or `clip = global_norm(1.0)`"
_HINTS = {
    "log": "keep the argument above zero, such as `log(x + 1e-12)`",
    "divide": "keep the divisor away from zero, such as `x / (y + 1e-8)`",
    "sqrt": "keep the argument at or above zero",
    "rsqrt": "keep the argument above zero, such as `rsqrt(x + 1e-8)`",
    "exp": "subtract the largest value before `exp`",
}


def _hint(found: Origin) -> str:
    if found.node.op.name == "power" and found.made == "NaN":
        return "a negative base needs a whole exponent"
    return _HINTS.get(found.node.op.name, _SMALLER)
