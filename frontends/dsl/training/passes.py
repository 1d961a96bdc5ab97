"""A pass over `train`: its names, losses and metrics, evaluated once to train, once to evaluate.

A `let` is a definition: it is evaluated when it is first used, once for all that uses it, and anew
when a `minimize` has changed parameters that it depends on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Note, Span
from weft.compiler.graph import Node, topological
from weft.compiler.types import TensorType
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.composite import Composites
from weft.frontends.dsl.fields import field_tensor
from weft.frontends.dsl.interpreter import Interpreter, Lazy
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.registry import BATCH
from weft.frontends.dsl.training.block import Block
from weft.frontends.dsl.values import (
    Axis,
    Batches,
    Builtin,
    Closure,
    Model,
    Tensor,
    Value,
    describe,
    shape_text,
)


class Pass:
    """One evaluation of the block's statements: for training, or for evaluation."""

    def __init__(self, block: Block, batches: Batches, training: bool) -> None:
        self.block = block
        self.parts = tuple(batches.dataset.examples)
        registry = block.registry
        self.interpreter = Interpreter(registry, BUILTINS, training, block.resolve)
        if training:
            self.interpreter.composites = Composites.STATED
        self.fields = {
            f.name: b.input_(f.name, TensorType(f.type.dtype, (registry.batch_size, *f.type.shape)))
            for f in batches.dataset.spec.fields
        }
        self.values: dict[str, Value] = {}
        self.places: dict[str, Span] = {}  # of the names that `let` defines
        label = registry.batch_label
        names: dict[str, Value] = {BATCH: Axis(label, registry.batch_size)}
        for field in batches.dataset.spec.fields:
            names[field.name] = field_tensor(field, self.fields[field.name], label)
        self.scope = Scope(block.module, names)
        for statement in block.decl.statements:
            if isinstance(statement, s.Let):
                self._define(statement)

    def _define(self, let: s.Let) -> None:
        names = [t.identifier for t in let.targets]
        for i, target in enumerate(let.targets):
            name = target.identifier
            if name in self.fields or name == BATCH:
                what = (
                    "the number of examples in a batch" if name == BATCH else "a field of the data"
                )
                raise CompileError(
                    f"`{name}` is {what} already", target.span, hint="choose another name"
                )
            if name in self.places:
                raise CompileError(
                    f"`{name}` is defined twice",
                    target.span,
                    hint="choose another name",
                    notes=[Note("first defined here", self.places[name])],
                )
            self.places[name] = target.span
            self.scope.values[target.identifier] = Lazy(
                lambda i=i: self._defined(let, names, i)  # type: ignore[misc]
            )

    def _defined(self, let: s.Let, names: list[str], place: int) -> Value:
        key = ",".join(names)
        if key not in self.values:
            self.values[key] = None
            with self.statement(names[0]):
                value = self.interpreter.evaluate(let.value, self.scope)
            if len(names) > 1 and (not isinstance(value, list | tuple) or len(value) != len(names)):
                raise CompileError(
                    f"{len(names)} names need {len(names)} values",
                    let.value.span,
                    found=describe(value),
                )
            self.values[key] = value
        value = self.values[key]
        if value is None:
            raise CompileError(
                f"`{names[place]}` is defined by itself",
                let.targets[place].span,
                hint="the value of a `let` can't use its own name",
            )
        return value if len(names) == 1 else value[place]

    @contextmanager
    def statement(self, name: str) -> Iterator[None]:
        """Draws inside are named after this statement."""
        interpreter = self.interpreter
        before = interpreter.statement, interpreter.draws, interpreter.site
        interpreter.statement, interpreter.draws, interpreter.site = f"train.{name}", {}, None
        try:
            yield
        finally:
            interpreter.statement, interpreter.draws, interpreter.site = before

    def loss(self, name: str, minimize: s.Minimize) -> Tensor:
        with self.statement(name):
            value = self.interpreter.evaluate(minimize.objective, self.scope)
        place = minimize.objective.span
        if not isinstance(value, Tensor):
            named = isinstance(value, Closure | Builtin | Model)
            raise CompileError(
                "the objective is not a number that a model's output decides",
                place,
                expected="such as `cross_entropy(net(x), y)`",
                found=describe(value),
                hint=f"call it: `{value.name}(...)`" if named else None,
            )
        if value.rank:
            raise CompileError(
                "the objective is one number",
                place,
                expected="a scalar",
                found=shape_text(value),
                hint="average it with `mean(...)`",
            )
        if value.type.dtype.kind != "float":
            raise CompileError(
                "the objective is a floating-point number", place, found=shape_text(value)
            )
        return value

    def losses(self) -> dict[str, Node]:
        objectives = zip(self.block.loss_names, self.block.objectives, strict=True)
        return {name: self.loss(name, minimize).node for name, minimize in objectives}

    def metrics(self) -> dict[str, Node]:
        setting = self.block.keys.get("metrics")
        if setting is None:
            return {}
        if not isinstance(setting.value, s.Record):
            raise CompileError(
                "`metrics` is a record",
                setting.value.span,
                expected="such as `{ accuracy: accuracy(net(x), y) }`",
            )
        found = {}
        for entry in setting.value.entries:
            if entry.name in self.block.loss_names:
                raise CompileError(
                    f"the metric `{entry.name}` has the name of the objective",
                    entry.name_span,
                    hint=f"choose another name: `{entry.name}` is reported anyway",
                )
            with self.statement(f"metrics.{entry.name}"):
                value = self.interpreter.evaluate(entry.value, self.scope)
                place = entry.value.span
                tensor = self.interpreter.tensor(value, self.block.registry.float_type, place)
            if tensor.rank:
                raise CompileError(
                    f"the metric `{entry.name}` is one number",
                    place,
                    found=shape_text(tensor),
                    hint="average it with `mean(...)`",
                )
            found[entry.name] = b.cast(tensor.node, self.block.registry.float_type)
        return found

    def predictions(self) -> dict[str, Node]:
        """The outputs of `predict`: the setting, or what the first model makes of the data."""
        setting = self.block.keys.get("predict")
        if setting is None:
            fields = set(self.fields.values())
            for key, (arguments, value) in self.interpreter.memo.items():
                tensors = [a for a in arguments if isinstance(a, Tensor)]
                if tensors and all(t.node in fields for t in tensors) and isinstance(value, Tensor):
                    return {str(key[0]): value.node}
            return {}
        place = setting.value.span
        with self.statement("predict"):
            value = self.interpreter.evaluate(setting.value, self.scope)
        outputs = value if isinstance(value, dict) else {"prediction": value}
        for name, item in outputs.items():
            if not isinstance(item, Tensor):
                raise CompileError(
                    f"`predict` gives tensors, but `{name}` is none", place, found=describe(item)
                )
        return {name: item.node for name, item in outputs.items()}

    def forget(self, before: Collection[Node]) -> None:
        """Drop cached values that depend on parameters as they were before."""
        for name, value in list(self.values.items()):
            if _depends(value, before):
                del self.values[name]
        memo = self.interpreter.memo
        for call, (_, result) in list(memo.items()):
            if _depends(result, before):
                del memo[call]


def _depends(value: Value, nodes: Collection[Node]) -> bool:
    tensors = [v.node for v in _flat(value) if isinstance(v, Tensor)]
    return any(n in nodes for n in topological(tensors))


def _flat(value: Value) -> Iterator[Value]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value
