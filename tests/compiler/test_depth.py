"""Compiling takes time in proportion to a model's depth, and memory for the graph alone."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import weft

SPEC = """
data images {
  x: f32[3, 64, 64]
  y: class[10]
  split = { train: 1000 }
}
layer block(x: f32[B, C, ...S]) {
  let y = x |> conv(C, bias = false) |> batch_norm |> relu |> conv(C, bias = false) |> batch_norm
  relu(x + y)
}
layer tower(x: f32[B, C, ...S], depth = 4, width = 16) {
  x = x |> conv(width)
  for i in range(depth) {
    x = x |> block
  }
  x |> global_average_pool |> dense(10)
}
model net = tower()
train {
  data = images.batch(32)
  minimize cross_entropy(net(x), y) with momentum(0.1)
}
"""


def lines(work: Callable[[], object]) -> int:
    """How many lines of Python the work runs: a time that no other process disturbs."""
    count = 0

    def traced(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.slow
def test_checking_is_linear_in_the_depth() -> None:
    weft.load(SPEC).check()  # reads the library, once
    four, twelve, twenty = (
        lines(lambda depth=depth: weft.load(SPEC, depth=depth).check()) for depth in (4, 12, 20)
    )
    assert twenty - twelve == pytest.approx(twelve - four, rel=0.05)


# A chain whose values take over one piece of memory from each other.
CHAIN = """
let turns = 100
data points {
  x: f32[8]
  y: f32
  split = { train: 100 }
}
layer chain(x: f32[B, D]) {
  let h = x
  for i in range(turns) {
    h = tanh(h + x)
  }
  (stop_gradient(h) |> dense(1))[..., 0]
}
model net = chain()
train {
  data = points.batch(10)
  minimize mse(net(x), y) with sgd(0.1)
}
"""


@pytest.mark.slow
def test_checking_is_linear_in_the_length_of_a_chain() -> None:
    weft.load(CHAIN).check()
    one, two, three = (
        lines(lambda turns=turns: weft.load(CHAIN, turns=turns).check())
        for turns in (200, 400, 600)
    )
    assert three - two == pytest.approx(two - one, rel=0.05)


def test_checking_makes_no_tensors() -> None:
    weft.load(SPEC, depth=1).check()
    tracemalloc.start()
    try:
        report = weft.load(SPEC, depth=1, width=1024).check()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.parameters > 1e7
    assert peak < report.parameters
