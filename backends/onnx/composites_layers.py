"""Library layers that ONNX has as operators, beside the functions of `composites`."""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.backends.onnx.composites import Call, Row
from weft.backends.onnx.products import transposed_convolution
from weft.backends.onnx.types import KERNELS
from weft.backends.onnx.writer import Value, Writer
from weft.compiler.types import static_shape

_IMAGES = (4, 5)  # ranks over whose positions onnxruntime interpolates
_SOME_AXES = 18  # the opset since which Resize leaves axes as they are


def _runs(w: Writer, op_type: str, *values: Value) -> bool:
    kernels = KERNELS.get(op_type)
    return w.has(op_type) and (kernels is None or all(v.dtype in kernels for v in values))


def _dense_transposed(w: Writer, call: Call) -> Value | None:
    if not call.takes("x", "w", "b"):
        return None
    operands = call.full(w, "x", "w", "b")
    if operands[0].rank != 2 or not _runs(w, "Gemm", *operands):
        return None
    return w.op("Gemm", *operands, shape=call.shape, transB=1)


def _conv_transposed(w: Writer, call: Call) -> Value | None:
    node = call.only("conv")
    if node is None or not (call.takes("x", "w") or call.takes("x", "w", "b")):
        return None
    x, kernel = call.full(w, "x", "w")
    bias = call.full(w, "b")[0] if "b" in call.operands else None
    if not _runs(w, "ConvTranspose", x):
        return None
    return transposed_convolution(w, x, kernel, bias, node.attributes, call.shape)


def _instance_norm(w: Writer, call: Call) -> Value | None:
    epsilon = call.number("eps")
    if not call.takes("x", "scale", "shift") or epsilon is None:
        return None
    operands = call.full(w, "x", "scale", "shift")
    if not _runs(w, "InstanceNormalization", *operands):
        return None
    return w.op("InstanceNormalization", *operands, epsilon=epsilon)


def _group_norm(w: Writer, call: Call) -> Value | None:
    groups, epsilon = call.config.get("groups"), call.number("eps")
    if not call.takes("x", "scale", "shift") or type(groups) is not int or epsilon is None:
        return None
    operands = call.full(w, "x", "scale", "shift")
    if not _runs(w, "GroupNormalization", *operands):
        return None
    return w.op("GroupNormalization", *operands, num_groups=groups, epsilon=epsilon)


def _rms_norm(w: Writer, call: Call) -> Value | None:
    axes, epsilon = call.config.get("axes"), call.number("eps")
    if not call.takes("x", "scale") or type(axes) is not int or epsilon is None:
        return None
    operands = call.full(w, "x", "scale")
    if not _runs(w, "RMSNormalization", *operands):
        return None
    return w.op("RMSNormalization", *operands, axis=-axes, epsilon=epsilon)


def _local_response(mean: bool) -> Row:
    """LRN divides alpha by the size; of an even number of channels it takes the other half."""

    def row(w: Writer, call: Call) -> Value | None:
        size, numbers = call.config.get("size"), [call.number(n) for n in ("alpha", "beta", "k")]
        if not call.takes("x") or type(size) is not int or size % 2 == 0 or None in numbers:
            return None
        (x,), (alpha, beta, k) = call.full(w, "x"), numbers
        if x.rank < 3 or not _runs(w, "LRN", x) or alpha is None:
            return None
        scale = alpha if mean else alpha * size
        return w.op("LRN", x, size=size, alpha=scale, beta=beta, bias=k)

    return row


def _resize(**attributes: Any) -> Row:
    """Resize to the result's sizes."""

    def row(w: Writer, call: Call) -> Value | None:
        if not call.takes("x"):
            return None
        (x,) = call.full(w, "x")
        if x.rank not in _IMAGES or not _runs(w, "Resize", x):
            return None
        sizes, given = w.dims(call.shape), attributes
        if w.opset >= _SOME_AXES:
            sizes = w.integers(*static_shape(call.shape[2:]))
            given = {**attributes, "axes": list(range(2, x.rank))}
        return w.op("Resize", x, None, None, sizes, shape=call.shape, **given)

    return row


def _repeat(w: Writer, call: Call) -> Value | None:
    """Resize by whole factors, which no rounding can blur."""
    if not call.takes("x"):
        return None
    (x,) = call.full(w, "x")
    if not _runs(w, "Resize", x):
        return None
    sizes = zip(static_shape(call.shape[2:]), static_shape(x.shape[2:]), strict=True)
    factors = w.constant(np.array([1, 1, *(m // n for m, n in sizes)], np.float32))
    settings: dict[str, Any] = {"mode": "nearest", "nearest_mode": "floor"}
    settings |= {"coordinate_transformation_mode": "asymmetric"}
    return w.op("Resize", x, None, factors, shape=call.shape, **settings)


def _pixel_shuffle(w: Writer, call: Call) -> Value | None:
    factor = call.config.get("factor")
    if not call.takes("x") or type(factor) is not int:
        return None
    (x,) = call.full(w, "x")
    return w.op("DepthToSpace", x, shape=call.shape, blocksize=factor, mode="CRD")


def _padding(mode: str) -> Row:
    def row(w: Writer, call: Call) -> Value | None:
        places = call.config.get("places")
        if not call.takes("x"):
            return None
        (x,) = call.full(w, "x")
        each = places if isinstance(places, tuple) else (places,) * (x.rank - 2)
        if not all(type(p) is int for p in each) or not _runs(w, "Pad", x):
            return None
        pads = w.integers(0, 0, *each, 0, 0, *each)  # type: ignore[arg-type]
        return w.op("Pad", x, pads, shape=call.shape, mode=mode)

    return row


LAYERS: dict[str, Row] = {
    "conv_transposed": _conv_transposed,
    "dense_transposed": _dense_transposed,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "local_response_norm": _local_response(mean=False),
    "local_response_norm_mean": _local_response(mean=True),
    "pad_reflect": _padding("reflect"),
    "pad_replicate": _padding("edge"),
    "pixel_shuffle": _pixel_shuffle,
    "resize_linear": _resize(mode="linear", coordinate_transformation_mode="half_pixel"),
    "resize_linear_corners": _resize(mode="linear", coordinate_transformation_mode="align_corners"),
    "rms_norm": _rms_norm,
    "upscale_nearest": _repeat,
}
