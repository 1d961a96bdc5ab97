"""Signatures: whether an argument has the type of its parameter, and the names that types bind.

A name in a signature's dimensions is bound by the first argument that has it, to a fresh label and
a size; later arguments must agree. The caller's labels come back on the result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from weft.compiler.errors import CompileError, Note, Span, did_you_mean, one_of
from weft.compiler.types import DTYPES, Dim, DType
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.diagnostics import SameInEveryCall, misfit
from weft.frontends.dsl.elsewhere import TYPES, elsewhere
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.values import (
    WORDS,
    Axis,
    Builtin,
    Closure,
    Label,
    Metric,
    Model,
    Partial,
    Quantity,
    Tensor,
    Value,
    as_dim,
    describe,
    is_number,
    kind_of,
    shape_text,
)

STATIC_TYPES = (
    "int", "float", "bool", "string", "duration", "function", "list", "schedule", "optimizer",
    "metric",
)  # fmt: skip
TENSOR_TYPES = ("float", "int", "class", *DTYPES)


@dataclass(slots=True)
class Binding:
    """The types of one call's arguments being matched: sizes, and labels to give back."""

    function: str
    scope: Scope
    evaluate: Callable[[s.Expression, Scope], Value]
    float_types: Collection[DType]  # that `f32` means here
    to_steps: Callable[[Quantity, Span], int]
    back: dict[Label, Label | None] = field(default_factory=dict)  # ours -> the caller's
    inward: dict[Label, Label] = field(default_factory=dict)  # the caller's -> ours

    def check(self, parameter: s.Parameter, value: Value, span: Span) -> Value:
        """The value as the parameter sees it; a CompileError when it doesn't fit."""
        type = parameter.type
        if type is None:
            return value
        if type.base in STATIC_TYPES and (type.dims is None or type.base not in TENSOR_TYPES):
            return self._static(parameter, type, value, span)
        if type.base not in TENSOR_TYPES:
            raise unknown_type(type)
        return self._tensor(parameter, type, value, span)

    def _static(self, parameter: s.Parameter, type: s.TypeExpr, value: Value, span: Span) -> Value:
        match type.base:
            case "int" if as_dim(value) is not None:
                return value
            case "float" if is_number(value) or (isinstance(value, Tensor) and not value.rank):
                return value
            case "float" if isinstance(value, Partial) and value.function.kind == "schedule":
                return value
            case "bool" if isinstance(value, bool):
                return value
            case "string" if isinstance(value, str):
                return value
            case "duration" if isinstance(value, int) and not isinstance(value, bool):
                return value
            case "duration" if isinstance(value, Quantity):
                return self.to_steps(value, span)
            case "function" if isinstance(value, Closure | Builtin | Model | Partial):
                return value
            case "list" if isinstance(value, list | tuple):
                return list(value)
            case "schedule" if is_number(value):
                return value
            case "schedule" | "optimizer" if isinstance(value, Closure | Partial):
                if kind_of(value) == type.base:
                    return value
            case "metric" if isinstance(value, Metric):
                return value
        wanted = {
            "int": "a whole number",
            "float": "a number",
            "bool": "`true` or `false`",
            "string": "a text",
            "duration": "a duration such as `2 epochs`, `500 steps` or `10%`",
            "function": "a function",
            "list": "a list",
            "schedule": "a schedule such as `cosine(0.1)`, or a number",
            "optimizer": "an optimiser such as `adam(1e-3)`",
            "metric": "a metric of a part of the data, such as `valid.loss`",
        }[type.base]
        hint = None
        if isinstance(value, Quantity) and type.base in ("int", "float"):
            hint = "leave the unit out"
        if type.base == "duration" and is_number(value):
            hint = "say of what: a duration has a unit"
        raise self._mismatch(value, parameter, wanted, describe(value), span, hint)

    def _mismatch(
        self,
        value: Value,
        parameter: s.Parameter,
        expected: str,
        found: str,
        span: Span,
        hint: str | None = None,
    ) -> CompileError:
        notes = []
        if not self.scope.module.is_library:
            notes.append(Note(f"`{parameter.name}` is declared here", parameter.span))
        return misfit(
            value,
            f"`{self.function}` can't take this as `{parameter.name}`",
            span,
            expected=expected,
            found=found,
            hint=hint,
            notes=notes,
            refuser=self.function,
        )

    def _tensor(self, parameter: s.Parameter, type: s.TypeExpr, value: Value, span: Span) -> Value:
        if not isinstance(value, Tensor):
            hint = f"call it: `{value.name}(...)`" if isinstance(value, Closure | Model) else None
            expected, found = f"a tensor {type_text(type)}", describe(value)
            raise self._mismatch(value, parameter, expected, found, span, hint)
        if type.base == "class":
            return self._label(parameter, type, value, span)
        if not self._fits(type.base, value.type.dtype):
            hint = None
            if type.base == "float" or type.base.startswith(("f", "bf")):
                hint = "convert it with `float(x)`"
                if value.classes is not None:
                    hint = "`one_hot(y)` makes vectors of labels; are the arguments in order?"
            raise self._mismatch(value, parameter, type_text(type), shape_text(value), span, hint)
        if type.dims is None:
            return value
        return self._match_dims(parameter, type, type.dims, value, span)

    def _label(self, parameter: s.Parameter, type: s.TypeExpr, value: Tensor, span: Span) -> Value:
        if value.classes is None:
            raise self._mismatch(
                value,
                parameter,
                "a class label",
                shape_text(value),
                span,
                "declare the field as `class[N]` in its `data` block",
            )
        if not type.dims:
            return value
        count, *sizes = type.dims
        self._dim(count, value.classes, parameter, value, None, span)
        return self._match_dims(parameter, type, tuple(sizes), value, span) if sizes else value

    def _fits(self, base: str, dtype: DType) -> bool:
        if base == "float":
            return dtype.kind == "float"
        if base == "int":
            return dtype.kind in ("int", "uint")
        return dtype in self.float_types if base == "f32" else dtype == DTYPES[base]

    def _match_dims(
        self,
        parameter: s.Parameter,
        type: s.TypeExpr,
        dims: tuple[s.Expression, ...],
        value: Tensor,
        span: Span,
    ) -> Tensor:
        spreads = [i for i, d in enumerate(dims) if isinstance(d, s.Spread | s.Dots)]
        if len(spreads) > 1:
            raise CompileError("a type has at most one `...`", dims[spreads[1]].span)
        fixed = len(dims) - len(spreads)
        if value.rank < fixed or (not spreads and value.rank != fixed):
            raise self._mismatch(
                value,
                parameter,
                f"{type_text(type)}, {'at least ' if spreads else ''}{_axes(fixed)}",
                f"{shape_text(value)}, {_axes(value.rank)}",
                span,
            )
        head = spreads[0] if spreads else len(dims)
        tail = len(dims) - head - 1 if spreads else 0
        labels: list[Label | None] = [None] * value.rank
        places = [*range(head), *range(value.rank - tail, value.rank)]
        for dim, place in zip(
            [d for i, d in enumerate(dims) if i not in spreads], places, strict=True
        ):
            labels[place] = self._dim(
                dim, value.type.shape[place], parameter, value, value.axes[place], span
            )
        if spreads:
            middle = list(range(head, value.rank - tail))
            spread = dims[head]
            if isinstance(spread, s.Spread):
                found = self._spread(spread, value, middle, parameter, span)
                for place, axis in zip(middle, found, strict=True):
                    labels[place] = axis.label
            else:
                for place in middle:
                    labels[place] = value.axes[place]
        return Tensor(value.node, tuple(labels), value.classes)

    def _spread(
        self, spread: s.Spread, value: Tensor, middle: list[int], parameter: s.Parameter, span: Span
    ) -> list[Axis]:
        known = self.scope.values.get(spread.name)
        if known is None:
            axes = [
                Axis(Label(f"{spread.name}{i}"), value.type.shape[place])
                for i, place in enumerate(middle)
            ]
            self.scope.values[spread.name] = axes
        else:
            axes = known
            sizes = [value.type.shape[i] for i in middle]
            if [a.size for a in axes] != sizes:
                raise self._mismatch(
                    value,
                    parameter,
                    f"{_list([a.size for a in axes])}, the `...{spread.name}` of what came before",
                    shape_text(value),
                    span,
                    _stretch_hint([a.size for a in axes], sizes),
                )
        for axis, place in zip(axes, middle, strict=True):
            self._remember(axis.label, value.axes[place])
        return axes

    def _dim(
        self,
        dim: s.Expression,
        size: Dim,
        parameter: s.Parameter,
        value: Tensor,
        outer: Label | None,
        span: Span,
    ) -> Label | None:
        """Match one dimension; its label in the body."""
        if isinstance(dim, s.Name) and dim.identifier not in self.scope.values:
            label = self.scope.label(dim.identifier)
            self.scope.values[dim.identifier] = Axis(label, size)
            self._remember(label, outer)
            return label
        known = self.evaluate(dim, self.scope)
        expected = as_dim(known)
        if expected is None:
            raise CompileError("a dimension is a whole number", dim.span, found=describe(known))
        if expected != size:
            text = dimension_text(dim)
            named = f" with `{text}` = {expected}" if text != str(expected) else ""
            raise self._mismatch(
                value,
                parameter,
                f"{type_text(parameter.type)}{named}" if parameter.type else f"{expected}",
                f"{size} in {shape_text(value)}",
                span,
            )
        known_label = known.label if isinstance(known, Axis) else None
        if known_label is None and isinstance(dim, s.Name):
            known_label = self.scope.label(dim.identifier)
        self._remember(known_label, outer)
        return known_label

    def _remember(self, ours: Label | None, outer: Label | None) -> None:
        if ours is None:
            return
        if self.back.get(ours) is None:
            self.back[ours] = outer
        if outer is not None:
            self.inward.setdefault(outer, ours)

    def translate(self, value: Value) -> Value:
        """Axes of the caller (`over = [B]`, or of an untyped tensor) under this body's names."""
        if isinstance(value, Tensor):
            axes = tuple(self.inward.get(a, a) if a else a for a in value.axes)
            return Tensor(value.node, axes, value.classes)
        if isinstance(value, Axis) and value.label in self.inward:
            return Axis(self.inward[value.label], value.size)
        if isinstance(value, list):
            return [self.translate(v) for v in value]
        return value

    def give_back(self, value: Value) -> Value:
        """A result under the names of the caller; names of this body don't leave it."""
        if isinstance(value, Tensor):
            ours = set(self.scope.labels.values()) | set(self.back)
            axes = tuple(self.back.get(a) if a is not None and a in ours else a for a in value.axes)
            return Tensor(value.node, axes, value.classes)
        if isinstance(value, list | tuple):
            return type(value)(self.give_back(v) for v in value)
        if isinstance(value, Axis) and value.label in self.back:
            return Axis(self.back[value.label], value.size)
        return value


def unknown_type(type: s.TypeExpr, known: Sequence[str] = ()) -> CompileError:
    """The error for a type that is none of `known`."""
    expected = one_of(known)
    if not known:
        known = [*dict.fromkeys((*STATIC_TYPES, *TENSOR_TYPES))]
        static = ", ".join(f"`{name}`" for name in STATIC_TYPES)
        expected = f"{static}, `class` or an exact type such as `f32`"
    other = elsewhere(type.base, TYPES)
    hint = f"here it is called `{other}`" if other in known else did_you_mean(type.base, known)
    if type.base in WORDS:
        hint = f"numbers stay f32: write `precision = {type.base}` in `train`"
    return SameInEveryCall(
        f"there is no type `{type.base}`",
        Span(type.span.source, type.span.start, type.span.start + len(type.base)),
        expected=expected,
        hint=hint,
    )


def _stretch_hint(before: Sequence[Dim], sizes: Sequence[Dim]) -> str | None:
    """What to do about an axis of size 1 that only one of two shapes has."""
    if 1 in before and 1 not in sizes:
        return "drop the axis of size 1 of what came before with an index: `x[..., 0]`"
    return "drop an axis of size 1 with an index: `x[..., 0]`" if 1 in sizes else None


def _axes(count: int) -> str:
    return "1 axis" if count == 1 else f"{count} axes"


def _list(sizes: Sequence[Dim]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def dimension_text(dim: s.Expression) -> str:
    """A dimension as it is written."""
    return dim.span.source.text[dim.span.start : dim.span.end]


def type_text(type: s.TypeExpr) -> str:
    if type.dims is None:
        return type.base
    return f"{type.base}[{', '.join(dimension_text(d) for d in type.dims)}]"
