"""Attention in parts that never have its weights in memory: which nodes make a kernel of its own.

    s = q k^T    a = s scaled, masked    p = exp(a - max a) / sum exp(a - max a)    o = p v

    forward      reads q, k, v                     leaves o, and the maximum and the sum of each row
    queries      reads them, do and d = sum do o   leaves dq = ds k
    keys         reads the same                    leaves dk = ds^T q and dv = p^T do

Every value of queries by keys is computed again in each part: the gradients need s, and from it p,
by way of two numbers a row. A gradient's sum over a row, `sum dp p`, is `sum do o` as well, which
is a sum over the size of values (Dao et al. 2022, "FlashAttention"). Masks, scales and dropout are
whatever elementwise operations stand there: what depends on both a query and a key is computed
where it is needed, what depends on one of them is read.

A softmax is left as it was if anything but these parts reads a value of queries by keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node, locate, rebuild
from weft.compiler.index import Axis, Index, Indices
from weft.compiler.ops import Kind
from weft.compiler.passes.attention_products import OuterProduct, inner_product, outer_product
from weft.compiler.passes.elements import moved, shape_of
from weft.compiler.passes.fuse import MAPS

MOST = 2  # products, and sums, of a part

Regions = tuple[tuple[Node, ...], ...]


def attend(graph: Graph, widest: int) -> tuple[Graph, Regions]:
    """The graph with nodes of its own for each part, and the parts, each in order.

    `widest` is the largest size of values that a kernel may have, 0 where there is no such kernel.
    The graph computes the same, but for rounding; its sizes must be known.
    """
    if not widest:
        return graph, ()
    finder = _Finder(graph, widest)
    tops = (node for node in graph.nodes if node.op.name == "reduce_max")
    found = [one for top in tops if (one := finder.attention(top)) is not None]
    if not found:
        return graph, ()
    order = _order(graph, found)
    if order is None:  # some of them can't be had: those that can with the ones before
        some: list[_Attention] = []
        for one in found:
            if _order(graph, [*some, one]) is not None:
                some.append(one)
        found, order = some, _order(graph, some)
    assert order is not None
    return _rewritten(graph, found, order)


# -- attention in a graph -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Part:
    """Nodes of one kernel, in order, and those that others read."""

    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]


@dataclass(frozen=True)
class _RowSum:
    """`sum over keys of dp p` for each query, as `sum over n of do[b, t, n] o[b, t, n]`."""

    gradient: Node  # do
    axes: tuple[int, ...]  # of it: those of the batch, t, n
    result: Node  # o, or o transposed
    back: tuple[int, ...]  # which axes of it are those of the batch, t, n


@dataclass(frozen=True, eq=False)
class _Attention:
    parts: tuple[_Part, ...]
    pairs: frozenset[Node]  # nobody else may need them
    rows: Mapping[Node, _RowSum]


class _Finder:
    """Looks for attention from the maximum that its softmax takes."""

    def __init__(self, graph: Graph, widest: int) -> None:
        self.graph, self.widest = graph, widest
        self.results = set(graph.outputs)
        self.place = {node: i for i, node in enumerate(graph.nodes)}

    def attention(self, top: Node) -> _Attention | None:
        """The attention whose softmax takes this maximum, if all of it fits."""
        (scores,) = top.inputs
        shape, last = shape_of(scores), scores.type.rank - 1
        is_float = scores.type.dtype.kind == "float"
        if last < 1 or 0 in shape or top.attributes["axes"] != (last,) or not is_float:
            return None
        softmax = self._softmax(top)
        if softmax is None:
            return None
        total, weights = softmax
        starts = [node for node in _inside([scores]) if node.op.kind is Kind.CONTRACTION]
        reached = self._reached(starts, shape)
        if reached is None:
            return None
        pairs, sums, rows = reached
        forward = [s for s in sums if s.over == last and _weighs(s.pair, weights, pairs)]
        if len(forward) != 1 or not {top, total} <= rows.keys():
            return None
        others = [s for s in sums if s is not forward[0]]
        parts = [self._part(forward, (top, total))]
        parts += [
            self._part(some, ())
            for over in (last, last - 1)
            if (some := [s for s in others if s.over == over])
        ]
        stand_in = {
            row: self._row_sum(row, forward[0], weights) for row in rows if row not in (top, total)
        }
        whole = [part for part in parts if part is not None]
        known = {row: found for row, found in stand_in.items() if found is not None}
        if len(whole) < len(parts) or len(known) < len(stand_in):
            return None
        return _Attention(tuple(whole), frozenset(pairs), known)

    def _softmax(self, top: Node) -> tuple[Node, Node] | None:
        """The sum of each row, and the weights."""
        users, (scores,) = self.graph.users, top.inputs
        for less in users[scores]:
            if less.op.name != "subtract" or less.inputs[0] is not scores:
                continue
            for e in users[less] if _is_spread(less.inputs[1], top) else ():
                totals = [u for u in users[e] if u.op.name == "reduce_sum"]
                for p in users[e] if e.op.name == "exp" else ():
                    if p.op.name != "divide" or p.inputs[0] is not e:
                        continue
                    for total in totals:
                        alike = total.attributes["axes"] == top.attributes["axes"]
                        if alike and _is_spread(p.inputs[1], total):
                            return total, p
        return None

    def _reached(
        self, starts: Sequence[Node], shape: tuple[int, ...]
    ) -> tuple[dict[Node, None], list[OuterProduct], dict[Node, None]] | None:
        """Values of queries by keys that follow from the products, sums of them, and row sums.

        Nothing where such a value is used in another way.
        """
        pairs: dict[Node, None] = {}
        sums: dict[Node, OuterProduct] = {}
        rows: dict[Node, None] = {}
        stack = list(starts)
        while stack:
            node = stack.pop()
            if node in pairs:
                continue
            if node in self.results:
                return None
            pairs[node] = None
            for user in self.graph.users[node]:
                outer = outer_product(user, node)
                if user.op.kind is Kind.ELEMENTWISE:
                    stack.append(user)
                elif user.op.name in ("reduce_max", "reduce_sum"):
                    if user.attributes["axes"] != (len(shape) - 1,):
                        return None
                    rows[user] = None
                    stack += [u for u in self.graph.users[user] if _is_spread(u, user)]
                elif outer is not None and outer.width <= self.widest:
                    sums[user] = outer
                else:
                    return None
        return pairs, list(sums.values()), rows

    def _part(self, sums: Sequence[OuterProduct], rows: tuple[Node, ...]) -> _Part | None:
        inside = _inside([s.pair for s in sums])
        products = [node for node in inside if node.op.kind is Kind.CONTRACTION]
        if len(products) > MOST or len(sums) > MOST:
            return None
        outputs = [self._turned(s.node) for s in sums]
        nodes = {*inside, *rows, *(s.node for s in sums), *outputs}
        factors = [o for product in products for o in product.inputs] + [s.factor for s in sums]
        if nodes & set(factors):
            return None
        return _Part(tuple(sorted(nodes, key=self.place.__getitem__)), (*rows, *outputs))

    def _turned(self, node: Node) -> Node:
        """The transpose that alone reads a sum, which is then written that way; else the sum."""
        users = self.graph.users[node]
        if len(users) == 1 and users[0].op.name == "transpose" and node not in self.results:
            return users[0]
        return node

    def _row_sum(self, row: Node, forward: OuterProduct, weights: Node) -> _RowSum | None:
        """A sum over a row of the gradient of the weights times them, another way."""
        rest = list(_factors(row.inputs[0]))
        if row.op.name != "reduce_sum" or weights not in rest:
            return None
        for factor in _factors(forward.pair):
            if factor not in rest:
                return None
            rest.remove(factor)
        inner = inner_product(rest[0]) if len(rest) == 1 else None
        if inner is None or inner.node.inputs[1] is not forward.factor:
            return None
        if (inner.batch[1], inner.free[1], inner.over[1]) != (
            forward.batch, forward.along, forward.free,
        ):  # fmt: skip
            return None
        count = len(forward.batch)
        back = tuple(range(count)) + (
            (count, count + 1) if not forward.slot else (count + 1, count)
        )
        turned = self._turned(forward.node)
        if turned is not forward.node:
            permutation = turned.attributes["permutation"]
            back = tuple(permutation.index(i) for i in back)
        axes = (*inner.batch[0], inner.free[0], inner.over[0])
        return _RowSum(inner.node.inputs[0], axes, turned, back)


def _is_spread(node: Node, row: Node) -> bool:
    """Whether the node is a value of each row, for each element of the row."""
    return (
        node.op.name == "broadcast_in_dim"
        and node.inputs[0] is row
        and node.type.rank == row.type.rank + 1
        and node.attributes["dims"] == tuple(range(row.type.rank))
    )


def _weighs(pair: Node, weights: Node, pairs: Mapping[Node, None]) -> bool:
    """Whether a value is the weights, or they times what does not follow from them."""
    factors = list(_factors(pair))
    return factors.count(weights) == 1 and all(f is weights or f not in pairs for f in factors)


def _factors(node: Node) -> Iterator[Node]:
    """What a value is the product of, element by element."""
    stack = [node]
    while stack:
        node = stack.pop()
        if node.op.name == "multiply":
            stack += node.inputs
        else:
            yield node


def _inside(roots: Sequence[Node]) -> dict[Node, None]:
    """What is computed for each query and key on the way to values of them: down to products, and
    to what is read.
    """
    shape = shape_of(roots[0])
    axes = [Axis(size) for size in shape]
    whole = tuple(Index(((axis, 1),)) for axis in axes)
    both = set(axes[-2:])
    seen: set[tuple[Node, Indices]] = set()
    found: dict[Node, None] = {}
    stack = [(node, whole) for node in roots]
    while stack:
        node, at = stack.pop()
        if (node, at) in seen:
            continue
        seen.add((node, at))
        if node.op.name in MAPS - {"pad"}:
            found[node] = None
            stack.append((node.inputs[0], moved(node, at)))
        elif node.op.kind is Kind.CONTRACTION and at == whole and shape_of(node) == shape:
            if inner_product(node) is not None:
                found[node] = None
        elif node.op.name in ("iota", "dim_size"):
            found[node] = None
        elif node.op.kind is Kind.ELEMENTWISE or node.op.name == "random_bits":
            if not both <= {axis for index in at for axis in index.axes} and not _is_position(node):
                continue
            found[node] = None
            if node.op.name != "random_bits":
                stack += [(operand, at) for operand in node.inputs]
    return found


def _is_position(node: Node) -> bool:
    """Whether a value follows from where it is alone."""
    stack = [node]
    while stack:
        node = stack.pop()
        if node.op.name in ("iota", "constant", "dim_size"):
            continue
        if node.op.kind is not Kind.ELEMENTWISE and node.op.name not in MAPS - {"pad"}:
            return False
        stack += node.inputs
    return True


# -- the new graph --------------------------------------------------------------------------------

_Unit = Node | _Part


def _order(graph: Graph, found: Sequence[_Attention]) -> list[_Unit] | None:
    """Nodes and parts, each after what it needs; nothing where that is not to be had."""
    home = {node: part for one in found for part in one.parts for node in part.outputs}
    pairs = frozenset[Node]().union(*(one.pairs for one in found))
    rows = {row: sum for one in found for row, sum in one.rows.items()}

    def needs(unit: _Unit) -> Sequence[Node]:
        if isinstance(unit, _Part):
            mine = set(unit.nodes)
            return [o for node in unit.nodes for o in node.inputs if o not in mine]
        if unit in rows:
            return rows[unit].gradient, rows[unit].result
        return unit.inputs

    order: list[_Unit] = []
    done: dict[_Unit, bool] = {}
    path: list[_Unit] = []
    stack: list[Iterator[Node]] = [iter((*graph.inputs, *graph.outputs))]
    while stack:
        wanted = next(stack[-1], None)
        if wanted is None:
            stack.pop()
            if path:
                done[path[-1]] = True
                order.append(path.pop())
            continue
        unit: _Unit = home.get(wanted, wanted)
        if unit not in done:
            if unit in pairs:
                return None  # somebody else wants it in memory
            done[unit] = False
            path.append(unit)
            stack.append(iter(needs(unit)))
        elif not done[unit]:
            return None  # it needs itself
    return order


def _rewritten(
    graph: Graph, found: Sequence[_Attention], order: Sequence[_Unit]
) -> tuple[Graph, Regions]:
    """Every part gets nodes of its own."""
    rows = {row: sum for one in found for row, sum in one.rows.items()}
    new: dict[Node, Node] = {}
    regions: list[tuple[Node, ...]] = []
    for unit in order:
        if isinstance(unit, _Part):
            own: dict[Node, Node] = {}
            for node in unit.nodes:
                operands = tuple(own[o] if o in own else new[o] for o in node.inputs)
                own[node] = Node(node.op, operands, node.attributes, node.type, node.span)
            new |= {node: own[node] for node in unit.outputs}
            regions.append(tuple(own.values()))
        elif unit in rows:
            new[unit] = locate(_row_sum(rows[unit], new), unit.span)
        else:
            new[unit] = rebuild(unit, tuple(new[o] for o in unit.inputs))
    outputs = tuple(new[o] for o in graph.outputs)
    return Graph(graph.name, graph.inputs, outputs, graph.output_names), tuple(regions)


def _row_sum(row: _RowSum, new: Mapping[Node, Node]) -> Node:
    gradient = b.transpose(new[row.gradient], row.axes)
    result = b.transpose(new[row.result], row.back)
    return b.reduce_sum(gradient * result, (result.type.rank - 1,))
