"""Optimiser and schedule equations, elaborated into update graphs.

The body sees `theta`, `grad`, its slots, `t` (this update's number, from 1) and the clock of
schedules: `step` (updates before this one), `steps`, `epoch`, `progress` (0 to 1).
"""

from __future__ import annotations

from collections.abc import Mapping

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Note, Span
from weft.compiler.graph import Graph, Node, substitute, topological
from weft.compiler.program import Optimizer, State, Update
from weft.compiler.types import TensorType
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.calls import bind, inside
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Frame
from weft.frontends.dsl.registry import STEP, Registry
from weft.frontends.dsl.signatures import filled
from weft.frontends.dsl.values import (
    Closure,
    Label,
    Model,
    Partial,
    Tensor,
    Value,
    describe,
    unlabelled,
)

THETA, GRAD = "theta", "grad"


def optimizer(value: Value, outer: Interpreter, span: Span) -> Optimizer:
    """The optimiser a `with` clause names, such as `adam(1e-3)`."""
    if isinstance(value, Closure):
        value = Partial(value, {})
    if not isinstance(value, Partial) or value.function.kind != "optimizer":
        raise CompileError(
            "`with` takes an optimiser",
            span,
            expected="such as `adam(1e-3)` or `sgd(lr = 0.1)`",
            found=describe(value),
        )
    partial = value
    made: dict[TensorType, Update] = {}

    def rule(type: TensorType) -> Update:
        if type not in made:
            made[type] = _update(partial, outer, type, span)
        return made[type]

    rule(TensorType(outer.registry.float_type, (16,)))  # mistakes show now, at this place
    return Optimizer(partial.function.name, rule, span)


def clock(interpreter: Interpreter) -> dict[str, Value]:
    """The names that tell time: scalars of the graph, or numbers where they are fixed."""
    registry = interpreter.registry
    step = b.cast(interpreter.read(STEP), registry.float_type)
    names: dict[str, Value] = {
        "step": unlabelled(step),
        "t": unlabelled(step + 1.0),
    }
    if registry.steps is not None:
        names["steps"] = registry.steps
        names["progress"] = unlabelled(step / float(max(1, registry.steps)))
    if registry.steps_per_epoch is not None:
        per_epoch = registry.steps_per_epoch
        names["epoch"] = unlabelled(b.unary("floor", step / float(per_epoch)))
        names["epochs"] = -(-(registry.steps or 0) // per_epoch)
    return names


def _schedule(interpreter: Interpreter, partial: Partial, span: Span) -> Value:
    """A schedule's value at the current step: a scalar."""
    given = filled(partial, span)
    with inside(interpreter, partial.function, given, span):
        scope, _, values = bind(interpreter, partial.function, given, span, None)
        for name, value in clock(interpreter).items():
            scope.values.setdefault(name, value)
        for name, value in values.items():
            place = partial.places.get(name, span)
            scope.values[name] = resolve(interpreter, value, place)
        value = interpreter.body(partial.function.decl.body, scope)
    if not isinstance(value, int | float) and not (isinstance(value, Tensor) and not value.rank):
        raise CompileError(
            f"the schedule `{partial.function.name}` gives no number",
            span,
            expected="a scalar for every step",
            found=describe(value),
        )
    return value


def resolve(interpreter: Interpreter, value: Value, span: Span) -> Value:
    """A schedule among an optimiser's arguments as its value at this step."""
    if isinstance(value, Closure) and value.kind == "schedule":
        value = Partial(value, {})
    if isinstance(value, Partial) and value.function.kind == "schedule":
        return _schedule(interpreter, value, span)
    return value


def _update(partial: Partial, outer: Interpreter, type: TensorType, span: Span) -> Update:
    """The equations for one parameter type, in an interpreter whose states are the slots."""
    function = partial.function
    main = outer.registry
    registry = Registry(
        float_type=main.float_type, steps=main.steps, steps_per_epoch=main.steps_per_epoch
    )
    inner = Interpreter(registry, BUILTINS, training=True, resolve=outer.resolve_declaration)
    inner.composites = False
    inner.slot_type = type
    theta = registry.add(State(THETA, type, "parameter", b.input_(THETA, type)))
    grad = b.input_(GRAD, type)
    labels = tuple(Label(f"axis{i}") for i in range(type.rank))
    decl = s.ModelDecl(THETA, s.Name(THETA, span=span), span=span, name_span=span)
    frame = Frame(Model(THETA, function, {}, decl), "slot", "slot")
    given = filled(partial, span)
    with inside(inner, function, given, span):
        scope, _, values = bind(inner, function, given, span, frame)
        for name, value in clock(inner).items():
            scope.values.setdefault(name, value)
        for name, value in values.items():
            scope.values[name] = resolve(inner, value, partial.places.get(name, span))
        scope.values[THETA] = Tensor(theta, labels)
        scope.values[GRAD] = Tensor(grad, labels)
        scope.states[THETA] = THETA
        inner.body(function.decl.body, scope)
    if THETA not in inner.updates:
        raise CompileError(
            f"the optimiser `{function.name}` never updates `theta`",
            function.decl.name_span,
            expected="a line such as `theta <- theta - lr * grad`",
            notes=[Note("used here", span)],
        )
    slots = [n for n, state in registry.states.items() if state.role == "buffer"]
    outputs = {THETA: inner.updates[THETA]}
    outputs |= {_short(n): inner.updates.get(n, registry.inputs[n]) for n in slots}
    renamed = {registry.inputs[n]: b.input_(_short(n), type) for n in slots}
    nodes = [*outputs.values()]
    others = [
        n
        for n in topological(nodes)
        if n.op.name == "input" and n not in (theta, grad) and n not in renamed
    ]
    graph = _renamed(function.name, (theta, grad), renamed, others, outputs)
    initial = {_short(n): registry.states[n].init for n in slots}
    return Update(graph, initial)


def _short(slot: str) -> str:
    return slot.removeprefix("slot.")


def _renamed(
    name: str,
    first: tuple[Node, Node],
    slots: Mapping[Node, Node],
    others: list[Node],
    outputs: Mapping[str, Node],
) -> Graph:
    values = substitute(outputs.values(), slots)
    return Graph(name, (*first, *slots.values(), *others), tuple(values), tuple(outputs))
