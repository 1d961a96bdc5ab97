"""What needs a GPU: the CuPy backend's results, training and resuming. Run with `pytest -m gpu`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import weft
from conformance.backends import compare, run_twice
from conformance.cases import cases
from conformance.test_backends import has_narrow, variants
from cupy_backend.stopping import Killed, Killing
from cupy_backend.test_conformance import gradient, result_of
from examples.table import EXAMPLES
from weft.backends.base import Backend
from weft.compiler.errors import RunError
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import RULES
from weft.compiler.graph import Graph
from weft.compiler.ops import OPS
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.memory import plan
from weft.compiler.types import F32, F64
from weft.runtime.backends import backend_named

FOLDER = Path(__file__).parents[2] / "examples"
TRAINED = [name for name, row in EXAMPLES.items() if row.reaches]


@cache
def missing() -> str | None:
    """Why there is no GPU to test on."""
    try:
        backend_named("cupy")
    except RunError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def a_gpu() -> None:
    if missing():
        pytest.skip(str(missing()))


pytestmark = pytest.mark.gpu


def check(graph: Graph, values: dict[str, np.ndarray]) -> None:
    backend: Backend = backend_named("cupy")
    program = backend.compile(plan(graph, fuse(graph), backend.abilities))
    compare(run_twice(program, graph, values), evaluate(graph, values))


@pytest.mark.parametrize("op", sorted(OPS))
def test_primitive(op: str) -> None:
    for case, dtype in variants():
        if case.op == op:
            graph, values = case.graph(dtype)
            check(inline_calls(graph), values)


@pytest.mark.parametrize("op", sorted(RULES))
def test_gradient(op: str) -> None:
    found = [c for c in cases() if c.op == op and c.has_float and not has_narrow(c)]
    for case in found:
        if result_of(case).type.dtype.kind == "float":
            for dtype in (F32, F64):
                check(*gradient(case, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_it_learns(name: str, tmp_path: Path) -> None:
    run = weft.load(FOLDER / f"{name}.weft").train("cupy", tmp_path / "run")
    for metric, (low, high) in EXAMPLES[name].reaches.items():
        part, _, of = metric.partition(".")
        assert low <= run.metrics[part][of] <= high, metric


def test_resuming_is_exact(tmp_path: Path) -> None:
    spec = FOLDER / "digits_conv.weft"
    whole = weft.load(spec, epochs=2).train("cupy", tmp_path / "whole")
    with pytest.raises(Killed):
        weft.load(spec, epochs=2).train("cupy", tmp_path / "parts", reporter=Killing())
    resumed = weft.load(spec, epochs=2).train("cupy", tmp_path / "parts", resume=True)
    for name, value in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[name], value)
