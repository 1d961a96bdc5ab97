"""Uses of values: which are views of which, who reads them when, who may write over them."""

from __future__ import annotations

import math

from weft.compiler.graph import Graph, Node
from weft.compiler.ops import Kind
from weft.compiler.passes.fuse import Group
from weft.compiler.passes.views import Layout, contiguous, view
from weft.compiler.plan import Abilities
from weft.compiler.types import static_shape


class Uses:
    """Of each value: its root, which it is a view of or itself, and the steps that read it."""

    def __init__(
        self,
        graph: Graph,
        groups: tuple[Group, ...],
        order: tuple[Node, ...],
        abilities: Abilities,
        bound: frozenset[str],
    ) -> None:
        self.graph, self.groups, self.order, self.abilities = graph, groups, order, abilities
        self.home_group = {node: group for group in groups for node in group.nodes}
        if abilities.kernels:
            self.end = len(groups)
            self.time = {n: i for i, group in enumerate(groups) for n in group.nodes}
        else:
            self.end = len(order)
            self.time = {node: i for i, node in enumerate(order)}
        self.hidden: set[Node] = set()  # never in memory
        self.root: dict[Node, Node] = {}
        self.layout: dict[Node, Layout] = {}  # within the root's own elements
        self.registers: set[Node] = set()
        self.views: set[Node] = set()
        self.reads: dict[Node, list[int]] = {}  # of roots
        self._outputs = set(graph.outputs)
        self.results: set[Node] = set()  # roots of outputs
        self._find_views()
        self._find_reads(bound)

    def is_leaf(self, node: Node) -> bool:
        return node.op.name == "input" or node.op.name in self.abilities.folded

    def _find_views(self) -> None:
        for node in self.graph.nodes:
            self.root[node] = node
            self.layout[node] = self._own_layout(node)
            self.reads[node] = []
            if self.is_leaf(node):
                continue
            if self.abilities.registers and node.type.rank == 0:
                self.registers.add(node)
            elif node.op.name in self.abilities.views and node.inputs[0] not in self.hidden:
                found = view(node, self.layout[node.inputs[0]])
                if found is not None and (self.abilities.strided or found.is_contiguous):
                    self.views.add(node)
                    self.layout[node] = found
                    self.root[node] = self.root[node.inputs[0]]
            if self._is_hidden(node):
                self.hidden.add(node)

    def _own_layout(self, node: Node) -> Layout:
        """Row-major; where only a transpose of a product is read that keeps rows whole, that is.

        So heads of attention are merged without a copy: [batch, head, row, column] is computed to
        where [batch, row, head, column] has it, which a reshape takes as [batch, row, columns].
        """
        shape = static_shape(node.type.shape)
        users = self.graph.users[node]
        if self._is_product(node) and len(users) == 1 and users[0].op.name == "transpose":
            (turned,) = users
            read = (turned, *self.graph.users[turned])
            order = turned.attributes["permutation"]
            rows = order[-1] == len(order) - 1 and "transpose" in self.abilities.views
            if rows and not self._outputs.intersection(read):
                steps = contiguous(static_shape(turned.type.shape)).strides
                strides = dict(zip(order, steps, strict=True))
                return Layout(0, shape, tuple(strides[axis] for axis in range(len(shape))))
        return contiguous(shape)

    def _is_product(self, node: Node) -> bool:
        """Whether a value is all that a product of matrices leaves."""
        group = self.home_group.get(node)
        return (
            self.abilities.kernels
            and self.abilities.strided
            and group is not None
            and group.outputs == (node,)
            and node not in self._outputs
            and any(member.op.name == "dot_general" for member in group.nodes)
        )

    def _is_hidden(self, node: Node) -> bool:
        """Whether a value exists only inside of a kernel."""
        return (
            self.abilities.kernels
            and node not in self.views
            and node not in self.home_group[node].outputs
        )

    def _find_reads(self, bound: frozenset[str]) -> None:
        for node in self.order:
            if node not in self.views:
                for operand in node.inputs:
                    if not self._early(operand):
                        self.reads[self.root[operand]].append(self.time[node])
        for name, node in self.graph.named_outputs.items():
            root = self.root[node]
            self.results.add(root)
            other = root.op.name == "input" and not (root.name == name and self.whole(node))
            if other or name not in bound:
                self.reads[root].append(self.end)

    def _early(self, node: Node) -> bool:
        """Scalars that come in are taken into registers before anything runs."""
        return self.abilities.registers and node.op.name == "input" and node.type.rank == 0

    def whole(self, node: Node) -> bool:
        """Whether the value is all of its root, in its order: the root itself, or reshaped."""
        return self.layout[node].spans(self.layout[self.root[node]].size)

    def may_overwrite(self, node: Node) -> bool:
        """Whether a value may be written over an operand that has its layout."""
        if self.abilities.kernels:
            group = self.home_group[node]
            after = node.op.kind is Kind.ELEMENTWISE and node not in group.before
            return (
                group.kind in ("elementwise", "contraction")
                or (group.kind == "reduction" and after)
                or node.op.name == "scatter_add"
            )
        return node.op.name in self.abilities.in_place

    def may_be_strided(self, root: Node) -> bool:
        """Whether a root may be written at places that do not follow one another."""
        return (
            self.abilities.strided
            and (
                root.op.kind is Kind.ELEMENTWISE
                if self.abilities.kernels
                else root.op.name in self.abilities.in_place
            )
            and not any(
                user in self.views or user.op.kind is Kind.LOOP for user in self.graph.users[root]
            )
        )

    def operands(self, node: Node) -> list[tuple[Node, Node]]:
        """(reader, operand) for all that is read from memory where the node is computed."""
        if not self.abilities.kernels:
            return [(node, operand) for operand in node.inputs]
        group = self.home_group[node]
        return [
            (reader, operand)
            for reader in group.nodes
            if reader not in self.views
            for operand in reader.inputs
            if operand not in group.members or operand in self.views
        ]

    def reads_alike(self, reader: Node, operand: Node, node: Node) -> bool:
        """Whether the reader takes of its operand no element but the one that is written."""
        if not self.abilities.kernels:
            return True
        if reader.op.name == "scatter_add":
            return operand is reader.inputs[0] and operand not in reader.inputs[1:]
        group = self.home_group[node]
        if group.kind == "reduction" and reader in group.before:
            return False
        return reader.op.kind is Kind.ELEMENTWISE and reader.type.shape == node.type.shape

    def dies(self, operand: Node, node: Node) -> bool:
        """Whether `operand` is a computed value of the node's type that nobody needs later."""
        return (
            self.root[operand] is operand
            and operand.type == node.type
            and not self.needed(operand, self.time[node])
            and all(
                i is operand and self.reads_alike(reader, i, node)
                for reader, i in self.operands(node)
                if self.root[i] is operand
            )
        )

    def until(self, root: Node) -> float:
        """The last time that a value is needed: for a result, there is none."""
        return math.inf if root in self.results else max(self.reads[root], default=0)

    def needed(self, root: Node, after: int) -> bool:
        return self.until(root) > after
