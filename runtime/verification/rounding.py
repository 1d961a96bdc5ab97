"""What rounding may do to a graph's outputs: the bound that a backend is held to.

No two machines round alike, so a backend may differ from the reference, but by no more than its
operations may be wrong. `error_of` states that for each operation; how such errors grow on their
way to an output is found by trying:

    exact     the graph in double precision
    moved     again, each result moved at random by up to a few times its operation's error
    bound     of several tries, twice the largest change seen, and the rounding of the result itself

So the bound knows cancellation, long sums and deep chains, and near a jump (the slope of a `relu`
at 0, a tie of two maxima) it is as wide as the jump. Where a result lies beyond it, more tries
follow, some wider and some narrower, before it counts as wrong. Where a try leads to a value that
is not finite, nothing is known, and the element is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any

import numpy as np

from weft.compiler.errors import InternalError
from weft.compiler.evaluate import evaluate, evaluate_node
from weft.compiler.graph import Graph, Node
from weft.compiler.ops import OPS, Kind
from weft.compiler.passes.widen import widen
from weft.compiler.types import F32, DType
from weft.runtime.verification.subject import Arrays, inner_graphs, widened

Sizes = Mapping[str, int]

TRIES = (4.0,) * 6  # how many times the errors results are moved by, in each try
MORE = (0.5, 1.0, 2.0, 4.0, 8.0) * 4  # where a result is beyond what those show
DOUBLED = 2
COARSE = 4  # instead, where floats have 16 bits: roundings are large, and too few to cancel
TF32 = 2.0**-11  # half a unit in the last place of a factor that is rounded to TF32
NEAR = 5  # as far as short convolutions mix places

# In units of rounding (half a unit in the last place of the result). Arithmetic and `sqrt` are
# rounded once; no library or polynomial of a backend may be wrong by more than stated here.
_ROUNDED = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "sqrt", "remainder", "cast"), 1.0),
    **dict.fromkeys(("rsqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "logistic"), 4.0),
    **dict.fromkeys(("tanh", "erf"), 8.0),
}
# Sums of products, and of what else: the square root of the number of terms stands for the number,
# since the errors of a sum have both signs (Higham and Mary, "A new approach to probabilistic
# rounding error analysis", 2019).
_SUMMED = frozenset(
    {"reduce_sum", "reduce_prod", "cumsum", "dot_general", "conv", "reduce_window", "scatter_add"}
)
# Chosen, moved and compared values are exact, and so are integers.
_EXACT = frozenset(
    {
        "input", "constant", "iota", "dim_size", "random_bits",
        "negate", "abs", "sign", "floor", "ceil", "round", "stop_gradient", "maximum", "minimum",
        "select", "reduce_max", "reduce_min", "gather", "sort", "top_k", "call", "scan",
    }
)  # fmt: skip
_NEVER_FLOAT = frozenset(
    {
        "not", "is_finite", "floor_divide", "and", "or", "xor", "shift_left", "shift_right",
        "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "reduce_and",
        "reduce_or", "arg_max", "arg_min", "arg_reduce_window", "arg_sort", "arg_top_k",
    }
)  # fmt: skip


def is_stated(name: str) -> bool:
    """Whether this page says what an operation may be wrong by."""
    known = _ROUNDED.keys() | _SUMMED | _EXACT | _NEVER_FLOAT | {"power"}
    return name in known or OPS[name].kind is Kind.MOVEMENT


def error_of(
    node: Node, operands: list[np.ndarray], result: np.ndarray, own: Node
) -> np.ndarray | None:
    """What the operation may be wrong by, element by element; None: nothing.

    `node` is in double precision, `own` the same node in its own type.
    """
    dtype = own.type.dtype
    name = node.op.name
    if result.dtype.kind != "f" or name in _EXACT or node.op.kind is Kind.MOVEMENT:
        return None
    unit, tiny = _unit(dtype)
    size = np.abs(result)
    if name in _SUMMED:
        terms = _terms(node, operands)
        sizes = _of_sizes(node, operands, size)
        # Of 16 bits, numbers are added up in f32 and the sum is rounded.
        summed = _unit(F32)[0] if dtype.is_narrow else unit
        error = sqrt(max(1, terms)) * summed * sizes + (unit * size if dtype.is_narrow else 0)
        if own.attributes.get("factors") == "tf32":
            error = error + 2 * TF32 * sizes
    elif name == "power":
        logs = np.abs(np.log(np.where(size > 0, size, 1.0)))
        error = 4 * unit * size * (1 + np.where(np.isfinite(logs), logs, 1.0))
    elif name in _ROUNDED:
        if name == "cast" and operands[0].dtype.kind != "f" and unit < 1e-12:
            return None
        error = _ROUNDED[name] * unit * size
    else:
        raise InternalError(f"nobody says what `{name}` may be wrong by")
    # Numbers below the smallest normal one may be lost.
    return np.where((size < tiny) & (size > 0), np.maximum(error, size), error)


def _unit(dtype: DType) -> tuple[float, float]:
    if dtype.name == "bf16":
        return 2.0**-9, 2.0**-126
    info = np.finfo(dtype.numpy)
    return float(info.eps) / 2, float(info.tiny)


def _terms(node: Node, operands: list[np.ndarray]) -> int:
    """How many numbers each sum (or product) adds up."""
    attributes: Mapping[str, Any] = node.attributes
    match node.op.name:
        case "dot_general":
            return prod(operands[0].shape[i] for i in attributes["contract"][0])
        case "conv":
            return prod(operands[1].shape[1:])
        case "reduce_window":
            return prod(attributes["window"]) if attributes["reducer"] == "sum" else 0
        case "cumsum":
            return int(operands[0].shape[attributes["axis"]])
        case "scatter_add":
            return 1 + operands[1].size
    return prod(operands[0].shape[i] for i in attributes["axes"])


def _of_sizes(node: Node, operands: list[np.ndarray], size: np.ndarray) -> np.ndarray:
    """The sum of the sizes of what is added, whatever cancels."""
    if node.op.name == "reduce_prod":
        return size
    if node.op.name == "reduce_window" and node.attributes["reducer"] != "sum":
        return np.zeros_like(size)
    sizes = [np.abs(x) if x.dtype.kind == "f" else x for x in operands]
    if node.op.name != "conv":
        return evaluate_node(node, sizes)
    # Ways of convolving with fewer products mix what lies at neighbouring places.
    total = evaluate_node(node, [_largest_near(sizes[0]), sizes[1]])
    places = tuple(range(2, total.ndim))
    return np.broadcast_to(total.max(axis=places, keepdims=True, initial=0.0), total.shape)


def _largest_near(x: np.ndarray) -> np.ndarray:
    """At each place of images the largest number of those near it."""
    for axis in range(2, x.ndim):
        source, found = np.moveaxis(x, axis, -1), np.moveaxis(x.copy(), axis, -1)
        for step in range(1, min(NEAR, source.shape[-1] - 1) + 1):
            np.maximum(found[..., step:], source[..., :-step], out=found[..., step:])
            np.maximum(found[..., :-step], source[..., step:], out=found[..., :-step])
        x = np.moveaxis(found, -1, axis)
    return x


@dataclass(eq=False)
class Bounded:
    """The outputs of a graph in double precision, and how far a backend may be from each."""

    exact: Arrays
    _wide: Graph
    _inputs: Arrays
    _sizes: Sizes
    _errors: list[np.ndarray | None]
    _units: Mapping[str, float]
    _rng: np.random.Generator
    _slack: float
    _largest: Arrays = field(default_factory=dict)
    _widths: list[float] = field(default_factory=lambda: list(TRIES))
    _patient: bool = False

    def bound(self, output: str) -> np.ndarray:
        """By how much each number of an output may be wrong; infinite where nothing is known."""
        while self._widths:
            self._try(self._widths.pop())
        value = self.exact[output]
        with np.errstate(all="ignore"):
            rounding = self._units[output] * np.abs(value.astype(np.float64))
            bound = self._slack * self._largest[output] + np.where(
                np.isfinite(value), rounding, 0.0
            )
        return np.where(np.isnan(bound), np.inf, bound)

    def judge(self, output: str, found: np.ndarray, also: float = 0.0) -> Judged:
        """A backend's output; `also` widens the bound, as a share of the largest number."""
        value = self.exact[output]
        room = also * float(np.abs(value).max(initial=0)) if also else 0.0
        judged = judge(found, value, self.bound(output) + room)
        if not judged.within and not self._patient:
            self._patient = True
            self._widths += MORE
            judged = judge(found, value, self.bound(output) + room)
        return judged

    def _try(self, width: float) -> None:
        """Evaluate with all results moved; remember the largest change of each output."""
        errors = iter(self._errors)

        def compute(node: Node, operands: list[np.ndarray], sizes: Sizes) -> np.ndarray:
            result, error = evaluate_node(node, operands, sizes), next(errors)
            if error is None:
                return result
            return np.asarray(result + width * error * self._rng.uniform(-1, 1, result.shape))

        with np.errstate(all="ignore"):
            for name, value in evaluate(
                self._wide, self._inputs, self._sizes, None, compute
            ).items():
                change = _difference(value, self.exact[name])
                self._largest[name] = np.maximum(self._largest.get(name, change), change)


def bounded(graph: Graph, inputs: Mapping[str, np.ndarray], sizes: Sizes | None = None) -> Bounded:
    """The outputs of a graph (without calls), to hold a backend's against."""
    wide = widen(graph)
    own = {
        new: old
        for a, b in zip(inner_graphs(wide), inner_graphs(graph), strict=True)
        for new, old in zip(a.nodes, b.nodes, strict=True)
    }
    values = widened(inputs)
    errors: list[np.ndarray | None] = []

    def note(node: Node, operands: list[np.ndarray], sizes: Sizes) -> np.ndarray:
        result = evaluate_node(node, operands, sizes)
        errors.append(error_of(node, operands, result, own[node]))
        return result

    exact = evaluate(wide, values, sizes, None, note)
    units = {
        name: _unit(node.type.dtype)[0] if node.type.dtype.kind == "float" else 0.0
        for name, node in graph.named_outputs.items()
    }
    slack = COARSE if any(node.type.dtype.is_narrow for node in own.values()) else DOUBLED
    rng = np.random.default_rng(11)
    return Bounded(exact, wide, values, sizes or {}, errors, units, rng, slack)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far numbers are apart; 0 for two of the same that are not finite, else NaN there."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    same = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
    apart = np.abs(wide_a - wide_b)
    return np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.nan))


@dataclass(frozen=True)
class Judged:
    """A comparison of two arrays: its worst element, and how many could not be judged."""

    error: float
    bound: float
    expected: float
    found: float
    place: tuple[int, ...]
    unjudged: int

    @property
    def within(self) -> bool:
        return self.error <= self.bound


def judge(found: np.ndarray, exact: np.ndarray, bound: np.ndarray) -> Judged:
    """The element that is worst for its bound."""
    if not exact.size:
        return Judged(0.0, 0.0, 0.0, 0.0, (), 0)
    with np.errstate(all="ignore"):
        rounded = exact.astype(found.dtype) if found.dtype.kind == "f" else exact
        error = np.fmin(_difference(found, exact), _difference(found, rounded))
        error = np.where(np.isnan(error), np.inf, error)
        share = np.where(error == 0, 0.0, np.where(np.isinf(bound), 0.0, error / bound))
    share = np.where(np.isnan(share), np.inf, share)
    flat = int(np.argmax(share))
    place = tuple(int(i) for i in np.unravel_index(flat, share.shape))
    return Judged(
        float(error[place]),
        float(bound[place]),
        float(exact[place]),
        float(found[place]),
        place,
        int(np.isinf(bound).sum()),
    )
