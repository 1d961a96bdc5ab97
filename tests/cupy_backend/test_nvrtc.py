"""NVRTC compiles the functions of examples and of timed steps for all GPUs that CUDA 13 knows."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from workloads import SPECS, SUITES

import weft
from cupy_backend.emulated import BACKEND
from cupy_backend.nvrtc import TARGETS, compiled, compiles
from examples.table import EXAMPLES
from weft.runtime.session import session_for

FOLDER = Path(__file__).parents[2] / "examples"
GRAPHS = ("init", "train_step", "eval_step", "predict", "epoch_end")
SAMPLE = ("digits_conv", "lstm_lm", "small/vit_b16")
MOST = 3  # functions of each kind in the sample

_seen: dict[str, set[str]] = {target: set() for target in TARGETS}


@cache
def functions(
    name: str, graphs: tuple[str, ...] = GRAPHS, precision: str = "f32"
) -> dict[str, str]:
    """The functions of an example by name."""
    loaded = weft.load(FOLDER / f"{name}.weft", precision=precision).loaded
    session, batch = session_for(loaded, BACKEND), loaded.experiment.settings.batch
    found: dict[str, str] = {}
    for graph in graphs:
        found |= BACKEND.compile(session.plan(graph, batch)).program.functions
    return found


def sample(precision: str = "f32") -> dict[str, str]:
    """A few functions of each kind, the longest ones."""
    kinds: dict[str, list[tuple[int, str, str]]] = {}
    for name in SAMPLE:
        for function, source in functions(name, ("train_step",), precision).items():
            kind = function.rpartition("_")[0]
            kinds.setdefault(kind, []).append((len(source), function, source))
    known = {"points", "rows", "parts", "product", "convolution", "attention", "scatter_add"}
    assert kinds.keys() >= known
    chosen = (f for kind in kinds.values() for f in sorted(kind)[-MOST:])
    return {name: source for _, name, source in chosen}


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_sample(target: str) -> None:
    assert compiled(sample(), target)


@compiles
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "target"), [("bf16", "sm_75"), ("f16", "sm_100")])
def test_a_sample_of_16_bits(precision: str, target: str) -> None:
    found = sample(precision)
    assert any(f" {precision}* p" in text or f"({precision}* p" in text for text in found.values())
    assert compiled(found, target)


@compiles
@pytest.mark.thorough
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_function(name: str, target: str) -> None:
    """What several examples have is compiled for the first of them."""
    new = {n: s for n, s in functions(name).items() if n not in _seen[target]}
    if new:
        assert compiled(new, target)
        _seen[target] |= new.keys()


@compiles
@pytest.mark.thorough
@pytest.mark.parametrize("name", SUITES["cuda"].workloads)
def test_every_timed_step(name: str) -> None:
    row = SUITES["cuda"].workloads[name]
    loaded = weft.load(SPECS / f"{SUITES['cuda'].spec(name)}.weft", **row.given).loaded
    plan = session_for(loaded, BACKEND).plan("train_step", row.batch)
    for target in TARGETS:
        assert compiled(BACKEND.compile(plan).program.functions, target)
