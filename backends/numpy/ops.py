"""The numpy backend's table: for each primitive, how its line of Python is written.

A template gets the printer and the node and writes lines. Elementwise rows give the NumPy
function for arrays, called with its result's memory as the last operand, and a Python expression
for scalars (`a`, `b` and `c` stand for the operands).
"""

from __future__ import annotations

from math import prod

from weft.backends.numpy import convolution, loops, products, windows
from weft.backends.numpy import elementwise as e
from weft.backends.numpy import movement as m
from weft.backends.numpy import reductions as r
from weft.backends.numpy.template import Template, shape_of
from weft.compiler.graph import Node

TABLE: dict[str, Template] = {
    # Sources.
    "input": m.made_before,
    "constant": m.made_before,
    "iota": m.made_before,
    "dim_size": m.made_before,
    "random_bits": m.random_bits,
    # Elementwise, one operand.
    "negate": e.ufunc("negative", "-{a}"),
    "abs": e.ufunc("absolute", "abs({a})"),
    "sign": e.ufunc("sign"),
    "floor": e.ufunc("floor"),
    "ceil": e.ufunc("ceil"),
    "round": e.ufunc("rint"),
    "exp": e.ufunc("exp"),
    "expm1": e.ufunc("expm1"),
    "log": e.ufunc("log"),
    "log1p": e.ufunc("log1p"),
    "sqrt": e.ufunc("sqrt"),
    "rsqrt": e.rsqrt,
    "sin": e.ufunc("sin"),
    "cos": e.ufunc("cos"),
    "tanh": e.ufunc("tanh"),
    "logistic": e.logistic,
    "erf": e.erf,
    "not": e.ufunc("invert", "~{a}"),
    "is_finite": e.ufunc("isfinite"),
    "stop_gradient": e.copy,
    "cast": e.cast,
    # Elementwise, two and three operands.
    "add": e.ufunc("add", "{a} + {b}"),
    "subtract": e.ufunc("subtract", "{a} - {b}"),
    "multiply": e.ufunc("multiply", "{a} * {b}"),
    "divide": e.ufunc("divide", "{a} / {b}"),
    "floor_divide": e.ufunc("floor_divide"),
    "remainder": e.ufunc("remainder"),
    "power": e.ufunc("power", "{a} ** {b}"),
    # A NaN on either side is the result.
    "maximum": e.extreme("maximum", "{a} if {a} >= {b} or {a} != {a} else {b}"),
    "minimum": e.extreme("minimum", "{a} if {a} <= {b} or {a} != {a} else {b}"),
    "and": e.ufunc("bitwise_and", "{a} & {b}"),
    "or": e.ufunc("bitwise_or", "{a} | {b}"),
    "xor": e.ufunc("bitwise_xor", "{a} ^ {b}"),
    "shift_left": e.shift("left_shift"),
    "shift_right": e.shift("right_shift"),
    "equal": e.ufunc("equal", "{a} == {b}"),
    "not_equal": e.ufunc("not_equal", "{a} != {b}"),
    "less": e.ufunc("less", "{a} < {b}"),
    "less_equal": e.ufunc("less_equal", "{a} <= {b}"),
    "greater": e.ufunc("greater", "{a} > {b}"),
    "greater_equal": e.ufunc("greater_equal", "{a} >= {b}"),
    "select": e.select,
    # Reductions.
    "reduce_sum": r.reduce_sum,
    "reduce_prod": r.reduction("multiply"),
    "reduce_max": r.extreme_reduction("maximum", "argmax"),
    "reduce_min": r.extreme_reduction("minimum", "argmin"),
    "reduce_and": r.reduction("logical_and"),
    "reduce_or": r.reduction("logical_or"),
    "arg_max": r.arg("argmax"),
    "arg_min": r.arg("argmin"),
    # Contractions and windows.
    "dot_general": products.dot_general,
    "conv": convolution.conv,
    "reduce_window": windows.reduce_window,
    "arg_reduce_window": windows.arg_reduce_window,
    # Movement.
    "reshape": m.moved,
    "transpose": m.moved,
    "broadcast_in_dim": m.moved,
    "slice": m.moved,
    "reverse": m.moved,
    "pad": m.pad,
    "concat": m.concat,
    # Indexing and order.
    "gather": m.gather,
    "scatter_add": m.scatter_add,
    "sort": m.sort,
    "arg_sort": e.meaning,
    "top_k": e.meaning,
    "arg_top_k": e.meaning,
    "cumsum": m.cumsum,
    # Loops.
    "scan": loops.scan_template,
}


# What adds up 16-bit floats, or goes several steps to one result, does so in f32 and rounds once.
_WIDE_WITHIN = frozenset(
    {
        "rsqrt", "logistic", "erf", "reduce_sum", "reduce_prod", "reduce_max", "reduce_min",
        "arg_max", "arg_min", "dot_general", "conv", "reduce_window", "arg_reduce_window",
        "scatter_add", "cumsum", "sort",
    }
)  # fmt: skip


def template_of(node: Node) -> Template:
    """How the node's lines are written."""
    by_meaning = node.op.name in _WIDE_WITHIN and node.inputs[0].type.dtype.is_narrow
    return e.meaning if by_meaning else TABLE[node.op.name]


def scratch(node: Node) -> int:
    """Bytes of working memory that the node's template takes from the plan."""
    if template_of(node) is e.meaning:
        return 0
    match node.op.name:
        case "select":
            return e.select_scratch(node)
        case "reduce_max" | "reduce_min":
            return r.extreme_scratch(node)
        case "reduce_sum":
            return r.sum_scratch(node)
        case "gather":
            return 8 * prod(shape_of(node.inputs[1]))
        case "conv":
            return convolution.scratch(node)
        case "reduce_window" | "arg_reduce_window":
            return windows.scratch(node)
    return 0
