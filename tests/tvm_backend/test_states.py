"""States of random graphs: new values in place of old ones, where no kernel is disturbed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from random_graphs import SIZES, arrays, as_state, random_graph
from weft.compiler.evaluate import evaluate
from weft.compiler.passes.bind import bind
from weft.compiler.pipeline import Target, compile_plan

pytest.importorskip("tvm", reason="the tvm backend needs apache-tvm (extra `tvm`)")

from weft.backends.tvm.backend import BACKEND


@pytest.mark.parametrize("seed", range(12))
def test_states_become_what_the_graph_says(seed: int) -> None:
    rng = random.Random(seed)
    graph = as_state(bind(random_graph(rng, 30, calls=False), SIZES), rng)
    bound = frozenset(set(graph.output_names) & {node.name for node in graph.inputs})
    values = arrays(graph)
    expected = evaluate(graph, values)
    state = {name: np.array(values[name], order="C") for name in bound}
    plan = compile_plan(graph, Target(abilities=BACKEND.abilities, bound=bound))
    results = BACKEND.compile(plan).bind(state)(values)
    for name, value in expected.items():
        found = state[name] if name in bound else results[name]
        np.testing.assert_allclose(found, value, rtol=1e-10, atol=1e-10, err_msg=name)
