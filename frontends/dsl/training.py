"""The `train` block: settings, objectives in order, metrics, and what evaluation and `predict` see.

A `let` is a definition: it is evaluated when it is first used, once for all that uses it, and anew
when a `minimize` has changed parameters that it depends on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Note, Span, did_you_mean, one_of
from weft.compiler.gradient import flowing
from weft.compiler.graph import Node, topological
from weft.compiler.program import EarlyStop, Experiment, Forward, Objective, Optimizer, Settings
from weft.compiler.types import BF16, F16, F32, F64, DType, TensorType, symbol
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.composite import Composites
from weft.frontends.dsl.copies import follow
from weft.frontends.dsl.data import SPLITS, field_tensor
from weft.frontends.dsl.diagnostics import UnknownName, unknown_argument
from weft.frontends.dsl.elsewhere import SETTINGS, TYPES, elsewhere
from weft.frontends.dsl.interpreter import Interpreter, Lazy
from weft.frontends.dsl.modules import Module, Scope
from weft.frontends.dsl.optimizers import optimizer
from weft.frontends.dsl.registry import BATCH, SEED, STEP, Registry
from weft.frontends.dsl.rules import Rule
from weft.frontends.dsl.values import (
    Axis,
    Batches,
    Builtin,
    Closure,
    Label,
    Metric,
    Model,
    Part,
    Quantity,
    Splits,
    Tensor,
    Value,
    describe,
    is_number,
    shape_text,
    unlabelled,
)

KEYS = (
    "data", "metrics", "clip", "constrain", "epochs", "steps", "stop", "seed", "precision",
    "loss_scale", "average", "predict",
)  # fmt: skip


@dataclass(frozen=True)
class Precision:
    """What a `precision` stands for: floats of states, and of models where those are narrower.

    `factors`: what products of models may round their factors to.
    """

    states: DType
    models: DType | None = None
    factors: str | None = None


PRECISIONS: dict[str, Precision] = {
    "f32": Precision(F32),
    "f64": Precision(F64),
    "bf16": Precision(F32, BF16),
    "f16": Precision(F32, F16),
    "tf32": Precision(F32, factors="tf32"),
}
DEFAULT_EPOCHS = 10


@dataclass(eq=False)
class Train:
    """A `train` block being elaborated."""

    decl: s.TrainDecl
    module: Module
    registry: Registry
    resolve: Callable[[Interpreter, Module, s.Declaration, str], Value]
    name: str
    overrides: Mapping[str, Value]

    def __post_init__(self) -> None:
        self.keys: dict[str, s.Setting] = {}
        for statement in self.decl.statements:
            if isinstance(statement, s.Setting):
                self._setting(statement)
        self.objectives = [st for st in self.decl.statements if isinstance(st, s.Minimize)]
        if not self.objectives:
            raise CompileError(
                "`train` minimises nothing",
                _keyword(self.decl),
                expected="a line such as `minimize cross_entropy(net(x), y) with adam(1e-3)`",
            )

    def _setting(self, setting: s.Setting) -> None:
        if setting.key not in KEYS:
            raise CompileError(
                f"`train` has no setting `{setting.key}`",
                setting.key_span,
                expected=one_of(KEYS),
                hint=elsewhere(setting.key, SETTINGS)
                or did_you_mean(setting.key, KEYS)
                or f"name a value with `let {setting.key} = ...`",
            )
        if setting.key in self.keys:
            raise CompileError(
                f"`{setting.key}` is set twice",
                setting.key_span,
                notes=[Note("first set here", self.keys[setting.key].key_span)],
            )
        self.keys[setting.key] = setting

    # -- settings ---------------------------------------------------------------------------------

    def static(self, key: str, default: Value = None) -> Value:
        """A setting's value where it needs no tensors: from the command line, or as written."""
        if key in self.overrides:
            return self.overrides[key]
        if key not in self.keys:
            return default
        interpreter = Interpreter(self.registry, BUILTINS, resolve=self.resolve)
        return interpreter.evaluate(self.keys[key].value, Scope(self.module))

    def metric_names(self) -> list[str]:
        setting = self.keys.get("metrics")
        record = setting.value if setting is not None else None
        return [e.name for e in record.entries] if isinstance(record, s.Record) else []

    def _place(self, key: str) -> Span | None:
        if key in self.overrides:
            return None  # What is wrong is not what the spec says.
        return self.keys[key].value.span if key in self.keys else _keyword(self.decl)

    def whole(self, key: str, default: int, smallest: int) -> int:
        value = self.static(key, default)
        if isinstance(value, Quantity) and value.unit in (key, key.rstrip("s")):
            value = value.value
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            other = value.unit if isinstance(value, Quantity) else ""
            raise CompileError(
                f"`{key}` is a whole number, at least {smallest}",
                self._place(key),
                found=describe(value),
                hint=f"write `{other} = {value.value}`" if other in ("epochs", "steps") else None,
            )
        return value

    def precision(self) -> Precision:
        if "precision" not in self.keys and "precision" not in self.overrides:
            return PRECISIONS["f32"]
        try:
            value = self.static("precision")
        except UnknownName as error:
            raise _no_precision(error.diagnostic.span, f"`{error.name}`", error.name) from None
        text = value.name if isinstance(value, DType) else value
        if isinstance(text, str) and text in PRECISIONS:
            return PRECISIONS[text]
        text = value if isinstance(value, str) else ""
        raise _no_precision(self._place("precision"), describe(value), text)

    def loss_scale(self, precision: Precision) -> float:
        """What losses are multiplied by while gradients go back through a model of f16."""
        value = self.static("loss_scale", 1.0)
        if not is_number(value) or not 0 < value < math.inf:
            raise CompileError(
                "`loss_scale` is a number above 0",
                self._place("loss_scale"),
                expected="a power of two, such as `1024`",
                found=describe(value),
            )
        if "loss_scale" in self.keys and precision.models != F16:
            raise CompileError(
                "only gradients in f16 are so small that they need a `loss_scale`",
                self.keys["loss_scale"].key_span,
                expected="`precision = f16`",
                hint="leave it out: bf16 reaches as far down as f32",
            )
        return float(value)

    def batches(self) -> Batches:
        if "data" not in self.keys:
            raise CompileError(
                "`train` says nothing about its data",
                _keyword(self.decl),
                expected="a line such as `data = digits.batch(64, shuffle = true)`",
            )
        value = self.static("data")
        if not isinstance(value, Batches):
            raise CompileError(
                "`data` is batches of a data set",
                self._place("data"),
                expected="such as `digits.batch(64)`",
                found=describe(value),
            )
        return value

    def settings(self, batches: Batches) -> Settings:
        """Counts of steps and epochs; also tells the registry, for schedules and durations."""
        size = batches.dataset.examples["train"]
        if batches.drop_last and batches.size > size:
            raise CompileError(
                "there is no whole batch",
                self._place("data"),
                expected=f"a batch of at most {size}, the number of training examples",
                found=f"a batch of {batches.size}",
            )
        per_epoch = size // batches.size if batches.drop_last else -(-size // batches.size)
        if "epochs" in self.keys and "steps" in self.keys:
            raise CompileError(
                "`epochs` and `steps` both say how long to train",
                self.keys["steps"].key_span,
                hint="leave one of them out",
                notes=[Note("here are the epochs", self.keys["epochs"].key_span)],
            )
        if "epochs" in self.overrides and "steps" in self.overrides:
            raise CompileError(
                "`epochs` and `steps` both say how long to train",
                found=f"{self.overrides['epochs']} epochs and {self.overrides['steps']} steps",
                hint="set one of them",
            )
        by_steps = "steps" in self.overrides or (
            "steps" in self.keys and "epochs" not in self.overrides
        )
        steps = (
            self.whole("steps", 0, 1)
            if by_steps
            else self.whole("epochs", DEFAULT_EPOCHS, 1) * per_epoch
        )
        seed = self.whole("seed", 0, 0)
        if seed >= 2**64:
            raise CompileError("`seed` has 64 bits", self._place("seed"), found=str(seed))
        self.registry.steps, self.registry.steps_per_epoch = steps, per_epoch
        return Settings(
            min(batches.size, size) if not batches.drop_last else batches.size,
            batches.shuffle,
            batches.drop_last,
            steps,
            per_epoch,
            seed,
        )

    # -- passes -----------------------------------------------------------------------------------

    def experiment(self) -> Experiment:
        precision = self.precision()
        self.registry.float_type = precision.states
        self.registry.narrow_type = precision.models
        self.registry.factors = precision.factors
        self.scale = self.loss_scale(precision)
        batches = self.batches()
        settings = self.settings(batches)
        run = Pass(self, batches, training=True)
        forward = run.forward()
        check = Pass(self, batches, training=False)
        if forward.average is not None:
            for name in run.updated:
                state = self.registry.states[name]
                check.interpreter.current[name] = b.input_(f"average/{name}", state.type)
        losses, metrics = check.evaluation()
        outputs = check.predictions()
        stop = self._stop(batches, (*losses, *metrics))
        self._all_updated(run)
        return Experiment(
            name=self.name,
            data=batches.dataset.spec,
            settings=Settings(**{**vars(settings), "stop": stop}),
            forward=run.with_copies(forward),
            eval_inputs=_inputs(check, [*losses.values(), *metrics.values()]),
            eval_metrics={**losses, **metrics},
            predict_inputs=_inputs(check, list(outputs.values())),
            predict_outputs=outputs,
            warnings=tuple(self.registry.warnings),
        )

    def _all_updated(self, run: Pass) -> None:
        for name, state in self.registry.states.items():
            if state.role == "parameter" and name not in run.updated:
                model = name.split(".")[0]
                raise CompileError(
                    f"no `minimize` updates the parameter `{name}`",
                    state.span,
                    expected="every parameter in the `over` of one `minimize`",
                    hint=f"add `{model}` to an `over`, or leave the model out",
                )

    def _stop(self, batches: Batches, metrics: Sequence[str]) -> EarlyStop | None:
        if "stop" not in self.keys:
            return None
        call = self.keys["stop"].value
        wanted = "such as `early(valid.loss, patience = 5)`"
        if not (
            isinstance(call, s.Call)
            and isinstance(call.function, s.Name)
            and call.function.identifier == "early"
        ):
            raise CompileError("`stop` is a rule for stopping", call.span, expected=wanted)
        for part in (n for n in s.walk(call) if isinstance(n, s.Attribute)):
            owner = part.value.identifier if isinstance(part.value, s.Name) else ""
            if owner in SPLITS and owner not in batches.dataset.examples:
                raise CompileError(
                    f"the data has no part `{owner}`",
                    part.value.span,
                    expected=one_of(batches.dataset.examples),
                    hint=f"divide it in `data`: `split = {{ train: 80%, {owner}: 20% }}`",
                )
        interpreter = Interpreter(self.registry, BUILTINS, resolve=self.resolve)
        names: dict[str, Value] = {p: Splits(p) for p in batches.dataset.examples}
        scope = Scope(self.module, names)
        given: dict[str, tuple[Value, Span]] = {}
        for i, argument in enumerate(call.arguments):
            key = argument.name or ("metric", "patience", "mode")[min(i, 2)]
            if key not in ("metric", "patience", "mode"):
                place = argument.name_span or argument.span
                raise unknown_argument("early", key, ("metric", "patience", "mode"), place)
            given[key] = interpreter.evaluate(argument.value, scope), argument.value.span
        metric, place = given.get("metric", (None, call.span))
        if not isinstance(metric, Metric):
            raise CompileError(
                "`early` watches a metric of a part of the data",
                place,
                expected=wanted,
                found=describe(metric),
            )
        if metric.name not in metrics:
            raise CompileError(
                f"there is no metric `{metric.name}`",
                place,
                expected=one_of(metrics),
                hint=did_you_mean(metric.name, metrics),
            )
        patience, place = given.get("patience", (5, call.span))
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
            raise CompileError(
                "`patience` is a number of epochs, at least 1", place, found=describe(patience)
            )
        mode, place = given.get("mode", (None, call.span))
        if mode is None and not metric.name.startswith("loss"):
            raise CompileError(
                f"`early` can't tell whether a large `{metric.name}` is good",
                given["metric"][1],
                expected='a further argument, `mode = "max"` or `mode = "min"`',
            )
        if mode not in (None, "min", "max"):
            raise CompileError('`mode` is "min" or "max"', place, found=describe(mode))
        return EarlyStop(metric.split, metric.name, patience, mode or "min")


class Pass:
    """One evaluation of the block's statements: for training, or for evaluation."""

    def __init__(self, train: Train, batches: Batches, training: bool) -> None:
        self.train = train
        self.parts = tuple(batches.dataset.examples)
        registry = train.registry
        self.interpreter = Interpreter(registry, BUILTINS, training, train.resolve)
        if training:
            self.interpreter.composites = Composites.STATED
        self.fields = {
            f.name: b.input_(f.name, TensorType(f.type.dtype, (registry.batch_size, *f.type.shape)))
            for f in batches.dataset.spec.fields
        }
        self.values: dict[str, Value] = {}
        self.places: dict[str, Span] = {}  # of the names that `let` defines
        self.updated: dict[str, Objective] = {}
        label = registry.batch_label
        names: dict[str, Value] = {BATCH: Axis(label, registry.batch_size)}
        for field in batches.dataset.spec.fields:
            names[field.name] = field_tensor(field, self.fields[field.name], label)
        self.scope = Scope(train.module, names)
        for statement in train.decl.statements:
            if isinstance(statement, s.Let):
                self._define(statement)
        self.label = label

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

    def forward(self) -> Forward:
        train, interpreter = self.train, self.interpreter
        names = _loss_names(len(train.objectives))
        train.registry.metrics = [*names, *train.metric_names()]
        clip = self._clip()
        objectives: list[Objective] = []
        metrics: dict[str, Node] = {}
        for name, minimize in zip(names, train.objectives, strict=True):
            loss = self._loss(name, minimize)
            if not objectives:
                metrics = self._metrics(names)
            objectives.append(self._objective(name, minimize, loss, clip))
        constrain, average = self._constrain(), self._average()
        inputs = (*train.registry.inputs.values(), *self.fields.values())
        return Forward(
            states=dict(train.registry.states),
            inputs=inputs,
            objectives=tuple(objectives),
            metrics={**{o.name: o.loss for o in objectives}, **metrics},
            updates=dict(interpreter.updates),
            average=average,
            epoch_updates=dict(train.registry.epoch_updates),
            constrain=constrain,
        )

    def with_copies(self, forward: Forward) -> Forward:
        """The same with models that follow others, which evaluation may be the first to call."""
        registry = self.train.registry
        follow(self.interpreter, registry.copies)
        return replace(
            forward,
            states=dict(registry.states),
            inputs=(*registry.inputs.values(), *self.fields.values()),
            updates=dict(self.interpreter.updates),
        )

    def evaluation(self) -> tuple[dict[str, Node], dict[str, Node]]:
        names = _loss_names(len(self.train.objectives))
        losses = {
            name: self._loss(name, minimize).node
            for name, minimize in zip(names, self.train.objectives, strict=True)
        }
        return losses, self._metrics(names)

    def _loss(self, name: str, minimize: s.Minimize) -> Tensor:
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

    def _metrics(self, taken: Sequence[str]) -> dict[str, Node]:
        setting = self.train.keys.get("metrics")
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
            if entry.name in taken:
                raise CompileError(
                    f"the metric `{entry.name}` has the name of the objective",
                    entry.name_span,
                    hint=f"choose another name: `{entry.name}` is reported anyway",
                )
            with self.statement(f"metrics.{entry.name}"):
                value = self.interpreter.evaluate(entry.value, self.scope)
                place = entry.value.span
                tensor = self.interpreter.tensor(value, self.train.registry.float_type, place)
            if tensor.rank:
                raise CompileError(
                    f"the metric `{entry.name}` is one number",
                    place,
                    found=shape_text(tensor),
                    hint="average it with `mean(...)`",
                )
            found[entry.name] = b.cast(tensor.node, self.train.registry.float_type)
        return found

    def _objective(
        self, name: str, minimize: s.Minimize, loss: Tensor, clip: Callable[[Node], Node] | None
    ) -> Objective:
        interpreter, registry = self.interpreter, self.train.registry
        reached = flowing([loss.node])
        current = {
            n: interpreter.read(n) for n, st in registry.states.items() if st.role == "parameter"
        }
        groups = self._groups(minimize, loss, current, reached)
        chosen = [n for group in groups for n in group]
        if not chosen:
            stopped = any(n in current.values() for n in topological([loss.node]))
            raise CompileError(
                "the objective depends on no parameter"
                if not stopped
                else "no gradient of the objective reaches a parameter",
                minimize.objective.span,
                expected="an objective that calls a model"
                if not stopped
                else "an objective that changes smoothly with the parameters",
                hint=_STEPWISE if stopped else None,
            )
        for n in chosen:
            if n in self.updated:
                first = self.updated[n].span
                raise CompileError(
                    f"two `minimize` statements update `{n}`",
                    minimize.span,
                    expected="each parameter in one `minimize`",
                    hint=f"say which: `minimize ... over {n.split('.')[0]} with ...`",
                    notes=[Note("the first one", first)],
                )
        # Metrics of the parts of the data, such as `valid.loss`, can be watched by a schedule.
        parts: dict[str, Value] = {p: Splits(p) for p in self.parts}
        scope = Scope(self.train.module, parts, self.scope)
        optimizers: dict[str, Optimizer] = {}
        for move, group in zip(minimize.moves, groups, strict=True):
            value = interpreter.evaluate(move.optimizer, scope)
            types = [current[n].type for n in group]
            rule = optimizer(value, interpreter, move.optimizer.span, types)
            optimizers |= dict.fromkeys(group, rule)
        before = {n: current[n] for n in current if n in optimizers}
        after = {n: b.input_(f"{n}@{name}", current[n].type) for n in before}
        scale = self.train.scale
        objective = Objective(
            name, loss.node, before, after, optimizers, clip, minimize.span, scale
        )
        self.updated |= dict.fromkeys(chosen, objective)
        interpreter.current.update(after)
        self._forget(before)
        return objective

    def _groups(
        self,
        minimize: s.Minimize,
        loss: Tensor,
        current: Mapping[str, Node],
        reached: Collection[Node],
    ) -> list[list[str]]:
        """The parameters of each `over ... with`; a `with` alone takes those that are left."""
        named = [
            None if move.over is None else list(dict.fromkeys(self._over(move.over, current)))
            for move in minimize.moves
        ]
        taken: set[str] = set()
        for move, group in zip(minimize.moves, named, strict=True):
            for n in group or ():
                if n in taken:
                    raise CompileError(
                        f"two groups of this `minimize` have `{n}`",
                        move.span,
                        expected="each parameter after one `over`",
                        hint="a last `with` that has no `over` takes all that are left",
                    )
                if current[n] not in reached:
                    raise _independent(n, minimize, current[n] in topological([loss.node]))
                taken.add(n)
        for move in [m for m in minimize.moves if m.over is None][1:]:
            raise CompileError(
                "only one `with` can take what is left",
                move.span,
                expected="`over ... with ...` for each of the other groups",
            )
        rest = [n for n, node in current.items() if node in reached and n not in taken]
        return [rest if group is None else group for group in named]

    def _over(self, over: Sequence[s.Expression], current: Mapping[str, Node]) -> Iterator[str]:
        for expression in over:
            value = self.interpreter.evaluate(expression, self.scope)
            if isinstance(value, Model | Part):
                model = value if isinstance(value, Model) else value.model
                if model.follows is not None:
                    raise CompileError(
                        f"`{model.name}` is a copy, which isn't trained",
                        expression.span,
                        hint=f"train what it follows: `over {model.follows.model.name}`",
                    )
                if isinstance(value, Model) and not value.states:
                    raise CompileError(
                        f"the objective does not call the model `{value.name}`",
                        expression.span,
                        expected="a model whose parameters act on the objective",
                    )
                yield from self._names(
                    self.interpreter.attribute(value, "parameters", expression.span),
                    current,
                    expression,
                )
            else:
                yield from self._names(value, current, expression)

    def _names(
        self, value: Value, current: Mapping[str, Node], expression: s.Expression
    ) -> Iterator[str]:
        tensors = value if isinstance(value, list | tuple) else [value]
        for tensor in tensors:
            name = next(
                (
                    n
                    for n, node in current.items()
                    if isinstance(tensor, Tensor) and node is tensor.node
                ),
                None,
            )
            if name is None:
                raise CompileError(
                    "`over` takes models and parameters",
                    expression.span,
                    expected="such as `over net` or `over net.weights`",
                    found=describe(tensor),
                    hint="a layer has no parameters of its own: name the `model`"
                    if isinstance(tensor, Closure) and tensor.kind == "layer"
                    else None,
                )
            yield name

    def _forget(self, before: Mapping[str, Node]) -> None:
        """Drop cached values that depend on parameters as they were before."""
        old = set(before.values())
        for key, value in list(self.values.items()):
            nodes = [v.node for v in _flat(value) if isinstance(v, Tensor)]
            if any(n in old for n in topological(nodes)):
                del self.values[key]
        memo = self.interpreter.memo
        for call, (_, result) in list(memo.items()):
            nodes = [v.node for v in _flat(result) if isinstance(v, Tensor)]
            if any(n in old for n in topological(nodes)):
                del memo[call]

    def _clip(self) -> Callable[[Node], Node] | None:
        rule = self._rule("clip", "such as `global_norm(1.0)`")
        if rule is None:
            return None

        def clip(gradient: Node) -> Node:
            return rule(self.interpreter, unlabelled(gradient))

        clip(b.input_("grad", _probe(self.train.registry)))
        return clip

    def _constrain(self) -> Callable[[Node], Node] | None:
        rule = self._rule("constrain", "such as `max_norm(3)`")
        if rule is None:
            return None

        def constrain(theta: Node) -> Node:
            labels = tuple(Label(f"axis{i}") for i in range(theta.type.rank))
            return rule(self.interpreter, Tensor(theta, labels))

        for shape in ((16,), (4, 4)):
            constrain(b.input_("theta", TensorType(self.train.registry.float_type, shape)))
        return constrain

    def _average(self) -> Callable[[Node, Node], Node] | None:
        rule = self._rule("average", "such as `ema(0.999)`")
        if rule is None:
            return None

        def average(old: Node, theta: Node) -> Node:
            return rule(self.interpreter, unlabelled(old), unlabelled(theta))

        probe = _probe(self.train.registry)
        average(b.input_("average", probe), b.input_("theta", probe))
        return average

    def _rule(self, key: str, example: str) -> Rule | None:
        """A setting that names a function and its further arguments."""
        setting = self.train.keys.get(key)
        if setting is None:
            return None
        return Rule.of(self.interpreter, key, setting.value, self.scope, example)

    def predictions(self) -> dict[str, Node]:
        """The outputs of `predict`: the setting, or what the first model makes of the data."""
        setting = self.train.keys.get("predict")
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


def _flat(value: Value) -> Iterator[Value]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value


_STEPWISE = "comparisons, `arg_max`, whole numbers and `stop_gradient` pass no gradient on"


def _independent(name: str, minimize: s.Minimize, acts: bool) -> CompileError:
    """The error for a parameter after `over` that the objective's gradient doesn't reach."""
    if acts:
        return CompileError(
            f"no gradient of the objective reaches `{name}`",
            minimize.objective.span,
            expected="an objective that changes smoothly with every parameter after `over`",
            hint=_STEPWISE,
        )
    return CompileError(
        f"the objective doesn't depend on `{name}`",
        minimize.objective.span,
        expected="an objective that every parameter after `over` acts on",
        hint=f"does it call `{name.split('.', maxsplit=1)[0]}`?",
    )


def _no_precision(span: Span | None, found: str, name: str) -> CompileError:
    other = elsewhere(name, TYPES)
    return CompileError(
        "`precision` is a floating type",
        span,
        expected=one_of(PRECISIONS),
        found=found,
        hint=f"here it is called `{other}`" if other in PRECISIONS else None,
    )


def _probe(registry: Registry) -> TensorType:
    """A type that a rule must take: that of all parameters laid end to end."""
    return TensorType(registry.float_type, (symbol("parameters"),))


def _loss_names(count: int) -> list[str]:
    return ["loss"] if count == 1 else [f"loss_{i + 1}" for i in range(count)]


def _inputs(run: Pass, outputs: Sequence[Node]) -> tuple[Node, ...]:
    """The input nodes that the outputs need: states first, then fields, in their order."""
    reached = [n for n in topological(outputs) if n.op.name == "input"]
    order = {n: i for i, n in enumerate([SEED, STEP, *run.train.registry.states])}
    fields = {node: i for i, node in enumerate(run.fields.values())}

    def rank(node: Node) -> tuple[int, int]:
        if node in fields:
            return 1, fields[node]
        return 0, order.get(node.name.removeprefix("average/"), -1)

    return tuple(sorted(reached, key=rank))


def _keyword(decl: s.TrainDecl) -> Span:
    return Span(decl.span.source, decl.span.start, decl.span.start + len("train"))
