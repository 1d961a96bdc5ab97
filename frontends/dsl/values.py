"""What expressions evaluate to while a spec is elaborated, and how messages describe it.

Static values are plain Python: `int`, `float`, `bool`, `str`, `list`, `tuple`, `dict` (a record), a
symbolic `SymDim`, a `DType`. The classes here are the rest: tensors, axes, quantities, functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from weft.compiler.errors import CompileError, Span
from weft.compiler.graph import Node
from weft.compiler.program import DataSpec
from weft.compiler.types import Dim, DType, SymDim, TensorType
from weft.frontends.dsl import syntax as s

if TYPE_CHECKING:
    from weft.frontends.dsl.modules import Module

Value = Any
"""A static value or one of the classes below."""


@dataclass(frozen=True, eq=False)
class Label:
    """The identity of a named axis: two axes are the same one when their labels are."""

    name: str


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """A name bound in a signature: its size where a number is wanted, its label in `over = [B]`."""

    label: Label | None
    size: Dim


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A node with a label (or None) for each of its axes; `classes` makes it a class label."""

    node: Node
    axes: tuple[Label | None, ...]
    classes: int | None = None

    @property
    def type(self) -> TensorType:
        return self.node.type

    @property
    def rank(self) -> int:
        return len(self.axes)

    @property
    def axis_values(self) -> list[Axis]:
        return [Axis(a, d) for a, d in zip(self.axes, self.type.shape, strict=True)]


class Absent:
    """A parameter whose `when` condition is false: sums and products leave the other operand."""


ABSENT = Absent()


MAX_ITEMS = 100_000  # of a list, which is unrolled or grows while the spec is read


def not_too_long(*parts: list[Value], span: Span) -> list[Value]:
    """Lists put together. Raises CompileError for one of more than `MAX_ITEMS`."""
    count = sum(map(len, parts))
    if count > MAX_ITEMS:
        raise CompileError(
            "the list is too long",
            span,
            expected=f"at most {MAX_ITEMS:,} items",
            found=f"{count:,}",
            hint="many numbers are a tensor: `zeros([n])`, `arange(n)`, or a field of the data",
        )
    return [item for part in parts for item in part]


def unlabelled(node: Node) -> Tensor:
    return Tensor(node, (None,) * node.type.rank)


@dataclass(frozen=True)
class Quantity:
    """A number with a unit: `2 epochs`, `500 steps`, `80%`."""

    value: int | float
    unit: str

    def __str__(self) -> str:
        return f"{self.value}%" if self.unit == "%" else f"{self.value} {self.unit}"


@dataclass(frozen=True, eq=False)
class Builtin:
    """A function the compiler provides; `call(context, arguments)` does the work."""

    name: str
    parameters: tuple[str, ...]  # `*` before a name: any number; `=` after: optional
    call: Callable[..., Value]
    doc: str = ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters without what says how they are given."""
        return tuple(p.lstrip("*").rstrip("=") for p in self.parameters)

    def takes(self, positional: int, named: Iterable[str]) -> bool:
        """Whether it can be called with so many arguments by position, and these by name."""
        how: tuple[int | str, ...] = (positional, *named)
        if how not in self._calls:
            try:
                signature = inspect.signature(self.call)
                signature.bind(None, *[None] * positional, **dict.fromkeys(named))
            except TypeError:
                self._calls[how] = False
            else:
                self._calls[how] = True
        return self._calls[how]

    @cached_property
    def _calls(self) -> dict[tuple[int | str, ...], bool]:
        """What `takes` has answered, by how it was asked."""
        return {}


FunctionDecl = s.FnDecl | s.LayerDecl | s.InitDecl | s.OptimizerDecl | s.ScheduleDecl


@dataclass(frozen=True, eq=False)
class Closure:
    """A declared function with the module that its body's names are looked up in."""

    decl: FunctionDecl
    module: Module

    @property
    def name(self) -> str:
        return self.decl.name

    @property
    def kind(self) -> str:
        return KINDS[type(self.decl)]


WORDS = ("tf32",)
"""Names that stand for themselves: a `precision` that is no type of elements."""

KINDS: dict[type, str] = {
    s.FnDecl: "fn",
    s.LayerDecl: "layer",
    s.InitDecl: "init",
    s.OptimizerDecl: "optimizer",
    s.ScheduleDecl: "schedule",
}


@dataclass(frozen=True, eq=False)
class Partial:
    """A function with some of its arguments: an optimiser, a schedule, a clipping rule."""

    function: Closure
    arguments: Mapping[str, Value]
    places: Mapping[str, Span] = field(default_factory=dict)  # of the arguments


@dataclass(eq=False)
class Model:
    """An instance of a layer: calling it twice shares its parameters."""

    name: str
    function: Closure
    arguments: Mapping[str, Value]
    decl: s.ModelDecl
    states: list[str] = field(default_factory=list)  # qualified names, in order of creation
    places: Mapping[str, Span] = field(default_factory=dict)  # of the arguments
    follows: Followed | None = None


@dataclass(frozen=True, eq=False)
class Followed:
    """What a copy follows, and by which rule, an expression in a module."""

    model: Model
    rule: s.Expression
    module: Module


@dataclass(frozen=True, eq=False)
class Part:
    """The parameters of a model under a name: `net.dense_2`, one of its layers."""

    model: Model
    path: str  # with the model's name


@dataclass(frozen=True, eq=False)
class Dataset:
    """A `data` block; `.batch(n)` makes a `Batches` of it."""

    name: str
    spec: DataSpec
    examples: Mapping[str, int]  # of each split

    def batch(
        self, arguments: Mapping[str, Value], places: Mapping[str, Span], span: Span
    ) -> Batches:
        """`data.batch(size, shuffle = false, drop_last = false)`."""
        size = arguments.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise CompileError(
                "a batch has a whole number of examples, at least 1",
                places.get("size", span),
                expected=f"such as `{self.name}.batch(64)`",
                found=describe(size),
            )
        flags = []
        for key in ("shuffle", "drop_last"):
            flag = arguments.get(key, False)
            if not isinstance(flag, bool):
                raise CompileError(f"`{key}` is true or false", places[key], found=describe(flag))
            flags.append(flag)
        return Batches(self, size, *flags)


@dataclass(frozen=True, eq=False)
class Batches:
    dataset: Dataset
    size: int
    shuffle: bool
    drop_last: bool


@dataclass(frozen=True, eq=False)
class Splits:
    """`valid` in `valid.loss`: the name of a split, whose metrics are its attributes."""

    name: str

    def attributes_of(self, name: str) -> Metric:
        return Metric(self.name, name)


@dataclass(frozen=True, eq=False)
class Metric:
    split: str
    name: str


def kind_of(function: Closure | Partial) -> str:
    """`fn`, `layer`, `init`, ...: the declaration's keyword."""
    return function.kind if isinstance(function, Closure) else function.function.kind


def is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_dim(value: Value) -> Dim | None:
    """The value as a dimension: an integer, a symbolic size or a bound axis; else None."""
    if isinstance(value, Axis):
        return value.size
    if isinstance(value, SymDim) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    return None


def shape_text(tensor: Tensor) -> str:
    """`f32[B=32, 784]`: sizes with the names of the axes that have one."""
    parts = []
    for label, dim in zip(tensor.axes, tensor.type.shape, strict=True):
        named = label is not None and label.name != str(dim)
        parts.append(f"{label.name}={dim}" if named and label else str(dim))
    if tensor.classes is not None:
        return f"class[{tensor.classes}] labels [{', '.join(parts)}]"
    return f"{tensor.type.dtype}[{', '.join(parts)}]"


def describe(value: Value) -> str:
    """A short text for messages: what kind of thing this is, with its shape or value."""
    match value:
        case Tensor():
            return shape_text(value)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f'the text "{value}"'
        case Quantity():
            return f"the quantity {value}"
        case Axis():
            return f"the axis of size {value.size}"
        case SymDim():
            return f"the size {value}"
        case DType():
            return f"the element type {value}"
        case list() if value and len(value) <= 8 and all(as_dim(v) is not None for v in value):
            return f"[{', '.join(str(as_dim(v)) for v in value)}]"
        case list():
            return f"a list of {len(value)}"
        case tuple():
            return "(" + ", ".join(describe(v) for v in value) + ")"
        case dict():
            return "a record"
        case Closure() | Builtin():
            kind = value.kind if isinstance(value, Closure) else "fn"
            return f"the {kind} `{value.name}`"
        case Partial():
            return f"the {value.function.kind} `{value.function.name}(...)`"
        case Model():
            return f"the model `{value.name}`"
        case Part():
            return f"the layer `{value.path}`"
        case Dataset():
            return f"the data `{value.name}`"
        case Batches():
            return f"batches of `{value.dataset.name}`"
        case Metric():
            return f"the metric `{value.split}.{value.name}`"
        case Absent():
            return "a parameter that its `when` leaves out"
        case None:
            return "nothing"
    return f"a {type(value).__name__.lower()}"
