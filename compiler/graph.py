"""Immutable typed nodes and graphs.

    x ----> multiply --> reduce_sum --> loss          Node(op, inputs, attributes, type, span)
      \\______/

The ordered `inputs` tuple is the truth. `Graph.network` is the same graph for networkx, with one
edge an operand slot (a plain `DiGraph` would lose one operand of `x * x`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from weft.compiler.errors import Span
from weft.compiler.ops import OPS, Op
from weft.compiler.types import TensorType

if TYPE_CHECKING:
    import networkx

Attributes = Mapping[str, Any]
_NO_ATTRIBUTES: Attributes = MappingProxyType({})


class Node:
    """One operation's result. Compared by identity; structure is compared by the `cse` pass.

    Nodes don't change: what is `Final` no type checker lets anybody set, and a graph of some
    thousand nodes is made without asking at each whether it may be. Only the place comes later
    where a node is made without one (`locate`).

    Arithmetic operators build further nodes, so that rules read like maths; a Python number
    becomes a constant of the other operand's type and shape.
    """

    __slots__ = ("attributes", "inputs", "op", "span", "type")

    def __init__(
        self,
        op: Op,
        inputs: tuple[Node, ...],
        attributes: Attributes,
        type: TensorType,
        span: Span | None,
    ) -> None:
        self.op: Final = op
        self.inputs: Final = inputs
        self.attributes: Final = attributes
        self.type: Final = type
        self.span = span

    @property
    def name(self) -> str:
        """The name of an `input` node."""
        return str(self.attributes["name"])

    def __repr__(self) -> str:
        operands = ", ".join(i.op.name for i in self.inputs)
        return f"<{self.op.name}({operands}) : {self.type}>"

    def __add__(self, other: Operand) -> Node:
        return binary("add", self, other)

    def __radd__(self, other: Operand) -> Node:
        return binary("add", other, self)

    def __sub__(self, other: Operand) -> Node:
        return binary("subtract", self, other)

    def __rsub__(self, other: Operand) -> Node:
        return binary("subtract", other, self)

    def __mul__(self, other: Operand) -> Node:
        return binary("multiply", self, other)

    def __rmul__(self, other: Operand) -> Node:
        return binary("multiply", other, self)

    def __truediv__(self, other: Operand) -> Node:
        return binary("divide", self, other)

    def __rtruediv__(self, other: Operand) -> Node:
        return binary("divide", other, self)

    def __pow__(self, other: Operand) -> Node:
        return binary("power", self, other)

    def __neg__(self) -> Node:
        return make("negate", self)


Number = int | float | bool
Operand = Node | Number


def make(op: str, *inputs: Node, span: Span | None = None, **attributes: Any) -> Node:
    """A node whose type the op's rule infers; raises `TypeRuleError` on operands it can't take."""
    row = OPS[op]
    if row.arity is not None and len(inputs) != row.arity:
        raise TypeError(f"{op} takes {row.arity} operands, got {len(inputs)}")
    if not attributes and not row.attributes:
        return Node(row, inputs, _NO_ATTRIBUTES, row.infer(*[i.type for i in inputs]), span)
    if tuple(attributes) != row.attributes:
        names = (*row.attributes, *(k for k in row.optional if k in attributes))
        if attributes.keys() != set(names):
            raise TypeError(f"{op} has attributes {names}, got {tuple(attributes)}")
        attributes = {k: attributes[k] for k in names}
    type = row.infer(*[i.type for i in inputs], **attributes)
    return Node(row, inputs, MappingProxyType(attributes), type, span)


def full(type: TensorType, value: Number, span: Span | None = None) -> Node:
    """A tensor with one value everywhere: a scalar constant, broadcast."""
    number: Number = value
    if type.dtype.kind == "float":
        number = float(value)
    elif type.dtype.kind == "bool":
        number = bool(value)
    elif isinstance(value, float) and value != int(value):
        raise TypeError(f"{value} is no {type.dtype}")
    else:
        number = int(value)
    scalar = make("constant", value=number, dtype=type.dtype, shape=(), span=span)
    if not type.shape:
        return scalar
    return make("broadcast_in_dim", scalar, shape=type.shape, dims=(), span=span)


def binary(op: str, left: Operand, right: Operand) -> Node:
    """A two-operand node of nodes or numbers, at least one of them a node."""
    if not isinstance(left, Node):
        assert isinstance(right, Node)
        left = full(right.type, left)
    elif not isinstance(right, Node):
        right = full(left.type, right)
    return make(op, left, right)


def locate(node: Node, span: Span | None) -> Node:
    """Give `span` to the node and to what it was just built from that has no place yet.

    The one write to a finished node: a place is metadata, set once, never part of its meaning.
    """
    if span is not None:
        stack = [node]
        while stack:
            current = stack.pop()
            if current.span is None and current.op.name != "input":
                current.span = span
                stack.extend(current.inputs)
    return node


def topological(outputs: Iterable[Node]) -> list[Node]:
    """Every node that the outputs need, operands first; the order depends on nothing else."""
    order: list[Node] = []
    state: dict[Node, bool] = {}
    stack: list[tuple[Node, Iterator[Node]]] = []
    for output in outputs:
        if output in state:
            continue
        state[output] = False
        stack.append((output, iter(output.inputs)))
        while stack:
            node, operands = stack[-1]
            for operand in operands:
                if operand not in state:
                    state[operand] = False
                    stack.append((operand, iter(operand.inputs)))
                    break
            else:
                stack.pop()
                order.append(node)
    return order


@dataclass(frozen=True, eq=False)
class Graph:
    """A pure function from named inputs to named outputs.

    An output that has the name of an input is that input's new value: this is how state
    (parameters, optimiser slots, running statistics) is updated.
    """

    name: str
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    output_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.output_names:
            names = tuple(f"out{i}" if i else "out" for i in range(len(self.outputs)))
            object.__setattr__(self, "output_names", names)
        assert len(self.output_names) == len(self.outputs)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes: first the inputs in their order, then the rest, operands first."""
        rest = [n for n in topological(self.outputs) if n.op.name != "input"]
        return (*self.inputs, *rest)

    @cached_property
    def users(self) -> Mapping[Node, tuple[Node, ...]]:
        """For each node the nodes that read it, one entry an operand slot."""
        table: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for operand in node.inputs:
                table[operand].append(node)
        return {node: tuple(found) for node, found in table.items()}

    @cached_property
    def named_outputs(self) -> Mapping[str, Node]:
        return dict(zip(self.output_names, self.outputs, strict=True))

    @cached_property
    def named_inputs(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.inputs}

    @cached_property
    def network(self) -> networkx.MultiDiGraph[Node]:
        """For networkx's algorithms: operand -> node, keyed by the operand slot."""
        import networkx

        network: networkx.MultiDiGraph[Node] = networkx.MultiDiGraph()
        network.add_nodes_from(self.nodes)
        for node in self.nodes:
            for slot, operand in enumerate(node.inputs):
                network.add_edge(operand, node, key=slot)
        return network

    def with_outputs(self, outputs: Mapping[str, Node]) -> Graph:
        """The same inputs with other outputs."""
        return Graph(self.name, self.inputs, tuple(outputs.values()), tuple(outputs))

    def __repr__(self) -> str:
        return f"<graph {self.name}: {len(self.nodes)} nodes>"


Replace = Callable[[Node, tuple[Node, ...]], Node | None]


def rebuild(node: Node, inputs: tuple[Node, ...]) -> Node:
    """The node with other operands; the same node where they are the same."""
    if inputs == node.inputs:  # nodes are equal where they are the same
        return node
    if [i.type for i in inputs] == [i.type for i in node.inputs]:
        return Node(node.op, inputs, node.attributes, node.type, node.span)
    return make(node.op.name, *inputs, span=node.span, **node.attributes)


def rewrite(nodes: Iterable[Node], replace: Replace) -> dict[Node, Node]:
    """Each node's new node; `nodes` come operands first, `replace` as in `transform`."""
    done: dict[Node, Node] = {}
    for node in nodes:
        operands = tuple([done[i] for i in node.inputs])
        done[node] = replace(node, operands) or rebuild(node, operands)
    return done


def transform(graph: Graph, replace: Replace) -> Graph:
    """The graph rebuilt operands first: `replace(node, operands)` gives a node or None (keep)."""
    done = rewrite(graph.nodes, replace)
    return Graph(
        graph.name,
        tuple(done[i] for i in graph.inputs),
        tuple(done[o] for o in graph.outputs),
        graph.output_names,
    )


def substitute(outputs: Iterable[Node], values: Mapping[Node, Node]) -> list[Node]:
    """The outputs with some nodes (often inputs) replaced: a graph applied to arguments."""
    wanted = list(outputs)
    if not values:
        return wanted
    done: dict[Node, Node] = dict(values)
    pending: list[Node] = [o for o in wanted if o not in done]
    for node in below(pending, done):
        done[node] = rebuild(node, tuple([done[i] for i in node.inputs]))
    return [done[o] for o in wanted]


def below(outputs: Iterable[Node], known: Mapping[Node, Node]) -> list[Node]:
    """Every node that the outputs need, operands first, not looking behind known nodes."""
    order: list[Node] = []
    seen: set[Node] = set()
    for output in outputs:
        stack = [(output, iter(output.inputs))] if output not in seen else []
        seen.add(output)
        while stack:
            node, operands = stack[-1]
            for operand in operands:
                if operand not in seen and operand not in known:
                    seen.add(operand)
                    stack.append((operand, iter(operand.inputs)))
                    break
            else:
                stack.pop()
                order.append(node)
    return order


def inline(call: Node, operands: tuple[Node, ...]) -> Node:
    """A composite call replaced by its body."""
    body: Graph = call.attributes["body"]
    return substitute(body.outputs, dict(zip(body.inputs, operands, strict=True)))[0]
