"""Tensors that come from no other: filled with a number, counted, drawn at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from weft.compiler import builder as b
from weft.compiler.graph import Node, full, make
from weft.compiler.types import F32, I64, U32, Dim, TensorType
from weft.frontends.dsl.axes import shape_of
from weft.frontends.dsl.parameters import draw_name
from weft.frontends.dsl.registry import SEED
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import Tensor, Value


def _filled(value: float) -> Callable[..., Value]:
    def call(site: Site, shape: Value) -> Value:
        dims, labels = shape_of(shape, site.span)
        type = TensorType(site.interpreter.float_type, dims)
        return Tensor(full(type, value) if dims else b.constant(value, type.dtype), labels)

    return call


def _arange(site: Site, n: Value) -> Value:
    dims, labels = shape_of([n], site.span)
    return Tensor(b.iota(I64, dims, 0), labels)


def _uniform_node(site: Site, dims: Sequence[Dim], kind: str) -> Node:
    """Uniform on [0, 1): the top 24 of 32 random bits, times 2^-24; in f32 or wider."""
    interpreter = site.interpreter
    float_type = interpreter.registry.float_type
    wide = float_type if float_type.bits > 32 else F32  # narrower types would round up to 1
    drawing = interpreter.init is not None
    # A parameter is drawn once, also where a loop's turn has a seed of its own.
    seed = interpreter.registry.inputs[SEED] if drawing else interpreter.read(SEED)
    step = b.constant(0, U32) if drawing else b.cast(interpreter.clock(), U32)
    name = draw_name(interpreter, kind)
    bits = make("random_bits", seed, step, shape=tuple(dims), stream=name)
    return b.cast(b.compare("shift_right", bits, 8), wide) * 2.0**-24


def _uniform(site: Site, shape: Value) -> Value:
    dims, labels = shape_of(shape, site.span)
    node = _uniform_node(site, dims, "uniform")
    return Tensor(b.cast(node, site.interpreter.registry.float_type), labels)


def _normal(site: Site, shape: Value) -> Value:
    """Standard normal by Box and Muller: `sqrt(-2 log(1 - u)) cos(2 pi v)`."""
    dims, labels = shape_of(shape, site.span)
    pair = _uniform_node(site, (2, *dims), "normal")
    u, v = (b.reshape(b.slice_axis(pair, 0, i, i + 1), dims) for i in range(2))
    node = b.sqrt(b.log(1.0 - u) * -2.0) * b.unary("cos", v * (2 * math.pi))
    return Tensor(b.cast(node, site.interpreter.registry.float_type), labels)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "zeros": _filled(0.0),
    "ones": _filled(1.0),
    "arange": _arange,
    "uniform": _uniform,
    "normal": _normal,
}
