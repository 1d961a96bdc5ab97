"""`data` blocks: a source, opened to see what it holds, its fields, and its split into parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from weft.compiler import builder as b
from weft.compiler.errors import (
    CompileError,
    Diagnostic,
    RunError,
    Span,
    did_you_mean,
    one_of,
)
from weft.compiler.graph import Graph
from weft.compiler.program import DataSpec, Field
from weft.compiler.types import TensorType
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.diagnostics import and_list
from weft.frontends.dsl.fields import elaborate_field, field_type
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Module, Scope
from weft.frontends.dsl.registry import SEED, STEP
from weft.frontends.dsl.values import (
    Dataset,
    Quantity,
    Value,
    describe,
    is_number,
)

SPLITS = ("train", "valid", "test")
RESERVED = (SEED, STEP, "batch", *SPLITS)


@dataclass(frozen=True)
class Opened:
    """What a source turned out to hold: the type of one example's columns, examples by split.

    `classes` has the names of the classes of those columns that hold class numbers.
    """

    columns: Mapping[str, TensorType]
    examples: Mapping[str, int]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class DataProvider(Protocol):
    """Opens sources: the runtime's part, given to the front end so that it can check."""

    def given(
        self, data: str, columns: Mapping[str, TensorType], split_: Mapping[str, int]
    ) -> Opened:
        """The columns of data without a source, checked where they are given from outside."""
        ...

    def open(
        self,
        data: str,
        source: str,
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
        split: Mapping[str, float | int],
    ) -> Opened: ...


def elaborate_data(
    interpreter: Interpreter, module: Module, decl: s.DataDecl, provider: DataProvider
) -> Dataset:
    """The data set a `data` block declares; opens its source to check the fields' types."""
    settings = _settings(decl)
    scope = Scope(module)
    split = _split(interpreter, settings.get("split"), scope)
    source: str | None = None
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    try:
        if "source" in settings:
            source, arguments, options = _source(interpreter, settings["source"], scope)
            opened = provider.open(decl.name, source, arguments, options, split)
        else:
            counts = _counts(decl, settings.get("split"), split)
            opened = provider.given(decl.name, _outside(interpreter, decl, scope), counts)
    except RunError as error:
        d = error.diagnostic
        place = _argument(settings["source"].value, d.message) if source else _asked(decl, d)
        if "split" in settings and ("split" in d.message or "the part" in d.message):
            place = settings["split"].value.span
        raise CompileError(
            d.message, place, expected=d.expected, found=d.found, hint=d.hint, notes=d.notes
        ) from None
    fields, prepare = _fields(interpreter, module, decl, opened, source is None)
    spec = DataSpec(
        decl.name,
        source,
        arguments,
        options,
        fields,
        prepare,
        split,
        decl.span,
        opened.classes,
    )
    return Dataset(decl.name, spec, opened.examples)


def _settings(decl: s.DataDecl) -> dict[str, s.Setting]:
    settings: dict[str, s.Setting] = {}
    for setting in decl.settings:
        if setting.key not in ("source", "split"):
            raise CompileError(
                f"`data` has no setting `{setting.key}`",
                setting.key_span,
                expected="`source` or `split`; a field has a type: `x: f32[64] = ...`",
                hint=did_you_mean(setting.key, ["source", "split"]),
            )
        if setting.key in settings:
            raise CompileError(f"`{setting.key}` is set twice", setting.key_span)
        settings[setting.key] = setting
    return settings


def _fields(
    interpreter: Interpreter, module: Module, decl: s.DataDecl, opened: Opened, outside: bool
) -> tuple[tuple[Field, ...], Graph]:
    """The fields, and the graph that makes them of the source's columns."""
    columns = {
        name: b.input_(name, TensorType(t.dtype, (interpreter.registry.batch_size, *t.shape)))
        for name, t in opened.columns.items()
    }
    labels = {name: len(names) for name, names in opened.classes.items()}
    fields, outputs = [], {}
    for declared in decl.fields:
        if declared.name in outputs or declared.name in RESERVED:
            twice = declared.name in outputs
            raise CompileError(
                f"the field `{declared.name}` is declared twice"
                if twice
                else f"a field can't be called `{declared.name}`",
                declared.name_span,
                hint=None if twice else f"in `train`, it stands for {_meaning(declared.name)}",
            )
        field, node = elaborate_field(interpreter, module, declared, columns, labels, outside)
        fields.append(field)
        outputs[field.name] = node
    if not fields:
        column, type = next(iter(opened.columns.items()))
        shape = f"[{', '.join(map(str, type.shape))}]" if type.shape else ""
        raise CompileError(
            f"`{decl.name}` has no fields",
            decl.name_span,
            expected=f"a line such as `x: {type.dtype}{shape} = {column}`",
            found=f"a source with the columns {and_list(columns)}",
        )
    prepare = Graph("prepare", tuple(columns.values()), tuple(outputs.values()), tuple(outputs))
    return tuple(fields), prepare


def _source(
    interpreter: Interpreter, setting: s.Setting, scope: Scope
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    call = setting.value
    if not isinstance(call, s.Call) or not isinstance(call.function, s.Name):
        raise CompileError(
            "a source says how the data is stored, and where",
            call.span,
            expected='such as `embedded("digits")` or `csv("points.csv")`',
        )
    positional, options = [], {}
    for argument in call.arguments:
        value = _source_argument(interpreter, call.function.identifier, argument, scope)
        if not isinstance(value, bool | int | float | str):
            raise CompileError(
                "a source takes texts and numbers", argument.value.span, found=describe(value)
            )
        if argument.name is None:
            positional.append(value)
        else:
            options[argument.name] = value
    return call.function.identifier, tuple(positional), options


def _source_argument(
    interpreter: Interpreter, source: str, argument: s.Argument, scope: Scope
) -> Value:
    """The value of one argument of a source; a bare word is a text without its quotes."""
    word = argument.value
    if isinstance(word, s.Name):
        found = scope.module.find(word.identifier)
        if found is None or not isinstance(found[1], s.LetDecl):
            raise CompileError(
                "a source takes texts and numbers",
                word.span,
                found=f"`{word.identifier}` without quotes",
                hint=f'write `{source}("{word.identifier}")`',
            )
    return interpreter.evaluate(word, scope)


def _counts(
    decl: s.DataDecl, setting: s.Setting | None, split: Mapping[str, float | int]
) -> dict[str, int]:
    """The split of data without a source, whose size nothing else tells."""
    if setting is None:
        raise CompileError(
            f"`{decl.name}` has no source",
            decl.name_span,
            expected='a line such as `source = embedded("digits")`; or, for arrays from outside, '
            "numbers of examples: `split = { train: 50000, valid: 10000 }`",
        )
    counts: dict[str, int] = {}
    entries = setting.value.entries if isinstance(setting.value, s.Record) else ()
    for entry in entries:
        count = split[entry.name]
        if not isinstance(count, int):
            place = entry.value.span
            raise CompileError(
                f"`{entry.name}` is a share of a number that is not known: "
                f"`{decl.name}` has no source",
                place,
                expected="a number of examples, such as `50000`",
                found=f"`{place.source.text[place.start : place.end]}`",
            )
        counts[entry.name] = count
    return counts


def _outside(interpreter: Interpreter, decl: s.DataDecl, scope: Scope) -> dict[str, TensorType]:
    """The columns of data without a source: the fields that state no expression."""
    types = {f.name: field_type(interpreter, f, scope)[0] for f in decl.fields if f.value is None}
    if not types:
        raise CompileError(
            f"`{decl.name}` has no source, and no field that comes from outside",
            decl.name_span,
            expected="a field without an expression, such as `x: f32[64]`",
        )
    return types


def _asked(decl: s.DataDecl, fault: Diagnostic) -> Span:
    """The field without an expression that a message names; else the name of the data."""
    for declared in decl.fields:
        if declared.value is None and f"array `{declared.name}`" in fault.message:
            return declared.span
    return decl.name_span


def _argument(call: s.Expression, message: str) -> Span:
    """The argument of the source that a message names; else the whole source."""
    arguments = call.arguments if isinstance(call, s.Call) else ()
    for argument in arguments:
        text = argument.value
        if isinstance(text, s.String) and f"`{text.value}`" in message:
            return text.span
        if argument.name_span is not None and f"`{argument.name}`" in message:
            return argument.name_span
    return call.span


def _meaning(name: str) -> str:
    """What a reserved name stands for in `train`."""
    if name in SPLITS:
        return "a part of the data"
    return {SEED: "the state of the random numbers", STEP: "the number of updates"}.get(
        name, "the size of a batch"
    )


def _split(
    interpreter: Interpreter, setting: s.Setting | None, scope: Scope
) -> dict[str, float | int]:
    """Fractions (from `80%` or 0.8) or counts, by part; everything trains when nothing is said."""
    if setting is None:
        return {"train": 1.0}
    record = setting.value
    if not isinstance(record, s.Record):
        raise CompileError(
            "a split is a record",
            record.span,
            expected="such as `{ train: 80%, valid: 10%, test: 10% }`",
        )
    parts: dict[str, float | int] = {}
    for entry in record.entries:
        if entry.name not in SPLITS:
            raise CompileError(
                f"there is no part `{entry.name}`",
                entry.name_span,
                expected=one_of(SPLITS),
                hint=did_you_mean(entry.name, SPLITS),
            )
        value = interpreter.evaluate(entry.value, scope)
        if isinstance(value, Quantity) and value.unit == "%":
            value = value.value / 100
        if not is_number(value) or value < 0:
            raise CompileError(
                f"`{entry.name}` is a share or a number of examples",
                entry.value.span,
                expected="such as `80%` or `1000`",
                found=describe(value),
            )
        parts[entry.name] = value
    if "train" not in parts:
        raise CompileError(
            "the split leaves nothing to train on", record.span, expected="a part `train`"
        )
    return parts
