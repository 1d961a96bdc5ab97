"""What a spec compiles to: a few graphs over one state, and the settings of the run.

    forward  --inline, differentiate, update-->  train_step       state, batch -> state, metrics
    init         seed -> state                                    (once)
    eval_step    state, batch -> metrics                          (valid and test splits)
    predict      state, inputs -> outputs                         (and ONNX)
    epoch_end    state, other metrics -> state, metrics           (means of the epoch; resets)

`Experiment` is what a front end states; `Program` is what the compiler makes of it. Both are plain
data over graphs: nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from weft.compiler.composites import bodies
from weft.compiler.errors import Diagnostic, Span
from weft.compiler.graph import Graph, Node
from weft.compiler.types import DType, TensorType


@dataclass(frozen=True)
class State:
    """A tensor that lives from step to step.

    `role`: `parameter`, `slot` (of an optimiser), `buffer` (a layer's or schedule's `state`),
    `average` (of a parameter, or what a copy has of it), `metric` (a running sum), `counter` (the
    step) or `seed`. `init` builds the initial value; it may read the `seed` input and, for slots
    and averages, other states' initial values.
    """

    name: str
    type: TensorType
    role: str
    init: Node
    span: Span | None = None
    owner: str | None = None  # the parameter a slot or an average belongs to


@dataclass(frozen=True)
class Exchange:
    """What an update of one parameter asks of all parameters before it goes on.

    `sent` is an output of the update's graph, `received` an input, by the kind:
    `together`: a tensor of each parameter -> all of them as one vector of `PARAMETERS` elements;
    `gradient`: a point for each parameter -> the gradient of the objective by this one, there;
    `hessian`: a direction for each parameter -> this one's part of the Hessian times all of them.
    """

    kind: str
    sent: str
    received: str


PARAMETERS = "parameters"
"""The symbol for the number of elements that come `together`."""


@dataclass(frozen=True)
class Update:
    """An optimiser's equations for one type of parameter.

    `graph` reads `theta`, `grad`, the slots, and by their names states such as `step`; its outputs
    `theta` and the slots are the new values. A slot has a type of its own. `initial` builds a
    slot's first value; it may read the input `theta`, which stands for the parameter's own initial
    value. `exchanges` come in their order: what one sends may depend on what those before received.
    """

    graph: Graph
    initial: Mapping[str, Node]
    exchanges: tuple[Exchange, ...] = ()


@dataclass(frozen=True, eq=False)
class Optimizer:
    """An update rule, made for a parameter's type."""

    name: str
    rule: Callable[[TensorType], Update]
    span: Span | None = None


@dataclass(frozen=True)
class Objective:
    """One `minimize`: its scalar loss, the parameters it moves, and how.

    `before` are the nodes that this loss sees as the parameters; `after` are placeholders that
    stand for the updated parameters in what comes later in the step. `optimizers` says for each
    parameter what moves it: one for all, or one for each group. Gradients are those of the loss
    times `scale`, divided by it again where they arrive.
    """

    name: str
    loss: Node
    before: Mapping[str, Node]
    after: Mapping[str, Node]
    optimizers: Mapping[str, Optimizer]
    clip: Callable[[Node], Node] | None = None
    span: Span | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Forward:
    """The training step before differentiation: objectives in order, metrics, state updates.

    `updates` maps a state's name to its new value as the forward pass leaves it; `epoch_updates`,
    to its new value at the end of an epoch, which may read inputs such as `valid.loss`. `constrain`
    moves each parameter, after its update, to where it may be.
    """

    states: Mapping[str, State]
    inputs: tuple[Node, ...]
    objectives: tuple[Objective, ...]
    metrics: Mapping[str, Node]
    updates: Mapping[str, Node]
    average: Callable[[Node, Node], Node] | None = None
    constrain: Callable[[Node], Node] | None = None
    epoch_updates: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Field:
    """A field of the data: the type of one example, and the number of classes of a label."""

    name: str
    type: TensorType
    classes: int | None = None
    span: Span | None = None


@dataclass(frozen=True)
class DataSpec:
    """A `data` block: where examples come from, what prepares them, how they are split.

    `source` is None where the columns come from outside; the split then has numbers of examples.
    `classes` has the names of the classes of those columns that hold class numbers.
    """

    name: str
    source: str | None
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    fields: tuple[Field, ...]
    prepare: Graph  # columns, with a leading axis `batch`, to fields
    split: Mapping[str, float | int]
    span: Span | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, TensorType]:
        """What `prepare` reads: the types of one example."""
        return {n.name: n.type.with_shape(n.type.shape[1:]) for n in self.prepare.inputs}


@dataclass(frozen=True)
class EarlyStop:
    """Stop when `metric` of `split` hasn't improved for `patience` epochs."""

    split: str
    metric: str
    patience: int
    mode: str = "min"


@dataclass(frozen=True)
class Settings:
    """How long and how to train. `steps` counts updates in all."""

    batch: int
    shuffle: bool
    drop_last: bool
    steps: int
    steps_per_epoch: int
    seed: int
    stop: EarlyStop | None = None


@dataclass(frozen=True)
class Experiment:
    """What a front end says: all that the compiler and the runtime need to know of a spec."""

    name: str
    data: DataSpec | None
    settings: Settings
    forward: Forward
    eval_inputs: tuple[Node, ...]
    eval_metrics: Mapping[str, Node]
    predict_inputs: tuple[Node, ...]
    predict_outputs: Mapping[str, Node]
    warnings: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True)
class Program:
    """The graphs of an experiment over one state, typed, with a symbolic dimension `batch`."""

    name: str
    states: Mapping[str, State]
    init: Graph
    train_step: Graph
    eval_step: Graph
    predict: Graph
    epoch_end: Graph
    metrics: tuple[str, ...]  # outputs of `train_step`, `eval_step` and `epoch_end`
    groups: tuple[tuple[str, ...], ...]  # states laid end to end, because they are updated together

    @cached_property
    def types(self) -> frozenset[DType]:
        """The element types that it computes with."""
        graphs = (self.init, self.train_step, self.eval_step, self.predict, self.epoch_end)
        parts = [part for graph in graphs for part in (graph, *bodies(graph))]
        return frozenset(node.type.dtype for part in parts for node in part.nodes)
