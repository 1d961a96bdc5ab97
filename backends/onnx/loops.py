"""Loops in ONNX: the operator `Scan`, whose body is a graph that sees the values around it.

carried values     the state variables of Scan
stacks             its scan inputs and outputs, along axis 0, in the loop's direction
fixed operands     values of the graph around, read by their names
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, ValueInfoProto, helper

from weft.backends.onnx.elementwise import Rule
from weft.backends.onnx.types import CODES
from weft.backends.onnx.writer import Value, Writer
from weft.compiler.graph import Node
from weft.compiler.loops import Loop, loop_key
from weft.compiler.types import I64, Dim, SymDim, TensorType


def _scan(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    """One result of a loop; the loop is written with the first of them."""
    key = loop_key(node), tuple(v.name for v in x)
    if key not in w.loops:
        w.loops[key] = _written(w, node, x)
    return w.loops[key][node.attributes["result"]]


def _written(w: Writer, node: Node, operands: Sequence[Value]) -> list[Value]:
    """All results of a node's loop."""
    assert w.graph is not None
    loop = Loop.of(node)
    full = [w.full(v, i.type.shape) for v, i in zip(operands, node.inputs, strict=True)]
    first, rest = len(loop.start), len(loop.start) + len(loop.steps)
    start, steps, fixed = full[:first], full[first:rest], full[rest:]
    stepped = [n.type for n in loop.stepped]
    if not steps:  # Scan counts its turns along a scan input
        steps = [w.op("Range", w.scalar(0, I64), w.size(loop.length), w.scalar(1, I64), dtype=I64,
                      shape=(loop.length,))]  # fmt: skip
        stepped = [TensorType(I64)]
    names = [f"{w.scope}/{n}" if w.scope else n for n in ("carried", "turn")]
    inside = [Value(w.fresh(names[0]), v.dtype, v.shape) for v in start]
    inside += [Value(w.fresh(names[1]), t.dtype, t.shape) for t in stepped]
    with w.inner() as nodes:
        values = w.graph(loop.body, [*inside[: first + len(loop.steps)], *fixed])
        ends = [
            _own(w, w.full(v, o.type.shape)) for v, o in zip(values, loop.body.outputs, strict=True)
        ]
    body = helper.make_graph(
        nodes, loop.body.name, [_info(v) for v in inside], [_info(v) for v in ends]
    )
    shapes = [(n.type.dtype, n.type.shape) for n in loop.next]
    shapes += [(n.type.dtype, (loop.length, *n.type.shape)) for n in loop.stacked]
    directions = {}
    if loop.reverse:
        directions = {
            "scan_input_directions": [1] * len(steps),
            "scan_output_directions": [1] * len(loop.stacked),
        }
    if not loop.stacked:
        directions.pop("scan_output_directions", None)
    return list(
        w.several(
            "Scan", [*start, *steps], shapes, body=body, num_scan_inputs=len(steps), **directions
        )
    )


def _own(w: Writer, value: Value) -> Value:
    """A value that the body makes itself, under a name of its own, as outputs must be."""
    name = w.fresh(f"{value.name}.out")
    w.nodes.append(helper.make_node("Identity", [value.name], [name], name))
    return Value(name, value.dtype, value.shape)


def _info(value: Value) -> ValueInfoProto:
    sizes: list[int | str] = [_size(d) for d in value.shape]
    return helper.make_tensor_value_info(value.name, CODES[value.dtype], sizes)


def _size(dim: Dim) -> int | str:
    return str(dim) if isinstance(dim, SymDim) else dim


def names_read(node: NodeProto) -> list[str]:
    """The names that a node reads, those that its body reads around it among them."""
    names = list(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names += names_read(inner)
    return names


def rename(node: NodeProto, names: dict[str, str]) -> None:
    """Other names for values, in the node and in its body."""
    for values in (node.input, node.output):
        for i, value in enumerate(values):
            values[i] = names.get(value, value)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            rename(inner, names)


RULES: dict[str, Rule] = {"scan": _scan}
