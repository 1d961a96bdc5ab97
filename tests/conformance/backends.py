"""The backends that can run here: what holds for one of them has to hold for all."""

from __future__ import annotations

import numpy as np

from weft.backends.base import Backend, Executable
from weft.compiler.graph import Graph
from weft.compiler.pipeline import plan_lowered
from weft.compiler.types import dtype_of
from weft.runtime.backends import backend_named, installed

INSTALLED = installed()


def backend(name: str) -> Backend:
    return backend_named(name)


def compiled(name: str, graph: Graph) -> Executable:
    found = backend(name)
    return found.compile(plan_lowered(graph, found.abilities))


def run(name: str, graph: Graph, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run_twice(compiled(name, graph), graph, values)


def run_twice(
    program: Executable, graph: Graph, values: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Two calls of one binding; the second must not see what the first left behind."""
    updated = {n for n in graph.output_names if n in graph.named_inputs}
    results = []
    for _ in range(2):
        state = {name: np.array(values[name]) for name in updated}
        step = program.bind(state)
        given_inputs = {k: v.copy() for k, v in values.items() if k not in updated}
        step({k: np.ones_like(v) for k, v in given_inputs.items()})
        for name in updated:
            state[name][...] = values[name]
        results.append({**step(given_inputs), **state})
        for name, array in given_inputs.items():
            np.testing.assert_array_equal(_bytes(array), _bytes(values[name]))
    for name, value in results[0].items():
        np.testing.assert_array_equal(_bytes(value), _bytes(results[1][name]))
    return results[0]


def _bytes(value: np.ndarray) -> np.ndarray:
    """What an array holds, so that equal NaNs are equal in every type."""
    return np.frombuffer(np.asarray(value).tobytes(), np.uint8)


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal types and shapes, and values up to rounding."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        got = np.asarray(found[name])
        assert got.dtype == value.dtype, name
        assert got.shape == value.shape, name
        eps = np.finfo(value.dtype).eps if value.dtype.kind == "f" else 0
        if dtype_of(value).is_narrow:
            # Each result is rounded once: what differs is on which side of a border it was before.
            unit = 2.0**-8 if value.dtype.name == "bfloat16" else 2.0**-11
            got, value = got.astype(np.float32), value.astype(np.float32)
            np.testing.assert_allclose(got, value, rtol=4 * unit, atol=unit / 8, err_msg=name)
            continue
        np.testing.assert_allclose(got, value, rtol=200 * eps, atol=50 * eps, err_msg=name)
