"""Prints a plan as straight-line Python: one call a line, results into planned memory.

    def bind(state, arena):
        t3 = view(arena, f32, (32, 64), 8192)      # memory, laid out once
        def step(inputs):
            x = inputs["x"]
            # group 2 contraction   digits.weft:9:3: x @ w + b
            dot(x, theta_0, t3)
            add(t3, theta_1, t3)
            return {"loss": s9}
        return step

Scalars are Python variables holding NumPy scalars (`s9`), faster by far than rank-0 arrays; where
array code reads one, it goes into a rank-0 cell (`s9_cell`), faster than a NumPy scalar operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.backends.numpy.names import Names, identifier
from weft.backends.numpy.ops import template_of
from weft.backends.numpy.timing import Clock
from weft.compiler.errors import RunError
from weft.compiler.evaluate import evaluate_node
from weft.compiler.graph import Node
from weft.compiler.passes.fuse import Group
from weft.compiler.passes.views import Layout, contiguous
from weft.compiler.plan import Abilities, Buffer, Plan
from weft.compiler.types import DType, TensorType, static_shape


def print_source(
    plan: Plan, abilities: Abilities, timed: bool = False
) -> tuple[str, dict[str, Any]]:
    """The source, and the objects that its free names stand for.

    When `timed`, one of them is a `Clock`, called `clock`: it hears when a group's lines are done.
    """
    reserved: frozenset[str] = frozenset()
    while True:
        printer = Printer(plan, abilities, reserved=reserved, clock=Clock() if timed else None)
        source = printer.run()
        if not printer.names.clashes:
            return source, printer.names.space
        # A variable of the spec's has the name of a function that came later: keep the name free.
        reserved |= printer.names.clashes


@dataclass(frozen=True)
class _Line:
    text: str
    defines: Node | None = None  # the register that the line sets


# Names that the printed code uses beside those of functions.
_WORDS = ("state", "arena", "inputs", "step", "bind", "turn", "abs", "int", "min", "max", "range")


class Printer:
    """Collects the lines of one step; the templates in `ops.py` write through it."""

    def __init__(
        self,
        plan: Plan,
        abilities: Abilities,
        outer: Printer | None = None,
        reserved: frozenset[str] = frozenset(),
        clock: Clock | None = None,
    ) -> None:
        self.plan, self.abilities, self.outer = plan, abilities, outer
        self.clock: Clock | None = clock if outer is None else outer.clock
        self.group = ""  # the number of the group that is printed; behind that of a loop around
        helpers: dict[str, Any] = {"view": view, "ndarray": np.ndarray, "refuse": refuse}
        self.names: Names = (
            Names(helpers, _WORDS, reserved) if outer is None else outer.names.of_turn()
        )
        self._functions: list[str] = []
        self._setup: list[str] = []
        self._lines: list[_Line] = []
        self._bases: dict[Buffer, str] = {}
        self._cells: set[Node] = set()
        self._number = {node: i for i, node in enumerate(plan.order)}

    # -- what templates use ------------------------------------------------------------------

    def line(self, text: str) -> None:
        self._lines.append(_Line(text))

    def setup(self, hint: str, text: str) -> str:
        """Run `text` once, when arrays are bound; returns the name of its value."""
        name = self.names.fresh(hint)
        self._setup.append(f"{name} = {text}")
        return name

    def shared(self, hint: str, text: str) -> str:
        """`setup` for what depends on no memory: made once for all turns of a loop."""
        return self.setup(hint, text) if self.outer is None else self.outer.shared(hint, text)

    def function(self, plan: Plan) -> str:
        """A function that binds another plan, a loop's turn, to its arrays; its name."""
        name = self.names.fresh("bind_turn")
        self._functions += Printer(plan, self.abilities, self).turn(name)
        return name

    def together(self, node: Node) -> list[Node]:
        """The results of the node's loop, in order."""
        group = next(g for g in self.plan.groups if node in g.members)
        return sorted(group.nodes, key=self._number.__getitem__)

    def use(self, name: str, thing: Any) -> str:
        """A name for a function of NumPy's or of the kernels."""
        return self.names.claim(name, thing)

    def constant(self, value: Any, hint: str = "k") -> str:
        """A name for a constant; equal numbers share one."""
        return self.names.constant(value, hint)

    def is_register(self, node: Node) -> bool:
        """Whether the value is a Python variable rather than memory."""
        return node.type.rank == 0

    def assign(self, node: Node, expression: str) -> None:
        """Set a scalar."""
        self._lines.append(_Line(f"{self.scalar(node)} = {expression}", node))

    def scalar(self, node: Node) -> str:
        """The variable or constant that holds a rank-0 value."""
        if self._is_folded(node):
            return self.constant(self._folded(node)[()])
        if node.op.name == "input":
            return self.names.of(("scalar", node), f"{identifier(node.name)}_value")
        return self.names.of(("register", node), f"s{self._number[node]}")

    def layout(self, node: Node) -> Layout:
        return self.plan.places[node].layout

    def out(self, node: Node) -> str:
        """The memory that the node writes."""
        return self.memory(node)

    def array(self, node: Node) -> str:
        """The value as an array of its full shape."""
        return self.memory(node)

    def operand(self, node: Node) -> str:
        """The value for an elementwise call: one number everywhere is a rank-0 array."""
        place = self.plan.places[node]
        if place.layout.is_splat and (place.buffer.kind != "input" or place.buffer.size == 1):
            return self.memory(node, Layout(place.layout.offset, (), ()))
        return self.memory(node)

    def memory(self, node: Node, layout: Layout | None = None, dtype: DType | None = None) -> str:
        """A name for elements of the node's buffer, by default those of the node."""
        place = self.plan.places[node]
        layout, buffer = layout or place.layout, place.buffer
        dtype = dtype or buffer.dtype
        scalar = buffer.nodes[0].type.rank == 0
        if buffer.kind == "input" and not scalar:
            return self._input_view(node, layout, dtype)
        if buffer.kind in ("input", "register"):
            self._cells.add(buffer.nodes[0])
        base = self._base(buffer)
        inside = buffer.kind in ("arena", "scratch")
        whole = contiguous(static_shape(buffer.nodes[0].type.shape))
        if not inside and dtype == buffer.dtype and layout == whole:
            return base
        key = (buffer if not inside else "arena", dtype, layout, buffer.offset)
        start = buffer.offset + layout.offset * dtype.bytes
        hint = f"t{self._number[node]}" if inside else base
        return self.names.once(key, lambda: self._view(base, dtype, layout, start, hint))

    def scratch(self, node: Node, shape: tuple[int, ...], dtype: DType, skip: int = 0) -> str:
        """Working memory of the node, `skip` bytes from its start."""
        start, layout = self.plan.scratch[node].offset + skip, contiguous(shape)
        key = ("arena", dtype, layout, start)
        return self.names.once(key, lambda: self._view("arena", dtype, layout, start, "w"))

    # -- memory --------------------------------------------------------------------------------

    def _view(self, base: str, dtype: DType, layout: Layout, start: int, hint: str) -> str:
        text = f"view({base}, {self.dtype(dtype)}, {layout.shape}, {start}"
        if not layout.is_contiguous:
            text += f", {tuple(s * dtype.bytes for s in layout.strides)}"
        return self.setup(hint, text + ")")

    def dtype(self, dtype: DType) -> str:
        """A name for an element type."""
        return self.names.claim(dtype.name, dtype.numpy)

    def _base(self, buffer: Buffer) -> str:
        if buffer in self._bases:
            return self._bases[buffer]
        if buffer.kind == "state":
            name = self.setup(identifier(buffer.name), f"state[{buffer.name!r}]")
        elif buffer.kind == "constant":
            name = self.constant(self._folded(buffer.nodes[0]), "k")
        elif buffer.kind in ("input", "register"):
            node = buffer.nodes[0]
            cell = f"view(None, {self.dtype(buffer.dtype)}, (), 0)"
            name = self.setup(f"{self.scalar(node)}_cell", cell)
        else:
            name = "arena"
        self._bases[buffer] = name
        return name

    def _is_folded(self, node: Node) -> bool:
        return self.plan.places[node].buffer.kind == "constant"

    def _folded(self, node: Node) -> np.ndarray:
        value = np.ascontiguousarray(evaluate_node(node, [])).reshape(static_shape(node.type.shape))
        value.flags.writeable = False
        return value

    # -- inputs of one call --------------------------------------------------------------------

    def _input_view(self, node: Node, layout: Layout, dtype: DType) -> str:
        root = self.plan.places[node].buffer.nodes[0]
        base = self.names.of(("input", root), identifier(root.name))
        whole = contiguous(static_shape(root.type.shape))
        if layout == whole and dtype == root.type.dtype:
            return base
        key = (root, layout, dtype)

        def taken() -> str:
            name = self.names.fresh(base)
            self.line(f"{name} = {self._input_expression(base, root.type, layout, dtype)}")
            return name

        return self.names.once(key, taken)

    def _input_expression(self, base: str, type: TensorType, layout: Layout, dtype: DType) -> str:
        whole = contiguous(static_shape(type.shape))
        if dtype == type.dtype and layout.offset == 0 and layout.size == whole.size:
            if layout.is_contiguous:
                return f"{base}.reshape({layout.shape})"
            if layout.shape[::-1] == whole.shape and layout.strides[::-1] == whole.strides:
                return f"{base}.T"
        strides = tuple(s * dtype.bytes for s in layout.strides)
        start = layout.offset * dtype.bytes
        return f"ndarray({layout.shape}, {self.dtype(dtype)}, {base}, {start}, {strides})"

    def _print_inputs(self) -> None:
        for node in self.plan.graph.inputs:
            if node.name in self.plan.bound:
                if node.type.rank == 0 and self._reads(node):
                    base = self._base(self.plan.places[node].buffer)
                    self.line(f"{self.scalar(node)} = {base}[()]")
                continue
            name = self.names.of(("input", node), identifier(node.name))
            key, kind = repr(node.name), self.constant(node.type, f"{name}_type")
            shape = static_shape(node.type.shape)
            self.line(f"{name} = inputs[{key}]")
            dtype = self.dtype(node.type.dtype)
            self.line(f"if {name}.shape != {shape} or {name}.dtype != {dtype}:")
            self.line(f"    refuse({key}, {kind}, {name})")
            if node.type.rank == 0:
                self._lines.append(_Line(f"{self.scalar(node)} = {name}[()]", node))
            else:
                self.line(f"if not {name}.flags.c_contiguous:")
                self.line(
                    f"    {name} = {self.use('ascontiguousarray', np.ascontiguousarray)}({name})"
                )

    def _reads(self, node: Node) -> bool:
        return bool(self.plan.graph.users[node]) or node in self.plan.graph.outputs

    # -- the whole -----------------------------------------------------------------------------

    def run(self) -> str:
        return self._assemble(self._body())

    def turn(self, name: str) -> list[str]:
        """The plan as the function `name`: over arrays, it gives one turn of a loop."""
        body = self._body() or ["pass"]
        return self._bind(f"{name}(state, arena)", "turn()", body)

    def _body(self) -> list[str]:
        self._print_inputs()
        if self.clock is not None and self.outer is None:
            self.line(f"{self.use('clock', self.clock)}.begin()")
        place = {node: i for i, node in enumerate(self.plan.order)}
        around = "" if self.outer is None else f"{self.outer.group}."
        for number, group in enumerate(self.plan.groups):
            self.group = f"{around}{number}"
            nodes = sorted(
                (n for n in group.nodes if n not in self.plan.views), key=place.__getitem__
            )
            if nodes:
                self.line("")
                self.line(_comment(number, group))
            for node in nodes:
                template_of(node)(self, node)
            if nodes and self.clock is not None:
                self.line(f"clock.mark({self.clock.part(self.plan, group, self.group, nodes)})")
        self._print_end()
        body: list[str] = []
        for line in self._lines:
            body.append(line.text)
            if line.defines in self._cells:
                assert line.defines is not None
                cell = self._bases[self.plan.places[line.defines].buffer]
                body.append(f"{cell}[()] = {self.scalar(line.defines)}")
        return body

    def _print_end(self) -> None:
        """Take the results, write what state could not be updated in place, and return."""
        results = {}
        self.line("")
        for name, node in self.plan.graph.named_outputs.items():
            if name not in self.plan.bound:
                value = f"{self.array(node)}.copy()" if node.type.rank else self.scalar(node)
                if self.plan.stores and node.type.rank:
                    kept = self.names.fresh("result")
                    self.line(f"{kept} = {value}")
                    value = kept
                results[name] = value
        self._print_stores()
        if self.outer is None:
            self.line(f"return {{{', '.join(f'{k!r}: {v}' for k, v in results.items())}}}")

    def _print_stores(self) -> None:
        saved = {}
        for store in self.plan.stores:
            if store.early and store.source.type.rank:
                saved[store] = self.names.fresh("saved")
                self.line(f"{saved[store]} = {self.array(store.source)}.copy()")
        for store in self.plan.stores:
            target = self._base(self.plan.places[self.plan.graph.named_inputs[store.name]].buffer)
            if not store.source.type.rank:
                self.line(f"{target}[()] = {self.scalar(store.source)}")
            else:
                self.line(f"{target}[...] = {saved.get(store) or self.operand(store.source)}")

    def _assemble(self, body: Sequence[str]) -> str:
        lines = [f'"""`{identifier(self.plan.graph.name)}` in NumPy, printed by weft."""', ""]
        lines += [f"# {text}" for text in self.names.constants]
        lines += ["", *self._bind("bind(state, arena)", "step(inputs)", body), ""]
        return "\n".join(lines)

    def _bind(self, outer: str, inner: str, body: Sequence[str]) -> list[str]:
        lines = [f"def {outer}:"]
        lines += [f"    {text}".rstrip() for text in (*self._functions, *self._setup)]
        lines += ["", f"    def {inner}:"]
        lines += [f"        {text}".rstrip() for text in body]
        return [*lines, "", f"    return {inner.partition('(')[0]}", ""]


def view(
    base: np.ndarray | None,
    dtype: np.dtype,
    shape: tuple[int, ...],
    start: int,
    strides: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Elements of an array's memory, from byte `start`; new memory without a base."""
    if base is None:
        return np.zeros(shape, dtype)
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.ndarray(shape, dtype, base, start, strides)


def refuse(name: str, type: TensorType, array: Any) -> None:
    """Raise the error for an input of the wrong type."""
    found = f"{array.dtype} of shape {array.shape}"
    raise RunError(f"input `{name}` has another type", expected=f"`{type}`", found=found)


def _comment(number: int, group: Group) -> str:
    text = f"# group {number} {group.kind}"
    span = next((n.span for n in reversed(group.nodes) if n.span is not None), None)
    if span is None:
        return text
    line = span.source.line(span.line).strip()
    clean = "".join(c if c.isprintable() else " " for c in f"{span}: {line}")
    return f"{text}   {clean[:100]}"
