"""One table of cases for every primitive, which each backend must get right.

A case is a single node over inputs. Floating operands are written in float64 and cast to the type
that a test asks for; they lie away from kinks and ties, so that finite differences hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from weft.compiler import builder as b
from weft.compiler.graph import Graph, Node, make
from weft.compiler.types import (
    BF16,
    BOOL,
    F16,
    F32,
    F64,
    I8,
    I32,
    I64,
    U8,
    U32,
    U64,
    DType,
    TensorType,
    dtype_of,
)

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Case:
    """`op(*arrays, **attributes)`. Where an attribute is `F64`, it too is the type asked for."""

    op: str
    label: str
    arrays: tuple[Array, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.op}-{self.label}"

    @property
    def has_float(self) -> bool:
        """Whether the case differs from one floating type to another."""
        typed = [*(a.dtype == np.float64 for a in self.arrays), F64 in self.attributes.values()]
        return any(typed)

    def operands(self, dtype: DType = F64) -> tuple[Array, ...]:
        with np.errstate(over="ignore"):
            return tuple(a.astype(dtype.numpy) if a.dtype == np.float64 else a for a in self.arrays)

    def node(self, dtype: DType, *inputs: Node) -> Node:
        """The op applied to nodes of the operands' types; an `input` is its own node."""
        if self.op == "input":
            return inputs[0]
        return make(self.op, *inputs, **self._typed(dtype))

    def graph(self, dtype: DType = F64) -> tuple[Graph, dict[str, Array]]:
        """The case as a graph with the output `out`, and its inputs `x0`, `x1`, ..."""
        arrays = {f"x{i}": a for i, a in enumerate(self.operands(dtype))}
        inputs = tuple(
            b.input_(name, TensorType(dtype_of(a), a.shape)) for name, a in arrays.items()
        )
        return Graph("case", inputs, (self.node(dtype, *inputs),)), arrays

    def _typed(self, dtype: DType) -> dict[str, Any]:
        typed = {k: dtype if v is F64 else v for k, v in self.attributes.items()}
        if self.op == "call":
            typed |= _COMPOSITES[self.attributes["name"]](dtype)
        if self.op == "scan":
            typed["body"] = _BODIES[self.attributes["body"]](dtype)
        return typed


# -- operands -------------------------------------------------------------------------------------


def spaced(*shape: int, low: float = -2.1, high: float = 1.9, seed: int = 0) -> Array:
    """Distinct numbers, evenly spaced and shuffled: no two are equal, none is 0 or half-way."""
    size = int(np.prod(shape))
    values = low + (high - low) * (np.arange(size) + 0.413) / max(1, size)
    return np.random.default_rng(seed).permutation(values).reshape(shape)


def whole(*shape: int, low: int, high: int, dtype: DType = I32, seed: int = 0) -> Array:
    """Integers from `low` to below `high`."""
    drawn = np.random.default_rng(seed).integers(low, high, shape, dtype.numpy)
    return np.asarray(drawn)


def flags(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).integers(0, 2, shape).astype(bool))


def positive(*shape: int, seed: int = 0) -> Array:
    return spaced(*shape, low=0.2, high=3.0, seed=seed)


def unit(*shape: int, seed: int = 0) -> Array:
    return spaced(*shape, low=-0.9, high=0.9, seed=seed)


# -- the table ------------------------------------------------------------------------------------


@cache
def cases() -> tuple[Case, ...]:
    """Every case, in a fixed order."""
    groups = (
        _sources,
        _unary,
        _binary,
        _reductions,
        _products,
        _windows,
        _movement,
        _indexing,
        _order,
        _calls,
        _loops,
    )
    return tuple(case for group in groups for case in group())


def _sources() -> Iterator[Case]:
    yield Case("input", "itself", (spaced(2, 3),))
    yield Case("constant", "scalar", (), {"value": 1.5, "dtype": F64, "shape": ()})
    yield Case("constant", "fill", (), {"value": -2.0, "dtype": F64, "shape": (2, 3)})
    yield Case("constant", "list", (), {"value": (0.5, 1.0, -3.0), "dtype": F64, "shape": (3, 1)})
    yield Case("constant", "infinite", (), {"value": -np.inf, "dtype": F64, "shape": (2,)})
    yield Case("constant", "i64", (), {"value": (1, -(2**40)), "dtype": I64, "shape": (2,)})
    yield Case("constant", "u64", (), {"value": 2**64 - 1, "dtype": U64, "shape": ()})
    yield Case("constant", "bool", (), {"value": (True, False), "dtype": BOOL, "shape": (2,)})
    yield Case("iota", "line", (), {"dtype": F64, "shape": (5,), "axis": 0})
    yield Case("iota", "rows", (), {"dtype": I64, "shape": (2, 3, 2), "axis": 1})
    yield Case("iota", "u8-wraps", (), {"dtype": U8, "shape": (300,), "axis": 0})
    yield Case("dim_size", "number", (), {"dim": 12, "dtype": F64})
    seed, step = np.array([7, 0], np.uint32), np.array(3, np.uint32)
    for shape in ((), (5,), (3, 4), (0,)):
        label = "x".join(map(str, shape)) or "scalar"
        attributes = {"shape": shape, "stream": "net.drop"}
        yield Case("random_bits", label, (seed, step), attributes)


def _unary() -> Iterator[Case]:
    anywhere = ("negate", "abs", "sign", "floor", "ceil", "round", "exp", "expm1")
    anywhere += ("sin", "cos", "tanh", "logistic", "erf", "is_finite", "stop_gradient")
    domains = dict.fromkeys(anywhere, spaced) | dict.fromkeys(("log", "sqrt", "rsqrt"), positive)
    for op, draw in {**domains, "log1p": unit}.items():
        yield Case(op, "vector", (draw(7),))
        yield Case(op, "scalar", (draw(),))
        yield Case(op, "cube", (draw(2, 3, 4),))
    for op in ("exp", "expm1", "tanh", "logistic", "erf"):
        yield Case(op, "wide", (spaced(33, low=-8.0, high=7.0),))
    special = np.array([np.inf, -np.inf, np.nan, 0.0, 1e30])
    yield Case("is_finite", "special", (special,))
    for op in ("negate", "abs", "sign"):
        yield Case(op, "i32", (whole(2, 5, low=-9, high=9),))
    yield Case("not", "bool", (flags(6),))
    yield Case("not", "u8", (whole(6, low=0, high=255, dtype=U8),))
    yield Case("stop_gradient", "i64", (whole(4, low=-5, high=5, dtype=I64),))
    for dtype in (F16, BF16, F32, F64, I8, I32, I64, BOOL):
        yield Case("cast", f"float-{dtype}", (spaced(2, 4),), {"dtype": dtype})
        yield Case("cast", f"i32-{dtype}", (whole(7, low=-9, high=9),), {"dtype": dtype})
    yield Case("cast", "bool-float", (flags(7),), {"dtype": F64})
    yield Case("cast", "u32-float", (whole(7, low=0, high=2**32 - 1, dtype=U32),), {"dtype": F64})


def _binary() -> Iterator[Case]:
    shapes = {"scalar": (), "vector": (6,), "matrix": (3, 4)}
    for label, shape in shapes.items():
        x, y = spaced(*shape), spaced(*shape, low=0.55, high=2.45, seed=1)
        for op in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "remainder"):
            yield Case(op, label, (x, y))
        for op in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
            yield Case(op, label, (x, y))
        yield Case("power", label, (positive(*shape), spaced(*shape, seed=1)))
        yield Case("select", label, (flags(*shape), x, y))
    yield Case("divide", "negative", (spaced(5), spaced(5, low=-3.0, high=-0.4, seed=1)))
    yield Case("remainder", "negative", (spaced(5), spaced(5, low=-3.0, high=-0.4, seed=1)))
    a, c = whole(3, 4, low=-9, high=9), whole(3, 4, low=1, high=5, seed=1)
    for op in ("add", "subtract", "multiply", "floor_divide", "remainder", "maximum", "minimum"):
        yield Case(op, "i32", (a, c))
    for op in ("and", "or", "xor"):
        yield Case(op, "bool", (flags(8), flags(8, seed=1)))
        yield Case(op, "u32", (_u32(8), _u32(8, seed=1)))
    for op in ("shift_left", "shift_right"):
        yield Case(op, "u32", (_u32(9), np.arange(0, 36, 4, dtype=np.uint32)))
        yield Case(op, "i32", (a.ravel(), np.arange(12, dtype=np.int32) * 3))
    for op in ("equal", "less", "greater_equal"):
        yield Case(op, "i64", (a.astype(np.int64), c.astype(np.int64)))
    yield Case("equal", "bool", (flags(8), flags(8, seed=1)))
    yield Case("select", "i64", (flags(3, 4), a.astype(np.int64), c.astype(np.int64)))
    yield Case("multiply", "u32-wraps", (_u32(8), _u32(8, seed=1)))


def _u32(*shape: int, seed: int = 0) -> Array:
    return whole(*shape, low=0, high=2**32 - 1, dtype=U32, seed=seed)


def _reductions() -> Iterator[Case]:
    settings: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "vector": ((5,), (0,)),
        "last": ((3, 4), (1,)),
        "first": ((3, 4), (0,)),
        "outer": ((2, 3, 4), (0, 2)),
        "middle": ((2, 3, 4), (1,)),
        "all": ((2, 3, 2), (0, 1, 2)),
        "none": ((2, 3), ()),
        "one": ((3, 1), (1,)),
    }
    for label, (shape, axes) in settings.items():
        for op in ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"):
            yield Case(op, label, (spaced(*shape),), {"axes": axes})
        for op in ("reduce_and", "reduce_or"):
            yield Case(op, label, (flags(*shape),), {"axes": axes})
        if len(axes) == 1:
            for op in ("arg_max", "arg_min"):
                yield Case(op, label, (spaced(*shape),), {"axis": axes[0]})
    for op in ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"):
        yield Case(op, "i32", (whole(3, 4, low=-4, high=5),), {"axes": (1,)})
    yield Case("reduce_sum", "empty", (spaced(0, 3),), {"axes": (0,)})
    zeros = np.array([[1.5, 0.0, -0.7], [0.0, 0.0, 2.0], [0.4, 1.1, -1.2]])
    yield Case("reduce_prod", "zeros", (zeros,), {"axes": (1,)})
    yield Case("arg_max", "ties", (np.array([[1, 3, 3], [2, 2, 0]], np.int32),), {"axis": 1})
    yield Case("arg_min", "ties", (np.array([[1, 1, 3], [2, 0, 0]], np.int32),), {"axis": 1})


def _products() -> Iterator[Case]:
    products: dict[str, tuple[Any, Any, Any, Any]] = {
        "matrices": ((3, 4), (4, 5), ((1,), (0,)), ((), ())),
        "transposed": ((4, 3), (5, 4), ((0,), (1,)), ((), ())),
        "inner": ((5,), (5,), ((0,), (0,)), ((), ())),
        "outer": ((3,), (2,), ((), ()), ((), ())),
        "vector": ((2, 3, 4), (4,), ((2,), (0,)), ((), ())),
        "batched": ((2, 3, 4), (2, 4, 5), ((2,), (1,)), ((0,), (0,))),
        "heads": ((2, 3, 2, 4), (2, 5, 2, 4), ((3,), (3,)), ((0, 2), (0, 2))),
        "crossed": ((4, 2, 3), (3, 5, 2), ((2,), (0,)), ((1,), (2,))),
        "two-axes": ((2, 3, 4), (4, 5, 3), ((1, 2), (2, 0)), ((), ())),
        "elementwise": ((2, 3), (3, 2), ((), ()), ((0, 1), (1, 0))),
    }
    for label, (left, right, contract, batch) in products.items():
        yield Case(
            "dot_general",
            label,
            (spaced(*left), spaced(*right, seed=1)),
            {"contract": contract, "batch": batch},
        )
    yield Case(
        "dot_general",
        "i32",
        (whole(3, 4, low=-5, high=5), whole(4, 2, low=-5, high=5)),
        {"contract": ((1,), (0,)), "batch": ((), ())},
    )
    # x shape, kernel shape, strides, padding, lhs dilation, rhs dilation, groups
    convolutions: dict[str, tuple[Any, ...]] = {
        "line": ((2, 3, 7), (4, 3, 3), (1,), ((0, 0),), (1,), (1,), 1),
        "same": ((2, 2, 5, 4), (3, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1),
        "strided": ((1, 2, 6, 7), (2, 2, 3, 2), (2, 3), ((1, 0), (0, 1)), (1, 1), (1, 1), 1),
        "leftover": ((1, 1, 8), (2, 1, 3), (3,), ((0, 1),), (1,), (1,), 1),
        "atrous": ((1, 2, 7, 6), (2, 2, 2, 3), (1, 2), ((2, 1), (0, 2)), (1, 1), (2, 2), 1),
        "transposed": ((2, 2, 3, 4), (3, 2, 3, 2), (1, 1), ((2, 2), (1, 0)), (2, 3), (1, 1), 1),
        "everything": ((2, 4, 5, 4), (6, 2, 2, 3), (2, 3), ((1, 2), (-1, 3)), (2, 3), (3, 2), 2),
        "grouped": ((2, 4, 5), (6, 2, 3), (1,), ((1, 1),), (1,), (1,), 2),
        "depthwise": ((2, 3, 4, 4), (3, 1, 2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), (1, 1), 3),
        "multiplier": ((1, 2, 6), (4, 1, 3), (2,), ((1, 1),), (1,), (1,), 2),
        "cropped": ((1, 1, 7), (1, 1, 2), (1,), ((-1, -2),), (1,), (1,), 1),
        "pointwise": ((2, 3, 2, 2), (4, 3, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1),
        "solid": ((1, 2, 3, 4, 3), (2, 2, 2, 2, 2), (1, 2, 1), ((0, 1),) * 3, *((1,) * 3,) * 2, 1),
    }
    for label, (
        x,
        kernel,
        strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        groups,
    ) in convolutions.items():
        attributes = {
            "strides": strides,
            "padding": padding,
            "lhs_dilation": lhs_dilation,
            "rhs_dilation": rhs_dilation,
            "groups": groups,
        }
        yield Case("conv", label, (spaced(*x), unit(*kernel, seed=1)), attributes)


def _windows() -> Iterator[Case]:
    # x shape, window, strides, padding, dilation
    settings: dict[str, tuple[Any, ...]] = {
        "halves": ((2, 3, 4, 6), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
        "overlapping": ((1, 2, 5, 6), (3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
        "same": ((2, 6), (3,), (1,), ((1, 1),), (1,)),
        "strided": ((2, 7, 8), (3, 3), (2, 2), ((1, 1), (1, 0)), (1, 1)),
        "dilated": ((1, 7, 6), (2, 3), (1, 2), ((1, 0), (1, 1)), (3, 2)),
        "leftover": ((2, 8), (3,), (3,), ((0, 0),), (1,)),
        "tiles-padded": ((2, 5, 4), (2, 3), (2, 3), ((1, 0), (1, 1)), (1, 1)),
        "global": ((2, 3, 3, 2), (3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
        "sparse": ((9,), (2,), (4,), ((0, 0),), (1,)),
        "cropped": ((2, 7), (2,), (1,), ((-2, -1),), (1,)),
        "padding-only": ((4,), (2,), (2,), ((2, 3),), (1,)),
    }
    for label, (shape, window, strides, padding, dilation) in settings.items():
        for reducer in ("sum", "max", "min"):
            attributes = {
                "reducer": reducer,
                "window": window,
                "strides": strides,
                "padding": padding,
                "dilation": dilation,
            }
            # An infinite result, of a window of padding, would drown its neighbours' gradients.
            finite = label != "padding-only" or reducer == "sum"
            if finite:
                yield Case("reduce_window", f"{reducer}-{label}", (spaced(*shape),), attributes)
            if reducer != "sum":
                case = Case(
                    "arg_reduce_window", f"{reducer}-{label}", (spaced(*shape),), attributes
                )
                yield case
    shared = {"window": (2, 2), "strides": (1, 1), "padding": ((1, 0), (0, 1)), "dilation": (1, 1)}
    for reducer in ("sum", "max", "min"):
        x = whole(2, 4, 3, low=-9, high=9)
        yield Case("reduce_window", f"{reducer}-i32", (x,), {"reducer": reducer, **shared})


def _movement() -> Iterator[Case]:
    x = spaced(2, 3, 4)
    yield Case("reshape", "flat", (x,), {"shape": (24,)})
    yield Case("reshape", "split", (x,), {"shape": (2, 3, 2, 2)})
    yield Case("reshape", "to-scalar", (spaced(1, 1),), {"shape": ()})
    yield Case("reshape", "bool", (flags(2, 3),), {"shape": (3, 2)})
    yield Case("transpose", "swap", (spaced(3, 4),), {"permutation": (1, 0)})
    yield Case("transpose", "cycle", (x,), {"permutation": (2, 0, 1)})
    yield Case("transpose", "scalar", (spaced(),), {"permutation": ()})
    yield Case("broadcast_in_dim", "scalar", (spaced(),), {"shape": (2, 3), "dims": ()})
    yield Case("broadcast_in_dim", "bias", (spaced(4),), {"shape": (3, 4), "dims": (1,)})
    yield Case(
        "broadcast_in_dim", "channels", (spaced(2, 3),), {"shape": (2, 3, 2), "dims": (0, 1)}
    )
    yield Case("broadcast_in_dim", "same", (spaced(2, 3),), {"shape": (2, 3), "dims": (0, 1)})
    slices: dict[str, tuple[Any, Any, Any]] = {
        "corner": ((0, 0, 1), (1, 2, 4), (1, 1, 1)),
        "steps": ((0, 1, 0), (2, 3, 4), (1, 2, 3)),
        "all": ((0, 0, 0), (2, 3, 4), (1, 1, 1)),
        "empty": ((0, 2, 0), (2, 2, 4), (1, 1, 2)),
    }
    for label, (start, limit, strides) in slices.items():
        attributes = {"start": start, "limit": limit, "strides": strides}
        yield Case("slice", label, (x,), attributes)
    yield Case("slice", "scalar", (spaced(),), {"start": (), "limit": (), "strides": ()})
    pads: dict[str, tuple[Any, Any, Any, float]] = {
        "zeros": ((1, 0), (2, 1), (0, 0), 0),
        "ones": ((1, 0), (0, 3), (0, 0), 1),
        "interior": ((0, 1), (0, 0), (1, 2), 0),
        "negative": ((-1, 1), (2, -2), (0, 0), 0),
        "negative-interior": ((-2, -3), (1, -1), (2, 1), -0.5),
        "cut-away": ((-3, 0), (0, 0), (0, 0), 0),
    }
    for label, (low, high, interior, value) in pads.items():
        attributes = {"low": low, "high": high, "interior": interior, "value": value}
        yield Case("pad", label, (spaced(3, 4),), attributes)
    yield Case(
        "pad",
        "i32",
        (whole(3, low=-4, high=4),),
        {"low": (1,), "high": (1,), "interior": (1,), "value": 7},
    )
    yield Case("concat", "rows", (spaced(2, 3), spaced(1, 3, seed=1)), {"axis": 0})
    yield Case("concat", "three", tuple(spaced(2, n, seed=n) for n in (1, 3, 2)), {"axis": 1})
    yield Case("concat", "one", (spaced(4),), {"axis": 0})
    yield Case("concat", "with-empty", (spaced(2), spaced(0), spaced(3, seed=1)), {"axis": 0})
    yield Case("reverse", "last", (spaced(2, 3),), {"axes": (1,)})
    yield Case("reverse", "vector", (spaced(5),), {"axes": (0,)})
    yield Case("reverse", "both", (spaced(2, 3, 2),), {"axes": (0, 2)})


def _indexing() -> Iterator[Case]:
    # x shape, indices, batch_dims
    settings: dict[str, tuple[Any, Any, int]] = {
        "rows": ((5, 3), [4, 0, 4, 2], 0),
        "scalar": ((4, 2), 1, 0),
        "matrix": ((4,), [[0, 3], [3, 3], [1, 0]], 0),
        "batched": ((2, 4, 3), [[0, 3, 3], [2, 1, 0]], 1),
        "labels": ((3, 4), [1, 3, 0], 1),
        "two-batches": ((2, 2, 3), [[[2], [0]], [[1], [1]]], 2),
        "clamped": ((3, 2), [-1, 5, 1], 0),
    }
    for label, (shape, indices, batch_dims) in settings.items():
        for dtype in (I64, I32) if label == "rows" else (I64,):
            places = np.array(indices, dtype.numpy)
            x, attributes = spaced(*shape), {"batch_dims": batch_dims}
            updates = spaced(*places.shape, *shape[batch_dims + 1 :], seed=1)
            yield Case("gather", f"{label}-{dtype}", (x, places), attributes)
            yield Case("scatter_add", f"{label}-{dtype}", (x, places, updates), attributes)
    ints, places = whole(5, 2, low=-9, high=9), np.array([1, 1, 0], np.uint8)
    yield Case("gather", "i32", (ints, places), {"batch_dims": 0})
    yield Case("scatter_add", "i32", (ints, places, ints[:3]), {"batch_dims": 0})


def _order() -> Iterator[Case]:
    settings: dict[str, tuple[tuple[int, ...], int]] = {
        "vector": ((6,), 0),
        "last": ((3, 5), 1),
        "first": ((4, 3), 0),
        "middle": ((2, 4, 3), 1),
    }
    for label, (shape, axis) in settings.items():
        for flag in (False, True):
            x, name = spaced(*shape), f"{label}-{'down' if flag else 'up'}"
            yield Case("sort", name, (x,), {"axis": axis, "descending": flag})
            yield Case("arg_sort", name, (x,), {"axis": axis, "descending": flag})
            yield Case("cumsum", name, (x,), {"axis": axis, "reverse": flag})
    ties = np.array([2, 1, 2, 1, 3], np.int32)
    for flag in (False, True):
        yield Case("arg_sort", f"ties-{flag}", (ties,), {"axis": 0, "descending": flag})
    yield Case(
        "cumsum", "i64", (whole(4, low=-9, high=9, dtype=I64),), {"axis": 0, "reverse": True}
    )
    for label, shape, k in (("vector", (6,), 2), ("matrix", (3, 5), 3), ("all", (2, 4), 4)):
        yield Case("top_k", label, (spaced(*shape),), {"k": k})
        yield Case("arg_top_k", label, (spaced(*shape),), {"k": k})
    yield Case("arg_top_k", "ties", (ties,), {"k": 3})


def _calls() -> Iterator[Case]:
    empty = {"body": None, "config": (), "gradient": None}
    yield Case("call", "body", (spaced(5),), {"name": "softsign", **empty})
    yield Case("call", "stated", (spaced(2, 3),), {"name": "scaled_tanh", **empty})
    yield Case("call", "nested", (spaced(4),), {"name": "twice", **empty})


def _softsign(dtype: DType, size: int = 5) -> dict[str, Any]:
    """`x / (1 + |x|)`, differentiated through its body."""
    x = b.input_("x", TensorType(dtype, (size,)))
    return {"body": Graph("softsign", (x,), (x / (b.unary("abs", x) + 1),))}


def _scaled_tanh(dtype: DType) -> dict[str, Any]:
    """`2 tanh(x / 2)`, whose gradient `1 - tanh(x / 2)^2` is stated."""
    x, ct = (b.input_(name, TensorType(dtype, (2, 3))) for name in ("x", "ct"))
    tanh = b.unary("tanh", x * 0.5)
    return {
        "body": Graph("scaled_tanh", (x,), (tanh * 2,)),
        "gradient": Graph("scaled_tanh_gradient", (x, ct), (ct * (1 - tanh * tanh),)),
    }


def _twice(dtype: DType) -> dict[str, Any]:
    """A call within a call."""
    x = b.input_("x", TensorType(dtype, (4,)))
    inner = {"name": "softsign", "config": (), "gradient": None, **_softsign(dtype, 4)}
    return {"body": Graph("twice", (x,), (make("call", make("call", x, **inner), **inner),))}


_COMPOSITES = {"softsign": _softsign, "scaled_tanh": _scaled_tanh, "twice": _twice}


def _loops() -> Iterator[Case]:
    # Carried values, stacks, fixed operands; the number of turns; results to ask for.
    settings: dict[str, tuple[list[Array], list[Array], list[Array], int, tuple[int, ...]]] = {
        "rnn": ([spaced(2, 3)], [unit(4, 2, 3)], [unit(3, 3, seed=1)], 4, (0, 1)),
        "sums": ([spaced()], [spaced(5, seed=1)], [], 5, (0, 1)),
        "exchange": ([spaced(3), spaced(3, seed=1)], [], [], 3, (0, 1, 2)),
        "counted": ([np.array(2), spaced(2)], [np.arange(4)], [], 4, (0, 1, 2, 3)),
        "map": ([], [spaced(3, 2), positive(3, 2)], [spaced(2, seed=2)], 3, (0, 1)),
        "nested": ([unit(3)], [unit(2, 3, seed=1)], [unit(3, 3, seed=2)], 2, (0, 1)),
    }
    for name, (start, steps, fixed, length, results) in settings.items():
        for result in results:
            for reverse in (False, True):
                attributes = {
                    "body": name,
                    "carried": len(start),
                    "stepped": len(steps),
                    "length": length,
                    "reverse": reverse,
                    "result": result,
                }
                label = f"{name}-{result}{'-back' if reverse else ''}"
                yield Case("scan", label, (*start, *steps, *fixed), attributes)
    none = {"carried": 1, "stepped": 1, "length": 0, "reverse": False}
    for result in (0, 1):
        operands = (spaced(2, 3), spaced(0, 2, 3), unit(3, 3))
        yield Case("scan", f"empty-{result}", operands, {"body": "rnn", **none, "result": result})


def _body(dtype: DType, name: str, **shapes: tuple[int, ...]) -> list[Node]:
    return [b.input_(f"{name}.{key}", TensorType(dtype, shape)) for key, shape in shapes.items()]


def _rnn_body(dtype: DType) -> Graph:
    """`h <- tanh(x + h u)`, and what `h` was, squared, is stacked."""
    h, x, u = _body(dtype, "rnn", h=(2, 3), x=(2, 3), u=(3, 3))
    return Graph("rnn", (h, x, u), (b.unary("tanh", x + b.matmul(h, u)), h * h))


def _sums_body(dtype: DType) -> Graph:
    s, x = _body(dtype, "sums", s=(), x=())
    return Graph("sums", (s, x), (s + x * x, s + x * x))


def _exchange_body(dtype: DType) -> Graph:
    """Two carried values change places; a stack of one as it comes in."""
    p, q = _body(dtype, "exchange", p=(3,), q=(3,))
    return Graph("exchange", (p, q), (q, b.unary("sin", p + q), p))


def _counted_body(dtype: DType) -> Graph:
    """A whole number is carried along, and positions are read."""
    count = b.input_("count", TensorType(I64))
    place = b.input_("place", TensorType(I64))
    (y,) = _body(dtype, "counted", y=(2,))
    weight = b.broadcast(b.cast(count + place, dtype), (2,), ())
    return Graph("counted", (count, y, place), (count + 1, y * weight, place * count, y + weight))


def _map_body(dtype: DType) -> Graph:
    x, y, w = _body(dtype, "map", x=(2,), y=(2,), w=(2,))
    return Graph("map", (x, y, w), (x * w / y, b.reduce_sum(x * y)))


def _nested_body(dtype: DType) -> Graph:
    """A loop in each turn, over the rows of a fixed matrix."""
    outer = h, x, u = _body(dtype, "nested", h=(3,), x=(3,), u=(3, 3))
    s, row, z = _body(dtype, "rows", s=(3,), row=(3,), z=(3,))
    inner = Graph("rows", (s, row, z), (b.unary("sin", s * row + z), b.reduce_sum(s * z)))
    attributes = {"body": inner, "carried": 1, "stepped": 1, "length": 3, "reverse": False}
    made = [make("scan", h, u, x, **attributes, result=i) for i in (0, 1)]
    return Graph("nested", tuple(outer), (made[0] * 0.5, made[1] + h))


_BODIES = {
    "rnn": _rnn_body,
    "sums": _sums_body,
    "exchange": _exchange_body,
    "counted": _counted_body,
    "map": _map_body,
    "nested": _nested_body,
}
