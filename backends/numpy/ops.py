"""The numpy backend's table: for each primitive, how its line of Python is written.

A template gets the printer and the node and writes lines. Elementwise rows give the NumPy
function for arrays, called with its result's memory as the last operand, and a Python expression
for scalars (`a`, `b` and `c` stand for the operands).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from weft.backends.numpy import kernels, products, windows
from weft.compiler.graph import Node
from weft.compiler.passes.views import Layout, contiguous, view
from weft.compiler.types import I8, I32, I64, DType, static_shape

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

Template = Callable[["Printer", Node], None]


def _shape(node: Node) -> tuple[int, ...]:
    return static_shape(node.type.shape)


# -- elementwise ----------------------------------------------------------------------------------


def _ufunc(name: str, scalar: str = "") -> Template:
    """A NumPy function of the operands, written into the result's memory."""
    function = getattr(np, name)

    def template(p: Printer, node: Node) -> None:
        if not p.is_register(node):
            parts = [p.operand(i) for i in node.inputs]
            # NumPy wants the result of these two by keyword; elsewhere position is faster.
            out = "out=" if name in ("maximum", "minimum") else ""
            p.line(f"{p.use(name, function)}({', '.join(parts)}, {out}{p.out(node)})")
        elif scalar:
            values = dict(zip("abc", (p.scalar(i) for i in node.inputs), strict=False))
            p.assign(node, scalar.format(**values))
        else:
            parts = [p.scalar(i) for i in node.inputs]
            p.assign(node, f"{p.use(name, function)}({', '.join(parts)})")

    return template


def _meaning(p: Printer, node: Node) -> None:
    """What the op table says, for operations too rare or too slow anyway to be worth a line."""
    assert node.op.evaluate is not None
    attributes = dict(node.attributes)
    function = p.constant(partial(node.op.evaluate, **attributes), node.op.name)
    call = f"{function}({', '.join(p.array(i) for i in node.inputs)})"
    if p.is_register(node):
        p.assign(node, f"{call}[()]")
    else:
        p.line(f"{p.out(node)}[...] = {call}")


def _cast(p: Printer, node: Node) -> None:
    if p.is_register(node):
        dtype = p.constant(node.type.dtype.numpy, f"{node.type.dtype.name}_type")
        p.assign(node, f"{p.scalar(node.inputs[0])}.astype({dtype})")
    else:
        p.line(f"{p.out(node)}[...] = {p.operand(node.inputs[0])}")


def _copy(p: Printer, node: Node) -> None:
    if p.is_register(node):
        p.assign(node, p.scalar(node.inputs[0]))
    else:
        p.line(f"{p.out(node)}[...] = {p.operand(node.inputs[0])}")


def _one(p: Printer, node: Node) -> str:
    return p.constant(np.array(1, node.type.dtype.numpy))


def _rsqrt(p: Printer, node: Node) -> None:
    if p.is_register(node):
        p.assign(
            node, f"{_one_scalar(p, node)} / {p.use('sqrt', np.sqrt)}({p.scalar(node.inputs[0])})"
        )
        return
    out = p.out(node)
    p.line(f"{p.use('sqrt', np.sqrt)}({p.operand(node.inputs[0])}, {out})")
    p.line(f"{p.use('divide', np.divide)}({_one(p, node)}, {out}, {out})")


def _one_scalar(p: Printer, node: Node) -> str:
    return p.constant(node.type.dtype.numpy.type(1))


def _logistic(p: Printer, node: Node) -> None:
    """`1 / (1 + exp(-x))`: where `exp` overflows the quotient is the 0 that it should be."""
    exp = p.use("exp", np.exp)
    if p.is_register(node):
        one = _one_scalar(p, node)
        p.assign(node, f"{one} / ({one} + {exp}(-{p.scalar(node.inputs[0])}))")
        return
    out, one = p.out(node), _one(p, node)
    p.line(f"{p.use('negative', np.negative)}({p.operand(node.inputs[0])}, {out})")
    p.line(f"{exp}({out}, {out})")
    p.line(f"{p.use('add', np.add)}({out}, {one}, {out})")
    p.line(f"{p.use('divide', np.divide)}({one}, {out}, {out})")


def _erf(p: Printer, node: Node) -> None:
    if p.is_register(node):
        _meaning(p, node)
        return
    erf = p.use("erf", kernels.erf)
    p.line(f"{erf}({p.array(node.inputs[0])}, {p.out(node)})")


def _shift(name: str) -> Template:
    """A plain shift where the distance is a constant below the width."""

    def template(p: Printer, node: Node) -> None:
        by = node.inputs[1]
        while by.op.name == "broadcast_in_dim":
            by = by.inputs[0]
        known = by.op.name == "constant" and not isinstance(by.attributes["value"], tuple)
        if known and 0 <= by.attributes["value"] < node.type.dtype.bits:
            _ufunc(name)(p, node)
        else:
            _meaning(p, node)

    return template


_WORDS = {4: I32, 8: I64, 1: I8}


def _select(p: Printer, node: Node) -> None:
    """Bit masks, because NumPy's `where` takes a branch an element.

    With `m` all ones where the condition holds: `b ^ ((a ^ b) & m)`; `a & m` where `b` is 0.
    """
    condition, yes, no = node.inputs
    if p.is_register(node):
        p.assign(node, f"{p.scalar(yes)} if {p.scalar(condition)} else {p.scalar(no)}")
        return
    out = p.out(node)
    if p.layout(condition).is_splat:
        test = f"{p.operand(condition)}"
        p.line(f"{out}[...] = {p.operand(yes)} if {test} else {p.operand(no)}")
        return
    dtype = node.type.dtype
    if node not in p.plan.scratch or any(_from_outside(p, i) for i in (yes, no)):
        where = p.use("where", np.where)
        parts = [p.operand(i) for i in node.inputs]
        p.line(f"{out}[...] = {where}({', '.join(parts)})")
        return
    word = _WORDS[dtype.bytes]
    shape = _shape(node)
    mask = p.scratch(node, shape, word)
    bits = [_bits(p, i, word) for i in (yes, no)]
    result = p.memory(node, None, word)
    p.line(f"{mask}[...] = {p.operand(condition)}")
    if _is_zero(no):
        p.line(f"{p.use('multiply', np.multiply)}({bits[0]}, {mask}, {result})")
        return
    both, exclusive = p.use("bitwise_and", np.bitwise_and), p.use("bitwise_xor", np.bitwise_xor)
    one = p.constant(np.array(1, word.numpy))
    if _is_zero(yes):
        p.line(f"{p.use('subtract', np.subtract)}({mask}, {one}, {mask})")
        p.line(f"{both}({bits[1]}, {mask}, {result})")
        return
    other = p.scratch(node, shape, word, _round_up(prod(shape) * word.bytes))
    p.line(f"{p.use('negative', np.negative)}({mask}, {mask})")
    p.line(f"{exclusive}({bits[0]}, {bits[1]}, {other})")
    p.line(f"{both}({other}, {mask}, {other})")
    p.line(f"{exclusive}({bits[1]}, {other}, {result})")


def _from_outside(p: Printer, node: Node) -> bool:
    buffer = p.plan.places[node].buffer
    return buffer.kind == "input" and buffer.size != 1


def _bits(p: Printer, node: Node, word: DType) -> str:
    """The operand's bits as integers."""
    layout = p.layout(node)
    if layout.is_splat:
        layout = Layout(layout.offset, (), ())
    return p.memory(node, layout, word)


def _is_zero(node: Node) -> bool:
    while node.op.name == "broadcast_in_dim":
        node = node.inputs[0]
    value = node.attributes["value"] if node.op.name == "constant" else 1
    return not isinstance(value, tuple) and value == 0 and not np.signbit(float(value))


# -- sources --------------------------------------------------------------------------------------


def _made_before(p: Printer, node: Node) -> None:
    """Nothing to do in the step: an input, or a value that is made when arrays are bound."""


def _random_bits(p: Printer, node: Node) -> None:
    shape = _shape(node)
    p.use("Philox", kernels.Philox)
    stream = p.constant(node.attributes["stream"], "stream")
    draw = p.setup("draw", f"Philox({prod(shape)}, {stream})")
    seed, step = p.array(node.inputs[0]), p.scalar(node.inputs[1])
    if p.is_register(node):
        p.assign(node, f"{draw}({seed}, {step})[0]")
        return
    flat = p.memory(node, contiguous((prod(shape),)).shifted(p.layout(node).offset))
    p.line(f"{draw}({seed}, {step}, {flat})")


# -- reductions -----------------------------------------------------------------------------------


def _reduction(name: str) -> Template:
    function = getattr(np, name).reduce

    def template(p: Printer, node: Node) -> None:
        axes = node.attributes["axes"]
        x = node.inputs[0]
        if p.is_register(node) and not x.type.rank:
            p.assign(node, p.scalar(x))
            return
        reduce = p.use(f"{name}_reduce", function)
        if p.is_register(node):
            dtype = p.constant(node.type.dtype.numpy, f"{node.type.dtype.name}_type")
            p.assign(node, f"{reduce}({p.array(x)}, {axes}, {dtype})")
            return
        over = axes[0] if len(axes) == 1 else axes
        p.line(f"{reduce}({p.array(x)}, {over}, None, {p.out(node)})")

    return template


def _arg(name: str) -> Template:
    def template(p: Printer, node: Node) -> None:
        axis = node.attributes["axis"]
        x = p.array(node.inputs[0])
        if p.is_register(node):
            p.assign(node, f"{x}.{name}({axis})")
        else:
            p.line(f"{x}.{name}({axis}, {p.out(node)})")

    return template


# -- movement -------------------------------------------------------------------------------------


def _moved(p: Printer, node: Node) -> None:
    """Movement that can't be a view: copy what the view would show."""
    operand = node.inputs[0]
    if p.is_register(node):
        if operand.type.rank == 0:
            p.assign(node, p.scalar(operand))
        else:
            p.assign(node, f"{p.memory(operand, Layout(p.layout(operand).offset, (), ()))}[()]")
        return
    if node.op.name == "reshape":
        shape = _shape(operand)
        into = p.memory(node, contiguous(shape).shifted(p.layout(node).offset))
        p.line(f"{into}[...] = {p.array(operand)}")
        return
    layout = view(node, p.layout(operand))
    assert layout is not None
    p.line(f"{p.out(node)}[...] = {p.memory(operand, layout)}")


def _pad(p: Printer, node: Node) -> None:
    low, high, interior = (node.attributes[k] for k in ("low", "high", "interior"))
    operand = node.inputs[0]
    if p.is_register(node):
        p.assign(node, p.scalar(operand))
        return
    into, source = kernels.pad_slices(_shape(operand), _shape(node), low, interior)
    inner = kernels.sliced(p.layout(node), into)
    if any((*low, *high, *interior)):
        value = p.constant(node.type.dtype.numpy.type(node.attributes["value"]))
        p.line(f"{p.out(node)}[...] = {value}")
    if inner.size:
        kept = p.memory(operand, kernels.sliced(p.layout(operand), source))
        p.line(f"{p.memory(node, inner)}[...] = {kept}")


def _concat(p: Printer, node: Node) -> None:
    axis, start = node.attributes["axis"], 0
    whole = p.layout(node)
    for operand in node.inputs:
        shape = _shape(operand)
        part = Layout(whole.offset + start * whole.strides[axis], shape, whole.strides)
        start += shape[axis]
        place = p.plan.places[operand]
        there = place.buffer is p.plan.places[node].buffer and place.layout.offset == part.offset
        if part.size and not (there and place.layout.steps == part.steps):
            p.line(f"{p.memory(node, part)}[...] = {p.operand(operand)}")


# -- indexing and order ---------------------------------------------------------------------------


def _gather(p: Printer, node: Node) -> None:
    x, indices = node.inputs
    dims = node.attributes["batch_dims"]
    if dims == 0 and indices.type.dtype.name != "u64" and not p.is_register(node):
        p.line(f"{p.array(x)}.take({p.array(indices)}, 0, {p.out(node)}, 'clip')")
        return
    make = p.use("gatherer", kernels.gatherer)
    shapes = (_shape(x), _shape(indices), dims)
    gather = p.setup("gather", f"{make}{shapes}")
    call = f"{gather}({p.array(x)}, {p.array(indices)}"
    if p.is_register(node):
        p.assign(node, f"{call})[()]")
    else:
        p.line(f"{call}, {p.out(node)})")


def _scatter_add(p: Printer, node: Node) -> None:
    x, indices, updates = node.inputs
    make = p.use("scatterer", kernels.scatterer)
    dims = node.attributes["batch_dims"]
    scatter = p.setup("scatter", f"{make}({_shape(x)}, {_shape(indices)}, {dims})")
    p.line(f"{p.out(node)}[...] = {p.operand(x)}")
    p.line(f"{scatter}({p.out(node)}, {p.array(indices)}, {p.array(updates)})")


def _sort(p: Printer, node: Node) -> None:
    if node.attributes["descending"]:
        _meaning(p, node)
        return
    p.line(f"{p.out(node)}[...] = {p.operand(node.inputs[0])}")
    p.line(f"{p.out(node)}.sort({node.attributes['axis']}, 'stable')")


def _cumsum(p: Printer, node: Node) -> None:
    axis = node.attributes["axis"]
    source, target = p.layout(node.inputs[0]), p.layout(node)
    if node.attributes["reverse"]:
        source, target = kernels.flipped(source, axis), kernels.flipped(target, axis)
    accumulate = p.use("add_accumulate", np.add.accumulate)
    p.line(
        f"{accumulate}({p.memory(node.inputs[0], source)}, {axis}, None, {p.memory(node, target)})"
    )


TABLE: dict[str, Template] = {
    # Sources.
    "input": _made_before,
    "constant": _made_before,
    "iota": _made_before,
    "dim_size": _made_before,
    "random_bits": _random_bits,
    # Elementwise, one operand.
    "negate": _ufunc("negative", "-{a}"),
    "abs": _ufunc("absolute", "abs({a})"),
    "sign": _ufunc("sign"),
    "floor": _ufunc("floor"),
    "ceil": _ufunc("ceil"),
    "round": _ufunc("rint"),
    "exp": _ufunc("exp"),
    "expm1": _ufunc("expm1"),
    "log": _ufunc("log"),
    "log1p": _ufunc("log1p"),
    "sqrt": _ufunc("sqrt"),
    "rsqrt": _rsqrt,
    "sin": _ufunc("sin"),
    "cos": _ufunc("cos"),
    "tanh": _ufunc("tanh"),
    "logistic": _logistic,
    "erf": _erf,
    "not": _ufunc("invert", "~{a}"),
    "is_finite": _ufunc("isfinite"),
    "stop_gradient": _copy,
    "cast": _cast,
    # Elementwise, two and three operands.
    "add": _ufunc("add", "{a} + {b}"),
    "subtract": _ufunc("subtract", "{a} - {b}"),
    "multiply": _ufunc("multiply", "{a} * {b}"),
    "divide": _ufunc("divide", "{a} / {b}"),
    "floor_divide": _ufunc("floor_divide"),
    "remainder": _ufunc("remainder"),
    "power": _ufunc("power", "{a} ** {b}"),
    # A NaN on either side is the result.
    "maximum": _ufunc("maximum", "{a} if {a} >= {b} or {a} != {a} else {b}"),
    "minimum": _ufunc("minimum", "{a} if {a} <= {b} or {a} != {a} else {b}"),
    "and": _ufunc("bitwise_and", "{a} & {b}"),
    "or": _ufunc("bitwise_or", "{a} | {b}"),
    "xor": _ufunc("bitwise_xor", "{a} ^ {b}"),
    "shift_left": _shift("left_shift"),
    "shift_right": _shift("right_shift"),
    "equal": _ufunc("equal", "{a} == {b}"),
    "not_equal": _ufunc("not_equal", "{a} != {b}"),
    "less": _ufunc("less", "{a} < {b}"),
    "less_equal": _ufunc("less_equal", "{a} <= {b}"),
    "greater": _ufunc("greater", "{a} > {b}"),
    "greater_equal": _ufunc("greater_equal", "{a} >= {b}"),
    "select": _select,
    # Reductions.
    "reduce_sum": products.reduce_sum,
    "reduce_prod": _reduction("multiply"),
    "reduce_max": _reduction("maximum"),
    "reduce_min": _reduction("minimum"),
    "reduce_and": _reduction("logical_and"),
    "reduce_or": _reduction("logical_or"),
    "arg_max": _arg("argmax"),
    "arg_min": _arg("argmin"),
    # Contractions and windows.
    "dot_general": products.dot_general,
    "conv": windows.conv,
    "reduce_window": windows.reduce_window,
    "arg_reduce_window": windows.arg_reduce_window,
    # Movement.
    "reshape": _moved,
    "transpose": _moved,
    "broadcast_in_dim": _moved,
    "slice": _moved,
    "reverse": _moved,
    "pad": _pad,
    "concat": _concat,
    # Indexing and order.
    "gather": _gather,
    "scatter_add": _scatter_add,
    "sort": _sort,
    "arg_sort": _meaning,
    "top_k": _meaning,
    "arg_top_k": _meaning,
    "cumsum": _cumsum,
}


def _round_up(size: int) -> int:
    return -(-size // 64) * 64


def scratch(node: Node) -> int:
    """Bytes of working memory that the node's template takes from the plan."""
    if node.op.name == "select" and node.type.rank and node.type.dtype.bytes in (4, 8):
        size = _round_up(prod(_shape(node)) * node.type.dtype.bytes)
        return size if any(_is_zero(i) for i in node.inputs[1:]) else 2 * size
    if node.op.name == "reduce_sum":
        return products.sum_scratch(node)
    if node.op.name in ("conv", "reduce_window", "arg_reduce_window"):
        return windows.scratch(node)
    return 0
