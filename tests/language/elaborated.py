"""Runs pieces of Weft source on arrays: values, gradients, states, schedules, updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Source, Span
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import vjp
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.types import F64, Dim, DType, TensorType, dtype_of, symbol
from weft.compiler.verify import verify
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.arguments import Given
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.elaborate import Declarations
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Module, Scope, load_module
from weft.frontends.dsl.optimizers import optimizer
from weft.frontends.dsl.parser import parse_expression
from weft.frontends.dsl.registry import Registry
from weft.frontends.dsl.schedules import Schedules
from weft.frontends.dsl.values import Closure, Tensor, Value

Array = np.ndarray
SEED = np.array([7, 0], np.uint32)
STEP = np.int64(3)


@dataclass
class Elaborated:
    """One call of the `fn` named f of a source: its results, and what they read and update."""

    interpreter: Interpreter
    arguments: list[Node]
    arrays: list[Array]
    results: list[Tensor]

    @property
    def initial(self) -> dict[str, Array]:
        """Every state's value before the first step."""
        states = self.interpreter.registry.states
        found = {"seed": SEED, "step": STEP}
        for name, state in states.items():
            if name not in found:
                found[name] = run([state.init], {"seed": SEED})[0]
        return found

    def _inputs(self, states: Mapping[str, Array] | None) -> dict[str, Array]:
        named = {n.name: a for n, a in zip(self.arguments, self.arrays, strict=True)}
        return {**self.initial, **(states or {}), **named}

    def values(self, states: Mapping[str, Array] | None = None) -> list[Array]:
        return run([t.node for t in self.results], self._inputs(states))

    def updates(self, states: Mapping[str, Array] | None = None) -> dict[str, Array]:
        updates = self.interpreter.updates
        return dict(zip(updates, run(list(updates.values()), self._inputs(states)), strict=True))

    def gradients(
        self, *wrt: str, weights: Array | None = None, states: Mapping[str, Array] | None = None
    ) -> list[Array]:
        """Of `sum(weights * result)` by arguments or states; by all float arguments at first."""
        result = self.results[0].node
        ct = b.input_("ct", result.type)
        inputs = {n.name: n for n in self.arguments} | self.interpreter.registry.inputs
        names = wrt or [n.name for n in self.arguments if n.type.dtype.kind == "float"]
        nodes = vjp([result], [ct], [inputs[name] for name in names])
        given = cotangent(self.values(states)[0].shape) if weights is None else weights
        return run(nodes, {**self._inputs(states), "ct": given.astype(result.type.dtype.numpy)})


def cotangent(shape: tuple[int, ...]) -> Array:
    """Weights of the elements of a result, all different, so that no gradient can hide."""
    size = int(np.prod(shape, dtype=int))
    return (0.5 + np.arange(size) * 0.37 % 1.1).reshape(shape)


def run(nodes: list[Node], inputs: Mapping[str, Array]) -> list[Array]:
    free = [n for n in topological(nodes) if n.op.name == "input"]
    graph = Graph("test", tuple(free), tuple(nodes), tuple(f"out{i}" for i in range(len(nodes))))
    verify(graph)
    return list(evaluate(graph, {n.name: inputs[n.name] for n in free}).values())


def load(text: str, float_type: DType = F64, training: bool = True) -> tuple[Module, Interpreter]:
    module, _ = load_module(Source("test.weft", text), None)
    registry = Registry(float_type=float_type, steps=100, steps_per_epoch=10)
    interpreter = Interpreter(registry, BUILTINS, training=training, resolve=Declarations())
    interpreter.statement = "f"
    return module, interpreter


def elaborate(
    text: str,
    *arrays: object,
    training: bool = True,
    float_type: DType = F64,
    classes: Mapping[int, int] | None = None,
    symbolic: bool = False,
) -> Elaborated:
    """Call `f` of the source.

    `classes` makes labels of the arguments at these positions; `symbolic` leaves the size of every
    first axis open, as it is while a spec is compiled, and gives that axis a name.
    """
    module, interpreter = load(text, float_type, training)
    place = Span(module.source, 0, 0)
    function = interpreter.lookup("f", Scope(module), place)
    assert isinstance(function, Closure)
    names = [p.name for p in function.decl.parameters or ()]
    made = [np.asarray(a) for a in arrays]
    batch = interpreter.registry.batch_label
    nodes, tensors = [], []
    for position, (name, array) in enumerate(zip(names, made, strict=False)):
        shape, axes = tuple[Dim, ...](array.shape), [None] * array.ndim
        if symbolic and shape:
            shape, axes = (symbol("batch"), *shape[1:]), [batch, *axes[1:]]
        nodes.append(b.input_(name, TensorType(dtype_of(array), shape)))
        tensors.append(Tensor(nodes[-1], tuple(axes), (classes or {}).get(position)))
    given = [Given(None, t, place) for t in tensors]
    result = interpreter.call(function, given, place)
    parts = list(result) if isinstance(result, list | tuple) else [result]
    results = [interpreter.tensor(part, float_type, place) for part in parts]
    return Elaborated(interpreter, nodes, made, results)


def value(text: str, *arrays: object, **options: object) -> Array:
    """The one result of `f`."""
    (found,) = elaborate(text, *arrays, **options).values()  # type: ignore[arg-type]
    return found


def check(text: str, *arrays: object, expected: object) -> None:
    np.testing.assert_allclose(value(text, *arrays), expected, rtol=1e-12)


def refuses(text: str, *arrays: object, **options: object) -> str:
    """The error that elaborating gives, which must have a place in the source."""
    with pytest.raises(CompileError) as caught:
        elaborate(text, *arrays, **options)  # type: ignore[arg-type]
    assert caught.value.diagnostic.span is not None
    return str(caught.value)


def expression(text: str, module: Module, interpreter: Interpreter) -> tuple[Value, Span]:
    tree: s.Expression = parse_expression(Source("test.weft", text))
    return interpreter.evaluate(tree, Scope(module)), tree.span


def schedule(text: str, step: int, declarations: str = "") -> float:
    """A schedule's value at a step, of 100 in all and 10 an epoch."""
    module, interpreter = load(declarations)
    found, place = expression(text, module, interpreter)
    found = Schedules(interpreter.registry, interpreter, "rate").argument(found, None, "lr", place)
    scalar = interpreter.tensor(found, F64, Span(module.source, 0, 0))
    return float(run([scalar.node], {"step": np.int64(step)})[0])


def descend(text: str, theta: Array, gradients: list[Array], declarations: str = "") -> list[Array]:
    """The parameter after each update of an optimiser, for gradients given in advance."""
    module, interpreter = load(declarations)
    found, place = expression(text, module, interpreter)
    rule = optimizer(found, interpreter, place)
    update = rule.rule(TensorType(F64, theta.shape))
    names = ["theta", *update.initial]
    state = {"theta": theta}
    state |= dict(zip(update.initial, run(list(update.initial.values()), state), strict=True))
    path = []
    for step, gradient in enumerate(gradients):
        inputs = {**state, "grad": gradient, "step": np.int64(step), "seed": SEED}
        outputs = run([update.graph.named_outputs[name] for name in names], inputs)
        state = dict(zip(names, outputs, strict=True))
        path.append(state["theta"])
    return path


def draw(init: str, shape: tuple[int, ...], declarations: str = "") -> Array:
    """The first value of a parameter of this shape."""
    sizes = ", ".join(map(str, shape))
    text = f"""{declarations}
layer drawn(x) {{
  param w: float[{sizes}] ~ {init}
  w
}}
model net = drawn()
fn f(x) = net(x)
"""
    return elaborate(text, np.zeros(1)).initial["net.w"]


def fixture(name: str, part: str, file: str = "library") -> dict[str, Array]:
    """The arrays `NAME/PART/*` that fixtures/make_FILE.py has stored."""
    head = f"{name}/{part}/"
    return {k.removeprefix(head): a for k, a in _fixtures(file).items() if k.startswith(head)}


def fixture_result(name: str, file: str = "library") -> Array:
    return _fixtures(file)[f"{name}/out"]


def fixture_names(file: str = "library") -> set[str]:
    return {key.split("/")[0] for key in _fixtures(file)}


@cache
def _fixtures(file: str) -> dict[str, Array]:
    with np.load(Path(__file__).parents[1] / "fixtures" / f"{file}.npz") as stored:
        return dict(stored)
