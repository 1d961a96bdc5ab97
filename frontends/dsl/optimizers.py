"""Optimiser equations, elaborated into update graphs: one for each type of parameter.

The body sees `theta`, `grad`, its slots, `t` (this update's number, from 1), the clock of
schedules, `fan_in` and `fan_out` of the parameter, and what reaches beyond it: `together`,
`gradient_at` and `hessian_times`.
"""

from __future__ import annotations

from collections.abc import Iterable

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Note, Span
from weft.compiler.graph import Graph, Node, substitute, topological
from weft.compiler.program import PARAMETERS, Exchange, Optimizer, State, Update
from weft.compiler.types import TensorType, static_shape, symbol
from weft.frontends.dsl.arguments import filled
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.calls import bind, inside
from weft.frontends.dsl.composite import Composites
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Frame
from weft.frontends.dsl.registry import SEED, STEP, Registry, fans
from weft.frontends.dsl.schedules import Schedules, frame
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import (
    Builtin,
    Closure,
    Label,
    Partial,
    Tensor,
    Value,
    describe,
    shape_text,
    unlabelled,
)

THETA, GRAD = "theta", "grad"


def optimizer(
    value: Value, outer: Interpreter, span: Span, types: Iterable[TensorType] = ()
) -> Optimizer:
    """The optimiser a `with` clause names, such as `adam(1e-3)`, for parameters of these types.

    States of its schedules go to the registry and the updates of `outer`.
    """
    if isinstance(value, Closure):
        value = Partial(value, {})
    if not isinstance(value, Partial) or value.function.kind != "optimizer":
        raise CompileError(
            "`with` takes an optimiser",
            span,
            expected="such as `adam(1e-3)` or `sgd(lr = 0.1)`",
            found=describe(value),
        )
    partial, registry = value, outer.registry
    schedules = Schedules(registry, outer, _free(registry, partial.function.name))
    made: dict[TensorType, Update] = {}

    def rule(type: TensorType) -> Update:
        if type not in made:
            made[type] = _Equations(partial, outer, schedules, type, span).update()
        return made[type]

    # Mistakes show now, at this place.
    for type in tuple(types) or (TensorType(registry.float_type, (16,)),):
        rule(type)
    outer.updates.update(schedules.updates)
    registry.epoch_updates.update(schedules.epoch_updates)
    return Optimizer(partial.function.name, rule, span)


def _free(registry: Registry, name: str) -> str:
    """A beginning for the names of states that no state has yet."""
    path, count = name, 1
    while any(state.startswith(f"{path}.") for state in registry.states):
        count += 1
        path = f"{name}_{count}"
    return path


class _Equations:
    """The equations for one type of parameter, in an interpreter whose states are the slots."""

    def __init__(
        self,
        partial: Partial,
        outer: Interpreter,
        schedules: Schedules,
        type: TensorType,
        span: Span,
    ) -> None:
        main = outer.registry
        self.partial, self.schedules, self.type, self.span = partial, schedules, type, span
        self.registry = Registry(
            float_type=main.float_type, steps=main.steps, steps_per_epoch=main.steps_per_epoch
        )
        self.registry.inputs |= {name: main.inputs[name] for name in (SEED, STEP)}
        self.interpreter = Interpreter(
            self.registry, BUILTINS, training=True, resolve=outer.resolve_declaration
        )
        self.interpreter.composites = Composites.NONE
        self.interpreter.slot_type = type
        self.exchanges: list[Exchange] = []
        self.sent: dict[str, Node] = {}

    def update(self) -> Update:
        """Elaborate the body; the graph of the new values."""
        function, registry = self.partial.function, self.registry
        theta = registry.add(State(THETA, self.type, "parameter", b.input_(THETA, self.type)))
        grad = b.input_(GRAD, self.type)
        labels = tuple(Label(f"axis{i}") for i in range(self.type.rank))
        new = self._run(
            self.partial,
            Tensor(theta, labels),
            Tensor(grad, labels),
            frame("slot", function, self.span),
            self.schedules.path,
        )
        slots = {n: s for n, s in registry.states.items() if s.role == "buffer"}
        inputs = {registry.inputs[n]: b.input_(_short(n), s.type) for n, s in slots.items()}
        outputs = {THETA: new.node}
        for name in slots:
            node = self.interpreter.updates.get(name, registry.inputs[name])
            outputs[_short(name)] = node
        outputs |= self.sent
        others = [
            n
            for n in topological(outputs.values())
            if n.op.name == "input" and n not in (theta, grad) and n not in inputs
        ]
        values = substitute(outputs.values(), inputs)
        graph = Graph(
            function.name,
            (theta, grad, *inputs.values(), *others),
            tuple(values),
            tuple(outputs),
        )
        initial = {_short(n): s.init for n, s in slots.items()}
        return Update(graph, initial, tuple(self.exchanges))

    def _run(
        self, partial: Partial, theta: Tensor, grad: Tensor, frame: Frame, path: str
    ) -> Tensor:
        """`theta` after the update of an optimiser, whose slots live in `frame`."""
        function, interpreter = partial.function, self.interpreter
        given = filled(partial, self.span)
        before = interpreter.updates.pop(THETA, None)
        with inside(interpreter, function, given, self.span):
            scope, _, values = bind(interpreter, function, given, self.span, frame)
            types = {p.name: p.type for p in function.decl.parameters or ()}
            known: dict[str, Value] = {
                **self.schedules.clock.names(),
                **fans(static_shape(self.type.shape)),
                "together": Builtin("together", ("x",), self._together),
                "gradient_at": Builtin("gradient_at", ("point",), self._gradient_at),
                "hessian_times": Builtin("hessian_times", ("v",), self._hessian_times),
            }
            for name, value in known.items():
                scope.values.setdefault(name, value)
            for name, value in values.items():
                type, place = types[name], partial.places.get(name, self.span)
                if type is not None and type.base == "optimizer":
                    found: Value = self._function(name, value, frame, f"{path}.{name}")
                else:
                    found = self.schedules.argument(value, type, f"{path}.{name}", place)
                scope.values[name] = found
            scope.values[THETA], scope.values[GRAD] = theta, grad
            scope.states[THETA] = THETA
            interpreter.body(function.decl.body, scope)
        if THETA not in interpreter.updates:
            raise CompileError(
                f"the optimiser `{function.name}` never updates `theta`",
                function.decl.name_span,
                expected="a line such as `theta <- theta - lr * grad`",
                notes=[Note("used here", self.span)],
            )
        node = interpreter.updates.pop(THETA)
        if before is not None:
            interpreter.updates[THETA] = before
        return Tensor(node, theta.axes)

    # -- what a body may call ---------------------------------------------------------------------

    def _function(self, name: str, value: Value, frame: Frame, path: str) -> Builtin:
        """`inner(theta, grad)`: the parameter after the update of another optimiser."""
        partial = Partial(value, {}) if isinstance(value, Closure) else value
        assert isinstance(partial, Partial)

        def call(site: Site, theta: Value, grad: Value) -> Value:
            here, slope = self._of_parameter(site, theta), self._of_parameter(site, grad)
            return self._run(partial, here, slope, frame.child(partial.function.name), path)

        return Builtin(name, ("theta", "grad"), call)

    def _together(self, site: Site, x: Value) -> Value:
        """`x` of all parameters that this optimiser updates, end to end in one vector."""
        type = TensorType(self.registry.float_type, (symbol(PARAMETERS),))
        return unlabelled(self._exchange("together", self._of_parameter(site, x), type))

    def _gradient_at(self, site: Site, point: Value) -> Value:
        """The gradient of the objective, were each parameter at the point that it names."""
        tensor = self._of_parameter(site, point)
        return Tensor(self._exchange("gradient", tensor, self.type), tensor.axes)

    def _hessian_times(self, site: Site, v: Value) -> Value:
        """This parameter's part of the Hessian of the objective times the `v` of all of them."""
        tensor = self._of_parameter(site, v)
        return Tensor(self._exchange("hessian", tensor, self.type), tensor.axes)

    def _exchange(self, kind: str, value: Tensor, type: TensorType) -> Node:
        for exchange in self.exchanges:
            if exchange.kind == kind and self.sent[exchange.sent] is value.node:
                known: Node = self.registry.inputs[exchange.received]
                return known
        place = len(self.exchanges)
        exchange = Exchange(kind, f"sent.{place}", f"received.{place}")
        self.exchanges.append(exchange)
        self.sent[exchange.sent] = value.node
        node = b.input_(exchange.received, type)
        self.registry.inputs[exchange.received] = node
        return node

    def _of_parameter(self, site: Site, value: Value) -> Tensor:
        if not isinstance(value, Tensor) or value.type != self.type:
            raise site.wrong(
                "takes tensors of the parameter's shape",
                expected=str(self.type),
                found=shape_text(value) if isinstance(value, Tensor) else describe(value),
            )
        return value


def _short(slot: str) -> str:
    return slot.removeprefix("slot.")
