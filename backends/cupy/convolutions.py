"""Convolutions as sums of products whose right factor is gathered from the images.

    matrix   a group of channels         m   a channel of the result, within the group
    n        image, y, x of the result   k   channel of the images, row and column of the kernel

Nothing is unfolded in memory: where an element comes from is worked out as its tile is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence

from weft.backends.cupy.code import Launch
from weft.backends.cupy.emit import Emitter, Namer
from weft.backends.cupy.points import index_type, spread
from weft.backends.cupy.tiling import Side, Sum, print_tiles
from weft.compiler.index import Axis, along, flat
from weft.compiler.kernel import Convolution, View
from weft.compiler.scalar import Bound, Guard, Literal, Load


def print_convolution(convolution: Convolution, aligned: frozenset[int]) -> list[Launch]:
    return print_tiles(_sum(convolution), "convolution")


def _sum(c: Convolution) -> Sum:
    images, channels, height, width = c.shape
    outputs = channels // c.groups
    taps = c.kernel.shape[1:]
    depth = taps[0] * taps[1] * taps[2]
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
    return Sum(
        c.ports,
        c.ports[c.x.port].dtype,
        c.tf32,
        c.groups,
        (outputs, images * area, depth),
        left=_weight(c, type, outputs),
        right=_pixel(c, type),
        epilogue=c.epilogue,
        at=at,
        place=place,
        index_type=type,
    )


def _weight(c: Convolution, type: str, outputs: int) -> Side:
    """The kernel's elements."""
    code = Emitter({}, Namer(), type, depth=0)
    output, taps = Axis(c.kernel.shape[0]), _axes(c.kernel.shape[1:])
    code.axes[output] = code.let(type, f"matrix * {outputs} + m", "o")
    line, code.lines = code.lines, []
    spread(code, "k", taps)
    index = flat([along(a) for a in (output, *taps)], c.kernel.strides)
    value = code.one(Load(c.ports[c.kernel.port].dtype, c.kernel.port, index))
    return Side(line, [*code.lines, f"return {value};"], along=True)


def _pixel(c: Convolution, type: str) -> Side:
    """The images' elements; 0 outside of them."""
    code = Emitter({}, Namer(), type, depth=0)
    group, taps = Axis(c.groups), _axes(c.kernel.shape[1:])
    image, *space = _axes((c.shape[0], *c.shape[2:]))
    code.axes[group] = "matrix"
    spread(code, "n", (image, *space))
    line, code.lines = code.lines, []
    spread(code, "k", taps)
    tests, bounds, places = [], [], []
    for i, (at, tap) in enumerate(zip(space, taps[1:], strict=True)):
        size, step = c.x.shape[2 + i], c.lhs_dilation[i]
        place = along(at) * c.strides[i] + along(tap) * c.rhs_dilation[i] + -c.padding[i][0]
        tests.append(place)
        bounds.append(Bound(0, (size - 1) * step + 1, step))
        places.append(place // step)
    channel = along(group) * taps[0].extent + along(taps[0])
    index = flat((along(image), channel, *places), c.x.strides)
    dtype = c.ports[c.x.port].dtype
    found = Guard(
        dtype, Load(dtype, c.x.port, index), Literal(dtype, 0), tuple(tests), tuple(bounds)
    )
    value = code.one(found)
    return Side(line, [*code.lines, f"return {value};"], along=False)


def _axes(shape: Sequence[int]) -> tuple[Axis, ...]:
    return tuple(Axis(size) for size in shape)


def _reach(view: View) -> int:
    """An index that no element is beyond."""
    return sum(abs(step) * size for step, size in zip(view.strides, view.shape, strict=True))
