"""Calls of layers that are copied from earlier ones: the program is the one that running gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weft.compiler.composites import bodies
from weft.compiler.errors import Source
from weft.compiler.graph import Graph
from weft.compiler.text import print_graph
from weft.frontends.dsl import calls
from weft.frontends.dsl.repeats import Original
from weft.runtime.loading import Loaded, load_spec

EXAMPLES = Path(__file__).parents[2] / "examples"

SPEC = """
data digits {{
  source = embedded("digits")
  x: f32[64]   = features / 16
  y: class[10] = target
  split = {{ train: 80%, valid: 20% }}
}}
{layers}
model net = stack()
{models}
train {{
  data     = digits.batch(32)
  minimize {loss} with adam(1e-3)
  metrics  = {{ accuracy: accuracy(net(x), y) }}
  epochs   = 1
  {settings}
}}
"""

STACK = """
layer stack(x: f32[B, D]) {
  let h = x
  for i in range(4) { h = h |> block }
  h |> dense(10)
}
"""

# What the layers are, how many calls are copies (training and evaluation), what else there is.
CASES: dict[str, tuple[str, int, dict[str, str]]] = {
    "layers in layers": (
        "layer block(x: f32[B, D]) = x + (x |> layer_norm |> dense(D) |> gelu |> dense(D))" + STACK,
        6,
        {},
    ),
    "draws": ("layer block(x: f32[B, D]) = x |> dense(D) |> dropout(0.3)" + STACK, 6, {}),
    "states that are updated": (
        "layer block(x: f32[B, D]) = x |> dense(D, bias = false) |> batch_norm |> relu" + STACK,
        6,
        {},
    ),
    "16 bits": (
        "layer block(x: f32[B, D]) = x + (x |> layer_norm |> dense(D))" + STACK,
        6,
        {"settings": "precision = bf16"},
    ),
    "a model that is called twice": (
        "layer block(x: f32[B, D]) = x |> dense(D) |> batch_norm |> dropout(0.1)" + STACK,
        # In the second call of the training pass the states are known, and some updated: blocks run
        # again but for what is in them.
        18,
        {"loss": "cross_entropy(net(x), y) + 0.1 * cross_entropy(net(2 * x), y)"},
    ),
    "initial values that stand on others": (
        """layer block(x: f32[B, D]) {
  param w: f32[D, D] ~ glorot_uniform
  param v: f32[D, D] ~ w / 2
  x @ w @ v
}"""
        + STACK,
        # Not when the states are new: only in evaluation.
        3,
        {},
    ),
    "warnings, one a parameter": (
        "layer block(x: f32[B, D]) { param w: f32[D, D] ~ zeros\n x @ w }" + STACK,
        3,
        {},
    ),
    "one argument for two, and two": (
        """layer pair(x: f32[B, D], z: f32[B, D]) = (x * z) |> dense(D)
layer stack(x: f32[B, D]) {
  let a = pair(x, x)
  let b = pair(x, a)
  let c = pair(b, b)
  pair(a, c) |> dense(10)
}""",
        # The third is like the first, the fourth like the second, whose `dense` is a copy too.
        6,
        {},
    ),
    "settings that differ": (
        """layer block(x: f32[B, D], rate = 0.5, on = true) {
  if on { x |> dense(D) |> dropout(rate) } else { x * rate }
}
layer stack(x: f32[B, D]) {
  x |> block |> block(0.25) |> block(on = false) |> block(rate = 0.25) |> block(0.5) |> dense(10)
}""",
        # No block: `0.25` by its place and by its name are told apart, and `0.5` from what is left
        # out. What is copied is in them.
        10,
        {},
    ),
    "axes of the caller": (
        """layer turned(x: f32[B, T, D]) = transpose(x, [B, D, T])
layer mixed(x: f32[B, T, D]) = x |> turned |> dense(8) |> turned
layer stack(x: f32[B, D]) = x |> reshape([B, 8, 8]) |> mixed |> mixed |> flatten |> dense(10)""",
        2,
        {},
    ),
    "loops": (
        """layer cell(x: f32[B, D], h: f32[B, U], units: int) = tanh(concat([x, h]) |> dense(units))
layer block(x: f32[B, T, D]) {
  let last, every = scan(x, cell, zeros([B, 8]), over = T, units = 8)
  every
}
layer stack(x: f32[B, D]) = x |> reshape([B, 8, 8]) |> block |> block |> flatten |> dense(10)""",
        0,
        {},
    ),
    "a model within": (
        """layer block(x: f32[B, D]) = x + inner(x)
layer within(x: f32[B, D]) = x |> dense(D)"""
        + STACK,
        # No block; of `inner`, whose states are known after its first call, what is in it.
        5,
        {"models": "model inner = within()"},
    ),
    "values from outside of the layer": (
        """let table = [1.0, 2.0]
let ones = arange(4) + 1
layer block(x: f32[B, D]) = table[0] * x |> dense(D)
layer odd(x: f32[B, D]) = x * sum(float(ones)) |> dense(D)
layer stack(x: f32[B, D]) = x |> block |> block |> odd |> odd |> dense(10)""",
        # `block`, and the `dense` of `odd`.
        4,
        {},
    ),
}


def spec(layers: str, given: dict[str, str]) -> Source:
    parts = {"loss": "cross_entropy(net(x), y)", "models": "", "settings": "", **given}
    return Source("spec", SPEC.format(layers=layers, **parts))


def everything(loaded: Loaded) -> list[Any]:
    """A program as text, with all places, and what was said of it."""
    program = loaded.program
    graphs: list[Graph] = [
        program.init, program.train_step, program.eval_step, program.predict, program.epoch_end
    ]  # fmt: skip
    found: list[Any] = [print_graph(graph) for graph in graphs]
    for graph in graphs:
        parts = (graph, *bodies(graph))
        found.append(
            [node.span and (node.span.start, node.span.end) for p in parts for node in p.nodes]
        )
    states = program.states.values()
    found.append([(s.name, s.type, s.role, s.owner, s.span) for s in states])
    found.append((program.groups, [str(w) for w in loaded.experiment.warnings]))
    return found


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the calls that have been copied."""
    found: list[str] = []
    real = Original.copied

    def copied(self: Original, interpreter: Any, frame: Any, arguments: Any) -> Any:
        value = real(self, interpreter, frame, arguments)
        if value is not None:
            found.append(frame.path)
        return value

    monkeypatch.setattr(Original, "copied", copied)
    return found


@pytest.mark.parametrize("case", CASES)
def test_copies_are_what_running_gives(
    case: str, copies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, count, given = CASES[case]
    source = spec(layers, given)
    found = everything(load_spec(source, Path()))
    assert len(copies) == count, copies
    monkeypatch.setattr(calls, "repeatable", lambda interpreter: False)
    run = everything(load_spec(source, Path()))
    assert len(copies) == count
    for mine, other in zip(found, run, strict=True):
        assert mine == other


@pytest.mark.parametrize("name", ["resnet110", "transformer_lm", "inception_v1", "ring_gan"])
def test_examples_are_what_running_gives(
    name: str, copies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source("spec", (EXAMPLES / f"{name}.weft").read_text(encoding="utf-8"))
    found = everything(load_spec(source, EXAMPLES))
    assert copies
    monkeypatch.setattr(calls, "repeatable", lambda interpreter: False)
    assert everything(load_spec(source, EXAMPLES)) == found
