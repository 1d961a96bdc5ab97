"""Wrong rules, one for each way in which a compiler goes wrong, and the check that is to see it.

Each plants one fault by replacing a row of a table or a function, and names the small spec that
uses what is wrong, the check that has to fail, and a word that its message has to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from weft.backends.numpy import convolution, kernels
from weft.backends.numpy import ops as numpy_ops
from weft.backends.numpy.elementwise import extreme, ufunc
from weft.compiler import builder as b
from weft.compiler import (
    gradient,
    gradient_arrays,
    gradient_elementwise,
    gradient_windows,
    moves,
    philox,
    training,
)
from weft.compiler.graph import Node
from weft.compiler.loops import Loop
from weft.compiler.passes import (
    algebra,
    arena,
    cleanup,
    fold,
    fuse,
    memory,
    movement,
    pack,
    simplify,
    uses,
)
from weft.compiler.pattern import Rule, Rules, number_of

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutation:
    """What is planted, in which spec it shows, which check sees it, and what that says."""

    name: str
    spec: str
    check: str
    says: str
    plant: Plant
    change: tuple[str, str] | None = None  # a fault in the spec's own text


def gradient_rule(op: str, rule: Callable[..., Any]) -> Plant:
    """A wrong gradient of an operation. The right one is `rule.right`."""
    return lambda patch: patch.setitem(gradient.RULES, op, rule)


def attribute(module: Any, name: str, value: Any) -> Plant:
    return lambda patch: patch.setattr(module, name, value)


def row(table: Rules, place: int, replacement: Callable[..., Any]) -> Plant:
    """A wrong replacement in a table of rewrite rules."""
    wrong = table.rows[place]
    rules = (*simplify.RULES.rows,)

    def plant(patch: pytest.MonkeyPatch) -> None:
        changed = [Rule(r.pattern, replacement) if r is wrong else r for r in rules]
        assert changed != list(rules), "the rule is not in the table"
        patch.setattr(simplify, "RULES", Rules(*changed))

    return plant


def place_of(table: Rules, shown: str) -> int:
    """Where in a table the rule with this pattern is."""
    return next(i for i, r in enumerate(table.rows) if str(r.pattern) == shown)


def backend_row(op: str, template: Callable[..., Any]) -> Plant:
    return lambda patch: patch.setitem(numpy_ops.TABLE, op, template)


# -- gradients ------------------------------------------------------------------------------------


def _square_product(ct: Node, node: Node, lhs: Node, rhs: Node) -> tuple[Node, Node]:
    """The transpose is missing where the shapes don't ask for it."""
    d_lhs, d_rhs = gradient_windows.WINDOWS["dot_general"](ct, node, lhs, rhs)
    if rhs.type.rank == 2 and rhs.type.shape[0] == rhs.type.shape[1] and ct.type.rank == 2:
        d_lhs = b.matmul(ct, rhs)
    return d_lhs, d_rhs


def _max_to_all(ct: Node, node: Node, x: Node) -> tuple[Node]:
    return (b.spread(ct, x.type, node.attributes["axes"]),)


def _mean_of_broadcast(ct: Node, node: Node, x: Node) -> tuple[Node]:
    (summed,) = gradient_arrays.ARRAYS["broadcast_in_dim"](ct, node, x)
    made = len([i for i in range(ct.type.rank) if i not in node.attributes["dims"]])
    return (summed * 0.5 if made else summed,)


def _same_permutation(ct: Node, node: Node, x: Node) -> tuple[Node]:
    permutation = node.attributes["permutation"]
    if [ct.type.shape[i] for i in permutation] != list(x.type.shape):
        permutation = [permutation.index(i) for i in range(x.type.rank)]
    return (b.transpose(ct, permutation),)


def _neighbour(ct: Node, node: Node, x: Node, indices: Node) -> tuple[Node, None]:
    return b.scatter_add(b.zeros(x.type), indices + 1, ct, node.attributes["batch_dims"]), None


def _unturned(ct: Node, attributes: Any, x: Node, kernel: Node) -> Node:
    turned = b.reverse(kernel, range(2, kernel.type.rank))
    return _TO_X(ct, attributes, x, turned)


_TO_X = gradient_windows._conv_to_x


def _padded_at_the_wrong_end(ct: Node, attributes: Any, x: Node, kernel: Node) -> Node:
    flipped = b.reverse(x, range(2, x.type.rank))
    return _TO_KERNEL(ct, attributes, flipped, kernel)


_TO_KERNEL = gradient_windows._conv_to_kernel


def _smallest_window(ct: Node, attributes: Any, x: Node) -> Node:
    return _EXTREME(ct, {**attributes, "reducer": "min"}, x)


_EXTREME = gradient_windows._extreme_window


def _forward_loop(cts: Any, node: Node, *operands: Node) -> Any:
    """The backward loop runs the same way as the forward one."""
    parts = gradient.scan_gradient(gradient.vjp, cts, node, *operands)
    loops = [p for p in parts if p is not None and p.op.name == "scan"]
    turned = {p: replace(Loop.of(p), reverse=False).result(p.attributes["result"]) for p in loops}
    return tuple(turned.get(p, p) if p is not None else None for p in parts)


# -- passes ---------------------------------------------------------------------------------------


def _wrong_fold(node: Node, arrays: list[np.ndarray]) -> np.ndarray:
    return np.add(*arrays) if node.op.name == "multiply" else _EVALUATED(node, arrays)


_EVALUATED = fold._evaluated


def _choose_alike(c: Node, x: Node, y: Node) -> Node:
    return b.select(c, x, y)


def _outer_after_inner(x: Node, root: Node) -> Node | None:
    inner, outer = root.inputs[0].attributes["permutation"], root.attributes["permutation"]
    permutation = [outer[i] for i in inner]
    if [x.type.shape[i] for i in permutation] != list(root.type.shape):
        return None
    return b.transpose(x, permutation)


def _count_forgotten(x: Node, root: Node) -> Node | None:
    right = movement._reduce_broadcast(x, root)
    if right is None or root.op.name != "reduce_sum":
        return right
    inner = root.inputs[0]
    made = [a for a in root.attributes["axes"] if a not in inner.attributes["dims"]]
    return right * 2 if made else right


def _next_part(x: Any, arena: pack.Arena) -> tuple[Node, ...]:
    """Members of equal shapes change places."""
    parts = list(_UNPACK(x, arena))
    for i in range(len(parts) - 1):
        if parts[i].type == parts[i + 1].type:
            parts[i], parts[i + 1] = parts[i + 1], parts[i]
            break
    return tuple(parts)


_UNPACK = pack.unpack_values


# -- plans ----------------------------------------------------------------------------------------


def _everything_at_once(slots: Any) -> int:
    """Offsets as if no two values were ever live together."""
    total = 0
    for slot in slots:
        slot.offset = 0
        total = max(total, slot.bytes)
    return arena.aligned(total)


def _first_output_only(*arguments: Any) -> fuse.Group:
    group = _GROUP(*arguments)
    return replace(group, outputs=group.outputs[:1])


_GROUP = fuse._group


# -- steps ----------------------------------------------------------------------------------------


def _clip_forgotten(self: Any, objective: Any, *rest: Any) -> None:
    _GRADIENTS(self, replace(objective, clip=None), *rest)


_GRADIENTS = training._Step._gradients


def _newest_alone(self: Any, average: Any, *rest: Any) -> None:
    _AVERAGE(self, lambda old, new: average(new, new), *rest)


_AVERAGE = training._Step._average


def _slots_exchanged(self: Any, name: str) -> Node:
    other = {"m": "v", "v": "m"}.get(name, name)
    return _RESULT(self, other if other in self.update.initial else name)


_RESULT = moves.Move.result


# -- the backend ----------------------------------------------------------------------------------


def _low_and_high(node: Node) -> convolution.Geometry:
    g = _GEOMETRY(node)
    return replace(g, padding=tuple((high, low) for low, high in g.padding))


_GEOMETRY = convolution.geometry


class _NextStream(kernels.Philox):
    """Draws from the stream of another name."""

    def __init__(self, count: int, stream: str) -> None:
        super().__init__(count, stream + "'")


def _choose_the_other(p: Any, node: Node) -> None:
    condition, yes, no = node.inputs
    swapped = Node(node.op, (condition, no, yes), node.attributes, node.type, node.span)
    p.line(
        f"{p.out(node)}[...] = {p.use('where', np.where)}"
        f"({', '.join(p.operand(i) for i in swapped.inputs)})"
    )


LAYER = "\nlayer mlp(x: f32[B, D]) {\n  let h = x |> dense(6)"

MUTATIONS = (
    # Gradients: a sign, a factor, an axis, a transpose, a position, a direction.
    Mutation(
        "the slope of tanh lacks a power", "dense", "gradient rules", "`tanh`",
        gradient_rule("tanh", lambda ct, y, x: (ct * (1 - y),)),
    ),
    Mutation(
        "a difference passes both signs alike", "dense", "gradient rules", "`subtract`",
        gradient_rule("subtract", lambda ct, z, x, y: (ct, ct)),
    ),
    Mutation(
        "a divisor gets the wrong sign", "dense", "gradient rules", "`divide`",
        gradient_rule("divide", lambda ct, z, x, y: (ct / y, (ct / y) * z)),
    ),
    Mutation(
        "a product is differentiated by one factor", "dense", "gradient rules", "`multiply`",
        gradient_rule("multiply", lambda ct, z, x, y: (ct * y, None)),
    ),
    Mutation(
        "a larger number passes on where it is smaller", "dense", "gradient rules", "`maximum`",
        gradient_rule("maximum", gradient_elementwise.ELEMENTWISE["minimum"]),
    ),
    Mutation(
        "a product lacks a transpose", "dense", "gradient rules", "`dot_general`",
        gradient_rule("dot_general", _square_product),
    ),
    Mutation(
        "a largest element shares its gradient with all", "sequence", "gradient rules",
        "`reduce_max`", gradient_rule("reduce_max", _max_to_all),
    ),
    Mutation(
        "a repeated value gets half the sum", "dense", "gradient rules", "`broadcast_in_dim`",
        gradient_rule("broadcast_in_dim", _mean_of_broadcast),
    ),
    Mutation(
        "a permutation is not inverted", "sequence", "gradient rules", "`transpose`",
        gradient_rule("transpose", _same_permutation),
    ),
    Mutation(
        "a row that is looked up passes on to its neighbour", "sequence", "gradient rules",
        "`gather`", gradient_rule("gather", _neighbour),
    ),
    Mutation(
        "a loop is walked back from its beginning", "sequence", "gradient rules", "`scan`",
        gradient_rule("scan", _forward_loop),
    ),
    Mutation(
        "a kernel is not turned round", "conv", "gradient rules", "`conv`",
        attribute(gradient_windows, "_conv_to_x", _unturned),
    ),
    Mutation(
        "images are padded at the wrong end", "conv", "gradient rules", "`conv`",
        attribute(gradient_windows, "_conv_to_kernel", _padded_at_the_wrong_end),
    ),
    Mutation(
        "a pool passes on to its smallest element", "conv", "gradient rules", "`reduce_window`",
        attribute(gradient_windows, "_extreme_window", _smallest_window),
    ),
    Mutation(
        "a function states a wrong gradient", "dense", "stated gradients", "`bent`",
        lambda patch: None,
        (LAYER, f"fn bent(x) {{\n  x * abs(x)\n  gradient(g) {{ g * abs(x) }}\n}}{LAYER} |> bent"),
    ),
    # Passes: identities of sums, products, powers and choices; movement; folding; sharing.
    Mutation(
        "a - (-b) stays a difference", "dense", "passes", "subtract(x, negate(y))",
        row(
            algebra.SUMS, place_of(algebra.SUMS, "subtract(x, negate(y))"), lambda x, y: x - y
        ),
        ("10) / (1", "10) * (0.5 - -mean(h)) / (1"),
    ),
    Mutation(
        "x + x is not doubled", "dense", "passes", "multiply(add(x, x), c)",
        row(
            algebra.PRODUCTS, place_of(algebra.PRODUCTS, "multiply(add(x, x), c)"),
            lambda x, c: x * number_of(c),
        ),
        ("10) / (1", "10) * (0.25 * (mean(h) + mean(h))) / (1"),
    ),
    Mutation(
        "a cube is a square", "dense", "passes", "power(x, 3)",
        row(algebra.POWERS, place_of(algebra.POWERS, "power(x, 3)"), lambda x: x * x),
        ("10) / (1", "10) / (1 + mean(h)^3"),
    ),
    Mutation(
        "a negated condition chooses alike", "dense", "passes", "select(not(c), x, y)",
        row(
            algebra.CHOICES, place_of(algebra.CHOICES, "select(not(c), x, y)"),
            _choose_alike,
        ),
        ("let h = x", "let h = where(not (x > 0.3), x, 2 * x)"),
    ),
    Mutation(
        "two transposes compose the wrong way", "sequence", "passes", "transpose",
        row(
            movement.LAYOUT, place_of(movement.LAYOUT, "transpose(transpose(x))"),
            _outer_after_inner,
        ),
    ),
    Mutation(
        "a sum over a repeated axis counts twice", "dense", "passes", "reduce_sum",
        row(
            movement.REDUCTIONS,
            next(
                i for i, r in enumerate(movement.REDUCTIONS.rows)
                if r.replace is movement._reduce_broadcast
            ),
            _count_forgotten,
        ),
    ),
    Mutation(
        "products of constants are folded to sums", "dense", "passes", "the pass `optimise`",
        attribute(fold, "_evaluated", _wrong_fold),
    ),
    Mutation(
        "a - b and b - a are shared", "dense", "passes", "`share`",
        attribute(cleanup, "_EITHER_ORDER", cleanup._EITHER_ORDER | {"subtract"}),
        ("10) / (1", "10) * ((mean(x) - mean(h)) / (mean(h) - mean(x)) + 2) / (1"),
    ),
    # Fusion and memory.
    Mutation(
        "a group keeps a result to itself", "dense", "memory", "no result of a group",
        attribute(fuse, "_group", _first_output_only),
    ),
    Mutation(
        "two values that live together share a place", "dense", "memory", "a value of",
        attribute(memory, "pack", _everything_at_once),
    ),
    Mutation(
        "a value is overwritten before its last reader", "conv", "memory", "any more",
        attribute(uses.Uses, "until", lambda *arguments: -1),
    ),
    Mutation(
        "a state is replaced before its old value is read", "dense", "memory", "any more",
        attribute(memory._Planner, "_floor", lambda *arguments: -1),
    ),
    # The step: clipping, averages, slots, the layout of parameters.
    Mutation(
        "gradients are not clipped", "dense", "updates", "than its equations",
        attribute(training._Step, "_gradients", _clip_forgotten),
    ),
    Mutation(
        "an average forgets the past", "dense", "updates", "`average/",
        attribute(training._Step, "_average", _newest_alone),
    ),
    Mutation(
        "two slots of an optimiser are exchanged", "dense", "updates", "adamw",
        attribute(moves.Move, "result", _slots_exchanged),
    ),
    # Random numbers, and the backend's own rows.
    Mutation(
        "a constant of the generator is another", "dense", "random bits", "Philox4x32-10",
        attribute(philox, "MULTIPLIERS", (0xD2511F53, 0xCD9E8D59)),
    ),
    Mutation(
        "the backend draws from another stream", "dense", "random bits", "other bits",
        attribute(kernels, "Philox", _NextStream),
    ),
    Mutation(
        "the backend takes the smaller for the larger", "dense", "kernels", "`maximum` alone",
        backend_row("maximum", extreme("minimum", "{a}")),
    ),
    Mutation(
        "the backend's exponential is of base 2", "dense", "kernels", "`exp` alone",
        backend_row("exp", ufunc("exp2")),
    ),
    Mutation(
        "the backend chooses the other operand", "conv", "kernels", "`select` alone",
        backend_row("select", _choose_the_other),
    ),
    Mutation(
        "the backend pads the other end", "conv", "kernels", "`conv` alone",
        attribute(convolution, "geometry", _low_and_high),
    ),
)  # fmt: skip
