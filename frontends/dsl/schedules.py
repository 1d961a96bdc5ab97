"""Schedules: equations of time, evaluated at the current step or at the one that a caller names.

A schedule may have scalar `state`s. What `when epoch_end { ... }` gives them is known once an epoch
and may depend on metrics of the whole epoch, such as `valid.loss`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span, did_you_mean, one_of
from weft.compiler.graph import Node, topological
from weft.compiler.types import F64, TensorType
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.arguments import filled
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.calls import bind, inside
from weft.frontends.dsl.composite import Composites
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Frame, Scope
from weft.frontends.dsl.registry import STEP, Registry
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import (
    Builtin,
    Closure,
    Metric,
    Model,
    Partial,
    Tensor,
    Value,
    as_dim,
    describe,
    unlabelled,
)


@dataclass(frozen=True)
class Clock:
    """The time that a body sees: a step and, where they are known, the steps in all."""

    step: Node
    steps: int | None
    steps_per_epoch: int | None

    @classmethod
    def of(cls, registry: Registry) -> Clock:
        """The clock of the run."""
        step = b.cast(registry.inputs[STEP], registry.float_type)
        return cls(step, registry.steps, registry.steps_per_epoch)

    def names(self) -> dict[str, Value]:
        """The names that tell time: scalars of the graph, or numbers where they are fixed."""
        names: dict[str, Value] = {
            "step": unlabelled(self.step),
            "t": unlabelled(self.step + 1.0),
        }
        if self.steps is not None:
            names["steps"] = self.steps
            names["progress"] = unlabelled(self.step / float(max(1, self.steps)))
        if self.steps_per_epoch is not None:
            per_epoch = self.steps_per_epoch
            names["epoch"] = unlabelled(b.unary("floor", self.step / float(per_epoch)))
            names["epochs"] = -(-(self.steps or 0) // per_epoch)
        return names


@dataclass(eq=False)
class Schedules:
    """The schedules among an optimiser's arguments: each is evaluated once for all parameters.

    `path` begins the names of their states.
    """

    registry: Registry
    outer: Interpreter
    path: str
    values: dict[str, Value] = field(default_factory=dict)
    epoch_updates: dict[str, Node] = field(default_factory=dict)
    measured: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = Clock.of(self.registry)
        resolve = self.outer.resolve_declaration
        self.interpreter = Interpreter(self.registry, BUILTINS, training=True, resolve=resolve)
        self.interpreter.composites = Composites.NONE
        self.interpreter.epoch_end = self._epoch_end

    @property
    def updates(self) -> Mapping[str, Node]:
        """New values of states that change with every step."""
        return self.interpreter.updates

    def argument(self, value: Value, type: s.TypeExpr | None, path: str, span: Span) -> Value:
        """An argument as a body sees it: a schedule as its number, or as a function of time."""
        if path not in self.values:
            self.values[path] = self._argument(value, type, path, self.clock, span)
        return self.values[path]

    def _argument(
        self, value: Value, type: s.TypeExpr | None, path: str, clock: Clock, span: Span
    ) -> Value:
        if type is not None and type.base == "schedule":
            return self._function(value, path, clock)
        if isinstance(value, Closure) and value.kind == "schedule":
            value = Partial(value, {})
        if isinstance(value, Partial) and value.function.kind == "schedule":
            return self.number(value, path, clock, span)
        if isinstance(value, Metric):
            return self._metric(value, span)
        return value

    def number(self, partial: Partial, path: str, clock: Clock, span: Span) -> Value:
        """A schedule's value at a time: a scalar."""
        function, interpreter = partial.function, self.interpreter
        given = filled(partial, span)
        with inside(interpreter, function, given, span):
            scope, _, values = bind(interpreter, function, given, span, frame(path, function, span))
            types = {p.name: p.type for p in function.decl.parameters or ()}
            for name, value in clock.names().items():
                scope.values.setdefault(name, value)
            for name, value in values.items():
                scope.values[name] = self._argument(
                    value, types[name], f"{path}.{name}", clock, partial.places.get(name, span)
                )
            value = interpreter.body(function.decl.body, scope)
        if not isinstance(value, int | float) and not (
            isinstance(value, Tensor) and not value.rank
        ):
            raise CompileError(
                f"the schedule `{function.name}` gives no number",
                span,
                expected="a scalar for every step",
                found=describe(value),
            )
        if isinstance(value, Tensor):
            self._refuse_metrics(value, function.name, span)
        return value

    def _function(self, value: Value, path: str, clock: Clock) -> Builtin:
        """`inner(step, steps)`: a schedule's value at a step of so many."""

        def call(site: Site, step: Value, steps: Value = None) -> Value:
            time = site.interpreter.tensor(step, self.registry.float_type, site.span)
            total = clock.steps if steps is None else as_dim(steps)
            if time.rank or not (total is None or isinstance(total, int)):
                raise site.wrong(
                    "takes a step, and how many steps there are",
                    expected="a scalar and a whole number",
                    found=f"{describe(step)} and {describe(steps)}",
                )
            then = Clock(b.cast(time.node, self.registry.float_type), total, clock.steps_per_epoch)
            inner = Partial(value, {}) if isinstance(value, Closure) else value
            if isinstance(inner, Partial):
                return self.number(inner, path, then, site.span)
            return inner

        return Builtin(path.rpartition(".")[2], ("step", "steps="), call)

    def _metric(self, metric: Metric, span: Span) -> Tensor:
        """A metric of an epoch: an input of `epoch_end`."""
        known = self.registry.metrics
        if known is not None and metric.name not in known:
            raise CompileError(
                f"there is no metric `{metric.name}`",
                span,
                expected=one_of(known),
                hint=did_you_mean(metric.name, known),
            )
        name = f"{metric.split}.{metric.name}"
        node = self.measured.setdefault(name, b.input_(name, TensorType(F64)))
        return unlabelled(b.cast(node, self.registry.float_type))

    def _epoch_end(self, block: s.Block, scope: Scope) -> None:
        """Run a `when epoch_end` block over the states as an epoch leaves them."""
        interpreter = self.interpreter
        places = [(n, scope.holder(n), self.registry.inputs[q]) for n, q in scope.states.items()]
        held = [(holder, n, holder.values[n]) for n, holder, _ in places if holder is not None]
        updates, current = interpreter.updates, interpreter.current
        interpreter.updates, interpreter.current = {}, {}
        for name, holder, node in places:
            if holder is not None:
                holder.values[name] = Tensor(node, holder.values[name].axes)
        interpreter.body(block, Scope(scope.module, parent=scope))
        self.epoch_updates |= interpreter.updates
        interpreter.updates, interpreter.current = updates, current
        for holder, name, value in held:
            holder.values[name] = value

    def _refuse_metrics(self, value: Tensor, name: str, span: Span) -> None:
        metrics = set(self.measured.values())
        for node in topological([value.node]):
            if node in metrics:
                raise CompileError(
                    f"the schedule `{name}` needs `{node.name}` in every step",
                    span,
                    expected="a metric in `when epoch_end { ... }` alone, where it is known",
                )


def frame(path: str, function: Closure, span: Span) -> Frame:
    """Where the states of an optimiser or schedule live."""
    decl = s.ModelDecl(path, s.Name(path, span=span), span=span, name_span=span)
    return Frame(Model(path, function, {}, decl), path, f"train.{path}")
