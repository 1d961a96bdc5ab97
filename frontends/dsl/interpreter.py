"""Elaboration: a body is evaluated once, with tensors as graph nodes, and so becomes a graph.

Static things (numbers, lists, `for`, `if`) happen here and now; operations on tensors build nodes.
One interpreter is one pass over the spec: training or evaluation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span, did_you_mean, one_of
from weft.compiler.graph import Node, binary, locate
from weft.compiler.type_rules import TypeRuleError
from weft.compiler.types import DTYPES, DType, SymDim, TensorType
from weft.frontends.dsl import calls, parameters, selections
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.axes import align
from weft.frontends.dsl.composite import Composites
from weft.frontends.dsl.diagnostics import SameInEveryCall, UnknownName, not_a_tensor
from weft.frontends.dsl.indexing import index
from weft.frontends.dsl.modules import Module, Scope, library
from weft.frontends.dsl.products import matmul
from weft.frontends.dsl.registry import STEP, Registry
from weft.frontends.dsl.signatures import Given, assign
from weft.frontends.dsl.values import (
    ABSENT,
    KINDS,
    Builtin,
    Closure,
    Dataset,
    Model,
    Part,
    Quantity,
    Splits,
    Tensor,
    Value,
    as_dim,
    describe,
    is_number,
    shape_text,
    unlabelled,
)

_BATCH = ("size", "shuffle", "drop_last")


_STATIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "^": operator.pow,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_TENSOR = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "//": "floor_divide",
    "%": "remainder",
    "^": "power",
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
# Operations, the kinds of numbers that they refuse, and what is said then.
_PARTICULAR: dict[str, tuple[tuple[str, ...], str, str]] = {
    "divide": (
        ("int", "uint"),
        "`/` divides floating-point numbers",
        "convert with `float(x)`, or write `//`, which rounds down",
    ),
    "floor_divide": (("float",), "`//` divides whole numbers", "write `floor(x / y)`"),
    "power": (
        ("int", "uint"),
        "`^` takes floating-point numbers",
        "convert with `float(x)`, or multiply: `x * x`",
    ),
}


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

    # -- types of floats --------------------------------------------------------------------------

    @property
    def float_type(self) -> DType:
        """The type of floats here: in a model that of `precision`, elsewhere that of states."""
        narrow = self.registry.narrow_type if self.in_model else None
        return narrow or self.registry.float_type

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

    # -- expressions ------------------------------------------------------------------------------

    def evaluate(self, expression: s.Expression, scope: Scope) -> Value:
        """The value of an expression; nodes that it builds get its place."""
        handler = _EVALUATE.get(type(expression))
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

    def _name(self, e: s.Name, scope: Scope) -> Value:
        holder = scope.holder(e.identifier)
        if holder is not None:
            value = holder.values[e.identifier]
            return value() if isinstance(value, Lazy) else value
        return self.lookup(e.identifier, scope, e.span)

    def lookup(self, name: str, scope: Scope, span: Span) -> Value:
        """A name that no body binds: a declaration, a library or built-in function, a type."""
        for module in dict.fromkeys((scope.module, library())):
            found = module.find(name)
            if found:
                return self._declared(found[0], found[1], name)
        if name in self.builtins:
            return self.builtins[name]
        if name in DTYPES:
            return self.float_type if name == "f32" else DTYPES[name]
        known = [*scope.module.names(), *library().names(), *self.builtins]
        raise UnknownName(name, span, scope.names(), known)

    def _declared(self, module: Module, declaration: s.Declaration, name: str) -> Value:
        if isinstance(declaration, tuple(KINDS)):
            return Closure(declaration, module)  # type: ignore[arg-type]
        assert self.resolve_declaration is not None
        return self.resolve_declaration(self, module, declaration, name)

    def _attribute(self, e: s.Attribute, scope: Scope) -> Value:
        return self.attribute(self.evaluate(e.value, scope), e.name, e.name_span)

    def attribute(self, value: Value, name: str, span: Span) -> Value:
        known: list[str] = []
        if isinstance(value, Model | Part):
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

    def _list(self, e: s.ListExpr, scope: Scope) -> Value:
        items: list[Value] = []
        for item in e.items:
            if isinstance(item, s.Spread):
                items.extend(self._spread(item, scope))
            else:
                items.append(self.evaluate(item, scope))
        return items

    def _tuple(self, e: s.TupleExpr, scope: Scope) -> Value:
        return tuple([self.evaluate(item, scope) for item in e.items])

    def _record(self, e: s.Record, scope: Scope) -> Value:
        return {entry.name: self.evaluate(entry.value, scope) for entry in e.entries}

    def _spread(self, e: s.Spread, scope: Scope) -> list[Value]:
        value = self._name(s.Name(e.name, span=e.span), scope)
        if not isinstance(value, list | tuple):
            raise CompileError(
                f"`...{e.name}` spreads a list", e.span, expected="a list", found=describe(value)
            )
        return list(value)

    def _index(self, e: s.Index, scope: Scope) -> Value:
        value = self.evaluate(e.value, scope)
        items: list[Value] = []
        for item in e.items:
            if isinstance(item, s.Dots):
                items.append(...)
            elif isinstance(item, s.Slice):
                parts = (item.start, item.stop, item.step)
                items.append(
                    slice(*(None if p is None else self.evaluate(p, scope) for p in parts))
                )
            else:
                items.append(self.evaluate(item, scope))
        return index(value, items, e.span)

    def _unary(self, e: s.Unary, scope: Scope) -> Value:
        value = self.evaluate(e.operand, scope)
        if e.op == "not":
            if isinstance(value, Tensor) and value.type.dtype.kind == "bool":
                return Tensor(b.unary("not", value.node), value.axes)
            if isinstance(value, bool):
                return not value
            raise CompileError(
                "`not` takes true or false, or a comparison of tensors",
                e.operand.span,
                found=describe(value),
            )
        if isinstance(value, Quantity):
            return Quantity(-value.value, value.unit)
        dim = as_dim(value)
        if dim is not None or is_number(value):
            return -(value if dim is None else dim)
        tensor = self.tensor(value, self.float_type, e.span)
        return Tensor(-tensor.node, tensor.axes)

    def _binary(self, e: s.Binary, scope: Scope) -> Value:
        if e.op in ("and", "or"):
            return self._logic(e, scope)
        left, right = self.evaluate(e.left, scope), self.evaluate(e.right, scope)
        if e.op == "then":
            return calls.then(left, right, e)
        if left is ABSENT or right is ABSENT:
            return self._without(e, left, right)
        if e.op == "@":
            return self._matmul(left, right, e)
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            result = self._static(e, left, right)
            if result is not NotImplemented:
                return result
        places = e.left.span, e.right.span
        return self.elementwise(_TENSOR[e.op], left, right, e.span, f"`{e.op}`", places)

    def _without(self, e: s.Binary, left: Value, right: Value) -> Value:
        """The other operand of a parameter that its `when` leaves out, where that is neutral."""
        if e.op not in ("+*" if left is ABSENT else "+-*/"):
            raise CompileError(
                f"`{e.op}` needs a parameter that its `when` leaves out",
                (e.left if left is ABSENT else e.right).span,
                expected="such as `x + b` or `x * scale`, which without it are `x`",
                hint="choose with `if` between two expressions",
            )
        return right if left is ABSENT else left

    def _logic(self, e: s.Binary, scope: Scope) -> Value:
        left = self.evaluate(e.left, scope)
        if isinstance(left, bool):
            if left == (e.op == "or"):
                return left
            return self.evaluate(e.right, scope)
        right = self.evaluate(e.right, scope)
        for value, place in ((left, e.left.span), (right, e.right.span)):
            if not isinstance(value, bool) and not _is_mask(value):
                raise CompileError(
                    f"`{e.op}` takes true or false, or comparisons of tensors",
                    place,
                    found=describe(value),
                )
        return self.elementwise(e.op, left, right, e.span, f"`{e.op}`")

    def _static(self, e: s.Binary, left: Value, right: Value) -> Value:
        """Arithmetic of numbers, sizes, lists and texts; NotImplemented for anything else."""
        if e.op == "+" and isinstance(left, list) and isinstance(right, list):
            return left + right
        if e.op in ("==", "!="):
            return (_sizes(left) == _sizes(right)) == (e.op == "==")
        if isinstance(left, Quantity) or isinstance(right, Quantity):
            raise CompileError(
                "a quantity with a unit is no plain number",
                e.span,
                expected="a number",
                found=describe(left if isinstance(left, Quantity) else right),
                hint="leave the unit out, or pass it to an argument that takes a duration",
            )
        a = as_dim(left) if not isinstance(left, float) else left
        c = as_dim(right) if not isinstance(right, float) else right
        if a is None or c is None:
            return NotImplemented
        symbolic = isinstance(a, SymDim) or isinstance(c, SymDim)
        sizes = e.op in ("+", "-", "*", "//") and not (isinstance(a, float) or isinstance(c, float))
        if symbolic and not sizes:
            return NotImplemented
        try:
            result = _STATIC[e.op](a, c)
        except ZeroDivisionError:
            raise CompileError(
                "division by zero", e.span, found=f"{describe(right)} after `{e.op}`"
            ) from None
        except (OverflowError, ValueError) as error:
            raise CompileError(f"this can't be computed: {error}", e.span) from None
        if isinstance(result, complex):
            raise CompileError("a fractional power of a negative number", e.span)
        if isinstance(result, int) and abs(result) >= 2**63:
            raise CompileError("the number is too large", e.span, expected="less than 2^63")
        return result

    def elementwise(
        self,
        op: str,
        left: Value,
        right: Value,
        span: Span,
        what: str,
        places: tuple[Span, Span] | None = None,
    ) -> Tensor:
        """A binary op of tensors or numbers, axes aligned by name; `places` of the operands."""
        float_type = self.registry.float_type
        like = next((v.type.dtype for v in (left, right) if isinstance(v, Tensor)), float_type)
        first, second = places or (span, span)
        a, c = self.widened(self.tensor(left, like, first), self.tensor(right, like, second))
        if a.type.dtype != c.type.dtype:
            raise CompileError(
                f"{what} of two element types",
                span,
                expected="the same element type on both sides",
                found=f"{describe(left)} and {describe(right)}",
                hint=_conversion(a.type.dtype, c.type.dtype),
            )
        if op in _PARTICULAR and a.type.dtype.kind in _PARTICULAR[op][0]:
            _, message, hint = _PARTICULAR[op]
            found = f"{describe(left)} and {describe(right)}"
            raise CompileError(message, span, found=found, hint=hint)
        a, c = align(a, c, what, span)
        return Tensor(binary(op, a.node, c.node), a.axes)

    def _matmul(self, left: Value, right: Value, e: s.Binary) -> Tensor:
        float_type = self.float_type
        a, c = self.tensor(left, float_type, e.span), self.tensor(right, float_type, e.span)
        a, c = self.widened(a, c)
        return matmul(a, c, e.span)

    def _if(self, e: s.If, scope: Scope) -> Value:
        condition = self.evaluate(e.condition, scope)
        if not isinstance(condition, bool):
            tensor = isinstance(condition, Tensor)
            raise CompileError(
                "the condition of `if` is decided before anything runs",
                e.condition.span,
                expected="`true` or `false`",
                found=describe(condition),
                hint="choose between tensors with `where(condition, a, b)`" if tensor else None,
            )
        if condition:
            return self.block(e.then, Scope(scope.module, parent=scope))
        if isinstance(e.otherwise, s.If):
            return self.evaluate(e.otherwise, scope)
        if e.otherwise is not None:
            return self.block(e.otherwise, Scope(scope.module, parent=scope))
        return None

    def _when(self, e: s.When, scope: Scope) -> Value:
        if e.condition == "epoch_end":
            if self.epoch_end is None:
                raise SameInEveryCall(
                    "`when epoch_end` belongs in a schedule",
                    s.part(e.span, "when epoch_end"),
                    hint="a layer tells training from evaluation with `when training`",
                )
            self.epoch_end(e.then, scope)
            return None
        chosen = e.then if self.training else e.otherwise
        return None if chosen is None else self.block(chosen, Scope(scope.module, parent=scope))

    # -- statements -------------------------------------------------------------------------------

    def block(self, body: s.Block, scope: Scope) -> Value:
        """The value of the block's last expression, or None."""
        value: Value = None
        last = body.statements[-1] if body.statements else None
        for statement in body.statements:
            handler = _EXECUTE.get(type(statement))
            if handler is None:
                raise CompileError("this can't stand in a body", statement.span)
            value = handler(self, statement, scope)
            if value is not None and statement is not last:
                raise SameInEveryCall(
                    "this value is not used",
                    statement.span,
                    expected="a name for it (`let a = ...`), or the value as the last line",
                    hint="to go on with the line before, end that line with its operator",
                )
        return value

    def body(self, body: s.Expression | s.Block, scope: Scope) -> Value:
        return self.block(body, scope) if isinstance(body, s.Block) else self.evaluate(body, scope)

    def _bind(
        self, targets: tuple[s.Name, ...], value: Value, span: Span
    ) -> Iterator[tuple[str, Value]]:
        if value is None:
            raise CompileError("this has no value", span, expected="an expression with a value")
        if len(targets) == 1:
            yield targets[0].identifier, value
            return
        if not isinstance(value, list | tuple) or len(value) != len(targets):
            raise CompileError(
                f"{len(targets)} names need {len(targets)} values", span, found=describe(value)
            )
        yield from zip((t.identifier for t in targets), value, strict=True)

    def _let(self, st: s.Let, scope: Scope) -> None:
        for name, value in self._bind(st.targets, self.evaluate(st.value, scope), st.value.span):
            scope.values[name] = value

    def _rebind(self, st: s.Rebind, scope: Scope) -> None:
        value = self.evaluate(st.value, scope)
        for target, (name, item) in zip(
            st.targets, self._bind(st.targets, value, st.value.span), strict=True
        ):
            holder = scope.holder(name)
            if holder is None:
                known = list(scope.names())
                raise SameInEveryCall(
                    f"`{name}` is not a local name",
                    target.span,
                    expected="a name that `let` declared before",
                    hint=did_you_mean(name, known) or f"declare it: `let {name} = ...`",
                )
            if self._is_state(name, scope):
                raise SameInEveryCall(
                    f"`=` does not update `{name}`",
                    target.span,
                    hint=f"write `{name} <- ...`, or declare another name with `let`",
                )
            holder.values[name] = item

    def _is_state(self, name: str, scope: Scope) -> bool:
        state = self.registry.states.get(scope.states.get(name, ""))
        return state is not None and (state.role == "buffer" or name == "theta")

    def _update(self, st: s.Update, scope: Scope) -> None:
        name = st.target.identifier
        qualified = scope.states.get(name)
        if qualified is None:
            local = scope.holder(name) is not None
            raise SameInEveryCall(
                f"`{name}` is not a state",
                st.target.span,
                expected=one_of(scope.states) if scope.states else "a name declared by `state`",
                hint="`=` gives a local name a new value"
                if local
                else did_you_mean(name, scope.states) or f"declare it: `state {name}: ... ~ zeros`",
            )
        value = self.evaluate(st.value, scope)
        type = self.registry.states[qualified].type
        tensor = self.tensor(value, type.dtype, st.value.span)
        tensor = self.converted(tensor, type.dtype)
        holder = scope.holder(name)
        assert holder is not None
        old = holder.values[name]
        wide, tensor = align(old, tensor, "`<-`", st.span)
        if wide.type.shape != type.shape or tensor.type.dtype != type.dtype:
            raise CompileError(
                f"the new value of `{name}` has another type",
                st.value.span,
                expected=shape_text(old),
                found=shape_text(tensor),
            )
        locate(tensor.node, self.site or st.span)
        self.current[qualified] = self.updates[qualified] = tensor.node
        holder.values[name] = Tensor(tensor.node, old.axes)

    def _for(self, st: s.For, scope: Scope) -> None:
        iterable = self.evaluate(st.iterable, scope)
        if not isinstance(iterable, list | tuple | range):
            raise CompileError(
                "`for` runs over a list",
                st.iterable.span,
                expected="a list, or `range(n)`",
                found=describe(iterable),
            )
        if len(iterable) > 100_000:
            raise CompileError("the loop is too long to unroll", st.iterable.span)
        for item in iterable:
            inner = Scope(scope.module, parent=scope)
            for name, value in self._bind(st.targets, item, st.iterable.span):
                inner.values[name] = value
            self.block(st.body, inner)

    # -- parameters and states --------------------------------------------------------------------

    def _param(self, st: s.Param, scope: Scope) -> None:
        parameters.declare(self, st, scope, "parameter")

    def _state(self, st: s.StateDecl, scope: Scope) -> None:
        parameters.declare(self, st, scope, "buffer")

    # -- calls ------------------------------------------------------------------------------------

    def _pipe(self, e: s.Pipe, scope: Scope) -> Value:
        first = Given(None, self.evaluate(e.value, scope), e.value.span)
        if isinstance(e.call, s.Call):
            function = self.evaluate(e.call.function, scope)
            return self.call(function, [first, *self.arguments(e.call, scope)], e.call.span, scope)
        return self.call(self.evaluate(e.call, scope), [first], e.call.span, scope)

    def arguments(self, e: s.Call, scope: Scope) -> list[Given]:
        """The arguments of a call, evaluated."""
        given = []
        for argument in e.arguments:
            if isinstance(argument.value, s.Spread):
                given += [
                    Given(None, v, argument.span) for v in self._spread(argument.value, scope)
                ]
            else:
                value = self.evaluate(argument.value, scope)
                given.append(Given(argument.name, value, argument.value.span, argument.name_span))
        return given

    def _call(self, e: s.Call, scope: Scope) -> Value:
        if isinstance(e.function, s.Attribute):
            owner = self.evaluate(e.function.value, scope)
            if isinstance(owner, Dataset):
                if e.function.name != "batch":
                    raise CompileError(
                        f"the data `{owner.name}` has no `{e.function.name}`",
                        e.function.name_span,
                        expected="`batch(size)`",
                        hint=did_you_mean(e.function.name, ["batch"]),
                    )
                given = self.arguments(e, scope)
                known = [s.Parameter(p, None, None, span=e.span) for p in _BATCH]
                bound = assign("batch", known, given, e.span)
                values = {k: g.value for k, g in bound.items()}
                return owner.batch(values, {k: g.span for k, g in bound.items()}, e.span)
        function = self.evaluate(e.function, scope)
        return self.call(function, self.arguments(e, scope), e.span, scope)

    def call(
        self, function: Value, given: list[Given], span: Span, scope: Scope | None = None
    ) -> Value:
        """Call a function value; `scope` is the caller's, whose layer owns new parameters."""
        return calls.call(self, function, given, span, scope)

    def clock(self) -> Node:
        return self.read(STEP)


_EVALUATE: dict[type, Callable[[Interpreter, Any, Scope], Value]] = {
    s.Number: lambda _, e, scope: e.value,
    s.Quantity: lambda _, e, scope: Quantity(e.value, e.unit),
    s.String: lambda _, e, scope: e.value,
    s.Boolean: lambda _, e, scope: e.value,
    s.Name: Interpreter._name,
    s.Attribute: Interpreter._attribute,
    s.Call: Interpreter._call,
    s.Pipe: Interpreter._pipe,
    s.Index: Interpreter._index,
    s.ListExpr: Interpreter._list,
    s.Record: Interpreter._record,
    s.TupleExpr: Interpreter._tuple,
    s.Unary: Interpreter._unary,
    s.Binary: Interpreter._binary,
    s.If: Interpreter._if,
    s.When: Interpreter._when,
}

_EXECUTE: dict[type, Callable[[Interpreter, Any, Scope], Value]] = {
    s.ExprStatement: lambda interpreter, st, scope: interpreter.evaluate(st.value, scope),
    s.Let: Interpreter._let,
    s.Rebind: Interpreter._rebind,
    s.Update: Interpreter._update,
    s.Param: Interpreter._param,
    s.StateDecl: Interpreter._state,
    s.For: Interpreter._for,
}


class Lazy:
    """A name whose value is made when it is first used."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make

    def __call__(self) -> Value:
        return self._make()


def _is_mask(value: Value) -> bool:
    return isinstance(value, Tensor) and value.type.dtype.kind == "bool"


def _conversion(a: DType, c: DType) -> str | None:
    """How two element types come together."""
    if "bool" in (a.kind, c.kind):
        return "convert the comparison with `float(...)`, or choose with `where(condition, a, b)`"
    return "convert the whole numbers with `float(x)`" if a.kind != c.kind else None


def _instead(value: Value, name: str) -> str | None:
    """What is written in place of an attribute."""
    if isinstance(value, Tensor) and name in ("shape", "size", "rank", "T"):
        return "`transpose(x)`" if name == "T" else f"write `{name}(x)`"
    if isinstance(value, Tensor):
        return f"functions stand before their arguments: `{name}(x)`, or `x |> {name}`"
    return None


def _sizes(value: Value) -> Value:
    """The value with sizes in place of axes, as comparisons see it."""
    if isinstance(value, list | tuple):
        return [_sizes(v) for v in value]
    dim = as_dim(value)
    return value if dim is None else dim
