"""The functions that the language itself provides: the primitives, under the names of the lectures.

Each is a row `name: function(site, arguments...)`; its Python signature is its signature in the
language. Everything else is library source in `frontends/library`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span, did_you_mean, one_of
from weft.compiler.gradient import differentiate
from weft.compiler.graph import Node, full, make
from weft.compiler.type_rules import TypeRuleError, dilated_size
from weft.compiler.types import F32, I64, U32, Dim, SymDim, TensorType, divide
from weft.frontends.dsl.axes import align, axis_index, axis_indices, shape_of
from weft.frontends.dsl.diagnostics import SameInEveryCall, misfit, unknown_argument
from weft.frontends.dsl.loops import scan
from weft.frontends.dsl.parameters import draw_name
from weft.frontends.dsl.registry import SEED
from weft.frontends.dsl.signatures import Given
from weft.frontends.dsl.values import (
    Builtin,
    Label,
    Tensor,
    Value,
    as_dim,
    describe,
    is_number,
    shape_text,
)

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter
    from weft.frontends.dsl.modules import Scope


_VERBS = frozenset(("takes", "needs", "names", "counts", "differentiates", "has"))


@dataclass(frozen=True, slots=True)
class Site:
    """Where a built-in is called: for errors, element types and the names of draws."""

    interpreter: Interpreter
    span: Span
    name: str
    given: tuple[Given, ...] = ()
    scope: Scope | None = None  # the caller's, whose layer owns new parameters

    def place(self, value: Value) -> Span:
        """Where a value stands among the arguments; else the whole call."""
        return next((g.span for g in self.given if g.value is value), self.span)

    def tensor(self, value: Value) -> Tensor:
        float_type = self.interpreter.registry.float_type
        return self.interpreter.tensor(value, float_type, self.place(value))

    def wrong(self, message: str, **facts: Any) -> CompileError:
        """An error of the call."""
        return misfit(None, self._about(message), self.span, refuser=self.name, **facts)

    def wrong_value(self, value: Value, message: str, **facts: Any) -> CompileError:
        """An error about one argument."""
        facts.setdefault("found", describe(value))
        place = self.place(value)
        return misfit(value, self._about(message), place, refuser=self.name, **facts)

    def _about(self, message: str) -> str:
        """A message that begins with a verb has the function as its subject."""
        verb = message.split(" ", 1)[0] in _VERBS
        return f"`{self.name}` {message}" if verb else f"`{self.name}`: {message}"

    def whole(self, value: Value, what: str, smallest: int = 0) -> int:
        dim = as_dim(value)
        if dim is None or isinstance(dim, SymDim) or dim < smallest:
            raise self.wrong_value(value, f"{what} is a whole number, at least {smallest}")
        return dim


def call_builtin(
    interpreter: Interpreter,
    function: Builtin,
    given: Sequence[Given],
    span: Span,
    scope: Scope | None = None,
) -> Value:
    site = Site(interpreter, span, function.name, tuple(given), scope)
    positional = [g.value for g in given if g.name is None]
    named = {g.name: g.value for g in given if g.name is not None}
    if named and not any(p.startswith("**") for p in function.parameters):
        for g in given:
            if g.name is not None and g.name not in function.names:
                raise unknown_argument(function.name, g.name, function.names, g.key_span)
    if not function.takes(len(positional), named):
        raise _wrong_count(function, given, span)
    try:
        return function.call(site, *positional, **named)
    except TypeRuleError as error:
        raise CompileError(f"`{function.name}`: {error}", span) from None


def _wrong_count(function: Builtin, given: Sequence[Given], span: Span) -> CompileError:
    """The error for arguments that are missing, too many, or given twice."""
    single = [p.rstrip("=") for p in function.parameters if not p.startswith("*")]
    positional = [g for g in given if g.name is None]
    expected = f"`{function.name}({', '.join(_shown(p) for p in function.parameters)})`"
    if len(positional) > len(single) and len(single) == len(function.parameters):
        count = f"{len(single)} argument{'' if len(single) == 1 else 's'}"
        extra = positional[len(single)]
        return SameInEveryCall(
            f"`{function.name}` takes {count}, and this is one more",
            extra.span,
            expected=expected,
            found=describe(extra.value),
        )
    names = [*single[: len(positional)], *(g.name for g in given if g.name is not None)]
    missing = [p for p in function.parameters if p[0] != "*" and p[-1] != "=" and p not in names]
    if missing:
        message = f"`{function.name}` needs {one_of(missing)}"
        return SameInEveryCall(message, span, expected=expected)
    twice = next(g for g in given if g.name is not None and names.count(g.name) > 1)
    return SameInEveryCall(f"`{function.name}` is given `{twice.name}` twice", twice.key_span)


def _shown(parameter: str) -> str:
    """`*axes` as `...axes`, `over=` as `over = ...`, `**settings` as `name = ...`."""
    if parameter.startswith("**"):
        return "name = ..."
    if parameter.startswith("*"):
        return f"...{parameter[1:]}"
    return f"{parameter[:-1]} = ..." if parameter.endswith("=") else parameter


# -- elementwise ----------------------------------------------------------------------------------


def _unary(op: str, static: Callable[[float], Any] | None) -> Callable[..., Value]:
    def call(site: Site, x: Value) -> Value:
        if static is not None and is_number(x):
            try:
                return static(x)
            except (ValueError, OverflowError):
                raise site.wrong_value(x, "the number is outside the domain") from None
        tensor = site.tensor(x)
        try:
            return Tensor(b.unary(op, tensor.node), tensor.axes)
        except TypeRuleError:
            kind = "tensors" if tensor.type.dtype.kind == "bool" else "floating-point numbers"
            raise site.wrong_value(
                x, f"takes {kind}", found=shape_text(tensor), hint="convert it with `float(x)`"
            ) from None

    return call


_UNARY: dict[str, tuple[str, Callable[[float], Any] | None]] = {
    "exp": ("exp", math.exp),
    "expm1": ("expm1", math.expm1),
    "log": ("log", math.log),
    "log1p": ("log1p", math.log1p),
    "sqrt": ("sqrt", math.sqrt),
    "rsqrt": ("rsqrt", lambda x: 1 / math.sqrt(x)),
    "sin": ("sin", math.sin),
    "cos": ("cos", math.cos),
    "tanh": ("tanh", math.tanh),
    "erf": ("erf", math.erf),
    "logistic": ("logistic", lambda x: 1 / (1 + math.exp(-x))),
    "abs": ("abs", abs),
    "sign": ("sign", lambda x: (x > 0) - (x < 0)),
    "floor": ("floor", math.floor),
    "ceil": ("ceil", math.ceil),
    "round": ("round", round),
    "is_finite": ("is_finite", math.isfinite),
    "stop_gradient": ("stop_gradient", lambda x: x),
}


def _extreme(op: str, static: Callable[..., Any]) -> Callable[..., Value]:
    """`max(a, b)` elementwise; `max(x, over = ...)` over axes; `max` of numbers."""

    def call(site: Site, x: Value, y: Value = None, over: Value = None) -> Value:
        if y is not None and over is not None:
            raise site.wrong("takes two operands, or one with `over`, not both")
        if isinstance(x, list) and y is None and over is None and all(map(is_number, x)) and x:
            return static(x)
        if y is None:
            return _reduce(op)(site, x, over)
        if is_number(x) and is_number(y):
            return static(x, y)
        name = {"max": "maximum", "min": "minimum"}[op]
        return site.interpreter.elementwise(name, x, y, site.span, f"`{site.name}`")

    return call


def _where(site: Site, condition: Value, yes: Value, no: Value) -> Value:
    if isinstance(condition, bool):
        return yes if condition else no
    test = site.tensor(condition)
    if test.type.dtype.kind != "bool":
        raise site.wrong_value(
            condition, "the condition is a comparison", hint="such as `where(x > 0, x, 0)`"
        )
    float_type = site.interpreter.registry.float_type
    like = next((v.type.dtype for v in (yes, no) if isinstance(v, Tensor)), float_type)
    a = site.interpreter.tensor(yes, like, site.span)
    c = site.interpreter.tensor(no, like, site.span)
    a, c = align(a, c, "`where`", site.span)
    test, a = align(test, a, "`where`", site.span)
    test, c = align(test, c, "`where`", site.span)
    return Tensor(b.select(test.node, a.node, c.node), test.axes)


def _float(site: Site, x: Value) -> Value:
    if is_number(x) or isinstance(x, bool):
        return float(x)
    float_type = site.interpreter.registry.float_type
    tensor = site.interpreter.tensor(x, float_type, site.span)
    return Tensor(b.cast(tensor.node, float_type), tensor.axes)


def _int(site: Site, x: Value) -> Value:
    if is_number(x) or isinstance(x, bool):
        return int(x)
    tensor = site.tensor(x)
    return Tensor(b.cast(tensor.node, I64), tensor.axes)


def _cast(site: Site, x: Value, type: Value) -> Value:
    from weft.compiler.types import DType

    if not isinstance(type, DType):
        raise site.wrong_value(type, "the second argument is an element type such as `f32`")
    tensor = site.tensor(x)
    return Tensor(b.cast(tensor.node, type), tensor.axes)


# -- reductions -----------------------------------------------------------------------------------


def _reduce(op: str) -> Callable[..., Value]:
    def call(site: Site, x: Value, over: Value = None) -> Value:
        tensor = site.tensor(x)
        axes = axis_indices(tensor, over, site.place(over))
        if op in ("max", "min") and any(tensor.type.shape[a] == 0 for a in axes):
            raise site.wrong("an empty axis has no extreme", found=shape_text(tensor))
        return Tensor(b.reduce(op, tensor.node, axes), _without(tensor, axes))

    return call


def _without(tensor: Tensor, axes: Sequence[int]) -> tuple[Label | None, ...]:
    return tuple(a for i, a in enumerate(tensor.axes) if i not in axes)


def _mean(site: Site, x: Value, over: Value = None) -> Value:
    tensor = site.tensor(x)
    if tensor.type.dtype.kind != "float":
        tensor = _float(site, tensor)
    axes = axis_indices(tensor, over, site.place(over))
    total = b.reduce("sum", tensor.node, axes)
    count = b.size_of([tensor.type.shape[a] for a in axes], tensor.type.dtype)
    count = b.broadcast(count, total.type.shape, ())
    return Tensor(total / count, _without(tensor, axes))


def _arg(op: str) -> Callable[..., Value]:
    def call(site: Site, x: Value, over: Value = -1) -> Value:
        tensor = site.tensor(x)
        axis = axis_index(tensor, over, site.place(over))
        return Tensor(make(op, tensor.node, axis=axis), _without(tensor, (axis,)))

    return call


def _count(site: Site, *axes: Value) -> Value:
    total: Dim = 1
    for axis in axes:
        for item in axis if isinstance(axis, list) else [axis]:
            dim = as_dim(item)
            if dim is None:
                raise site.wrong("counts the elements of axes", found=describe(item))
            total = dim * total
    return total


# -- shapes ---------------------------------------------------------------------------------------


def _shape(site: Site, x: Value) -> Value:
    return list(site.tensor(x).axis_values)


def _rank(site: Site, x: Value) -> Value:
    return site.tensor(x).rank


def _size(site: Site, x: Value, axis: Value = None) -> Value:
    tensor = site.tensor(x)
    if axis is None:
        return tensor.type.size
    return tensor.type.shape[axis_index(tensor, axis, site.place(axis))]


def _reshape(site: Site, x: Value, shape: Value) -> Value:
    tensor = site.tensor(x)
    items = list(shape) if isinstance(shape, list | tuple) else [shape]
    holes = [i for i, item in enumerate(items) if item == -1 and isinstance(item, int)]
    if len(holes) > 1:
        raise site.wrong_value(shape, "only one size can be left to compute (-1)")
    if holes:
        rest, _ = shape_of(items[: holes[0]] + items[holes[0] + 1 :], site.span)
        known: Dim = 1
        for dim in rest:
            known = dim * known
        total: Dim = tensor.type.size
        try:
            items[holes[0]] = divide(total, known)
            if known * items[holes[0]] != total:
                raise ValueError
        except (ValueError, ZeroDivisionError):
            raise site.wrong_value(
                shape,
                "the size left to compute (-1) is not whole",
                found=f"{describe(items)} for {shape_text(tensor)}",
            ) from None
    dims, labels = shape_of(items, site.place(shape))
    count: Dim = 1
    for dim in dims:
        count = dim * count
    if count != tensor.type.size:
        raise site.wrong_value(
            shape,
            "the number of elements changes",
            expected=f"{tensor.type.size} elements, as {shape_text(tensor)} has",
            found=f"{describe(list(dims))}, {count} elements",
        )
    return Tensor(b.reshape(tensor.node, dims), labels, tensor.classes)


def _transpose(site: Site, x: Value, axes: Value = None) -> Value:
    tensor = site.tensor(x)
    if axes is None:
        order = list(reversed(range(tensor.rank)))
    else:
        items = axes if isinstance(axes, list | tuple) else [axes]
        order = [axis_index(tensor, a, site.place(axes)) for a in items]
    if sorted(order) != list(range(tensor.rank)):
        raise site.wrong_value(
            axes,
            "names each axis once",
            expected=f"an order of {tensor.rank} axes",
            found=f"{describe(axes)} for {shape_text(tensor)}",
        )
    return Tensor(b.transpose(tensor.node, order), tuple(tensor.axes[i] for i in order))


def _broadcast(site: Site, x: Value, shape: Value) -> Value:
    tensor = site.tensor(x)
    dims, labels = shape_of(shape, site.span)
    target = Tensor(b.zeros(tensor.type.with_shape(dims)), labels)
    sizes = tensor.type.shape
    if tensor.rank == len(dims) and any(
        s == 1 and d != 1 for s, d in zip(sizes, dims, strict=True)
    ):
        kept = [i for i, (s, d) in enumerate(zip(sizes, dims, strict=True)) if s != 1 or d == 1]
        node = b.reshape(tensor.node, [sizes[i] for i in kept])
        if any(sizes[i] != dims[i] for i in kept):
            raise site.wrong("sizes differ", expected=str(list(dims)), found=shape_text(tensor))
        return Tensor(b.broadcast(node, dims, kept), labels)
    moved, _ = align(tensor, target, "`broadcast`", site.span)
    if moved.type.shape != dims:
        raise site.wrong("sizes differ", expected=str(list(dims)), found=shape_text(tensor))
    return Tensor(moved.node, tuple(a or c for a, c in zip(labels, moved.axes, strict=True)))


def _tensors(site: Site, parts: Value) -> list[Tensor]:
    if not isinstance(parts, list | tuple) or not parts:
        raise site.wrong("takes a list of tensors", found=describe(parts))
    found = [site.tensor(p) for p in parts]
    for t in found[1:]:
        if t.rank != found[0].rank:
            raise site.wrong(
                "the tensors have different ranks",
                found=", ".join(shape_text(t) for t in found[:4]),
            )
    return found


def _joined_axes(parts: list[Tensor], drop: int | None) -> tuple[Label | None, ...]:
    axes = []
    for i, column in enumerate(zip(*(p.axes for p in parts), strict=True)):
        label = next((a for a in column if a is not None), None)
        same = all(a is None or a is label for a in column)
        axes.append(label if same and i != drop else None)
    return tuple(axes)


def _concat(site: Site, parts: Value, over: Value = -1) -> Value:
    tensors = _tensors(site, parts)
    axis = axis_index(tensors[0], over, site.place(over))
    for t in tensors[1:]:
        for i, (mine, theirs) in enumerate(zip(tensors[0].type.shape, t.type.shape, strict=True)):
            if i != axis and mine != theirs:
                raise site.wrong(
                    f"axis {i} has the sizes {mine} and {theirs}",
                    expected=f"equal sizes on all axes but axis {axis}, where the tensors join",
                    found=f"{shape_text(tensors[0])} and {shape_text(t)}",
                    hint="`over` says which axis they join on; the last one unless told",
                )
    node = b.concat([t.node for t in tensors], axis)
    return Tensor(node, _joined_axes(tensors, axis if len(tensors) > 1 else None))


def _stack(site: Site, parts: Value, at: Value = 0) -> Value:
    tensors = _tensors(site, parts)
    place = site.whole(at, "`at`") if at != -1 else tensors[0].rank
    if place > tensors[0].rank:
        raise site.wrong(f"there is no place {place} in {tensors[0].rank + 1} axes")
    nodes = []
    for t in tensors:
        shape = list(t.type.shape)
        shape.insert(place, 1)
        nodes.append(b.reshape(t.node, shape))
    axes = list(_joined_axes(tensors, None))
    axes.insert(place, None)
    return Tensor(b.concat(nodes, place), tuple(axes))


def _pad(site: Site, x: Value, low: Value, high: Value, value: Value = 0) -> Value:
    """`low` and `high`: how many elements to add before and after, for the last axes."""
    tensor = site.tensor(x)
    before = list(low) if isinstance(low, list) else [low]
    after = list(high) if isinstance(high, list) else [high]
    if len(before) != len(after) or len(before) > tensor.rank or not is_number(value):
        raise site.wrong("takes equally many `low` and `high`, and a number to fill with")
    front = tensor.rank - len(before)
    lows = [0] * front + [site.whole(v, "padding") for v in before]
    highs = [0] * front + [site.whole(v, "padding") for v in after]
    axes = tuple(
        None if lo or hi else a for a, lo, hi in zip(tensor.axes, lows, highs, strict=True)
    )
    return Tensor(b.pad(tensor.node, lows, highs, None, float(value)), axes)


def _reverse(site: Site, x: Value, over: Value = None) -> Value:
    tensor = site.tensor(x)
    return Tensor(b.reverse(tensor.node, axis_indices(tensor, over, site.place(over))), tensor.axes)


# -- windows --------------------------------------------------------------------------------------


def _each(site: Site, value: Value, rank: int, what: str, smallest: int = 1) -> tuple[int, ...]:
    items = value if isinstance(value, list | tuple) else [value] * rank
    if len(items) != rank:
        raise site.wrong_value(value, f"`{what}` has one entry for each of {rank} axes")
    return tuple(site.whole(v, f"`{what}`", smallest) for v in items)


def _padding(
    site: Site,
    padding: Value,
    sizes: Sequence[Dim],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> list[tuple[int, int]]:
    """`"valid"`: none. `"same"`: `ceil(size / stride)` outputs. Or places: before and after alike,
    or in a list by axis, where a pair says both; a negative number in a pair cuts.
    """
    if padding == "valid":
        return [(0, 0)] * len(window)
    if padding == "same":
        pairs = []
        for size, w, stride, d in zip(sizes, window, strides, dilation, strict=True):
            reach = (w - 1) * d + 1
            if isinstance(size, SymDim):
                if stride != 1:
                    raise site.wrong("`same` with a stride needs a known size", found=f"{size}")
                total = reach - 1
            else:
                total = max(0, (-(-size // stride) - 1) * stride + reach - size)
            pairs.append((total // 2, total - total // 2))
        return pairs
    if isinstance(padding, str):
        raise site.wrong_value(
            padding,
            f'there is no padding "{padding}"',
            expected='"same", "valid" or a number',
            hint=did_you_mean(padding, ["same", "valid"]),
        )
    items = padding if isinstance(padding, list | tuple) else [padding] * len(window)
    if len(items) != len(window):
        raise site.wrong_value(padding, f"`padding` has one entry for each of {len(window)} axes")
    return [_sides(site, item) for item in items]


def _sides(site: Site, places: Value) -> tuple[int, int]:
    if not isinstance(places, list | tuple):
        number = site.whole(places, "`padding`")
        return number, number
    dims = [as_dim(v) for v in places]
    if len(dims) != 2 or not all(isinstance(d, int) for d in dims):
        raise site.wrong_value(
            places, "the padding of an axis is a number, or a pair: [before, after]"
        )
    return dims[0], dims[1]  # type: ignore[return-value]


def _check_windows(
    site: Site,
    tensor: Tensor,
    sizes: Sequence[Dim],
    window: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> None:
    """Every window fits into its axis at least once."""
    for size, w, (low, high), d in zip(sizes, window, pairs, dilation, strict=True):
        reach = (w - 1) * d + 1
        if isinstance(size, int) and reach > size + low + high:
            padded = f" ({size + low + high} with its padding)" if low or high else ""
            raise site.wrong(
                f"a window of {reach} is larger than the axis of {size}{padded}",
                found=shape_text(tensor),
                hint='a smaller window fits, less pooling before it, or `padding = "same"`',
            )


def _slid(tensor: Tensor, node: Node, strides: Sequence[int]) -> list[Label | None]:
    """Labels after a window slid over the last axes: kept where positions still correspond."""
    lead = tensor.rank - len(strides)
    sizes = zip(tensor.type.shape[lead:], node.type.shape[lead:], strides, strict=True)
    same = [before == after and stride == 1 for before, after, stride in sizes]
    return [a if s else None for a, s in zip(tensor.axes[lead:], same, strict=True)]


def _convolve(
    site: Site,
    x: Value,
    kernel: Value,
    stride: Value = 1,
    padding: Value = "valid",
    dilation: Value = 1,
    groups: Value = 1,
    spread: Value = 1,
) -> Value:
    """Cross-correlation of `x[N, C, ...]` with `kernel[O, C / groups, ...]`.

    `spread` sets the elements of `x` this far apart first, with zeros between them.
    """
    tensor, weights = site.tensor(x), site.tensor(kernel)
    rank = tensor.rank - 2
    if rank < 1 or weights.rank != tensor.rank:
        raise site.wrong(
            "takes x[N, C, ...] and kernel[O, C, ...] of one rank, at least 3",
            found=f"{shape_text(tensor)} and {shape_text(weights)}",
        )
    strides = _each(site, stride, rank, "stride")
    dilations = _each(site, dilation, rank, "dilation")
    gaps = _each(site, spread, rank, "spread")
    window = [site.whole(d, "the kernel's size", 1) for d in weights.type.shape[2:]]
    sizes = [dilated_size(d, g) for d, g in zip(tensor.type.shape[2:], gaps, strict=True)]
    pairs = _padding(site, padding, sizes, window, strides, dilations)
    _check_windows(site, tensor, sizes, window, pairs, dilations)
    node = b.conv(
        tensor.node,
        weights.node,
        strides=strides,
        padding=pairs,
        lhs_dilation=gaps,
        rhs_dilation=dilations,
        groups=site.whole(groups, "`groups`", 1),
    )
    moved = [s * g for s, g in zip(strides, gaps, strict=True)]
    return Tensor(node, (tensor.axes[0], weights.axes[0], *_slid(tensor, node, moved)))


def _window(reducer: str) -> Callable[..., Value]:
    def call(
        site: Site,
        x: Value,
        size: Value,
        stride: Value = None,
        padding: Value = "valid",
        dilation: Value = 1,
    ) -> Value:
        """Windows over the last axes; as many axes as `size` has entries, or all but two."""
        tensor = site.tensor(x)
        rank = len(size) if isinstance(size, list | tuple) else tensor.rank - 2
        if not 0 < rank <= tensor.rank:
            raise site.wrong("has no axes to slide over", found=shape_text(tensor))
        window = _each(site, size, rank, "size")
        strides = window if stride is None else _each(site, stride, rank, "stride")
        dilations = _each(site, dilation, rank, "dilation")
        lead = tensor.rank - rank
        sizes = tensor.type.shape[lead:]
        pairs = _padding(site, padding, sizes, window, strides, dilations)
        _check_windows(site, tensor, sizes, window, pairs, dilations)
        node = make(
            "reduce_window",
            tensor.node,
            reducer=reducer,
            window=window,
            strides=strides,
            padding=tuple(pairs),
            dilation=dilations,
        )
        return Tensor(node, (*tensor.axes[:lead], *_slid(tensor, node, strides)))

    return call


# -- indexing and order ---------------------------------------------------------------------------


def _integers(site: Site, value: Value, what: str) -> Tensor:
    tensor = site.interpreter.tensor(value, I64, site.span)
    if tensor.type.dtype.kind not in ("int", "uint"):
        raise site.wrong(f"{what} are whole numbers", found=shape_text(tensor))
    return tensor


def _take(site: Site, x: Value, indices: Value, shared: Value = 0) -> Value:
    """Rows of `x` by position: `out[b..., i..., r...] = x[b..., indices[b..., i...], r...]`.

    The first `shared` axes are b; without them every index sees all of `x`.
    """
    tensor, places = site.tensor(x), _integers(site, indices, "indices")
    count = site.whole(shared, "`shared`")
    lead = tensor.type.shape[:count]
    if tensor.rank <= count or places.type.shape[:count] != lead:
        raise site.wrong_value(
            indices,
            f"takes from `x` and `indices` that share their first {count} axes",
            expected=f"indices that begin with the sizes {list(lead)}",
            found=f"{shape_text(places)} for {shape_text(tensor)}",
        )
    _one_name(site, tensor, places, count)
    node = b.gather(tensor.node, places.node, count)
    return Tensor(node, (*places.axes, *tensor.axes[count + 1 :]))


def _pick(site: Site, x: Value, indices: Value) -> Value:
    """One element of the last axis each: `out[b...] = x[b..., indices[b...]]`."""
    tensor, places = site.tensor(x), _integers(site, indices, "indices")
    if places.type.shape != tensor.type.shape[:-1]:
        raise site.wrong_value(
            indices,
            "takes one index for each row",
            expected=f"indices of shape {list(tensor.type.shape[:-1])}",
            found=f"{shape_text(places)} for {shape_text(tensor)}",
            hint="drop an axis of size 1 with an index: `y[..., 0]`",
        )
    _one_name(site, tensor, places, places.rank)
    return Tensor(b.gather(tensor.node, places.node, places.rank), tensor.axes[:-1])


def _one_name(site: Site, x: Tensor, indices: Tensor, count: int) -> None:
    """Refuse two names for one of the first `count` axes."""
    for a, c in zip(x.axes[:count], indices.axes[:count], strict=True):
        if a is not None and c is not None and a is not c:
            raise site.wrong(
                f"axis `{a.name}` meets axis `{c.name}`",
                found=f"{shape_text(x)} and {shape_text(indices)}",
            )


def _one_hot(site: Site, labels: Value, classes: Value = None) -> Value:
    tensor = _integers(site, labels, "labels")
    count = classes if classes is not None else tensor.classes
    if count is None:
        raise site.wrong("needs the number of classes", found=shape_text(tensor))
    size = site.whole(count, "the number of classes", 1)
    node = b.one_hot(tensor.node, size, site.interpreter.registry.float_type)
    return Tensor(node, (*tensor.axes, None))


def _sorting(op: str) -> Callable[..., Value]:
    def call(site: Site, x: Value, over: Value = -1, descending: Value = False) -> Value:
        tensor = site.tensor(x)
        axis = axis_index(tensor, over, site.place(over))
        down = _flag(site, descending, "descending")
        return Tensor(make(op, tensor.node, axis=axis, descending=down), tensor.axes)

    return call


def _cumsum(site: Site, x: Value, over: Value = -1, reverse: Value = False) -> Value:
    tensor = site.tensor(x)
    axis = axis_index(tensor, over, site.place(over))
    back = _flag(site, reverse, "reverse")
    return Tensor(make("cumsum", tensor.node, axis=axis, reverse=back), tensor.axes)


def _flag(site: Site, value: Value, name: str) -> bool:
    if not isinstance(value, bool):
        raise site.wrong(f"`{name}` is true or false", found=describe(value))
    return value


def _top_k(site: Site, x: Value, k: Value) -> Value:
    tensor, count = site.tensor(x), site.whole(k, "`k`", 1)
    axes = (*tensor.axes[:-1], None)
    values = Tensor(make("top_k", tensor.node, k=count), axes)
    return values, Tensor(make("arg_top_k", tensor.node, k=count), axes)


# -- sources --------------------------------------------------------------------------------------


def _filled(value: float) -> Callable[..., Value]:
    def call(site: Site, shape: Value) -> Value:
        dims, labels = shape_of(shape, site.span)
        type = TensorType(site.interpreter.registry.float_type, dims)
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


# -- static ---------------------------------------------------------------------------------------


def _range(site: Site, *bounds: Value) -> Value:
    numbers = [as_dim(v) for v in bounds]
    if not 1 <= len(numbers) <= 3 or any(n is None or isinstance(n, SymDim) for n in numbers):
        raise site.wrong("takes one to three whole numbers")
    if len(numbers) == 3 and numbers[2] == 0:
        raise site.wrong("the step can't be 0")
    result = range(*numbers)  # type: ignore[arg-type]
    if len(result) > 100_000:
        raise site.wrong("the range is too long to unroll", found=f"{len(result)} numbers")
    return list(result)


def _len(site: Site, items: Value) -> Value:
    if not isinstance(items, list | tuple):
        raise site.wrong("counts the items of a list", found=describe(items))
    return len(items)


def _is_label(site: Site, x: Value) -> Value:
    return isinstance(x, Tensor) and x.classes is not None


def _is_tensor(site: Site, x: Value) -> Value:
    return isinstance(x, Tensor)


def _is_float(site: Site, x: Value) -> Value:
    return isinstance(x, Tensor) and x.type.dtype.kind == "float"


def _is_list(site: Site, x: Value) -> Value:
    return isinstance(x, list | tuple)


def _classes(site: Site, x: Value) -> Value:
    if not isinstance(x, Tensor) or x.classes is None:
        raise site.wrong("takes class labels", found=describe(x))
    return x.classes


def _grad(site: Site, expression: Value, wrt: Value) -> Value:
    """The gradient of a scalar with respect to a tensor, or to each of a list."""
    loss = site.tensor(expression)
    if loss.rank:
        raise site.wrong_value(
            expression,
            "differentiates a scalar",
            found=shape_text(loss),
            hint="sum or average it first",
        )
    targets = wrt if isinstance(wrt, list | tuple) else [wrt]
    tensors = [site.tensor(t) for t in targets]
    nodes = differentiate(loss.node, [t.node for t in tensors])
    found = [Tensor(n, t.axes) for n, t in zip(nodes, tensors, strict=True)]
    return found if isinstance(wrt, list | tuple) else found[0]


def _fail(
    site: Site,
    message: Value,
    expected: Value = None,
    found: Value = None,
    hint: Value = None,
) -> Value:
    """Stop with an error of one's own; `expected` and `found` may be values to describe."""
    facts = [v if v is None or isinstance(v, str) else describe(v) for v in (expected, found, hint)]
    raise misfit(found, str(message), site.span, expected=facts[0], found=facts[1], hint=facts[2])


_TABLE: dict[str, Callable[..., Value]] = {
    **{name: _unary(op, static) for name, (op, static) in _UNARY.items()},
    "max": _extreme("max", max),
    "min": _extreme("min", min),
    "where": _where,
    "float": _float,
    "int": _int,
    "cast": _cast,
    "sum": _reduce("sum"),
    "prod": _reduce("prod"),
    "all": _reduce("and"),
    "any": _reduce("or"),
    "mean": _mean,
    "arg_max": _arg("arg_max"),
    "arg_min": _arg("arg_min"),
    "count": _count,
    "shape": _shape,
    "rank": _rank,
    "size": _size,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "concat": _concat,
    "stack": _stack,
    "pad": _pad,
    "reverse": _reverse,
    "convolve": _convolve,
    "window_max": _window("max"),
    "window_min": _window("min"),
    "window_sum": _window("sum"),
    "take": _take,
    "pick": _pick,
    "one_hot": _one_hot,
    "sort": _sorting("sort"),
    "arg_sort": _sorting("arg_sort"),
    "cumsum": _cumsum,
    "top_k": _top_k,
    "zeros": _filled(0.0),
    "ones": _filled(1.0),
    "arange": _arange,
    "uniform": _uniform,
    "normal": _normal,
    "range": _range,
    "len": _len,
    "is_label": _is_label,
    "is_tensor": _is_tensor,
    "is_float": _is_float,
    "is_list": _is_list,
    "classes": _classes,
    "grad": _grad,
    "scan": scan,
    "fail": _fail,
}


_STARS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def _parameters(call: Callable[..., Value]) -> tuple[str, ...]:
    """The argument names: `*name` takes any number, `**name` named ones, `name=` is optional."""
    names = []
    for p in list(inspect.signature(call).parameters.values())[1:]:
        star = _STARS.get(p.kind, "")
        names.append(f"{star}{p.name}{'=' if p.default is not p.empty else ''}")
    return tuple(names)


BUILTINS: dict[str, Builtin] = {
    name: Builtin(name, _parameters(call), call, inspect.getdoc(call) or "")
    for name, call in _TABLE.items()
}
