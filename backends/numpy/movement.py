"""Templates of sources, movement that no view can show, indexing and order."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from weft.backends.numpy import kernels
from weft.backends.numpy.elementwise import meaning
from weft.backends.numpy.template import shape_of
from weft.compiler.graph import Node
from weft.compiler.passes.views import Layout, contiguous, view
from weft.compiler.types import I64

if TYPE_CHECKING:
    from weft.backends.numpy.printer import Printer

# -- sources --------------------------------------------------------------------------------------


def made_before(p: Printer, node: Node) -> None:
    """Nothing to do in the step: an input, or a value that is made when arrays are bound."""


def random_bits(p: Printer, node: Node) -> None:
    shape = shape_of(node)
    p.use("Philox", kernels.Philox)
    stream = p.constant(node.attributes["stream"], "stream")
    draw = p.shared("draw", f"Philox({prod(shape)}, {stream})")
    seed, step = p.array(node.inputs[0]), p.scalar(node.inputs[1])
    if p.is_register(node):
        p.assign(node, f"{draw}({seed}, {step})[0]")
        return
    flat = p.memory(node, contiguous((prod(shape),)).shifted(p.layout(node).offset))
    p.line(f"{draw}({seed}, {step}, {flat})")


# -- movement -------------------------------------------------------------------------------------


def moved(p: Printer, node: Node) -> None:
    """Movement that can't be a view: copy what the view would show."""
    operand = node.inputs[0]
    if p.is_register(node):
        if operand.type.rank == 0:
            p.assign(node, p.scalar(operand))
        else:
            p.assign(node, f"{p.memory(operand, Layout(p.layout(operand).offset, (), ()))}[()]")
        return
    if node.op.name == "reshape":
        shape = shape_of(operand)
        into = p.memory(node, contiguous(shape).shifted(p.layout(node).offset))
        p.line(f"{into}[...] = {p.array(operand)}")
        return
    layout = view(node, p.layout(operand))
    assert layout is not None
    p.line(f"{p.out(node)}[...] = {p.memory(operand, layout)}")


def pad(p: Printer, node: Node) -> None:
    low, high, interior = (node.attributes[k] for k in ("low", "high", "interior"))
    operand = node.inputs[0]
    if p.is_register(node):
        p.assign(node, p.scalar(operand))
        return
    into, source = kernels.pad_slices(shape_of(operand), shape_of(node), low, interior)
    inner = kernels.sliced(p.layout(node), into)
    if any((*low, *high, *interior)):
        value = p.constant(node.type.dtype.numpy.type(node.attributes["value"]))
        p.line(f"{p.out(node)}[...] = {value}")
    if inner.size:
        kept = p.memory(operand, kernels.sliced(p.layout(operand), source))
        p.line(f"{p.memory(node, inner)}[...] = {kept}")


def concat(p: Printer, node: Node) -> None:
    axis, start = node.attributes["axis"], 0
    whole = p.layout(node)
    for operand in node.inputs:
        shape = shape_of(operand)
        part = Layout(whole.offset + start * whole.strides[axis], shape, whole.strides)
        start += shape[axis]
        place = p.plan.places[operand]
        there = place.buffer is p.plan.places[node].buffer and place.layout.offset == part.offset
        if part.size and not (there and place.layout.steps == part.steps):
            p.line(f"{p.memory(node, part)}[...] = {p.operand(operand)}")


# -- indexing and order ---------------------------------------------------------------------------


def gather(p: Printer, node: Node) -> None:
    x, indices = node.inputs
    dims = node.attributes["batch_dims"]
    if dims == 0 and indices.type.dtype.name != "u64" and not p.is_register(node):
        p.line(f"{p.array(x)}.take({p.array(indices)}, 0, {p.out(node)}, 'clip')")
        return
    width = shape_of(x)[dims + 1 :]
    table = kernels.reshaped(p.layout(x), (prod(shape_of(x)[: dims + 1]), *width))
    source = p.array(x) if table is None else p.memory(x, table)
    if table is None:
        source = f"{source}.reshape({(prod(shape_of(x)[: dims + 1]), *width)})"
    if p.is_register(node):
        last = max(0, shape_of(x)[0] - 1)
        p.assign(node, f"{source}[min(max(int({p.scalar(indices)}), 0), {last})]")
        return
    rows = p.scratch(node, shape_of(indices), I64)
    starts, last = kernels.row_starts(shape_of(x), shape_of(indices), dims)
    found = p.operand(indices)
    if indices.type.dtype != I64:
        p.line(f"{rows}[...] = {found}")
        found = rows
    zero, end = p.constant(np.array(0, np.int64)), p.constant(np.array(last, np.int64))
    p.line(f"{p.use('maximum', np.maximum)}({found}, {zero}, out={rows})")
    p.line(f"{p.use('minimum', np.minimum)}({rows}, {end}, out={rows})")
    p.line(f"{p.use('add', np.add)}({rows}, {p.constant(starts, 'starts')}, {rows})")
    p.line(f"{source}.take({rows}, 0, {p.out(node)}, 'clip')")


def scatter_add(p: Printer, node: Node) -> None:
    x, indices, updates = node.inputs
    make = p.use("scatterer", kernels.scatterer)
    dims = node.attributes["batch_dims"]
    scatter = p.shared("scatter", f"{make}({shape_of(x)}, {shape_of(indices)}, {dims})")
    p.line(f"{p.out(node)}[...] = {p.operand(x)}")
    p.line(f"{scatter}({p.out(node)}, {p.array(indices)}, {p.array(updates)})")


def sort(p: Printer, node: Node) -> None:
    if node.attributes["descending"]:
        meaning(p, node)
        return
    p.line(f"{p.out(node)}[...] = {p.operand(node.inputs[0])}")
    p.line(f"{p.out(node)}.sort({node.attributes['axis']}, 'stable')")


def cumsum(p: Printer, node: Node) -> None:
    axis = node.attributes["axis"]
    source, target = p.layout(node.inputs[0]), p.layout(node)
    if node.attributes["reverse"]:
        source, target = kernels.flipped(source, axis), kernels.flipped(target, axis)
    accumulate = p.use("add_accumulate", np.add.accumulate)
    p.line(
        f"{accumulate}({p.memory(node.inputs[0], source)}, {axis}, None, {p.memory(node, target)})"
    )
