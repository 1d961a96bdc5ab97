"""A graph as an ONNX model: composites that ONNX has, primitives for the rest, names of the spec.

    graph --optimise--> nodes --COMPOSITES, RULES--> ONNX nodes --drop the unused--> ModelProto

A body that is written out is optimised by itself and keeps its place in the names, so that what
`net.layer_norm` became can be found in the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from weft.backends.onnx import arrays, elementwise, loops, products, random, windows
from weft.backends.onnx.composites import COMPOSITES, Call
from weft.backends.onnx.composites_layers import LAYERS
from weft.backends.onnx.elementwise import Rule
from weft.backends.onnx.loops import names_read, rename
from weft.backends.onnx.types import CODES
from weft.backends.onnx.writer import Value, Writer, initializer
from weft.compiler.builder import input_
from weft.compiler.errors import RunError
from weft.compiler.graph import Graph, Node, substitute
from weft.compiler.passes.decompose import drop_stop_gradient
from weft.compiler.pipeline import optimise
from weft.compiler.program import Program
from weft.compiler.types import F32, DType, SymDim, TensorType, dtype_of

RULES: dict[str, Rule] = {
    **arrays.RULES,
    **elementwise.RULES,
    **loops.RULES,
    **products.RULES,
    **random.RULES,
    **windows.RULES,
}
_ROWS = COMPOSITES | LAYERS
OPSET = 21
OLDEST = 17


def export_predict(
    program: Program,
    tensors: Mapping[str, np.ndarray],
    *,
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = OPSET,
    metadata: Mapping[str, str] | None = None,
) -> ModelProto:
    """The trained model: what `predict` computes, for a batch of any size.

    `tensors` has the program's states by name; those that `predict` reads become initialisers of
    that name, and a parameter's average takes the parameter's. `constants` has the values of other
    inputs that are to be stored. The rest, the fields that the model reads, are its inputs; where
    it reads none and draws its own numbers, the size of the `batch` is.
    """
    graph, stored = program.predict, {}
    values: dict[Node, Node] = {}
    for node in graph.inputs:
        if node.name in program.states:
            owner = program.states[node.name].owner
            name = owner if owner and owner not in graph.named_inputs else node.name
            values[node] = input_(name, node.type)
            stored[name] = tensors[node.name]
        elif constants is not None and node.name in constants:
            stored[node.name] = constants[node.name]
    inputs = tuple(values.setdefault(node, node) for node in graph.inputs)
    outputs = tuple(substitute(graph.outputs, values))
    named = Graph(graph.name, inputs, outputs, graph.output_names)
    return export_graph(
        named,
        name=program.name,
        initializers=stored,
        sizes=("batch",),
        opset=opset,
        metadata=metadata,
    )


def export_graph(
    graph: Graph,
    *,
    name: str | None = None,
    initializers: Mapping[str, np.ndarray] | None = None,
    outputs: Mapping[str, str] | None = None,
    sizes: Sequence[str] = (),
    opset: int = OPSET,
    metadata: Mapping[str, str] | None = None,
) -> ModelProto:
    """The graph as a model, checked by `onnx.checker`; symbolic sizes stay symbolic.

    Inputs of the graph that `initializers` names are stored in the model, the others are its
    inputs. An output has the graph's name for it, or the one that `outputs` gives; where that is an
    input's name (a state's new value), `.next` is added, because ONNX names one thing once. A
    symbolic size among `sizes` that is needed and that no input has becomes an input of its own, a
    scalar of i64. Raises RunError for what ONNX cannot say, or an initialiser of another type.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise RunError(
            f"ONNX opset {opset} can't be written",
            expected=f"{OLDEST} to {newest}",
            hint=f"{OPSET}, the default, runs on most runtimes",
        )
    stored = dict(initializers or {})
    names = _output_names(graph, outputs or {})
    writer = Writer(opset, taken={*graph.named_inputs, *names}, asked=dict.fromkeys(sizes, None))
    given = [Value(i.name, i.type.dtype, i.type.shape) for i in graph.inputs]
    for node, value in zip(graph.inputs, given, strict=True):
        if node.name not in stored:
            for axis, dim in enumerate(node.type.shape):
                if isinstance(dim, SymDim) and str(dim) in dim.symbols:
                    writer.symbols.setdefault(str(dim), (value, axis))
    results = _Export(writer).graph(graph, given)
    full = [writer.full(v, o.type.shape) for v, o in zip(results, graph.outputs, strict=True)]
    nodes = _needed(_named(writer, full, names), names)
    used = {read for node in nodes for read in names_read(node)}
    tensors = [
        initializer(i.name, _checked(i, stored[i.name]))
        for i in graph.inputs
        if i.name in stored and i.name in used
    ]
    tensors += [tensor for key, tensor in writer.constants.items() if key in used]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            name or graph.name,
            [
                *(_info(i.name, i.type) for i in graph.inputs if i.name not in stored),
                *(_info(v.name, TensorType(v.dtype, v.shape)) for v in writer.asked.values() if v),
            ],
            [_info(key, o.type) for key, o in zip(names, graph.outputs, strict=True)],
            tensors,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
        producer_name="weft",
        producer_version=_version(),
    )
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model


@dataclass(eq=False)
class _Export:
    """One export: each body is optimised once, however often it is called."""

    writer: Writer
    bodies: dict[Graph, Graph] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.writer.graph = self.graph

    def graph(self, graph: Graph, inputs: Sequence[Value]) -> list[Value]:
        """Write a graph applied to values; its outputs."""
        if graph not in self.bodies:
            self.bodies[graph] = optimise(drop_stop_gradient(graph))
        body, values = self.bodies[graph], self.writer.values
        values.update(zip(body.inputs, inputs, strict=True))
        for node in body.nodes:
            if node.op.name != "input":
                self.writer.span = node.span
                operands = [values[i] for i in node.inputs]
                found = (self.call if node.op.name == "call" else self.primitive)(node, operands)
                values[node] = found
        return [values[o] for o in body.outputs]

    def primitive(self, node: Node, operands: Sequence[Value]) -> Value:
        rule = RULES.get(node.op.name)
        if rule is None:
            raise RunError(f"no ONNX rule for `{node.op.name}`", node.span)
        return rule(self.writer, node, operands)

    def call(self, node: Node, operands: Sequence[Value]) -> Value:
        """A library function whole where ONNX has it, else its body."""
        name, body = node.attributes["name"], node.attributes["body"]
        arguments = dict(zip(body.named_inputs, operands, strict=True))
        outer = self.writer.scope
        owner = _owner(arguments)
        row = _ROWS.get(name)
        if row is not None and _of_one_type(node):
            with self.writer.within(owner or outer):
                rounded = {n: self._rounded(x, node.type.dtype) for n, x in arguments.items()}
                found = row(self.writer, Call(node, rounded, dict(node.attributes["config"])))
            if found is not None:
                return found
        with self.writer.within(owner or (f"{outer}/{name}" if outer else name)):
            return self.graph(body, operands)[0]

    def _rounded(self, value: Value, dtype: DType) -> Value:
        """A parameter as a model of narrow floats sees it."""
        return self.writer.cast(value, dtype) if value.dtype.kind == "float" else value


def _of_one_type(call: Node) -> bool:
    """Whether all floats that a body computes with are of its result's type.

    Wider operands are parameters that it rounds first.
    """
    found = {n.type.dtype for n in call.inputs if n.type.dtype.kind == "float"}
    result = call.type.dtype
    return found <= {result} or (result.is_narrow and result in found and found <= {result, F32})


def _owner(arguments: Mapping[str, Value]) -> str | None:
    """The layer whose call this is: what its parameters' names begin with."""
    for local, value in arguments.items():
        if value.name.endswith(f".{local}"):
            return value.name.removesuffix(f".{local}")
    return None


def _output_names(graph: Graph, renamed: Mapping[str, str]) -> list[str]:
    """A name for each output that no input has."""
    inputs, names = set(graph.named_inputs), []
    for output in graph.output_names:
        name = renamed.get(output, output)
        while name in inputs or name in names:
            name += ".next"
        names.append(name)
    return names


def _named(writer: Writer, results: Sequence[Value], names: Sequence[str]) -> list[NodeProto]:
    """The nodes, with the results renamed; Identity for an input or a value under a second name."""
    made = {output for node in writer.nodes for output in node.output}
    renamed: dict[str, str] = {}
    copies = []
    for value, name in zip(results, names, strict=True):
        if value.name in made and value.name not in renamed:
            renamed[value.name] = name
        else:
            source = renamed.get(value.name, value.name)
            copies.append(helper.make_node("Identity", [source], [name], f"{name}/Identity"))
    for node in writer.nodes:
        rename(node, renamed)
    return [*writer.nodes, *copies]


def _needed(nodes: Sequence[NodeProto], names: Sequence[str]) -> list[NodeProto]:
    """The nodes that the results depend on."""
    wanted, kept = set(names), []
    for node in reversed(nodes):
        if any(output in wanted for output in node.output):
            kept.append(node)
            wanted.update(names_read(node))
    return kept[::-1]


def _checked(node: Node, array: np.ndarray) -> np.ndarray:
    found = np.asarray(array)
    if found.shape != node.type.shape or found.dtype != node.type.dtype.numpy:
        raise RunError(
            f"`{node.name}` has another type than the graph's",
            node.span,
            expected=f"`{node.type}`",
            found=f"`{TensorType(dtype_of(found), found.shape)}`",
        )
    return found


def _version() -> str:
    try:
        return version("weft")
    except PackageNotFoundError:
        return ""


def _info(name: str, type: TensorType) -> ValueInfoProto:
    """An input or output; a symbolic size is written as its formula."""
    sizes = [d if isinstance(d, int) else str(d) for d in type.shape]
    return helper.make_tensor_value_info(name, CODES[type.dtype], sizes)
