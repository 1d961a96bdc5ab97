"""Elaboration: a body is evaluated once, with tensors as graph nodes, and so becomes a graph.

Static things (numbers, lists, `for`, `if`) happen here and now; operations on tensors build nodes.
One interpreter is one pass over the spec: training or evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span, did_you_mean, one_of
from weft.compiler.graph import Node, locate
from weft.compiler.type_rules import TypeRuleError
from weft.compiler.types import DTYPES, F32, DType, SymDim, TensorType
from weft.frontends.dsl import calls, parameters, selections, statements
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.arguments import Given
from weft.frontends.dsl.composite import Composites
from weft.frontends.dsl.diagnostics import SameInEveryCall, UnknownName, not_a_tensor
from weft.frontends.dsl.expressions import EVALUATE
from weft.frontends.dsl.modules import Module, Scope, library
from weft.frontends.dsl.registry import STEP, Registry
from weft.frontends.dsl.repeats import Original
from weft.frontends.dsl.values import (
    KINDS,
    WORDS,
    Builtin,
    Closure,
    Model,
    Part,
    Splits,
    Tensor,
    Value,
    as_dim,
    describe,
    is_number,
    unlabelled,
)


class Interpreter:
    """Evaluates expressions, bodies and calls of one pass."""

    def __init__(
        self,
        registry: Registry,
        builtins: Mapping[str, Builtin],
        training: bool = True,
        resolve: Callable[[Interpreter, Module, s.Declaration, str], Value] | None = None,
    ) -> None:
        self.registry = registry
        self.builtins = builtins
        self.training = training
        self.resolve_declaration = resolve
        self.current: dict[str, Node] = {}  # states as this point of the pass sees them
        self.updates: dict[str, Node] = {}
        self.statement = ""  # names the draws of this statement
        self.draws: dict[str, int] = {}
        self.site: Span | None = None  # the user's call that library code runs for
        self.depth = 0
        self.composites = Composites.LIBRARY
        self.init: tuple[TensorType, str] | None = None  # what is being drawn, and its stream
        self.in_model = False  # whose floats are those of `precision`
        self.slot_type: TensorType | None = None  # the type of an optimiser's slots
        self.epoch_end: Callable[[s.Block, Scope], None] | None = None  # in a schedule
        self.memo: dict[tuple[object, ...], tuple[tuple[Value, ...], Value]] = {}
        self.originals: dict[Hashable, Original] = {}  # calls of layers that others may be like
        self.declared: list[str] = []  # states, in the order of `param` and `state` as they ran
        self.drawn = self.written = 0  # draws that were named, states that were updated
        self.effects = 0  # whatever else bodies have done beside building nodes

    # -- types of floats --------------------------------------------------------------------------

    @property
    def float_type(self) -> DType:
        """The type of floats here: in a model that of `precision`, elsewhere that of states."""
        narrow = self.registry.narrow_type if self.in_model else None
        return narrow or self.registry.float_type

    def factors(self, dtype: DType) -> str | None:
        """What products of floats may round their factors to here."""
        return self.registry.factors if self.in_model and dtype == F32 else None

    def converted(self, value: Value, dtype: DType) -> Value:
        """A value with its floats, of models or of states, in one of these two types."""
        if isinstance(value, Tensor):
            if value.type.dtype == dtype or value.type.dtype not in self.floats:
                return value
            return Tensor(locate(b.cast(value.node, dtype), value.node.span), value.axes)
        if isinstance(value, list | tuple):
            return type(value)([self.converted(v, dtype) for v in value])
        if isinstance(value, dict):
            return {name: self.converted(v, dtype) for name, v in value.items()}
        return value

    def widened(self, *tensors: Tensor) -> list[Tensor]:
        """Tensors that meet: where floats of a model meet those of states, all as the latter."""
        found = {t.type.dtype for t in tensors}
        if len(found) == 1 or not found <= self.floats:
            return list(tensors)
        return [self.converted(t, self.registry.float_type) for t in tensors]

    @contextmanager
    def inside_of_models(self, really: bool = True) -> Iterator[None]:
        """Floats are those of models; or, if not `really`, those of states."""
        before, self.in_model = self.in_model, really
        try:
            yield
        finally:
            self.in_model = before

    @property
    def floats(self) -> frozenset[DType]:
        narrow, wide = self.registry.narrow_type, self.registry.float_type
        return frozenset({wide} if narrow is None else {narrow, wide})

    # -- values -----------------------------------------------------------------------------------

    def evaluate(self, expression: s.Expression, scope: Scope) -> Value:
        """The value of an expression; nodes that it builds get its place."""
        handler = EVALUATE.get(type(expression))
        if handler is None:
            raise CompileError("this can't stand here", expression.span)
        try:
            value = handler(self, expression, scope)
        except TypeRuleError as error:
            raise CompileError(str(error), expression.span) from None
        if isinstance(value, Tensor) and value.node.span is None:
            locate(value.node, self.site or expression.span)
        return value

    def tensor(self, value: Value, like: DType, span: Span) -> Tensor:
        """The value as a tensor; numbers and sizes become scalars of type `like`."""
        if isinstance(value, Tensor):
            return value
        value = parameters.materialize(self, value, span)
        if isinstance(value, Tensor):
            return value
        dim = as_dim(value)
        if isinstance(dim, SymDim):
            # A size may be more than a narrow float holds.
            wide = self.registry.float_type if like in self.floats else like
            return unlabelled(b.size_of([dim], wide))
        if dim is not None:
            value = dim
        if isinstance(value, bool) or is_number(value):
            if isinstance(value, float) and like.kind in ("int", "uint") and value != int(value):
                raise CompileError(
                    f"{value} meets a tensor of whole numbers",
                    span,
                    expected=f"a value of type {like}",
                    hint="convert the tensor with `float(x)`",
                )
            return unlabelled(b.constant(value, like))
        raise not_a_tensor(value, span)

    def body(self, body: s.Expression | s.Block, scope: Scope) -> Value:
        """The value of a body: an expression, or a block."""
        if isinstance(body, s.Block):
            return statements.run(self, body, scope)
        return self.evaluate(body, scope)

    def call(
        self, function: Value, given: list[Given], span: Span, scope: Scope | None = None
    ) -> Value:
        """Call a function value; `scope` is the caller's, whose layer owns new parameters."""
        return calls.call(self, function, given, span, scope)

    # -- what names mean --------------------------------------------------------------------------

    def name(self, name: str, span: Span, scope: Scope) -> Value:
        """What a name stands for here: in a body around, or else outside of bodies."""
        holder = scope.holder(name)
        if holder is None:
            return self.lookup(name, scope, span)
        value = holder.values[name]
        return value() if isinstance(value, Lazy) else value

    def spread(self, e: s.Spread, scope: Scope) -> list[Value]:
        """The items of the list that is named behind three dots."""
        value = self.name(e.name, e.span, scope)
        if not isinstance(value, list | tuple):
            raise CompileError(
                f"`...{e.name}` spreads a list", e.span, expected="a list", found=describe(value)
            )
        return list(value)

    def lookup(self, name: str, scope: Scope, span: Span) -> Value:
        """A name that no body binds: a declaration, a library or built-in function, a type."""
        for module in dict.fromkeys((scope.module, library())):
            found = module.find(name)
            if found:
                return self._declared(found[0], found[1], name)
        if name in self.builtins:
            return self.builtins[name]
        if name in WORDS:
            return name
        if name in DTYPES:
            return self.float_type if name == "f32" else DTYPES[name]
        known = [*scope.module.names(), *library().names(), *self.builtins]
        raise UnknownName(name, span, scope.names(), known)

    def _declared(self, module: Module, declaration: s.Declaration, name: str) -> Value:
        if isinstance(declaration, tuple(KINDS)):
            return Closure(declaration, module)  # type: ignore[arg-type]
        assert self.resolve_declaration is not None
        value = self.resolve_declaration(self, module, declaration, name)
        self.effects += not _is_plain(value)
        return value

    def attribute(self, value: Value, name: str, span: Span) -> Value:
        known: list[str] = []
        if isinstance(value, Model | Part):
            self.effects += 1
            found, known = selections.select(self, value, name, span)
            if found is not None:
                return found
        elif isinstance(value, dict):
            known = list(value)
            if name in value:
                return value[name]
        elif isinstance(value, Splits):
            return value.attributes_of(name)
        raise SameInEveryCall(
            f"{describe(value)} has no `{name}`",
            span,
            expected=one_of(known) if known else None,
            hint=did_you_mean(name, known) or _instead(value, name),
        )

    def read(self, state: str) -> Node:
        """A state as this point of the pass sees it."""
        return self.current.get(state, self.registry.inputs[state])

    def clock(self) -> Node:
        return self.read(STEP)


class Lazy:
    """A name whose value is made when it is first used."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make

    def __call__(self) -> Value:
        return self._make()


def _is_plain(value: Value) -> bool:
    """Whether a value is numbers and texts alone."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _instead(value: Value, name: str) -> str | None:
    """What is written in place of an attribute."""
    if isinstance(value, Tensor) and name in ("shape", "size", "rank", "T"):
        return "`transpose(x)`" if name == "T" else f"write `{name}(x)`"
    if isinstance(value, Tensor):
        return f"functions stand before their arguments: `{name}(x)`, or `x |> {name}`"
    return None
