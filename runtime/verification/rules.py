"""Gradients of single operations and functions, each alone against its slope.

gradient rules      each operation of the losses, at the values that it sees there
stated gradients    each `gradient` clause, against the body that it stands for
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from weft.compiler import builder as b
from weft.compiler.composites import bodies
from weft.compiler.evaluate import evaluate, evaluate_node
from weft.compiler.gradient import RULES, vjp
from weft.compiler.graph import Graph, Node, make, substitute
from weft.compiler.loops import Loop, loop_key
from weft.compiler.training import forward_graph, inlined
from weft.compiler.types import static_shape
from weft.runtime.verification.losses import Losses, pinned
from weft.runtime.verification.report import Check, Tally
from weft.runtime.verification.slopes import Line, Slopes, along, dot
from weft.runtime.verification.subject import Arrays, Subject, opened

# -- operations on their own ----------------------------------------------------------------------

MASK = 1e30  # larger numbers stand for infinity, and stay where they are

# What can't take a negative number, and what would be at the end of its range at 0.
_POSITIVE = frozenset({"log", "sqrt", "rsqrt", "power", "log1p"})


def rules(subject: Subject) -> Check:
    """The gradient of each operation that the losses are made of."""
    found = Slopes(Tally("gradient rules", "each operation of the losses against its slope"))
    for node, operands in _operations(subject):
        _rule(found, node, operands)
    return found.check()


def _operations(subject: Subject) -> Iterator[tuple[Node, list[np.ndarray]]]:
    """Each distinct operation with a gradient rule, and values that its operands have."""
    losses = Losses.of(subject)
    seen: dict[object, tuple[Node, list[np.ndarray]]] = {}

    def note(node: Node, operands: list[np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
        if node.op.name in RULES and node.type.dtype.kind == "float":
            key = (node.op.name, repr(dict(node.attributes)), *(i.type for i in node.inputs))
            constant = tuple(_is_constant(i) for i in node.inputs)
            seen.setdefault((key, constant), (node, [x.copy() for x in operands]))
        return evaluate_node(node, operands, sizes)

    values: dict[Node, np.ndarray] = {}
    scans = {loop_key(n): n for n in losses.graph.nodes if n.op.name == "scan"}
    kept = {i for n in scans.values() for i in n.inputs}

    def observe(node: Node, value: np.ndarray) -> None:
        if node in kept:
            values[node] = value

    evaluate(losses.graph, losses.values, None, observe, note)
    yield from seen.values()
    for node in scans.values():
        yield node, [values[i] for i in node.inputs]


def _noise(node: Node, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(static_shape(node.type.shape))


def _is_constant(node: Node) -> bool:
    while node.op.name in ("broadcast_in_dim", "reshape", "cast"):
        (node,) = node.inputs
    return node.op.name == "constant"


def _rule(found: Slopes, node: Node, operands: list[np.ndarray]) -> None:
    name = node.op.name
    inputs = [
        operand if _is_constant(operand) else b.input_(f"x{i}", operand.type)
        for i, operand in enumerate(node.inputs)
    ]
    free = [i for i in inputs if i.op.name == "input" and i.type.dtype.kind == "float"]
    if not free or not all(np.isfinite(x).all() for x in operands if x.dtype.kind == "f"):
        return
    results = [make(name, *inputs, **node.attributes)]
    if name == "scan":
        results = _all_results(results[0])
    results = [r for r in results if r.type.dtype.kind == "float"]
    given = [b.input_(f"ct{i}", r.type) for i, r in enumerate(results)]
    gradients = vjp(results, given, free)
    named = [i for i in inputs if i.op.name == "input"]
    forward = Graph("rule", tuple(named), tuple(results))
    backward = Graph("gradient", (*named, *given), tuple(gradients), tuple(f.name for f in free))
    values = {
        i.name: _off_kinks(x, name, found.rng) if i in free else x
        for i, x in zip(inputs, operands, strict=True)
        if i.op.name == "input"
    }
    what = f"`{name}` of {', '.join(str(i.type) for i in node.inputs)}"
    found.hold(
        what,
        lambda rng: _local(forward, backward, values, given, rng, name),
        f"the gradient rule of `{name}` is wrong",
        node.span,
        f" of {what}",
    )


def _all_results(node: Node) -> list[Node]:
    loop = Loop.of(node)
    return [loop.result(i) for i in range(len(loop.body.outputs))]


def _off_kinks(x: np.ndarray, op: str, rng: np.random.Generator) -> np.ndarray:
    """The operand a little elsewhere, so that no two numbers tie and none is 0 by chance."""
    plain = np.where(np.abs(x) < MASK, x, 0.0)
    size = float(np.sqrt(np.mean(np.square(plain)))) if x.size else 1.0
    noise = rng.standard_normal(x.shape)
    moved = plain * (1 + 0.02 * noise) + np.where(x == 0, (size or 1.0) * 0.1 * noise, 0.0)
    return np.where(np.abs(x) < MASK, np.abs(moved) if op in _POSITIVE else moved, x)


def _local(
    forward: Graph,
    backward: Graph,
    values: Arrays,
    given: Sequence[Node],
    rng: np.random.Generator,
    op: str,
) -> tuple[Line, float, float]:
    cotangents = {n.name: _noise(n, rng) for n in given}
    direction = {}
    for name in backward.output_names:
        x = values[name]
        far = np.where(np.abs(x) < MASK, np.abs(x), 0.0)
        least = 0.0 if op in _POSITIVE else 1e-3 * float(far.max(initial=1e-3))
        far = np.where(np.abs(x) < MASK, far + least, 0.0)
        direction[name] = rng.standard_normal(x.shape) * far
    claimed, size = dot(direction, evaluate(backward, {**values, **cotangents}))

    def line(h: float) -> float:
        results = evaluate(forward, along(values, direction, h)).values()
        return float(
            sum(np.sum(r * ct) for r, ct in zip(results, cotangents.values(), strict=True))
        )

    return line, claimed, size


# -- gradients that functions state ---------------------------------------------------------------


def stated(subject: Subject) -> Check:
    """Each `gradient` clause against the slope of the body."""
    found = Slopes(Tally("stated gradients", "each `gradient` clause against its body's slope"))
    for call, operands in _stated(subject):
        _agrees(found, call, operands, subject.few)
    return found.check()


def changed(subject: Subject) -> frozenset[str]:
    """The functions whose clause is another gradient than their body's."""
    found = Slopes(Tally("", ""))
    return frozenset(
        str(call.attributes["name"])
        for call, operands in _stated(subject)
        if not _agrees(found, call, operands, subject.few)
    )


def _stated(subject: Subject) -> Iterator[tuple[Node, list[np.ndarray]]]:
    """Each distinct call with a clause, and values that its arguments have."""
    forward = inlined(subject.wide.experiment.forward, frozenset())
    whole = forward_graph(forward)
    seen: dict[object, Node] = {}
    for part in (whole, *bodies(whole)):
        for node in part.nodes:
            if node.op.name == "call" and node.attributes["gradient"] is not None:
                key = (
                    node.attributes["name"],
                    node.attributes["config"],
                    *(i.type for i in node.inputs),
                )
                seen.setdefault(key, node)
    outside = [node for node in seen.values() if node in set(whole.nodes)]
    operands = list(dict.fromkeys(i for node in outside for i in node.inputs))
    losses = Losses.of(subject)
    values = losses.evaluated({str(i): node for i, node in enumerate(operands)})
    known = dict(zip(operands, values.values(), strict=True))
    rng = np.random.default_rng(17)
    for node in seen.values():
        if node in outside:
            yield node, [known[i] for i in node.inputs]
        elif all(i.type.dtype.kind == "float" and i.type.is_static for i in node.inputs):
            yield node, [_noise(i, rng) for i in node.inputs]


def _agrees(found: Slopes, call: Node, operands: list[np.ndarray], few: int) -> bool:
    """Whether the clause is the gradient of the body, where that can be seen."""
    name = str(call.attributes["name"]).rpartition(".")[2]
    body, clause = (opened(call.attributes[part], few) for part in ("body", "gradient"))
    if body.outputs[0].type.dtype.kind != "float":
        return True
    free = [i for i in range(len(operands)) if operands[i].dtype.kind == "f"]
    values = {
        f"x{i}": _off_kinks(x, "", found.rng) if i in free else x for i, x in enumerate(operands)
    }
    if not all(np.isfinite(x).all() for x in values.values() if x.dtype.kind == "f"):
        return True
    named = [b.input_(f"x{i}", n.type) for i, n in enumerate(body.inputs)]
    ct = b.input_("ct0", body.outputs[0].type)
    forward = pinned(_renamed(body, named), values)
    backward = _renamed(clause, [*named, ct])
    backward = backward.with_outputs({f"x{i}": backward.outputs[i] for i in free})
    if not _is_linear(backward, values, ct, found.rng):
        found.tally.notes.append(f"`{name}` changes gradients on purpose: its clause is not linear")
        return False
    what = f"`{name}` of {', '.join(str(n.type) for n in named)}"
    return found.hold(
        what,
        lambda rng: _local(forward, backward, values, [ct], rng, ""),
        f"the gradient that `{name}` states is not that of its body",
        call.span,
        hint="where another gradient is meant, `stop_gradient` says so: "
        "`x + stop_gradient(round(x) - x)`",
    )


def _renamed(graph: Graph, inputs: Sequence[Node]) -> Graph:
    outputs = substitute(graph.outputs, dict(zip(graph.inputs, inputs, strict=True)))
    return Graph(graph.name, tuple(inputs), tuple(outputs))


def _is_linear(graph: Graph, values: Arrays, ct: Node, rng: np.random.Generator) -> bool:
    """Whether the clause is linear in the gradient that it is given, as every derivative is."""
    one, two = _noise(ct, rng), _noise(ct, rng)
    parts = [evaluate(graph, {**values, ct.name: g}) for g in (one, two, one - 3 * two)]
    with np.errstate(all="ignore"):
        return all(
            np.allclose(whole, a - 3 * c, rtol=1e-8, atol=1e-12, equal_nan=True)
            for a, c, whole in zip(*(part.values() for part in parts), strict=True)
        )
