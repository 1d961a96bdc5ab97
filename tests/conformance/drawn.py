"""Hypothesis strategies: settings of the primitives whose attributes have to fit their operands."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Attributes = dict[str, Any]
Sizes = tuple[int, ...]


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Sizes, Sizes, Attributes]:
    """The shapes of `x` and of the kernel, and attributes under which the window fits."""
    rank, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    few = st.integers(1, 2)
    per_group = draw(few)
    x, kernel = [draw(few), groups * per_group], [groups * draw(few), per_group]
    names = ("strides", "padding", "lhs_dilation", "rhs_dilation")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for _ in range(rank):
        size, width = draw(st.integers(1, 5)), draw(st.integers(1, 3))
        spread, gap, stride = (draw(st.integers(1, 3)) for _ in range(3))
        padding = draw(_padding((size - 1) * spread + 1, (width - 1) * gap + 1, lowest=-2))
        x.append(size)
        kernel.append(width)
        for name, value in zip(names, (stride, padding, spread, gap), strict=True):
            columns[name].append(value)
    attributes = {name: tuple(values) for name, values in columns.items()}
    return tuple(x), tuple(kernel), {**attributes, "groups": groups}


@st.composite
def windows(draw: st.DrawFn) -> tuple[Sizes, Attributes]:
    """The shape of `x`, and attributes of `reduce_window` under which the window fits."""
    rank = draw(st.integers(1, 2))
    shape = [draw(st.integers(1, 2)) for _ in range(draw(st.integers(0, 1)))]
    names = ("window", "strides", "padding", "dilation")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for _ in range(rank):
        size = draw(st.integers(1, 6))
        width, stride, gap = (draw(st.integers(1, 3)) for _ in range(3))
        padding = draw(_padding(size, (width - 1) * gap + 1, lowest=-1))
        shape.append(size)
        for name, value in zip(names, (width, stride, padding, gap), strict=True):
            columns[name].append(value)
    reducer = draw(st.sampled_from(["sum", "max", "min"]))
    attributes = {name: tuple(values) for name, values in columns.items()}
    return tuple(shape), {"reducer": reducer, **attributes}


@st.composite
def _padding(draw: st.DrawFn, size: int, width: int, lowest: int) -> tuple[int, int]:
    """Padding, down to `lowest`, that leaves room for a window of `width`."""
    low = draw(st.integers(lowest, 3))
    least = max(lowest, width - size - low)
    return low, draw(st.integers(least, least + 3))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Sizes, Sizes, Attributes, str]:
    """Two shapes for `dot_general`, its attributes, and the same as a formula for `np.einsum`."""
    roles = draw(st.lists(st.sampled_from("bclr"), max_size=6))
    sizes = [draw(st.integers(1, 3)) for _ in roles]
    left = draw(st.permutations([i for i, role in enumerate(roles) if role in "bcl"]))
    right = draw(st.permutations([i for i, role in enumerate(roles) if role in "bcr"]))
    shared = {role: [i for i, r in enumerate(roles) if r == role] for role in "bc"}
    attributes = {
        name: tuple(tuple(side.index(i) for i in shared[role]) for side in (left, right))
        for name, role in (("contract", "c"), ("batch", "b"))
    }
    result = [*shared["b"], *(i for side in (left, right) for i in side if roles[i] in "lr")]
    names = ["".join("uvwxyz"[i] for i in axes) for axes in (left, right, result)]
    formula = f"{names[0]},{names[1]}->{names[2]}"
    shapes = [tuple(sizes[i] for i in side) for side in (left, right)]
    return shapes[0], shapes[1], attributes, formula


@st.composite
def paddings(draw: st.DrawFn) -> tuple[Sizes, Attributes]:
    """A shape and attributes of `pad`, of which some cut."""
    columns: dict[str, list[int]] = {name: [] for name in ("low", "high", "interior")}
    shape = []
    for _ in range(draw(st.integers(1, 2))):
        size, low, between = (draw(st.integers(*r)) for r in ((1, 4), (-3, 3), (0, 2)))
        inner = size + (size - 1) * between
        high = draw(st.integers(max(-3, -inner - low), 3 + max(0, -inner - low)))
        shape.append(size)
        for name, value in (("low", low), ("high", high), ("interior", between)):
            columns[name].append(value)
    return tuple(shape), {**{k: tuple(v) for k, v in columns.items()}, "value": 0.5}
