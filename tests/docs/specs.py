"""What a documented spec means: its values, its states and one step of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weft.backends.numpy.backend import BACKEND
from weft.compiler.errors import Source, Span
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.philox import seed_words
from weft.compiler.program import Experiment
from weft.compiler.types import dtype_of, static_shape
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.elaborate import Declarations
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Scope, load_module
from weft.frontends.dsl.registry import Registry
from weft.frontends.dsl.values import Axis, Tensor, shape_text
from weft.runtime.loading import load_spec
from weft.runtime.provider import Opener
from weft.runtime.session import Session


def facts(text: str, folder: Path, names: list[str]) -> dict[str, str]:
    """`name = value` and `name: type` lines for what a spec declares, builds and computes.

    Without `train`: its constants. With it: losses and metrics of the first step, all states.
    """
    source = Source("spec.weft", text)
    module, unnamed = load_module(source, folder)
    if any(isinstance(d, s.TrainDecl) for d in unnamed):
        return _trained(source, folder)
    registry = Registry(steps=100, steps_per_epoch=10)
    interpreter = Interpreter(registry, BUILTINS, resolve=Declarations(provider=Opener(folder)))
    interpreter.statement = "let"
    found = {}
    wanted = [n for n, d in module.declarations.items() if isinstance(d, s.LetDecl | s.ModelDecl)]
    wanted += [n for n, d in module.declarations.items() if isinstance(d, s.DataDecl)]
    for name in dict.fromkeys((*wanted, *names)):
        value = interpreter.lookup(name, Scope(module), Span(source, 0, 0))
        found |= _fact(name, value, registry)
    for name, state in registry.states.items():
        found[f"{name}:"] = f"{name}: {state.type}"
    return found


def _fact(name: str, value: Any, registry: Registry) -> dict[str, str]:
    if not isinstance(value, Tensor):
        return {name: f"{name} = {spelled(value)}"}
    array = _run(value.node, registry)
    return {name: f"{name} = {spelled(array)}", f"{name}:": f"{name}: {shape_text(value)}"}


def _run(node: Node, registry: Registry) -> np.ndarray:
    """A tensor's value at step 0 with seed 0, states being as they start."""
    values: dict[str, np.ndarray] = {"seed": seed_words(0), "step": np.int64(0)}
    for name, state in registry.states.items():
        if name not in values:
            values[name] = _evaluate(state.init, values)
    return _evaluate(node, values)


def _evaluate(node: Node, values: Mapping[str, np.ndarray]) -> np.ndarray:
    free = tuple(n for n in topological([node]) if n.op.name == "input")
    graph = Graph("value", free, (node,), ("value",))
    return evaluate(graph, {n.name: values[n.name] for n in free})["value"]


def _trained(source: Source, folder: Path) -> dict[str, str]:
    loaded = load_spec(source, folder)
    if not loaded.at_hand:
        loaded = load_spec(source, folder, outside=_drawn(loaded.experiment))
    experiment, program = loaded.experiment, loaded.program
    session = Session(program, BACKEND)
    session.initialise(experiment.settings.seed)
    found = {f"{name}:": f"{name}: {state.type}" for name, state in program.states.items()}
    batch = experiment.settings.batch
    rows = loaded.parts["train"].rows()[:batch]
    fields = {name: array[rows] for name, array in loaded.fields.arrays.items()}
    for name, array in fields.items():
        found[f"{name}:"] = f"{name}: {dtype_of(array)}{[*array.shape]}"
    for graph in ("train_step", "eval_step", "predict"):
        for key, result in session.run(graph, fields, batch).items():
            assert np.all(np.isfinite(result)), f"{graph} gives {key} = {result}"
            if graph == "train_step":
                found[key] = f"{key} = {spelled(result)}"
            elif graph == "predict":
                found[f"{key}:"] = f"{key}: {dtype_of(result)}{[*result.shape]}"
    for warning in loaded.warnings:
        found[warning.message] = f"warning: {warning.message}"
    return found


def _drawn(experiment: Experiment) -> dict[str, dict[str, np.ndarray]]:
    """Arrays as data without a source asks for them."""
    data = experiment.data
    assert data is not None
    rng = np.random.default_rng(0)
    classes = {field.name: field.classes for field in data.fields}
    size = int(sum(data.split.values()))
    arrays = {}
    for name, type in data.columns.items():
        shape = (size, *static_shape(type.shape))
        arrays[name] = (
            rng.normal(size=shape)
            if type.dtype.kind == "float"
            else rng.integers(0, classes[name] or 2, shape)
        )
    return {data.name: arrays}


def spelled(value: Any) -> str:
    """A value as documents write it: four digits, lists for tensors."""
    match value:
        case bool() | np.bool_():
            return "true" if value else "false"
        case int() | np.integer():
            return str(int(value))
        case float() | np.floating():
            text = f"{float(value):.4g}"
            return text if any(c in text for c in ".en") else f"{text}.0"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case np.ndarray() if value.ndim == 0:
            return spelled(value[()])
        case np.ndarray() | list() | tuple():
            return f"[{', '.join(map(spelled, value))}]"
        case dict():
            return "{ " + ", ".join(f"{k}: {spelled(v)}" for k, v in value.items()) + " }"
        case Axis():
            return str(value.size)
        case Tensor():
            return shape_text(value)
    return str(value)
