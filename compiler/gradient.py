"""Reverse-mode differentiation: one rule an op, one walk from the outputs back.

    vjp(outputs, cotangents, wrt)      sum over outputs of cotangent * d(output)/d(w), for each w
    differentiate(output, wrt)         the same for one scalar, with cotangent 1

Rules are written in ops, so gradients can be differentiated again. A rule builds the cotangents of
all operands; those that nobody asked for are simply not used. The results of a loop have one rule
together, `scan`, which takes a cotangent or None for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, InternalError
from weft.compiler.gradient_arrays import ARRAYS
from weft.compiler.gradient_elementwise import ELEMENTWISE, Cotangents, Rule
from weft.compiler.gradient_loops import scan_gradient
from weft.compiler.gradient_windows import WINDOWS
from weft.compiler.graph import Graph, Node, inline, locate, rewrite, substitute, topological
from weft.compiler.loops import loops_of
from weft.compiler.types import Dim

RULES: dict[str, Rule] = {
    **ELEMENTWISE,
    **ARRAYS,
    **WINDOWS,
    "scan": lambda cts, node, *operands: scan_gradient(vjp, cts, node, *operands),
}

_SOURCE = "has no operand to differentiate by"
_STEPS = "is constant wherever it is continuous: its gradient is 0"
_DISCRETE = "its result is not of a floating type"

NO_GRADIENT: dict[str, str] = {
    **dict.fromkeys(("input", "constant", "iota", "dim_size", "random_bits"), _SOURCE),
    **dict.fromkeys(("sign", "floor", "ceil", "round"), _STEPS),
    **dict.fromkeys(
        (
            *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "is_finite"),
            *("and", "or", "xor", "not", "shift_left", "shift_right", "floor_divide"),
            *("reduce_and", "reduce_or", "arg_max", "arg_min", "arg_sort", "arg_top_k"),
            "arg_reduce_window",
        ),
        _DISCRETE,
    ),
    "stop_gradient": "is there to stop it",
    "call": "is differentiated by its stated gradient, else through its body",
}
"""Why the ops without a rule have none."""


def differentiate(output: Node, wrt: Sequence[Node]) -> list[Node]:
    """The gradient of a scalar by each of `wrt`, of its type; zeros where it does not depend on it.

    Raises CompileError when `output` is no scalar of a floating type, or one of `wrt` not floating.
    """
    if output.type.shape or not _is_float(output):
        raise CompileError(
            "only a scalar has a gradient",
            output.span,
            expected="a floating-point scalar, such as `f32[]`",
            found=f"`{output.type}`",
            hint="reduce it first, with `mean` or `sum`",
        )
    return vjp([output], [b.ones(output.type)], wrt)


def vjp(outputs: Sequence[Node], cotangents: Sequence[Node], wrt: Sequence[Node]) -> list[Node]:
    """`sum_i cotangents[i] * d outputs[i] / d w` for each `w`, of its type.

    A `w` may be any node, also one that another `w` depends on. Raises CompileError when a `w` is
    not of a floating type; each cotangent must have its output's type.
    """
    for w in wrt:
        if not _is_float(w):
            raise CompileError(
                "only a floating-point value can be differentiated by", w.span, found=f"`{w.type}`"
            )
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if output.type != cotangent.type:
            raise InternalError(f"a cotangent {cotangent.type} for {output.type}")
    outputs, targets, order, active = _open_calls(outputs, wrt)
    arrived: dict[Node, list[Node]] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        arrived.setdefault(output, []).append(cotangent)
    totals: dict[Node, Node] = {}
    wanted = frozenset(targets)
    loops = {node: loop for loop in loops_of(order) for node in loop}
    ends: dict[Node, Node] = {}
    for node in reversed(order):
        ct: Node | Sequence[Node | None] | None = None
        if node in arrived and node in active:
            ends[node] = ct = _total(arrived.pop(node), node)
            if node in wanted:
                totals[node] = ct
        if node in loops:
            ct = _together(node, loops[node], ends)
        if ct is None or not any(i in active for i in node.inputs):
            continue
        for operand, part in zip(node.inputs, _apply(node, ct), strict=True):
            if part is not None and operand in active:
                arrived.setdefault(operand, []).append(locate(part, node.span))
    span = outputs[0].span if outputs else None
    return [totals.get(w) or locate(b.zeros(w.type), span) for w in targets]


def _together(
    node: Node, loop: Sequence[Node], ends: Mapping[Node, Node]
) -> tuple[Node | None, ...] | None:
    """All cotangents of a loop, at the first of its nodes: the last that the walk comes to."""
    if node is not loop[0] or not any(n in ends for n in loop):
        return None
    known = {n.attributes["result"]: ends[n] for n in loop if n in ends}
    return tuple(known.get(i) for i in range(len(node.attributes["body"].outputs)))


def _is_float(node: Node) -> bool:
    return node.type.dtype.kind == "float"


def _total(parts: list[Node], node: Node) -> Node:
    """The one place where cotangents add up."""
    span = node.span or parts[-1].span
    joined = _joined(parts)
    if joined is not None:
        return locate(joined, span)
    total = parts[0]
    for part in parts[1:]:
        total = locate(total + part, span)
    return total


def _joined(parts: list[Node]) -> Node | None:
    """The cotangents of the pieces that something was split into, side by side, not as a sum.

    They come as pieces padded with zeros; here those that exactly tile one axis.
    """
    if len(parts) < 2 or any(p.op.name != "pad" or p.attributes["value"] != 0 for p in parts):
        return None
    ends = [(p.attributes["low"], p.attributes["high"]) for p in parts]
    axes = {i for low, high in ends for i in range(len(low)) if (low[i], high[i]) != (0, 0)}
    if len(axes) != 1 or any(any(p.attributes["interior"]) for p in parts):
        return None
    (axis,) = axes
    start: Dim = 0
    remaining = {low[axis]: p.inputs[0] for (low, _), p in zip(ends, parts, strict=True)}
    pieces: list[Node] = []
    while start in remaining:
        piece = remaining.pop(start)
        if piece.type.shape[axis] == 0:
            return None
        pieces.append(piece)
        start = start + piece.type.shape[axis]
    whole = start == parts[0].type.shape[axis] and len(pieces) == len(parts)
    return b.concat(pieces, axis) if whole else None


def _apply(node: Node, ct: Node | Sequence[Node | None]) -> Cotangents:
    stated: Graph | None = node.attributes.get("gradient") if node.op.name == "call" else None
    if stated is not None and isinstance(ct, Node):
        arguments = dict(zip(stated.inputs, (*node.inputs, ct), strict=True))
        parts: Cotangents = tuple(substitute(stated.outputs, arguments))
    elif node.op.name in RULES:
        parts = RULES[node.op.name](ct, node, *node.inputs)
    else:
        raise InternalError(f"`{node.op}` has neither a gradient nor a reason for having none")
    for operand, part in zip(node.inputs, parts, strict=True):
        if part is not None and _is_float(operand) and part.type != operand.type:
            raise InternalError(f"`{node.op}` gives {operand.type} a gradient {part.type}")
    return parts


def _active(order: Sequence[Node], wrt: Sequence[Node]) -> set[Node]:
    """The nodes through which a gradient flows to one of `wrt`: for look-up, never iterated."""
    active = set(wrt)
    for node in order:
        flows = node.op.name == "call" or node.op.name not in NO_GRADIENT
        if flows and _is_float(node) and any(i in active for i in node.inputs):
            active.add(node)
    return active


def flowing(outputs: Sequence[Node]) -> set[Node]:
    """The nodes that a gradient of the outputs reaches: for look-up, never iterated."""
    reached: set[Node] = set()
    pending = [o for o in outputs if _is_float(o)]
    while pending:
        node = pending.pop()
        if node in reached:
            continue
        reached.add(node)
        pending += (i for i in _passed_to(node) if _is_float(i))
    return reached


def _passed_to(node: Node) -> Sequence[Node]:
    """The operands that a node passes its gradient on to."""
    if node.op.name == "call":
        body: Graph = node.attributes["body"]
        if node.attributes["gradient"] is not None:
            return node.inputs
        inner = flowing(body.outputs)
        return [a for a, formal in zip(node.inputs, body.inputs, strict=True) if formal in inner]
    return () if node.op.name in NO_GRADIENT else node.inputs


def _open_calls(
    outputs: Sequence[Node], wrt: Sequence[Node]
) -> tuple[list[Node], list[Node], list[Node], set[Node]]:
    """Outputs and `wrt` with the bodies of active calls in place, unless a gradient is stated.

    Also the nodes, operands first, and which of them are active. A turn a level of nesting.
    """
    opened, targets = list(outputs), list(wrt)
    while True:
        order = topological(opened)
        active = _active(order, targets)

        def is_open(node: Node, active: set[Node] = active) -> bool:
            has_none = node.op.name == "call" and node.attributes["gradient"] is None
            return has_none and node in active and any(i in active for i in node.inputs)

        if not any(is_open(node) for node in order):
            return opened, targets, order, active

        def replace(node: Node, operands: tuple[Node, ...]) -> Node | None:
            return locate(inline(node, operands), node.span) if is_open(node) else None

        done = rewrite(order, replace)
        opened = [done[o] for o in opened]
        targets = [done.get(w, w) for w in targets]
