"""Work moved out of loops: before them what waits for no turn, behind them what no turn waits for.

    h[t] = f(x[t] @ W + h[t-1] @ U)            x @ W for all turns at once, before
    y[t] = h[t] @ V                            h @ V for all turns at once, behind
    dW   = sum over t of x[t]' @ dz[t]         one product over turns and examples, behind

What moves is products with something fixed, with what leads to them or is made of them element by
element; sums over all turns; and anything that is the same in every turn. The rest stays: in a loop
it needs the memory of one turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node, below, make, substitute, topological
from weft.compiler.loops import Loop, fresh, turning
from weft.compiler.ops import Kind
from weft.compiler.passes.loops import Remade, Results, rewrite_loops
from weft.compiler.passes.vectorise import can_vectorise, vectorise
from weft.compiler.pattern import number_of

# Movement that is free where it is read: not worth an operand of its own.
_FREE = frozenset({"reshape", "transpose", "broadcast_in_dim", "slice", "reverse"})


@dataclass(eq=False)
class _Outside:
    """Values of a body's nodes outside of the loop: as stacks over all turns, or fixed."""

    loop: Loop
    turns: set[Node]
    stacks: dict[Node, Node]

    def stack(self, node: Node) -> Node | None:
        """The node over all turns, out of the stacks that are known; None where one op can't."""
        for inner in below([node], self.stacks):
            if inner not in self.turns:
                continue
            flags = [i in self.turns for i in inner.inputs]
            operands = [
                self.stacks[i] if flag else self.fixed(i)
                for i, flag in zip(inner.inputs, flags, strict=True)
            ]
            made = vectorise(inner, operands, flags, self.loop.length)
            if made is None:
                return None
            self.stacks[inner] = made
        return self.stacks[node]

    def fixed(self, node: Node) -> Node:
        """A node that is the same in every turn."""
        values = dict(zip(self.loop.shared, self.loop.fixed, strict=True))
        return substitute([node], values)[0]


def _is_product(node: Node, turns: set[Node]) -> bool:
    """A product with something fixed: one large product for all turns instead of many."""
    return node.op.kind is Kind.CONTRACTION and sum(i in turns for i in node.inputs) == 1


def _rebuilt(
    loop: Loop,
    values: Mapping[Node, Node],
    steps: Mapping[Node, Node],
    fixed: Mapping[Node, Node],
) -> Loop:
    """The loop with inner nodes replaced, and operands added as new inputs of the body."""
    inputs = (*loop.carried, *loop.stepped, *steps, *loop.shared, *fixed)
    outputs = tuple(substitute(loop.body.outputs, values))
    return replace(
        loop,
        steps=(*loop.steps, *steps.values()),
        fixed=(*loop.fixed, *fixed.values()),
        body=Graph(loop.body.name, inputs, outputs, loop.body.output_names),
    )


# -- before the loop ------------------------------------------------------------------------------


def hoist(graph: Graph) -> Graph:
    """The graph with what is the same in every turn, and products that don't wait for a carried
    value, made before the loop.

    Requires a verified graph; ensures the same signature, types and values but for rounding.
    """
    return rewrite_loops(graph, _hoist)


def _hoist(loop: Loop, used: frozenset[int]) -> Results | None:
    turns = turning((*loop.carried, *loop.stepped), loop.body.outputs)
    waits = turning(loop.carried, loop.body.outputs)
    nodes, outputs = loop.body.nodes, set(loop.body.outputs)
    users = loop.body.users
    grounded = turning(loop.shared, loop.body.outputs)

    def stays(node: Node) -> bool:
        return node in turns or node.op.name in _FREE

    still = [
        n
        for n in nodes
        if n in grounded
        and not stays(n)
        and n.op.name != "input"
        and (n in outputs or any(stays(u) for u in users[n]))
    ]
    free = _ahead(loop, [n for n in nodes if n in turns and n not in waits], turns)
    front = [n for n in free if n in outputs or any(u not in free for u in users[n])]
    if not still and not front:
        return None
    taken = {n.name for n in loop.body.inputs}
    outside = _Outside(loop, turns, dict(zip(loop.stepped, loop.steps, strict=True)))
    values, steps, fixed = {}, {}, {}
    for node in front:
        stack = outside.stack(node)
        if stack is not None:
            values[node] = place = b.input_(fresh(node.op.name, taken), node.type)
            steps[place] = stack
    for node in still:
        values[node] = place = b.input_(fresh(node.op.name, taken), node.type)
        fixed[place] = outside.fixed(node)
    return Remade(_rebuilt(loop, values, steps, fixed)) if values else None


def _ahead(loop: Loop, nodes: Sequence[Node], turns: set[Node]) -> dict[Node, None]:
    """Of nodes that wait for no carried value: products, what they need, and sums of them."""
    can = set(loop.stepped)
    inside = set(nodes)
    for node in nodes:
        if can_vectorise(node) and all(i in can or i not in inside for i in node.inputs):
            can.add(node)
    made: set[Node] = set()
    for node in nodes:
        grows = node.op.kind is Kind.ELEMENTWISE and any(i in made for i in node.inputs)
        if node in can and (_is_product(node, turns) or grows):
            made.add(node)
    needed = set(made)
    for node in reversed(nodes):
        if node in needed:
            needed.update(i for i in node.inputs if i in inside)
    return {n: None for n in nodes if n in needed and n.op.name != "input"}


# -- behind the loop ------------------------------------------------------------------------------


def sink(graph: Graph) -> Graph:
    """The graph with sums over all turns, and products that no later turn reads, made behind the
    loop, from stacks of what they are made of.

    Requires a verified graph; ensures the same signature, types and values but for rounding.
    """
    return rewrite_loops(rewrite_loops(graph, _sink_sums), _sink_stacks)


def _sink_stacks(loop: Loop, used: frozenset[int]) -> Results | None:
    turns = turning((*loop.carried, *loop.stepped), loop.body.outputs)
    needed = set(topological(loop.next))
    tail = _behind(loop, turns, needed)
    ends = [i for i, n in enumerate(loop.body.outputs) if n in tail and i in used]
    if not ends:
        return None
    first, turned = len(loop.start), loop.stepped
    kept = [n for i, n in enumerate(loop.body.outputs) if i < first or n not in tail]
    places: dict[int, int] = {}
    for i, node in enumerate(loop.body.outputs):
        if i not in ends and (i < first or node not in tail):
            places[i] = i if i < first else kept.index(node, first)
    sources: dict[Node, int] = {}
    for node in tail:
        for operand in node.inputs:
            if operand in turns and operand not in tail and operand not in turned:
                if operand not in kept[first:]:
                    kept.append(operand)
                sources[operand] = kept.index(operand, first)
    less = replace(loop, body=Graph(loop.body.name, loop.body.inputs, tuple(kept)))
    remade = Remade(less)
    stacks = dict(zip(loop.stepped, loop.steps, strict=True))
    stacks |= {n: remade(i) for n, i in sources.items()}
    outside = _Outside(loop, turns, stacks)
    made = {i: outside.stack(loop.body.outputs[i]) for i in ends}
    if any(node is None for node in made.values()):
        return None
    return lambda i: made.get(i) or remade(places[i])


def _behind(loop: Loop, turns: set[Node], needed: set[Node]) -> dict[Node, None]:
    """Nodes that no later turn reads: products, and what is made of them."""
    users, nodes = loop.body.users, loop.body.nodes
    can: set[Node] = set()
    for node in reversed(nodes):
        late = node in turns and node not in needed and node.op.name != "input"
        if late and can_vectorise(node) and all(u in can for u in users[node]):
            can.add(node)
    tail: dict[Node, None] = {}
    for node in nodes:
        if node in can and (_is_product(node, turns) or any(i in tail for i in node.inputs)):
            tail[node] = None
    return tail


def _sink_sums(loop: Loop, used: frozenset[int]) -> Results | None:
    """Carried sums `c + g`, of which only the last is read, as sums of stacks of what `g` is of."""
    users = loop.body.users
    turns = turning((*loop.carried, *loop.stepped), loop.body.outputs)
    sums: dict[int, list[Node]] = {}
    for i, (place, after) in enumerate(zip(loop.carried, loop.next, strict=True)):
        alone = loop.body.outputs.count(after) == 1 and place not in loop.body.outputs
        if alone and (terms := _terms(place, after, users)):
            sums[i] = terms
    wanted = {i: [g for g in terms if _can_sum(g, turns)] for i, terms in sums.items()}
    wanted = {i: terms for i, terms in wanted.items() if terms}
    if not wanted:
        return None
    leaves = list(dict.fromkeys(n for gs in wanted.values() for g in gs for n in _leaves(g, turns)))
    outputs = list(loop.body.outputs)
    for i, terms in wanted.items():
        outputs[i] = loop.carried[i]
        for g in sums[i]:
            if g not in terms:
                outputs[i] = outputs[i] + g
    first = len(outputs)
    remade = Remade(
        replace(loop, body=Graph(loop.body.name, loop.body.inputs, (*outputs, *leaves)))
    )
    stacks = {n: remade(first + k) for k, n in enumerate(leaves)}
    outside = _Outside(loop, turns, stacks)

    def result(i: int) -> Node:
        total = remade(i)
        for g in wanted.get(i, ()):
            total = total + _summed(g, outside)
        return total

    return result


def _terms(place: Node, after: Node, users: Mapping[Node, Sequence[Node]]) -> list[Node]:
    """The `g`s of `c + g1 + g2`, if this is all that is read of `c`."""
    terms: list[Node] = []
    while after is not place:
        if after.op.name != "add" or len(users[after]) > (1 if terms else 0):
            return []
        left, right = after.inputs
        if _reads(left, place):
            after, term = left, right
        else:
            after, term = right, left
        if _reads(term, place):
            return []
        terms.append(term)
    return terms if len(users[place]) == 1 else []


def _reads(node: Node, place: Node) -> bool:
    while node.op.name == "add" and node is not place:
        left, right = node.inputs
        if place in (left, right):
            return True
        node = left
    return node is place


def _can_sum(node: Node, turns: set[Node]) -> bool:
    """Whether the sum over turns is one op over stacks, or a movement of such a sum."""
    if node not in turns:
        return False
    match node.op.name:
        case "dot_general":
            return all(i in turns for i in node.inputs)
        case "reduce_sum":
            return True
        case "transpose" | "reshape" | "negate":
            return _can_sum(node.inputs[0], turns)
        case "scatter_add":
            table, *rest = node.inputs
            empty = number_of(table) == 0 and node.attributes["batch_dims"] == 0
            return empty and all(i in turns for i in rest)
    return False


def _leaves(node: Node, turns: set[Node]) -> list[Node]:
    if node.op.name in ("transpose", "reshape", "negate"):
        return _leaves(node.inputs[0], turns)
    return [i for i in node.inputs if i in turns]


def _summed(node: Node, outside: _Outside) -> Node:
    """The sum of a node over all turns."""
    stacks = outside.stacks
    match node.op.name:
        case "dot_general":
            x, y = (stacks[i] for i in node.inputs)
            contract, batch = node.attributes["contract"], node.attributes["batch"]
            axes = [(0, *(a + 1 for a in part)) for part in contract]
            outer = [tuple(a + 1 for a in part) for part in batch]
            factors = node.attributes.get("factors")
            return b.dot_general(x, y, (axes[0], axes[1]), (outer[0], outer[1]), factors)
        case "reduce_sum":
            return b.reduce_sum(
                stacks[node.inputs[0]], (0, *(a + 1 for a in node.attributes["axes"]))
            )
        case "scatter_add":
            _, *rest = node.inputs
            places, updates = (stacks[i] for i in rest)
            return b.scatter_add(b.zeros(node.type), places, updates)
    return make(node.op.name, _summed(node.inputs[0], outside), **node.attributes)
