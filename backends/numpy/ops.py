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

from weft.backends.numpy import convolution, kernels, products, windows
from weft.compiler.graph import Node
from weft.compiler.passes.views import Layout, contiguous, view
from weft.compiler.types import I8, I32, I64, DType, static_shape

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

Template = Callable[["Printer", Node], None]
LARGEST_TILE = 1 << 14


def _shape(node: Node) -> tuple[int, ...]:
    return static_shape(node.type.shape)


# -- elementwise ----------------------------------------------------------------------------------


def _ufunc(name: str, scalar: str = "") -> Template:
    """A NumPy function of the operands, written into the result's memory."""
    function = getattr(np, name)

    def template(p: Printer, node: Node) -> None:
        if not p.is_register(node):
            parts = [p.operand(i) for i in node.inputs]
            p.line(f"{p.use(name, function)}({', '.join(parts)}, {p.out(node)})")
        elif scalar:
            values = dict(zip("abc", (p.scalar(i) for i in node.inputs), strict=False))
            p.assign(node, scalar.format(**values))
        else:
            parts = [p.scalar(i) for i in node.inputs]
            p.assign(node, f"{p.use(name, function)}({', '.join(parts)})")

    return template


def _extreme(name: str, scalar: str) -> Template:
    """`maximum` and `minimum`: twice as fast with a constant spread out as with a number."""
    function = getattr(np, name)
    plain = _ufunc(name, scalar)

    def template(p: Printer, node: Node) -> None:
        if p.is_register(node):
            plain(p, node)
            return
        parts = [_tile(p, i) or p.operand(i) for i in node.inputs]
        # NumPy wants the result by keyword here; elsewhere position is faster.
        p.line(f"{p.use(name, function)}({', '.join(parts)}, out={p.out(node)})")

    return template


def _tile(p: Printer, node: Node) -> str | None:
    """A small constant operand with all its elements."""
    source = node.inputs[0] if node.op.name == "broadcast_in_dim" else node
    if source.op.name != "constant" or source.type.rank or prod(_shape(node)) > LARGEST_TILE:
        return None
    value = source.attributes["value"]
    return p.constant(np.full(_shape(node), value, node.type.dtype.numpy), "tile")


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
    operand, dtype = node.inputs[0], node.type.dtype
    if not p.is_register(node):
        p.line(f"{p.out(node)}[...] = {p.operand(operand)}")
    elif dtype.kind == "float":
        # Calling the type is the fastest conversion, but refuses NaN where an integer is wanted.
        p.assign(node, f"{p.use(f'to_{dtype.name}', dtype.numpy.type)}({p.scalar(operand)})")
    else:
        name = p.constant(dtype.numpy, f"{dtype.name}_type")
        p.assign(node, f"{p.scalar(operand)}.astype({name})")


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
    x, size = node.inputs[0], prod(_shape(node))
    if not p.layout(node).is_contiguous:
        _meaning(p, node)
        return
    p.use("error_function", kernels.error_function)
    dtype = p.constant(node.type.dtype.numpy, f"{node.type.dtype.name}_type")
    erf = p.setup("erf", f"error_function({size}, {dtype})")
    if p.plan.places[x] != p.plan.places[node]:
        p.line(f"{p.out(node)}[...] = {p.operand(x)}")
    flat = p.memory(node, contiguous((size,)).shifted(p.layout(node).offset))
    p.line(f"{erf}({flat})")


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
    result = p.memory(node, None, word)
    p.line(f"{mask}[...] = {p.operand(condition)}")
    if _is_zero(no):
        p.line(f"{p.use('multiply', np.multiply)}({_bits(p, yes, word)}, {mask}, {result})")
        return
    both, exclusive = p.use("bitwise_and", np.bitwise_and), p.use("bitwise_xor", np.bitwise_xor)
    one = p.constant(np.array(1, word.numpy))
    if _is_zero(yes):
        p.line(f"{p.use('subtract', np.subtract)}({mask}, {one}, {mask})")
        p.line(f"{both}({_bits(p, no, word)}, {mask}, {result})")
        return
    other = p.scratch(node, shape, word, _round_up(prod(shape) * word.bytes))
    p.line(f"{p.use('negative', np.negative)}({mask}, {mask})")
    bits = _bits(p, no, word)
    p.line(f"{exclusive}({_bits(p, yes, word)}, {bits}, {other})")
    p.line(f"{both}({other}, {mask}, {other})")
    p.line(f"{exclusive}({bits}, {other}, {result})")


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


def _extreme_reduction(name: str, arg: str) -> Template:
    """Along the last axis, finding the position and taking what is there is twice as fast."""
    plain = _reduction(name)

    def template(p: Printer, node: Node) -> None:
        x = node.inputs[0]
        table = _rows(p.layout(x), node)
        if node not in p.plan.scratch or table is None or not p.layout(x).is_contiguous:
            plain(p, node)
            return
        rows, columns = table.shape
        places = p.scratch(node, (rows,), I64)
        starts = p.constant(np.arange(rows, dtype=np.int64) * columns, "starts")
        flat = p.memory(x, contiguous((rows * columns,)).shifted(table.offset))
        out = p.memory(node, contiguous((rows,)).shifted(p.layout(node).offset))
        p.line(f"{p.memory(x, table)}.{arg}(1, {places})")
        p.line(f"{p.use('add', np.add)}({places}, {starts}, {places})")
        p.line(f"{flat}.take({places}, 0, {out}, 'clip')")

    return template


def _rows(layout: Layout, node: Node) -> Layout | None:
    """The operand as a table whose rows are reduced, where the last axes are."""
    shape, axes = _shape(node.inputs[0]), node.attributes["axes"]
    rank = len(shape)
    if not node.type.rank or 0 in shape or axes != tuple(range(rank - len(axes), rank)):
        return None
    columns = prod(shape[rank - len(axes) :])
    return kernels.reshaped(layout, (prod(shape) // columns, columns))


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
    width = _shape(x)[dims + 1 :]
    table = kernels.reshaped(p.layout(x), (prod(_shape(x)[: dims + 1]), *width))
    source = p.array(x) if table is None else p.memory(x, table)
    if table is None:
        source = f"{source}.reshape({(prod(_shape(x)[: dims + 1]), *width)})"
    if p.is_register(node):
        last = max(0, _shape(x)[0] - 1)
        p.assign(node, f"{source}[min(max(int({p.scalar(indices)}), 0), {last})]")
        return
    rows = p.scratch(node, _shape(indices), I64)
    starts, last = kernels.row_starts(_shape(x), _shape(indices), dims)
    found = p.operand(indices)
    if indices.type.dtype != I64:
        p.line(f"{rows}[...] = {found}")
        found = rows
    zero, end = p.constant(np.array(0, np.int64)), p.constant(np.array(last, np.int64))
    p.line(f"{p.use('maximum', np.maximum)}({found}, {zero}, out={rows})")
    p.line(f"{p.use('minimum', np.minimum)}({rows}, {end}, out={rows})")
    p.line(f"{p.use('add', np.add)}({rows}, {p.constant(starts, 'starts')}, {rows})")
    p.line(f"{source}.take({rows}, 0, {p.out(node)}, 'clip')")


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
    "maximum": _extreme("maximum", "{a} if {a} >= {b} or {a} != {a} else {b}"),
    "minimum": _extreme("minimum", "{a} if {a} <= {b} or {a} != {a} else {b}"),
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
    "reduce_max": _extreme_reduction("maximum", "argmax"),
    "reduce_min": _extreme_reduction("minimum", "argmin"),
    "reduce_and": _reduction("logical_and"),
    "reduce_or": _reduction("logical_or"),
    "arg_max": _arg("argmax"),
    "arg_min": _arg("argmin"),
    # Contractions and windows.
    "dot_general": products.dot_general,
    "conv": convolution.conv,
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
    if node.op.name in ("reduce_max", "reduce_min") and _rows(
        contiguous(_shape(node.inputs[0])), node
    ):
        return prod(_shape(node)) * 8
    if node.op.name == "gather":
        return prod(_shape(node.inputs[1])) * 8
    if node.op.name == "reduce_sum":
        return products.sum_scratch(node)
    if node.op.name == "conv":
        return convolution.scratch(node)
    if node.op.name in ("reduce_window", "arg_reduce_window"):
        return windows.scratch(node)
    return 0
