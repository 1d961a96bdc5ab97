"""Where a number that is not finite came from: the first operation, and the line of the spec.

The step is run again from the state before it, operation by operation, by the reference. From the
result that is wrong the search goes down, from each wrong value to a wrong operand, until it stands
at an operation that made one out of finite numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weft.compiler.errors import Note, RunError, Span
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.passes.decompose import inline_calls


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


def origin(
    graph: Graph, inputs: Mapping[str, np.ndarray], batch: int, losses: Sequence[str]
) -> Origin | None:
    """The operation of a training step that first gives a number that is not finite.

    Looks behind the losses first, then behind the other outputs. Where no operation made one, it is
    the input that has one already. None when every output is finite.
    """
    opened = inline_calls(graph, frozenset())
    seen: dict[Node, _Seen] = {}

    def observe(node: Node, value: np.ndarray) -> None:
        if node.type.dtype.kind == "float":
            seen[node] = _look(value)

    used = {node.name: inputs[node.name] for node in opened.inputs}
    evaluate(opened, used, {"batch": batch}, observe)
    outputs = opened.named_outputs
    forward = set(topological([outputs[name] for name in losses]))
    order = [*(outputs[name] for name in losses), *opened.outputs]
    given: Node | None = None
    for node in order:
        if node in seen and seen[node].wrong:
            found = _down(node, seen)
            if found.op.name == "input":
                given = given or found
                continue
            operands = tuple(str(seen[i]) for i in found.inputs if i in seen)
            return Origin(found, seen[found].wrongness, operands, found not in forward)
    return Origin(given, seen[given].wrongness, (), False) if given else None


def _down(node: Node, seen: Mapping[Node, _Seen]) -> Node:
    while True:
        wrong = [i for i in node.inputs if i in seen and seen[i].wrong and not _constant(i)]
        if not wrong:
            return node
        node = next((i for i in wrong if seen[i].nan), wrong[0])


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
