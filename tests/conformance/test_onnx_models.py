"""Exported specs against the reference: layers at several batch sizes, names, a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from conformance.onnx_runs import compare, run, session
from goldens import Golden
from weft.backends.onnx.export import export_graph, export_predict
from weft.compiler.errors import Source
from weft.compiler.evaluate import evaluate
from weft.compiler.philox import seed_words
from weft.compiler.program import Program
from weft.compiler.training import build
from weft.compiler.types import F32, I64, TensorType
from weft.frontends.dsl.data import Opened
from weft.frontends.dsl.elaborate import elaborate

SPEC = """
data d {{
  source = embedded("digits")
  x: f32{shape} = x
  y: class[3]   = y
  split = {{ train: 50%, valid: 25%, test: 25% }}
}}
layer m(x: f32[B, ...S]) {{
  {body}
}}
model net = m()
train {{
  data = d.batch(8)
  minimize {loss} with adam(lr = 1e-2)
  epochs = 1
  {rest}
}}
"""


class Columns:
    """Data of known types that is never read."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.fields = {"x": TensorType(F32, tuple(shape)), "y": TensorType(I64)}

    def open(
        self,
        data: str,
        source: str,
        arguments: Sequence[object],
        options: Mapping[str, object],
        split: Mapping[str, float | int],
    ) -> Opened:
        return Opened(self.fields, dict.fromkeys(split, 8))


@cache
def program(
    body: str, shape: tuple[int, ...], loss: str = "mean(net(x))", rest: str = ""
) -> Program:
    text = SPEC.format(body=body, shape=list(shape), loss=loss, rest=rest)
    return build(elaborate(Source("spec.weft", text), Columns(shape), Path()))


def trained(program: Program, seed: int = 0) -> dict[str, np.ndarray]:
    """Initial state, moved off its special values, as training would."""
    rng = np.random.default_rng(seed)
    state = evaluate(program.init, {"seed": seed_words(seed)})
    for name, value in state.items():
        if program.states[name].role in ("parameter", "buffer", "average"):
            moved = value + rng.uniform(0, 0.2, value.shape)
            state[name] = moved.astype(value.dtype)
    return state


def fields(program: Program, batch: int) -> dict[str, np.ndarray]:
    rng, found = np.random.default_rng(batch), {}
    for node in (*program.predict.inputs, *program.train_step.inputs):
        shape = [batch, *node.type.shape[1:]]
        if node.name == "x":
            found["x"] = rng.normal(size=shape).astype(np.float32)
        elif node.name == "y":
            found["y"] = rng.integers(0, 3, shape).astype(node.type.dtype.numpy)
    return found


# The body after which the operators come, the shape of an example, and the operators expected.
LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {
    "dense": ("x |> dense(3)", (4,), ("Gemm",)),
    "dense-no-bias": ("x |> dense(3, bias = false)", (4,), ("MatMul",)),
    "dense-rows": ("x |> dense(3)", (2, 4), ("MatMul", "Add")),
    "conv": ("x |> conv(3)", (2, 5, 6), ("Conv",)),
    "conv-settings": (
        "x |> conv(4, kernel = [3, 2], stride = 2, padding = 1, groups = 2, bias = false)",
        (2, 5, 6),
        ("Conv",),
    ),
    "conv-dilated": ("x |> conv(3, padding = 'valid', dilation = 2)", (2, 9), ("Conv",)),
    "batch-norm": ("x |> batch_norm(eps = 1e-3)", (3, 4, 2), ("BatchNormalization",)),
    "batch-norm-flat": ("x |> batch_norm", (5,), ("BatchNormalization",)),
    "layer-norm": ("x |> layer_norm(eps = 1e-3)", (4, 5), ("LayerNormalization",)),
    "layer-norm-axes": ("x |> layer_norm(axes = 2)", (4, 5), ("LayerNormalization",)),
    "relu": ("x |> dense(9) |> relu", (4,), ("Gemm", "Relu")),
    "leaky-relu": ("x |> dense(9) |> leaky_relu(0.1)", (4,), ("Gemm", "LeakyRelu")),
    "elu": ("x |> dense(9) |> elu(alpha = 0.7)", (4,), ("Gemm", "Elu")),
    "celu": ("x |> dense(9) |> celu(alpha = 0.7)", (4,), ("Gemm", "Celu")),
    "selu": ("x |> dense(9) |> selu", (4,), ("Gemm", "Selu")),
    "mish": ("x |> dense(9) |> mish", (4,), ("Gemm", "Mish")),
    "hard-sigmoid": ("x |> dense(9) |> hard_sigmoid", (4,), ("Gemm", "HardSigmoid")),
    "hard-swish": ("x |> dense(9) |> hard_swish", (4,), ("Gemm", "HardSwish")),
    "softsign": ("x |> dense(9) |> softsign", (4,), ("Gemm", "Softsign")),
    "relu-slope-one": ("x |> dense(9) |> relu_slope_one", (4,), ("Gemm", "Relu")),
    "sigmoid": ("x |> dense(9) |> sigmoid", (4,), ("Gemm", "Sigmoid")),
    "tanh": ("tanh(x |> dense(9))", (4,), ("Gemm", "Tanh")),
    "softplus": ("x |> dense(9) |> softplus", (4,), ("Gemm", "Softplus")),
    "gelu": ("x |> dense(9) |> gelu", (4,), ("Gemm", "Gelu")),
    "gelu-tanh": ("x |> dense(9) |> gelu_tanh", (4,), ("Gemm", "Gelu")),
    "silu": ("x |> dense(9) |> silu", (4,), ("Gemm", "Sigmoid", "Mul")),
    "swish": ("x |> dense(9) |> swish(beta = 2)", (4,), ("Gemm", "Mul", "Sigmoid", "Mul")),
    "softmax": ("x |> dense(9) |> softmax", (4,), ("Gemm", "Softmax")),
    "softmax-axis": ("x |> dense(9) |> softmax(over = 1)", (3, 4), ("MatMul", "Add", "Softmax")),
    "log-softmax": ("x |> dense(9) |> log_softmax", (4,), ("Gemm", "LogSoftmax")),
    "max-pool": ("x |> conv(2) |> max_pool", (2, 5, 6), ("Conv", "MaxPool")),
    "max-pool-same": (
        "x |> conv(2) |> max_pool(size = 3, stride = 2, padding = 'same')",
        (2, 5, 6),
        ("Conv", "MaxPool"),
    ),
    "average-pool": (
        "x |> conv(2) |> average_pool(size = [2, 3])",
        (2, 5, 6),
        ("Conv", "AveragePool"),
    ),
    "average-pool-same": (
        "x |> conv(2) |> average_pool(size = 3, stride = 2, padding = 'same')",
        (2, 5, 6),
        ("Conv", "AveragePool"),
    ),
    "average-pool-zeros": (
        "x |> conv(2) |> average_pool(size = 3, padding = 1, count_padding = true)",
        (2, 5),
        ("Conv", "AveragePool"),
    ),
    "global-average": (
        "x |> conv(2) |> global_average_pool",
        (2, 5, 6),
        ("Conv", "GlobalAveragePool", "Squeeze"),
    ),
    "global-max": (
        "x |> conv(2) |> global_max_pool",
        (2, 5),
        ("Conv", "GlobalMaxPool", "Squeeze"),
    ),
    "flatten": ("x |> conv(2) |> flatten", (2, 5, 3), ("Conv", "Flatten")),
    "embedding": ("arg_max(x) |> embedding(5, 3)", (5,), ("ArgMax", "Gather")),
    "dropout": ("x |> dense(3) |> dropout(0.5)", (4,), ("Gemm",)),
    "dense-transposed": ("x |> dense_transposed(3)", (4,), ("Gemm",)),
    "conv-transposed": (
        "x |> conv_transposed(3, stride = 2)",
        (2, 5, 6),
        ("Transpose", "ConvTranspose"),
    ),
    "conv-transposed-settings": (
        "x |> conv_transposed(6, 3, [2, 3], padding = 1, output_padding = [1, 2], groups = 2)",
        (4, 3, 4),
        ("Reshape", "Transpose", "Reshape", "ConvTranspose"),
    ),
    "instance-norm": ("x |> instance_norm(eps = 1e-3)", (3, 4, 2), ("InstanceNormalization",)),
    "group-norm": ("x |> group_norm(2, eps = 1e-3)", (4, 3, 2), ("GroupNormalization",)),
    "local-response": (
        "x |> conv(7) |> local_response_norm(alpha = 0.1)",
        (7, 3, 2),
        ("Conv", "LRN"),
    ),
    "local-response-mean": (
        "x |> conv(7) |> local_response_norm_mean(3, alpha = 0.1, beta = 0.5)",
        (7, 3, 2),
        ("Conv", "LRN"),
    ),
    "nearest": ("x |> conv(2) |> upscale_nearest([2, 3])", (2, 3, 4), ("Conv", "Resize")),
    "nearest-line": ("x |> conv(2) |> upscale_nearest(3)", (2, 4), ("Conv", "Resize")),
    "linear": ("x |> conv(2) |> upscale_linear", (2, 3, 4), ("Conv", "Resize")),
    "linear-smaller": ("x |> conv(2) |> resize_linear([7, 2])", (2, 3, 4), ("Conv", "Resize")),
    "linear-corners": (
        "x |> conv(2) |> resize_linear_corners([7, 2])",
        (2, 3, 4),
        ("Conv", "Resize"),
    ),
    "pixel-shuffle": ("x |> conv(8) |> pixel_shuffle(2)", (8, 3, 4), ("Conv", "DepthToSpace")),
    "pad-reflect": ("x |> conv(2) |> pad_reflect([1, 2])", (2, 3, 4), ("Conv", "Pad")),
    "pad-replicate": ("x |> conv(2) |> pad_replicate", (2, 3, 4), ("Conv", "Pad")),
}  # fmt: skip


@pytest.mark.parametrize("label", LAYERS)
def test_layer(label: str) -> None:
    """One exported model serves every batch size, and says what the library says."""
    body, shape, ops = LAYERS[label]
    built = program(body.replace("'", '"'), shape)
    state = trained(built)
    model = export_predict(built, state)
    assert tuple(n.op_type for n in model.graph.node) == ops
    found = session(model)
    for batch in (1, 7, 64):
        x = fields(built, batch)["x"]
        expected = evaluate(built.predict, {**state, "x": x})
        compare(dict(zip(expected, found.run(None, {"x": x}), strict=True)), expected, 1e-5)


MLP = ("x |> dense(8) |> relu |> dropout(0.2) |> dense(3)", (4,))
CNN = (
    (
        "x |> conv(4, bias = false) |> batch_norm |> relu |> max_pool |> conv(6, stride = 2) "
        '|> gelu |> average_pool(size = 2, stride = 1, padding = "same") |> flatten |> layer_norm '
        "|> dense(3) |> softmax"
    ),
    (1, 8, 8),
)
OWN = ("relu(x |> dense(3)) * swish(x |> dense(3, bias = false), beta = 2)", (4,))


def shown(model: onnx.ModelProto) -> str:
    """The graph as text, its parameters' numbers left out."""
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.initializer[:]
    lines = [onnx.printer.to_text(graph).rstrip(), ""]
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        held = f" = {array.tolist()}" if tensor.name.startswith("const/") else ""
        lines.append(f"{tensor.name}: {array.dtype}{list(array.shape)}{held}")
    return "\n".join(lines)


@pytest.mark.parametrize(("name", "spec"), [("mlp", MLP), ("cnn", CNN), ("own", OWN)])
def test_golden(golden: Golden, name: str, spec: tuple[str, tuple[int, ...]]) -> None:
    built = program(*spec)
    golden(f"onnx/{name}.txt", shown(export_predict(built, trained(built))))


def test_model_says_where_it_comes_from() -> None:
    built = program(*MLP)
    model = export_predict(built, trained(built), metadata={"spec": "1234"})
    assert (model.producer_name, model.ir_version) == ("weft", 10)
    assert [(i.domain, i.version) for i in model.opset_import] == [("", 21)]
    assert {p.key: p.value for p in model.metadata_props} == {"spec": "1234"}
    (dim, _) = model.graph.input[0].type.tensor_type.shape.dim
    assert dim.dim_param == "batch"


def test_same_graph_same_bytes() -> None:
    built = program(*CNN)
    texts = {export_graph(built.train_step).SerializeToString() for _ in range(2)}
    assert len(texts) == 1


def test_averages_take_the_place_of_parameters() -> None:
    built = program(*MLP, rest="average = ema(0.9)")
    state = trained(built)
    model = export_predict(built, state)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(tensors["net.dense.w"], state["average/net.dense.w"])
    x = fields(built, 3)["x"]
    compare(run(model, {"x": x}), evaluate(built.predict, {**state, "x": x}), 1e-5)


def test_spec_function_is_no_library_function() -> None:
    """A function that a spec calls `gelu` means what the spec says."""
    text = SPEC.format(body="x |> dense(3) |> gelu", shape=[4], loss="mean(net(x))", rest="")
    text += "fn gelu(x) {\n  2 * x\n  gradient(g) { 2 * g }\n}\n"
    built = build(elaborate(Source("spec.weft", text), Columns((4,)), Path()))
    model = export_predict(built, trained(built))
    assert [n.op_type for n in model.graph.node] == ["Gemm", "Mul"]


NORMS = ("x |> conv(4) |> group_norm(2) |> resize_linear([5, 3]) |> rms_norm", (2, 3, 4))


@pytest.mark.parametrize("spec", [MLP, CNN, NORMS], ids=["mlp", "cnn", "norms"])
@pytest.mark.parametrize("opset", [17, 18, 20, 24])
def test_other_opsets(spec: tuple[str, tuple[int, ...]], opset: int) -> None:
    built = program(*spec)
    state, x = trained(built), fields(built, 2)["x"]
    model = export_predict(built, state, opset=opset)
    compare(run(model, {"x": x}), evaluate(built.predict, {**state, "x": x}), 1e-5)


def test_rms_norm_is_one_operator_where_the_opset_has_it() -> None:
    built = program(*NORMS)
    for opset, has in ((24, True), (22, False)):
        model = export_predict(built, trained(built), opset=opset)
        assert ("RMSNormalization" in {n.op_type for n in model.graph.node}) == has


@pytest.mark.parametrize(
    ("body", "shape", "absent"),
    [
        ("x |> conv(6) |> local_response_norm(4)", (2, 3, 4), "LRN"),
        ("x |> conv(4) |> instance_norm(affine = false)", (2, 3), "InstanceNormalization"),
        ("x |> conv(4) |> pad_reflect([[1, 0]])", (2, 3), "Pad"),
        ("x |> conv(4) |> pad_circular", (2, 3), "Pad"),
        ("x |> conv(4) |> upscale_linear", (2, 3), "Resize"),
        ("x |> conv_transposed(3, 1, stride = 2, output_padding = 2)", (2, 3), "ConvTranspose"),
        ("x |> dense_transposed(3, bias = false)", (2, 3), "Gemm"),
    ],
)
def test_what_no_operator_says_is_written_out(
    body: str, shape: tuple[int, ...], absent: str
) -> None:
    built = program(body, shape)
    state, x = trained(built), fields(built, 3)["x"]
    model = export_predict(built, state)
    assert absent not in {n.op_type for n in model.graph.node}
    compare(run(model, {"x": x}), evaluate(built.predict, {**state, "x": x}), 1e-5)


# -- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [MLP, CNN], ids=["mlp", "cnn"])
def test_training_step(spec: tuple[str, tuple[int, ...]]) -> None:
    """Random numbers, backward pass, optimiser and running means, in plain ONNX operators."""
    body, shape = spec
    built = program(
        body.removesuffix(" |> softmax"),
        shape,
        loss="cross_entropy(net(x), y) + 1e-4 * l2(net.weights)",
        rest="metrics = { accuracy: accuracy(net(x), y) }\n  clip = global_norm(1.0)",
    )
    model, state = export_graph(built.train_step), trained(built)
    assert {n.domain for n in model.graph.node} == {""}
    for batch in (8, 5):
        values = {**state, **fields(built, batch)}
        found = run(model, values)
        expected = evaluate(built.train_step, values)
        names = {n: f"{n}.next" if n in built.train_step.named_inputs else n for n in expected}
        compare(found, {names[n]: v for n, v in expected.items()}, 1e-4)
        state = {n: found[names[n]] if n in names else v for n, v in state.items()}
