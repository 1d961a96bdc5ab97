"""Templates of elementwise operations: one NumPy call a line, or a few where that is faster."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from weft.backends.numpy import kernels
from weft.backends.numpy.template import Template, round_up, shape_of
from weft.compiler.graph import Node
from weft.compiler.passes.views import Layout, contiguous
from weft.compiler.types import I8, I32, I64, DType

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

LARGEST_TILE = 1 << 14


def ufunc(name: str, scalar: str = "") -> Template:
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


def extreme(name: str, scalar: str) -> Template:
    """`maximum` and `minimum`: twice as fast with a constant spread out as with a number."""
    function = getattr(np, name)
    plain = ufunc(name, scalar)

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
    if source.op.name != "constant" or source.type.rank or prod(shape_of(node)) > LARGEST_TILE:
        return None
    value = source.attributes["value"]
    return p.constant(np.full(shape_of(node), value, node.type.dtype.numpy), "tile")


def meaning(p: Printer, node: Node) -> None:
    """What the op table says, for operations too rare or too slow anyway to be worth a line."""
    assert node.op.evaluate is not None
    attributes = dict(node.attributes)
    function = p.constant(partial(node.op.evaluate, **attributes), node.op.name)
    call = f"{function}({', '.join(p.array(i) for i in node.inputs)})"
    if p.is_register(node):
        p.assign(node, f"{call}[()]")
    else:
        p.line(f"{p.out(node)}[...] = {call}")


def cast(p: Printer, node: Node) -> None:
    operand, dtype = node.inputs[0], node.type.dtype
    if not p.is_register(node):
        p.line(f"{p.out(node)}[...] = {p.operand(operand)}")
    elif dtype.kind == "float":
        # Calling the type is the fastest conversion, but refuses NaN where an integer is wanted.
        p.assign(node, f"{p.use(f'to_{dtype.name}', dtype.numpy.type)}({p.scalar(operand)})")
    else:
        name = p.use(f"{dtype.name}_type", dtype.numpy)
        p.assign(node, f"{p.scalar(operand)}.astype({name})")


def copy(p: Printer, node: Node) -> None:
    if p.is_register(node):
        p.assign(node, p.scalar(node.inputs[0]))
    else:
        p.line(f"{p.out(node)}[...] = {p.operand(node.inputs[0])}")


def _one(p: Printer, node: Node) -> str:
    return p.constant(np.array(1, node.type.dtype.numpy))


def rsqrt(p: Printer, node: Node) -> None:
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


def logistic(p: Printer, node: Node) -> None:
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


def erf(p: Printer, node: Node) -> None:
    if p.is_register(node):
        meaning(p, node)
        return
    x, size = node.inputs[0], prod(shape_of(node))
    if not p.layout(node).is_contiguous:
        meaning(p, node)
        return
    p.use("error_function", kernels.error_function)
    dtype = p.use(f"{node.type.dtype.name}_type", node.type.dtype.numpy)
    erf = p.shared("erf", f"error_function({size}, {dtype})")
    if p.plan.places[x] != p.plan.places[node]:
        p.line(f"{p.out(node)}[...] = {p.operand(x)}")
    flat = p.memory(node, contiguous((size,)).shifted(p.layout(node).offset))
    p.line(f"{erf}({flat})")


def shift(name: str) -> Template:
    """A plain shift where the distance is a constant below the width."""

    def template(p: Printer, node: Node) -> None:
        by = node.inputs[1]
        while by.op.name == "broadcast_in_dim":
            by = by.inputs[0]
        known = by.op.name == "constant" and not isinstance(by.attributes["value"], tuple)
        if known and 0 <= by.attributes["value"] < node.type.dtype.bits:
            ufunc(name)(p, node)
        else:
            meaning(p, node)

    return template


_WORDS = {4: I32, 8: I64, 1: I8}


def select(p: Printer, node: Node) -> None:
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
    shape = shape_of(node)
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
    other = p.scratch(node, shape, word, round_up(prod(shape) * word.bytes))
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


def select_scratch(node: Node) -> int:
    """Bytes for the mask, and for what both sides differ in where neither is zero."""
    if not node.type.rank or node.type.dtype.bytes not in (4, 8):
        return 0
    size = round_up(prod(shape_of(node)) * node.type.dtype.bytes)
    return size if any(_is_zero(i) for i in node.inputs[1:]) else 2 * size
