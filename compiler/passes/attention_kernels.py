"""A part of attention as a kernel: sums over keys or queries of what is computed for each pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from weft.compiler.graph import Node
from weft.compiler.index import Axis, Index, Indices, along
from weft.compiler.kernel import Attention, Hidden, Inner, Kernel, Matrix, Outer, Softmax, Store
from weft.compiler.ops import Kind
from weft.compiler.passes.attention_products import OuterProduct, inner_product, outer_product
from weft.compiler.passes.elements import Elements, axes_of, shape_of, summed, wide, widened
from weft.compiler.pattern import number_of
from weft.compiler.scalar import Apply, Literal, Position, Result, Scalar


def attention(e: Elements, outputs: Sequence[Node]) -> list[Kernel]:
    return [_Part(e, outputs).kernel()]


class _Part:
    """The kernel of a group that `attend` has set apart."""

    def __init__(self, e: Elements, outputs: Sequence[Node]) -> None:
        self.e, self.outputs = e, outputs
        dots = [node for node in e.group.nodes if node.op.kind is Kind.CONTRACTION]
        self.sums = [d for d in dots if any(o in e.group.members for o in d.inputs)]
        self.inner = [d for d in dots if d not in self.sums]
        *batch, queries, keys = axes_of(shape_of(self.inner[0]))
        self.batch, self.queries, self.keys = tuple(batch), queries, keys
        self.at = tuple(along(axis) for axis in (*batch, queries, keys))
        self.dtype = wide(self.inner[0].type.dtype)

    def kernel(self) -> Attention:
        e, last = self.e, len(self.batch) + 1
        outer = [
            found
            for node in self.sums
            for pair in node.inputs
            if pair in e.group.members and (found := outer_product(node, pair)) is not None
        ]
        by_row = outer[0].over == last
        rows, columns = (self.queries, self.keys) if by_row else (self.keys, self.queries)
        products = [self._inner(number, by_row) for number in range(len(self.inner))]
        weights = _weights(e.group.members)
        softmax, hidden, number = None, None, len(products)
        if weights is not None and weights.maximum in e.group.members:
            softmax = self._softmax(weights, number)
            number += 3
        made = tuple(self._outer(o, rows, number + i) for i, o in enumerate(outer))
        if weights is not None and all(_vanishes(o.pair, weights.node) for o in outer):
            hidden = self._hidden(weights, softmax)
        return Attention(
            tuple(e.ports), self.batch, rows, columns, tuple(products), softmax, made, hidden,
            e.group.nodes, all("factors" in node.attributes for node in (*self.inner, *self.sums)),
        )  # fmt: skip

    def _softmax(self, weights: _Weights, number: int) -> Softmax:
        """The softmax, with three results from `number` on, which stand for it from now on."""
        e, score = self.e, widened(self.e.value(weights.score, self.at))
        maximum, total, weight = range(number, number + 3)
        stores = []
        for node, result in ((weights.maximum, maximum), (weights.total, total)):
            e.results[node] = summed(node, result)
            if node in self.outputs:
                stores.append(e.store(node, self.at[:-1]))
        e.results[weights.node] = summed(weights.node, weight)
        return Softmax(score, maximum, total, weight, tuple(stores))

    def _outer(self, found: OuterProduct, rows: Axis, number: int) -> Outer:
        value = widened(self.e.value(found.pair, self.at))
        place = self.e.plan.places[found.factor]
        steps, axis = place.layout.strides, Axis(found.width)
        batch = tuple(steps[i] for i in found.batch)
        matrix = Matrix(self.e.port(place), batch, steps[found.along], steps[found.free])
        store = self._store(found.node, found.slot, rows, axis, number)
        return Outer(value, matrix, axis, number, store)

    def _inner(self, number: int, by_row: bool) -> Inner:
        """A product of the pair; its result stands for it from now on."""
        e, found = self.e, inner_product(self.inner[number])
        assert found is not None
        e.results[found.node] = summed(found.node, number)
        sides = []
        for side, operand in enumerate(found.node.inputs):
            place = e.plan.places[operand]
            steps = place.layout.strides
            batch = tuple(steps[i] for i in found.batch[side])
            free, over = steps[found.free[side]], steps[found.over[side]]
            sides.append(Matrix(e.port(place), batch, free, over))
        left, right = sides if by_row else reversed(sides)
        return Inner(left, right, shape_of(found.node.inputs[0])[found.over[0]])

    def _store(self, node: Node, slot: int, rows: Axis, axis: Axis, number: int) -> Store:
        """Where the sum goes: the node, or the transpose of it that is wanted."""
        row, column = along(rows), along(axis)
        at: Indices = (*self.at[:-2], *((column, row) if slot else (row, column)))
        if node not in self.outputs:
            node = next(n for n in self.outputs if node in n.inputs)
            at = tuple(at[i] for i in node.attributes["permutation"])
        port, index = self.e.address(self.e.plan.places[node], at)
        return Store(port, index, summed(node, number))

    def _hidden(self, weights: _Weights, softmax: Softmax | None) -> Hidden | None:
        """Which pairs are masked for where they are: `a` is a number where the mask says no."""
        score = self.e.value(weights.score, self.at)
        match score:
            case Apply(op="select", parts=(mask, _, Literal() as fill)):
                gaps = tuple(
                    gap
                    for part in _conjuncts(mask)
                    if (gap := _gap(part)) is not None and gap.axes <= {self.queries, self.keys}
                )
            case _:
                return None
        if not gaps:
            return None
        top: Scalar = (
            widened(self.e.value(weights.spread, self.at))
            if softmax is None
            else Result(self.dtype, softmax.maximum)
        )
        less = Apply(self.dtype, "subtract", (widened(fill), top))
        return Hidden(gaps, self.queries, Apply(self.dtype, "exp", (less,)))


class _Weights:
    """`node = exp(score - spread) / total`, where `spread` is the maximum for each element."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.score, self.spread = node.inputs[0].inputs[0].inputs
        self.maximum, self.total = self.spread.inputs[0], node.inputs[1].inputs[0]


def _weights(members: frozenset[Node]) -> _Weights | None:
    """The weights: those whose softmax is in the group, else if there is one such value alone."""
    found = []
    for node in members:
        if node.op.name == "divide" and node.inputs[0].op.name == "exp":
            (less,), total = node.inputs[0].inputs, node.inputs[1]
            if less.op.name == "subtract" and less.inputs[1].op.name == "broadcast_in_dim":
                found += [_Weights(node)] if total.op.name == "broadcast_in_dim" else []
    own = [weights for weights in found if weights.maximum in members]
    return own[0] if own else found[0] if len(found) == 1 else None


def _vanishes(node: Node, weights: Node) -> bool:
    """Whether a value is 0 where the weights are 0, and all else is finite."""
    match node.op.name:
        case _ if node is weights:
            return True
        case "multiply":
            return any(_vanishes(operand, weights) for operand in node.inputs)
        case "divide" | "negate":
            return _vanishes(node.inputs[0], weights)
        case "select":
            return all(_is_zero(o) or _vanishes(o, weights) for o in node.inputs[1:])
    return False


def _is_zero(node: Node) -> bool:
    return number_of(node) == 0


def _conjuncts(mask: Scalar) -> Iterator[Scalar]:
    """What must all be true for a mask to be true."""
    match mask:
        case Apply(op="and", parts=parts):
            for part in parts:
                yield from _conjuncts(part)
        case _:
            yield mask


_GAPS: Mapping[str, tuple[int, int]] = {
    "less_equal": (1, 0), "less": (1, 1), "greater_equal": (-1, 0), "greater": (-1, 1),
}  # fmt: skip
"""`sign * (left - right) + more` is above 0 where the comparison of whole numbers is false."""


def _gap(part: Scalar) -> Index | None:
    """Something above 0 exactly where a comparison of positions is false."""
    match part:
        case Apply(op=how, parts=(left, right)) if how in _GAPS:
            first, second = _linear(left), _linear(right)
            if first is not None and second is not None:
                sign, more = _GAPS[how]
                gap = (first + second * -1) * sign + more
                return gap if all(isinstance(atom, Axis) for atom, _ in gap.terms) else None
    return None


def _linear(value: Scalar) -> Index | None:
    """A whole number that is linear in positions."""
    match value:
        case Position(dtype=dtype, index=index) if dtype.kind == "int":
            return index
        case Literal(dtype=dtype, value=number) if dtype.kind == "int":
            return Index((), int(number))
        case Apply(op="add" | "subtract" as how, dtype=dtype, parts=parts) if dtype.kind == "int":
            first, second = (_linear(part) for part in parts)
            if first is not None and second is not None:
                return first + (second if how == "add" else second * -1)
    return None
