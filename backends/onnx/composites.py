"""Library functions that ONNX has as operators. A row gives None where they don't fit.

Rows read what a call computes off its body (axes, pads, strides), and only numbers off its static
arguments. What has no row, or whose row gives None, is written as its body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from weft.backends.onnx.products import convolution
from weft.backends.onnx.types import KERNELS
from weft.backends.onnx.windows import fits, pool_attributes
from weft.backends.onnx.writer import Value, Writer
from weft.compiler.graph import Graph, Node
from weft.compiler.types import I32, I64, Shape


@dataclass(frozen=True)
class Call:
    """A call being written: its operands by the names that the library gives them."""

    node: Node
    operands: Mapping[str, Value]
    config: Mapping[str, Any]

    @property
    def body(self) -> Graph:
        graph: Graph = self.node.attributes["body"]
        return graph

    @property
    def shape(self) -> Shape:
        return self.node.type.shape

    def full(self, w: Writer, *names: str) -> list[Value]:
        """Operands with their broadcasts written out."""
        return [w.full(self.operands[n], self.body.named_inputs[n].type.shape) for n in names]

    def only(self, op: str) -> Node | None:
        """The body's one node of an op; None if it has none or several."""
        found = [node for node in self.body.nodes if node.op.name == op]
        return found[0] if len(found) == 1 else None

    def number(self, name: str) -> float | None:
        """A static argument that is a number."""
        value = self.config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value)

    def takes(self, *names: str) -> bool:
        """Whether the operands are just these."""
        return set(self.operands) == set(names)


Row = Callable[[Writer, Call], Value | None]


def _runs(op_type: str, *values: Value) -> bool:
    return all(v.dtype in KERNELS[op_type] for v in values)


def _unary(op_type: str, *numbers: tuple[str, str], **attributes: Any) -> Row:
    """An operator on `x`; `numbers` pairs static arguments with ONNX's names for them."""

    def row(w: Writer, call: Call) -> Value | None:
        given: dict[str, Any] = {theirs: call.number(ours) for ours, theirs in numbers}
        if not call.takes("x") or None in given.values() or not w.has(op_type):
            return None
        x = call.operands["x"]
        if not _runs(op_type, x):
            return None
        return w.op(op_type, x, **given, **attributes)

    return row


def _softmax(op_type: str) -> Row:
    def row(w: Writer, call: Call) -> Value | None:
        largest = call.only("reduce_max")
        if not call.takes("x") or largest is None or len(largest.attributes["axes"]) != 1:
            return None
        (x,) = call.full(w, "x")
        axis = largest.attributes["axes"][0]
        return w.op(op_type, x, axis=axis) if _runs(op_type, x) else None

    return row


def _dense(w: Writer, call: Call) -> Value | None:
    """Gemm of a matrix; MatMul, and Add for the bias, of anything else."""
    if not call.takes("x", "w") and not call.takes("x", "w", "b"):
        return None
    x, weight = call.full(w, "x", "w")
    if not _runs("Gemm", x, weight) or weight.rank != 2:
        return None
    if "b" not in call.operands:
        return w.op("MatMul", x, weight, shape=call.shape)
    (bias,) = call.full(w, "b")
    if x.rank == 2:
        return w.op("Gemm", x, weight, bias, shape=call.shape)
    return w.elementwise("Add", w.op("MatMul", x, weight, shape=call.shape), bias)


def _conv(w: Writer, call: Call) -> Value | None:
    node = call.only("conv")
    if node is None or not (call.takes("x", "w") or call.takes("x", "w", "b")):
        return None
    if [i.name for i in node.inputs if i.op.name == "input"] != ["x", "w"]:
        return None
    x, kernel = call.full(w, "x", "w")
    bias = call.full(w, "b")[0] if "b" in call.operands else None
    if not _runs("Conv", x):
        return None
    return convolution(w, x, kernel, bias, node.attributes, call.shape)


def _batch_norm(w: Writer, call: Call) -> Value | None:
    """With the running averages: a call that reads them is one of evaluation."""
    names = ("x", "scale", "shift", "mean", "var")
    epsilon = call.number("eps")
    if not call.takes(*names) or epsilon is None:
        return None
    operands = call.full(w, *names)
    if not _runs("BatchNormalization", *operands):
        return None
    return w.op("BatchNormalization", *operands, epsilon=epsilon)


def _layer_norm(w: Writer, call: Call) -> Value | None:
    axes, epsilon = call.config.get("axes"), call.number("eps")
    if not call.takes("x", "scale", "shift") or type(axes) is not int or epsilon is None:
        return None
    operands = call.full(w, "x", "scale", "shift")
    if not _runs("LayerNormalization", *operands):
        return None
    return w.op("LayerNormalization", *operands, axis=-axes, epsilon=epsilon)


def _pool(op_type: str, reducer: str) -> Row:
    def row(w: Writer, call: Call) -> Value | None:
        windows = [n for n in call.body.nodes if n.op.name == "reduce_window"]
        if not call.takes("x") or not windows or windows[0].inputs[0].op.name != "input":
            return None
        (x,), attributes = call.full(w, "x"), windows[0].attributes
        if x.rank != len(attributes["window"]) + 2 or not _runs(op_type, x):
            return None
        if attributes["reducer"] != reducer or not fits(attributes):
            return None
        given = pool_attributes(attributes)
        if reducer == "sum" and any(given["pads"]):
            given["count_include_pad"] = int(bool(call.config.get("count_padding")))
        return w.op(op_type, x, shape=call.shape, **given)

    return row


def _global_pool(op_type: str) -> Row:
    def row(w: Writer, call: Call) -> Value | None:
        if not call.takes("x"):
            return None
        (x,) = call.full(w, "x")
        if x.rank < 3 or not _runs(op_type, x):
            return None
        ones = (1,) * (x.rank - 2)
        return w.reshape(w.op(op_type, x, shape=(*x.shape[:2], *ones)), call.shape)

    return row


def _flatten(w: Writer, call: Call) -> Value | None:
    if not call.takes("x"):
        return None
    return w.op("Flatten", *call.full(w, "x"), shape=call.shape, axis=1)


def _embedding(w: Writer, call: Call) -> Value | None:
    """The runtime checks the indices, where the body would clamp them."""
    if not call.takes("ids", "table"):
        return None
    table, ids = call.full(w, "table", "ids")
    if ids.dtype not in (I32, I64):
        return None
    return w.op("Gather", table, ids, shape=call.shape, axis=0)


COMPOSITES: dict[str, Row] = {
    "average_pool": _pool("AveragePool", "sum"),
    "batch_norm": _batch_norm,
    "celu": _unary("Celu", ("alpha", "alpha")),
    "conv": _conv,
    "dense": _dense,
    "elu": _unary("Elu", ("alpha", "alpha")),
    "embedding": _embedding,
    "flatten": _flatten,
    "gelu": _unary("Gelu"),
    "gelu_tanh": _unary("Gelu", approximate="tanh"),
    "global_average_pool": _global_pool("GlobalAveragePool"),
    "global_max_pool": _global_pool("GlobalMaxPool"),
    "hard_sigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_swish": _unary("HardSwish"),
    "layer_norm": _layer_norm,
    "leaky_relu": _unary("LeakyRelu", ("slope", "alpha")),
    "log_softmax": _softmax("LogSoftmax"),
    "max_pool": _pool("MaxPool", "max"),
    "mish": _unary("Mish"),
    "relu": _unary("Relu"),
    "relu_slope_one": _unary("Relu"),
    "selu": _unary("Selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "sigmoid": _unary("Sigmoid"),
    "softmax": _softmax("Softmax"),
    "softplus": _unary("Softplus"),
    "softsign": _unary("Softsign"),
}
