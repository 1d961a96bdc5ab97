"""Layouts that share memory: read through one, an operand's elements are the op's result."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from conformance.cases import Case, cases
from weft.compiler.evaluate import evaluate
from weft.compiler.passes.views import Layout, contiguous, view

MOVES = ("reshape", "transpose", "broadcast_in_dim", "slice", "reverse", "stop_gradient")
CASES = {case.id: case for case in cases() if case.op in MOVES}


def read(memory: np.ndarray, layout: Layout) -> np.ndarray:
    steps = [step * memory.itemsize for step in layout.strides]
    return as_strided(memory[layout.offset :], layout.shape, steps, writeable=False)


def bases(shape: tuple[int, ...]) -> list[Layout]:
    """At the beginning, further on, with gaps between elements, and in the order of columns."""
    whole = contiguous(shape)
    columns = contiguous(shape[::-1])
    return [
        whole,
        whole.shifted(3),
        Layout(2, shape, tuple(2 * step for step in whole.strides)),
        Layout(0, shape, columns.strides[::-1]),
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_view_has_the_values_of_its_op(name: str) -> None:
    case: Case = CASES[name]
    graph, arrays = case.graph()
    (node,), operand = graph.outputs, arrays["x0"]
    expected = evaluate(graph, arrays)["out"]
    for base in bases(operand.shape):
        memory = np.zeros(4 + 2 * operand.size, operand.dtype)
        home = as_strided(
            memory[base.offset :], base.shape, [s * memory.itemsize for s in base.strides]
        )
        home[...] = operand
        layout = view(node, base)
        if layout is None:
            assert node.op.name == "reshape"
            assert not base.is_contiguous
        else:
            np.testing.assert_array_equal(read(memory, layout), expected)


def test_a_reshape_that_strides_cannot_say_is_no_view() -> None:
    case = next(c for c in CASES.values() if c.op == "reshape" and c.arrays[0].ndim > 1)
    graph, arrays = case.graph()
    shape = arrays["x0"].shape
    assert view(graph.outputs[0], Layout(0, shape, contiguous(shape[::-1]).strides[::-1])) is None
