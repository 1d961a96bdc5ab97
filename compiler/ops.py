"""The op table: what the compiler knows of each primitive.

A row states the name, the number of operands (None: any), the attributes, the type rule, the kind
(which drives fusion) and the NumPy meaning. Names are those of StableHLO, `jax.lax` and ONNX.
Every op has one result. Elementwise operands have equal shapes; `broadcast_in_dim` is the only
broadcast. Gradients live in `gradient.py`, each backend's code in its own table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from weft.compiler import error_function
from weft.compiler import meaning as m
from weft.compiler import type_rules as t
from weft.compiler import type_rules_arrays as arrays
from weft.compiler import type_rules_windows as windows


class Kind(Enum):
    """How an op moves data, which is what fusion asks."""

    SOURCE = "source"  # no operands, or made from counters: inputs, constants, random bits
    ELEMENTWISE = "elementwise"  # one output element from the same element of each operand
    REDUCTION = "reduction"  # axes disappear
    CONTRACTION = "contraction"  # products: matrix multiply, convolution
    WINDOW = "window"  # sliding windows
    MOVEMENT = "movement"  # an index map: no arithmetic
    INDEXING = "indexing"  # positions that depend on data
    ORDER = "order"  # sorting and running sums along an axis
    CALL = "call"  # a composite with a body
    LOOP = "loop"  # a body, run turn by turn


@dataclass(frozen=True)
class Op:
    name: str
    arity: int | None
    attributes: tuple[str, ...]
    infer: t.Rule
    kind: Kind
    evaluate: Callable[..., np.ndarray] | None
    optional: tuple[str, ...] = ()  # attributes that come last, where they are there

    def __repr__(self) -> str:
        return self.name


def _row(
    name: str,
    arity: int | None,
    infer: t.Rule,
    kind: Kind,
    evaluate: Callable[..., Any] | None,
    *attributes: str,
    optional: tuple[str, ...] = (),
) -> Op:
    return Op(name, arity, attributes, infer, kind, evaluate, optional)


def _elementwise(name: str, arity: int, infer: t.Rule, evaluate: Callable[..., Any]) -> Op:
    return _row(name, arity, infer, Kind.ELEMENTWISE, evaluate)


_FLOAT = t.elementwise("float")
_SIGNED = t.elementwise(*t.SIGNED)
_NUMBER = t.elementwise(*t.NUMBERS)
_INTEGER = t.elementwise(*t.INTEGERS)
_BITS = t.elementwise(*t.INTEGERS, "bool")
_WINDOW = ("reducer", "window", "strides", "padding", "dilation")

_ROWS = (
    # Sources.
    _row("input", 0, t.input_, Kind.SOURCE, None, "name", "type"),
    _row("constant", 0, t.constant, Kind.SOURCE, m.constant, "value", "dtype", "shape"),
    _row("iota", 0, t.iota, Kind.SOURCE, m.iota, "dtype", "shape", "axis"),
    _row("dim_size", 0, t.dim_size, Kind.SOURCE, m.dim_size, "dim", "dtype"),
    _row("random_bits", 2, t.random_bits, Kind.SOURCE, m.random_bits, "shape", "stream"),
    # Elementwise, one operand.
    _elementwise("negate", 1, _SIGNED, np.negative),
    _elementwise("abs", 1, _SIGNED, np.abs),
    _elementwise("sign", 1, _SIGNED, np.sign),
    _elementwise("floor", 1, _FLOAT, np.floor),
    _elementwise("ceil", 1, _FLOAT, np.ceil),
    _elementwise("round", 1, _FLOAT, np.rint),
    _elementwise("exp", 1, _FLOAT, np.exp),
    _elementwise("expm1", 1, _FLOAT, np.expm1),
    _elementwise("log", 1, _FLOAT, np.log),
    _elementwise("log1p", 1, _FLOAT, np.log1p),
    _elementwise("sqrt", 1, _FLOAT, np.sqrt),
    _elementwise("rsqrt", 1, _FLOAT, m.rsqrt),
    _elementwise("sin", 1, _FLOAT, np.sin),
    _elementwise("cos", 1, _FLOAT, np.cos),
    _elementwise("tanh", 1, _FLOAT, np.tanh),
    _elementwise("logistic", 1, _FLOAT, m.logistic),
    _elementwise("erf", 1, _FLOAT, error_function.erf),
    _elementwise("not", 1, _BITS, np.invert),
    _elementwise("is_finite", 1, t.float_test, np.isfinite),
    _elementwise("stop_gradient", 1, t.elementwise(*t.ALL_KINDS), np.copy),
    _row("cast", 1, t.cast, Kind.ELEMENTWISE, m.cast, "dtype"),
    # Elementwise, two and three operands.
    _elementwise("add", 2, _NUMBER, np.add),
    _elementwise("subtract", 2, _NUMBER, np.subtract),
    _elementwise("multiply", 2, _NUMBER, np.multiply),
    _elementwise("divide", 2, _FLOAT, np.divide),
    _elementwise("floor_divide", 2, _INTEGER, np.floor_divide),
    _elementwise("remainder", 2, _NUMBER, np.remainder),
    _elementwise("power", 2, _FLOAT, np.power),
    _elementwise("maximum", 2, _NUMBER, np.maximum),
    _elementwise("minimum", 2, _NUMBER, np.minimum),
    _elementwise("and", 2, _BITS, np.bitwise_and),
    _elementwise("or", 2, _BITS, np.bitwise_or),
    _elementwise("xor", 2, _BITS, np.bitwise_xor),
    _elementwise("shift_left", 2, _INTEGER, m.shift_left),
    _elementwise("shift_right", 2, _INTEGER, m.shift_right),
    _elementwise("equal", 2, t.comparison, np.equal),
    _elementwise("not_equal", 2, t.comparison, np.not_equal),
    _elementwise("less", 2, t.comparison, np.less),
    _elementwise("less_equal", 2, t.comparison, np.less_equal),
    _elementwise("greater", 2, t.comparison, np.greater),
    _elementwise("greater_equal", 2, t.comparison, np.greater_equal),
    _elementwise("select", 3, t.select, np.where),
    # Reductions.
    _row("reduce_sum", 1, t.reduction(*t.NUMBERS), Kind.REDUCTION, m.reduce_sum, "axes"),
    _row("reduce_prod", 1, t.reduction(*t.NUMBERS), Kind.REDUCTION, m.reduce_prod, "axes"),
    _row("reduce_max", 1, t.reduction(*t.NUMBERS), Kind.REDUCTION, m.reduce_max, "axes"),
    _row("reduce_min", 1, t.reduction(*t.NUMBERS), Kind.REDUCTION, m.reduce_min, "axes"),
    _row("reduce_and", 1, t.reduction("bool"), Kind.REDUCTION, m.reduce_and, "axes"),
    _row("reduce_or", 1, t.reduction("bool"), Kind.REDUCTION, m.reduce_or, "axes"),
    _row("arg_max", 1, t.arg_reduction, Kind.REDUCTION, m.arg_max, "axis"),
    _row("arg_min", 1, t.arg_reduction, Kind.REDUCTION, m.arg_min, "axis"),
    # Contractions and windows.
    _row(
        "dot_general", 2, windows.dot_general, Kind.CONTRACTION, m.dot_general,
        "contract", "batch", optional=("factors",),
    ),
    _row(
        "conv", 2, windows.conv, Kind.CONTRACTION, m.conv,
        "strides", "padding", "lhs_dilation", "rhs_dilation", "groups", optional=("factors",),
    ),
    _row("reduce_window", 1, windows.reduce_window, Kind.WINDOW, m.reduce_window, *_WINDOW),
    _row(
        "arg_reduce_window", 1, windows.arg_reduce_window, Kind.WINDOW, m.arg_reduce_window,
        *_WINDOW,
    ),
    # Movement.
    _row("reshape", 1, arrays.reshape, Kind.MOVEMENT, m.reshape, "shape"),
    _row("transpose", 1, arrays.transpose, Kind.MOVEMENT, m.transpose, "permutation"),
    _row(
        "broadcast_in_dim", 1, arrays.broadcast_in_dim, Kind.MOVEMENT, m.broadcast_in_dim,
        "shape", "dims",
    ),
    _row("slice", 1, arrays.slice_, Kind.MOVEMENT, m.slice_, "start", "limit", "strides"),
    _row("pad", 1, arrays.pad, Kind.MOVEMENT, m.pad, "low", "high", "interior", "value"),
    _row("concat", None, arrays.concat, Kind.MOVEMENT, m.concat, "axis"),
    _row("reverse", 1, arrays.reverse, Kind.MOVEMENT, m.reverse, "axes"),
    # Indexing and order.
    _row("gather", 2, arrays.gather, Kind.INDEXING, m.gather, "batch_dims"),
    _row("scatter_add", 3, arrays.scatter_add, Kind.INDEXING, m.scatter_add, "batch_dims"),
    _row("sort", 1, t.same_shape_along_axis, Kind.ORDER, m.sort, "axis", "descending"),
    _row("arg_sort", 1, t.arg_sort, Kind.ORDER, m.arg_sort, "axis", "descending"),
    _row("top_k", 1, t.top_k, Kind.ORDER, m.top_k, "k"),
    _row("arg_top_k", 1, t.arg_top_k, Kind.ORDER, m.arg_top_k, "k"),
    _row("cumsum", 1, t.same_shape_along_axis, Kind.ORDER, m.cumsum, "axis", "reverse"),
    # Composites: `body` is a Graph, `config` names the static arguments, `gradient` may be None.
    _row("call", None, t.call, Kind.CALL, None, "name", "body", "config", "gradient"),
    # One result of a loop, see `loops.py`: all results of a loop are nodes that differ in `result`.
    _row(
        "scan", None, t.scan, Kind.LOOP, None,
        "body", "carried", "stepped", "length", "reverse", "result",
    ),
)  # fmt: skip

OPS: dict[str, Op] = {row.name: row for row in _ROWS}
