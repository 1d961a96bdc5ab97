"""The timed training steps: equal work, workers that take turns, pages that say what was found.

Neither PyTorch nor JAX is needed here: what PyTorch's nets give is stored.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conditions import Conditions
from measuring import LOSSES, Bench, Measured, agree, apart
from processes import Machine
from reports import (
    Line,
    Scale,
    busy_page,
    line,
    missed,
    scale_line,
    scaling_page,
    steps_page,
    to_best,
)
from workloads import SPECS, SUITES, Start, arranged, prepared

import weft
from tiny_steps import TINY
from weft.runtime.backends import backend_named
from weft.runtime.session import session_for

FIXTURE = Path(__file__).parents[1] / "fixtures/steps.npz"
ON_CPU, ON_GPU = SUITES["cpu"], SUITES["cuda"]
WORKLOADS = ON_CPU.workloads
SETTINGS = {"size": 3, "precision": "f64"}  # as in make_steps.py
ORDER = (0, 1, 0)
SLOW = {"unet", "vgg", "vit"}


def dense(*widths: int) -> int:
    """Parameters of dense layers one after another, with biases."""
    return sum((i + 1) * o for i, o in pairwise(widths))


def convs(kernel: int, *channels: int, bias: bool = True) -> int:
    return sum((i * kernel**2 + bias) * o for i, o in pairwise(channels))


def blocks(depth: int, width: int) -> int:
    """Blocks of a transformer: two normalisations, four projections, a hidden layer four times."""
    return depth * (4 * width + 4 * dense(width, width) + dense(width, 4 * width, width))


def norms(*channels: int) -> int:
    return 2 * sum(channels)


STAGES = [16] + 6 * [16] + 6 * [32] + 6 * [64]
VGG = [64, 64, 128, 128, 256, 256, 256]
UNET = [32, 64, 128, 256, 512]

# How many parameters each net has, by the sizes that its title says.
RESNET_20 = convs(3, 3, *STAGES, bias=False) + norms(*STAGES) + dense(64, 10)
SIZES = {
    "perceptron": dense(64, 64, 10),
    "deep_perceptron": dense(784, 512, 512, 10),
    "lenet": convs(5, 1, 6, 16) + dense(256, 120, 84, 10),
    "resnet": RESNET_20,
    "vgg": convs(3, 3, *VGG) + norms(*VGG) + dense(256 * 16, 256, 10) + norms(256),
    "unet": convs(3, 1, 32, 32)
    + sum(convs(3, c, 2 * c, 2 * c) for c in UNET[:-1])
    + sum(convs(2, 2 * c, c) + convs(3, 2 * c, c, c) for c in UNET[:-1])
    + convs(1, 32, 2),
    "vae": dense(784, 400) + 2 * dense(400, 20) + dense(20, 400, 784),
    "lstm": 96 * 64 + 4 * dense(64 + 128, 128) + dense(128, 96),
    "transformer": (96 + 128) * 128 + blocks(4, 128) + norms(128),
    "vit": convs(4, 3, 192) + (1 + 65) * 192 + blocks(12, 192) + norms(192) + dense(192, 10),
    "resnet_256": RESNET_20,
    "resnet_1024": RESNET_20,
    "lstm_256": 96 * 64 + 4 * dense(64 + 512, 512) + dense(512, 96),
    "transformer_768": (96 + 1024) * 768 + blocks(12, 768) + norms(768),
    "vit_small": convs(16, 3, 384)
    + (1 + 197) * 384
    + blocks(12, 384)
    + norms(384)
    + dense(384, 10),
}

# What each suite has its own settings for.
ROWS = {**WORKLOADS, **{n: ON_GPU.workloads[n] for n in TINY}}


def spelled(name: str) -> str:
    """The spec, with its numbers as Python prints them."""
    text = (SPECS / f"{name}.weft").read_text(encoding="utf-8")
    return text.replace("1e-3", "0.001")


def test_every_spec_is_a_workload() -> None:
    assert {file.stem for file in SPECS.glob("*.weft")} == set(WORKLOADS)
    assert set(SIZES) == set(ROWS)


def test_what_a_gpu_has_more_is_large() -> None:
    """The rest are those of a CPU as they are, but for what is asked of Weft."""
    for name, row in ON_GPU.workloads.items():
        small = name in WORKLOADS
        assert small == (name not in TINY)
        assert row.goal == (0.5 if small else 1.2)
        if small:
            assert replace(row, goal=WORKLOADS[name].goal) == WORKLOADS[name]
        else:
            assert row.settings.keys() <= TINY[name].keys()


@pytest.mark.parametrize("name", ROWS)
def test_a_spec_is_what_its_row_says(name: str) -> None:
    row = ROWS[name]
    given = row.given if row.spec else {}
    loaded = weft.load(SPECS / f"{row.spec or name}.weft", **given).loaded
    states = loaded.program.states.values()
    found = [np.prod(s.type.shape, dtype=int) for s in states if s.role == "parameter"]
    assert sum(found) == SIZES[name]
    assert loaded.experiment.settings.batch == row.batch
    assert f"with {row.optimiser}({row.rate:g}" in spelled(row.spec or name)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in ROWS]
)
def test_a_step_does_what_the_step_of_pytorch_does(name: str) -> None:
    """Two updates, and the losses before, between and after them, to nine digits."""
    spec, settings = ROWS[name].spec or name, {**SETTINGS, **TINY.get(name, {})}
    loaded = weft.load(SPECS / f"{spec}.weft", **settings).loaded
    session = session_for(loaded, backend_named("numpy"))
    session.initialise(0)
    start = prepared(spec, settings)
    for key, value in start.parameters.items():
        session.tensors()[key][...] = value
    losses = [session.run("train_step", start.batches[i], 3)["loss"] for i in ORDER]
    with np.load(FIXTURE) as stored:
        np.testing.assert_allclose(losses, stored[name], rtol=1e-9)


def test_the_attention_of_peers_is_two_dense_layers() -> None:
    parts = {p: np.full((2, 2), i) for i, p in enumerate("qkvo")}
    attention = {f"a.w_{p}": w for p, w in parts.items()} | {
        f"a.b_{p}": w[0] for p, w in parts.items()
    }
    found = arranged({"before.w": np.ones(1), **attention, "after.w": np.ones(1)})
    assert list(found) == ["before.w", "a.qkv.w", "a.qkv.b", "a.out.w", "a.out.b", "after.w"]
    assert found["a.qkv.w"].tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    assert found["a.qkv.b"].tolist() == [0, 0, 1, 1, 2, 2]
    assert found["a.out.b"].tolist() == [3, 3]


def test_a_start_is_read_as_it_was_saved(tmp_path: Path) -> None:
    start = prepared("vae", {"size": 2})
    start.save(tmp_path / "start.npz")
    read = Start.read(tmp_path / "start.npz")
    assert list(read.parameters) == list(start.parameters)
    for mine, other in zip(
        [start.parameters, *start.batches], [read.parameters, *read.batches], strict=True
    ):
        assert mine.keys() == other.keys()
        assert all(np.array_equal(mine[k], other[k]) for k in mine)


def machine(folder: Path) -> Machine:
    """One core."""
    return Machine((min(os.sched_getaffinity(0)),), folder)


def test_workers_take_turns(tmp_path: Path) -> None:
    """Weft alone, beside a busy process: a worker times it, and is asked for its memory."""
    bench = Bench(machine(tmp_path), "numpy", ["weft"], seconds=0.1, busy=True)
    weft_alone = bench.measure("perceptron")["weft"]
    assert len(weft_alone.losses) == LOSSES
    assert weft_alone.losses[4] < weft_alone.losses[0]  # the same batch, learnt from
    assert len(weft_alone.steps) == len(weft_alone.busy) >= 5
    assert weft_alone.step > 0
    assert 0 < weft_alone.first < weft_alone.warm  # the step is a part of the start
    assert weft_alone.peak >= weft_alone.base > 1e7


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    bench = Bench(machine(tmp_path), "none", ["weft"], seconds=0.1)
    with pytest.raises(SystemExit, match=r"(?s)weft failed:.*there is no backend `none`"):
        bench.measure("perceptron")


def measured(step: float, losses: tuple[float, ...] = (2.0, 1.0)) -> Measured:
    """A framework whose step takes so many seconds."""
    return Measured(
        imported=1.0,
        cold=10 * step,
        warm=step,
        first=0.3 * step,
        base=50_000_000,
        losses=list(losses),
        peak=int(1e8 * step),
        steps=[step, 0.9 * step, 1.2 * step],
        busy=[2 * step, 2 * step],
    )


FOUND = {"weft": measured(1.0), "torch": measured(4.0), "torch.compile": measured(2.0)}
CONDITIONS = Conditions("numpy", 2, 0.0, "a processor", "8 GiB", "3.11", {"numpy": "2.4"})


def test_losses_that_differ_end_the_run() -> None:
    close = {"weft": measured(1.0), "jax": measured(1.0, (2.0, 1.0005))}
    agree("lenet", close, ON_CPU.tolerance)
    assert apart(close) == pytest.approx(5e-4)
    for loss in (1.002, float("nan")):
        with pytest.raises(SystemExit, match="lenet: jax computes something else than weft"):
            agree("lenet", {**close, "jax": measured(1.0, (2.0, loss))}, ON_CPU.tolerance)


def test_ratios_are_to_the_best_peer() -> None:
    assert to_best(FOUND) == 0.5
    assert to_best({"weft": FOUND["weft"]}) is None
    assert "LeNet-5, 28 x 28: 0.50 of the best peer (at most 0.9)" in line(
        WORKLOADS["lenet"], FOUND
    )


def test_missed_goals_are_told() -> None:
    assert missed({"lenet": FOUND}, ON_CPU) == [
        "LeNet-5, 28 x 28: seconds until the first step of a warm start is 0.70, not 0.5"
    ]
    slow = {**FOUND, "weft": measured(2.9)}
    assert [text.partition(" is ")[0] for text in missed({"lenet": slow}, ON_CPU)] == [
        "LeNet-5, 28 x 28: step over the best peer's",
        "LeNet-5, 28 x 28: peak memory over PyTorch's",
        "LeNet-5, 28 x 28: cold start over torch.compile's",
        "LeNet-5, 28 x 28: seconds until the first step of a warm start",
    ]


def test_pages_show_the_figures() -> None:
    page = steps_page({"lenet": FOUND}, CONDITIONS)
    assert "| LeNet-5, 28 x 28 | 64 | momentum | 1000 | 4000 | 2000 | **0.50** | 0.9 |" in page
    assert "| LeNet-5, 28 x 28 | 100 (50) | 400 (50) | 200 (50) | **0.25** |" in page
    assert (
        "| LeNet-5, 28 x 28 | 10.00, 1.00 | 40.00, 4.00 | 20.00, 2.00 | **0.50** | **0.70** |"
        in page
    )
    assert "Geometric mean of the ratios: **0.50**" in page
    busy = busy_page({"lenet": FOUND}, CONDITIONS)
    assert "| LeNet-5, 28 x 28 | 2.00 | 2.00 | 2.00 |" in busy


def test_a_scale_is_fitted_by_a_line() -> None:
    fit = Line.through([1, 2, 3, 4], [5.0, 7.0, 9.0, 11.0])
    assert (fit.fixed, fit.each, fit.explained) == pytest.approx((3, 2, 1))
    assert fit.off == pytest.approx(0, abs=1e-12)
    bent = Line.through([1, 2, 3], [1.0, 4.0, 9.0])
    assert bent.explained < 0.98
    assert bent.off == pytest.approx(1 / 3)  # the line is -10/3 + 4 x
    scale = Scale("ViT", "depth", [2, 4, 8], [measured(s) for s in (0.5, 0.9, 1.7)])
    assert "100 + 200 * depth, R^2 1.0000, off by at most 0%" in scale_line(scale)
    page = scaling_page([scale], CONDITIONS)
    assert "| ViT | depth | 2 to 8 | 100 | 200 | 1.0000 | 0% |" in page
    assert "| ViT | depth | 2 to 8 | 1.00 | 2.000 | 1.0000 | 0% |" in page
