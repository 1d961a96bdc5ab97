"""What a program costs, before it runs: parameters, operations and memory, by source line.

multiply_adds   products summed in matrix products and convolutions
flops           floating-point operations of every kind; a multiply-add is two

Both are of the forward pass (`predict`) for one example; `step_flops` is a whole training step. How
much of an example its convolutions see is there too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from weft.compiler.collector import no_cycles
from weft.compiler.errors import Diagnostic, Span
from weft.compiler.graph import Graph, Node
from weft.compiler.loops import Loop, loops_of
from weft.compiler.ops import Kind
from weft.compiler.passes.bind import bind
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.pipeline import lower
from weft.compiler.plan import Buffer, Plan, Target
from weft.compiler.program import Experiment, Program, State
from weft.compiler.receptive import ReceptiveField, by_kernel, largest, receptive_fields
from weft.compiler.types import DType, TensorType, static_shape

# Elementwise ops that move or choose numbers and compute none.
_FREE = frozenset({"cast", "stop_gradient", "select"})


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name (`net.dense.w`), its type, and the place that asked for it."""

    name: str
    type: TensorType
    span: Span | None

    @property
    def size(self) -> int:
        return math.prod(static_shape(self.type.shape))


@dataclass(frozen=True)
class Layer:
    """The parameters of one call of a layer, such as `net.dense_2`.

    `sees` is how much of an example each place of a convolution with them sees, where it is known.
    """

    name: str
    tensors: tuple[Parameter, ...]
    span: Span | None
    sees: ReceptiveField | None

    @property
    def parameters(self) -> int:
        return sum(t.size for t in self.tensors)


@dataclass(frozen=True)
class Line:
    """What one line of the spec costs.

    `result` is what it makes in `predict` (its last value there), with a symbolic batch; `bytes`
    is what it holds of a training step's memory at the peak: values, parameters and their slots.
    """

    span: Span
    result: TensorType | None
    parameters: int
    multiply_adds: int
    flops: int
    step_flops: int
    bytes: int

    @property
    def text(self) -> str:
        """The line itself."""
        return self.span.source.line(self.span.line).strip()


@dataclass(frozen=True)
class Report:
    """The whole, and its parts by line and by layer.

    `peak_bytes` is a bound for a training step of a full batch of `batch` examples: state, inputs,
    constants and every value in between. `sees` is the largest receptive field that is known.
    """

    name: str
    parameters: int
    multiply_adds: int
    flops: int
    step_flops: int
    peak_bytes: int
    batch: int
    sees: ReceptiveField | None
    lines: tuple[Line, ...]
    layers: tuple[Layer, ...]
    warnings: tuple[Diagnostic, ...] = ()


@no_cycles()
def analyse(experiment: Experiment, program: Program, step: Plan) -> Report:
    """The costs of a program; `step` is the plan of its training step for a full batch."""
    opened = inline_calls(program.predict)
    single = bind(opened, {"batch": 1})
    parameters = [
        Parameter(s.name, s.type, s.span) for s in program.states.values() if s.role == "parameter"
    ]
    costs = _Costs()
    results = {line: node.type for line, node in _by_line(opened.nodes)}
    fields = receptive_fields(single, program.states)
    for node, times in executed(lower(single, Target())):
        costs.add(node.span, "multiply_adds", times * multiply_adds(node))
        costs.add(node.span, "flops", times * flops(node))
    for node, times in executed(step.graph):
        costs.add(node.span, "step_flops", times * flops(node))
    for parameter in parameters:
        costs.add(parameter.span, "parameters", parameter.size)
    for state in program.states.values():
        costs.add(_owner(state, program.states), "bytes", state.type.bytes)
    for buffer in step.live_at_peak:
        costs.add(_place(buffer), "bytes", buffer.bytes)
    return Report(
        name=experiment.name,
        parameters=sum(p.size for p in parameters),
        multiply_adds=costs.totals["multiply_adds"],
        flops=costs.totals["flops"],
        step_flops=costs.totals["step_flops"],
        peak_bytes=step.peak_bytes,
        batch=experiment.settings.batch,
        sees=largest(list(fields.values())) if fields else None,
        lines=costs.lines(results),
        layers=_layers(parameters, _by_parameter(fields, program.states)),
        warnings=experiment.warnings,
    )


_Key = tuple[str, int]


@dataclass
class _Costs:
    """Sums by line, and of all."""

    sums: dict[_Key, dict[str, int]] = field(default_factory=dict)
    spans: dict[_Key, Span] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)

    def add(self, span: Span | None, what: str, amount: int) -> None:
        self.totals[what] += amount
        if span is None or not amount:
            return
        line = _line(span)
        sums = self.sums.setdefault(line, {})
        sums[what] = sums.get(what, 0) + amount
        self.spans.setdefault(line, span)

    def lines(self, results: Mapping[_Key, TensorType]) -> tuple[Line, ...]:
        return tuple(
            Line(
                self.spans[line],
                results.get(line),
                *(
                    self.sums[line].get(what, 0)
                    for what in ("parameters", "multiply_adds", "flops", "step_flops", "bytes")
                ),
            )
            for line in sorted(self.sums)
        )


def _line(span: Span) -> _Key:
    return span.source.name, span.line


def _by_line(nodes: Iterable[Node]) -> Iterable[tuple[_Key, Node]]:
    return ((_line(n.span), n) for n in nodes if n.span is not None and n.op.name != "input")


def _owner(state: State, states: Mapping[str, State]) -> Span | None:
    return states[state.owner].span if state.owner is not None else state.span


def _place(buffer: Buffer) -> Span | None:
    return next((n.span for n in buffer.nodes if n.span is not None), None)


def _by_parameter(
    fields: Mapping[Node, ReceptiveField], states: Mapping[str, State]
) -> dict[str, ReceptiveField]:
    """`predict` may read the average of a parameter."""
    kernels = by_kernel(fields).items()
    return {states[name].owner or name: field for name, field in kernels if name in states}


def _layers(
    parameters: Iterable[Parameter], fields: Mapping[str, ReceptiveField]
) -> tuple[Layer, ...]:
    found: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        found.setdefault(parameter.name.rpartition(".")[0], []).append(parameter)
    layers = []
    for name, tensors in found.items():
        seen = [fields[t.name] for t in tensors if t.name in fields]
        sees = largest(seen) if seen else None
        layers.append(Layer(name, tuple(tensors), tensors[0].span, sees))
    return tuple(layers)


def executed(graph: Graph) -> Iterator[tuple[Node, int]]:
    """Every node, and how often it runs: those of a loop's body once a turn."""
    loops = {loop[0]: Loop.of(loop[0]) for loop in loops_of(graph.nodes)}
    for node in graph.nodes:
        if node.op.name != "scan":
            yield node, 1
        elif node in loops:
            (length,) = static_shape((loops[node].length,))
            for inner, times in executed(loops[node].body):
                yield inner, times * length


def multiply_adds(node: Node) -> int:
    """Products that are summed: output elements times the length of each sum."""
    if node.op.name == "dot_general":
        axes, _ = node.attributes["contract"]
        shape = static_shape(node.inputs[0].type.shape)
        length: int = math.prod(shape[axis] for axis in axes)
        return _size(node) * length
    if node.op.name == "conv":
        # A dilated operand is zero between its elements; those products are not made.
        window = math.prod(static_shape(node.inputs[1].type.shape)[1:])
        dilation: int = math.prod(node.attributes["lhs_dilation"])
        return _size(node) * window // dilation
    return 0


def flops(node: Node) -> int:
    """Floating-point operations: an elementary function counts as one, a comparison too."""
    operand = node.inputs[0] if node.inputs else node
    kind, name = node.op.kind, node.op.name
    if kind is Kind.ELEMENTWISE:
        return _size(node) if is_flop(name, operand.type.dtype, node.type.dtype) else 0
    if operand.type.dtype.kind != "float" and node.type.dtype.kind != "float":
        return 0
    if kind is Kind.CONTRACTION:
        return 2 * multiply_adds(node)
    if kind is Kind.REDUCTION:
        return _size(operand)
    if kind is Kind.WINDOW:
        return _size(node) * math.prod(node.attributes["window"])
    if name == "cumsum":
        return _size(node)
    if kind is Kind.ORDER:
        length = static_shape(operand.type.shape)[-1]
        return _size(operand) * max(1, (length - 1).bit_length())
    if name == "scatter_add":
        return _size(node.inputs[2])
    return 0


def is_flop(op: str, operand: DType, result: DType) -> bool:
    """Whether an elementwise op of these types is a floating-point operation."""
    return op not in _FREE and "float" in (operand.kind, result.kind)


def _size(node: Node) -> int:
    return math.prod(static_shape(node.type.shape))
