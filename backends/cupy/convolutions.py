"""Convolutions as sums of products whose right factor is gathered from the images.

    matrix   a group of channels         m   a channel of the result, within the group
    n        image, y, x of the result   k   channel of the images, row and column of the kernel

Nothing is unfolded in memory: where an element comes from is worked out as its tile is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from weft.backends.cupy import scalar
from weft.backends.cupy.code import Launch
from weft.backends.cupy.emit import Emitter, Namer
from weft.backends.cupy.points import index_type, spread
from weft.backends.cupy.tiling import Side, Sum, factors, print_tiles, run_of
from weft.compiler.index import Axis, along, flat
from weft.compiler.kernel import Convolution, View
from weft.compiler.passes.views import contiguous
from weft.compiler.scalar import Bound


def print_convolution(convolution: Convolution, aligned: frozenset[int]) -> list[Launch]:
    return print_tiles(_sum(convolution, aligned), "convolution")


def _sum(c: Convolution, aligned: frozenset[int]) -> Sum:
    images, channels, height, width = c.shape
    outputs = channels // c.groups
    depth = prod(c.kernel.shape[1:])
    area = height * width
    type = index_type([c.epilogue], max(_reach(c.x), _reach(c.kernel), images * area))
    image, channel, y, x = c.epilogue.axes
    at = [
        (image, f"n / {area}"),
        (channel, f"matrix * {outputs} + m"),
        (y, f"n / {width} % {height}"),
        (x, f"n % {width}"),
    ]
    place = flat([along(a) for a in (channel, image, y, x)], (images * area, area, width, 1))
    taps = _Taps(c)
    return Sum(
        c.ports,
        c.ports[c.x.port].dtype,
        c.tf32,
        c.groups,
        (outputs, images * area, depth),
        left=_weight(c, taps, type, aligned),
        right=_pixel(c, taps, type),
        epilogue=c.epilogue,
        at=at,
        place=place,
        index_type=type,
    )


class _Taps:
    """The axes of what is summed, and which of them k numbers first.

    A gradient to weights sums over many places for few results: there neighbours along k are
    neighbours in an image. Else those along n are; and if channels are the last axis of k, what a
    place needs is worked out once for a `run` of them, which tensor cores read together.
    """

    def __init__(self, c: Convolution) -> None:
        self.channel, self.row, self.column = _axes(c.kernel.shape[1:])
        self.along = c.shape[3] < self.column.extent
        run = run_of(factors(c.ports[c.x.port].dtype, c.tf32))
        self.by_channel = not self.along and self.channel.extent % run == 0 and run > 1
        self.run = run if self.by_channel else 1
        space = self.row, self.column
        self.order = (*space, self.channel) if self.by_channel else (self.channel, *space)


def _weight(c: Convolution, taps: _Taps, type: str, aligned: frozenset[int]) -> Side:
    """The kernel's elements."""
    code, kernel = Emitter({}, Namer(), type, depth=0), c.kernel
    output = code.let(type, f"matrix * {c.shape[1] // c.groups} + m", "o")
    line, code.lines = [*code.lines], []
    step, *steps = kernel.strides
    if taps.by_channel or tuple(steps) != contiguous(kernel.shape[1:]).strides:
        spread(code, "k", taps.order)
        at = flat([along(a) for a in (taps.channel, taps.row, taps.column)], steps)
        start = code.let(type, f"{step} * {output} + {code.index(at)}", "at")
        factor = f"p{kernel.port}[{start} + {steps[0]} * i]"
        return Side(line, code.lines, factor, True, taps.run)
    start = code.let(type, f"{step} * {output} + k", "at")
    run = run_of(factors(c.ports[kernel.port].dtype, c.tf32))
    whole = run > 1 and prod(kernel.shape[1:]) % run == 0 and step % run == 0
    packed = whole and kernel.port in aligned
    factor = f"p{kernel.port}[{start} + i]"
    return Side(line, code.lines, factor, True, run if packed else 1, packed)


def _pixel(c: Convolution, taps: _Taps, type: str) -> Side:
    """The images' elements; 0 outside of them."""
    code = Emitter({}, Namer(), type, depth=0)
    group = Axis(c.groups)
    image, *space = _axes((c.shape[0], *c.shape[2:]))
    code.axes[group] = "matrix"
    spread(code, "n", (image, *space))
    line, code.lines = code.lines, []
    spread(code, "k", taps.order)
    tests, bounds, places = [], [], []
    for i, (at, tap) in enumerate(zip(space, (taps.row, taps.column), strict=True)):
        size, step = c.x.shape[2 + i], c.lhs_dilation[i]
        place = along(at) * c.strides[i] + along(tap) * c.rhs_dilation[i] + -c.padding[i][0]
        tests.append(place)
        bounds.append(Bound(0, (size - 1) * step + 1, step))
        places.append(place // step)
    channel = along(group) * taps.channel.extent + along(taps.channel)
    index = flat((along(image), channel, *places), c.x.strides)
    start = code.let(type, code.index(index), "at")
    factor = f"p{c.x.port}[{start} + {c.x.strides[1]} * i]"
    test = code.test(tests, bounds)
    if test:
        inside = code.let("bool", test, "inside")
        factor = f"{inside} ? {factor} : {scalar.type_name(c.ports[c.x.port].dtype)}()"
    return Side(line, code.lines, factor, taps.along, taps.run)


def _axes(shape: Sequence[int]) -> tuple[Axis, ...]:
    return tuple(Axis(size) for size in shape)


def _reach(view: View) -> int:
    """An index that no element is beyond."""
    return sum(abs(step) * size for step, size in zip(view.strides, view.shape, strict=True))
