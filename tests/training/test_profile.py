"""The profile of a step: what is timed is the step, and what is told of its kernels adds up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from conformance.backends import INSTALLED, backend
from weft.api import Experiment
from weft.backends.base import Peaks, Step
from weft.backends.clock import fastest, frequency
from weft.compiler.costs import Cost
from weft.compiler.types import F32
from weft.runtime.loading import Loaded, load_spec, read
from weft.runtime.profile import Profile, profile
from weft.runtime.session import Session, session_for

SPEC = """\
data digits {
  source = embedded("digits")
  x: f32[8, 8] = reshape(features / 16, [size(features, 0), 8, 8])
  y: class[10] = target
  split = { train: 80%, valid: 20% }
}
layer net(x: f32[B, T, D]) {
  let h = rnn(x, 12)
  h[:, -1] |> dense(10)
}
model m = net()
train {
  data    = digits.batch(32, shuffle = true)
  minimize cross_entropy(m(x), y) with adam(1e-3)
  epochs  = 1
}
"""
PEAKS = Peaks(1e11, ((1 << 16, 1e11), (1 << 20, 5e10), (1 << 28, 1e10)))

everywhere = pytest.mark.parametrize("name", INSTALLED)


@pytest.fixture
def loaded() -> Loaded:
    return load_spec(*read(SPEC))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks that need no measuring."""
    for name in INSTALLED:
        monkeypatch.setattr(type(backend(name)), "peaks", lambda self, dtype: PEAKS)


class Later(Mapping[str, np.ndarray]):
    """Results that are not there yet, as those of a GPU: who reads one waits for it."""

    def __init__(self, results: Mapping[str, np.ndarray]) -> None:
        self.results = results

    def __getitem__(self, name: str) -> np.ndarray:
        sleep(0.02)
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


def test_a_step_takes_until_its_results_are_there(
    loaded: Loaded, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(session: Session, name: str, batch: int) -> Step:
        step = usual(session, name, batch)
        return lambda inputs: Later(step(inputs))

    usual = Session.step
    monkeypatch.setattr(Session, "step", later)
    found = profile(loaded, backend("numpy"), "eval_step", steps=3)
    assert found.seconds >= 0.02


@everywhere
def test_a_timed_step_does_what_the_step_does(loaded: Loaded, name: str) -> None:
    chosen = backend(name)
    sessions = [session_for(loaded, chosen) for _ in range(2)]
    for session in sessions:
        session.initialise(0)
    plan = sessions[0].plan("train_step", 32)
    step, timed = sessions[0].step("train_step", 32), chosen.timed(plan)
    run = timed.bind(sessions[1].state)
    fields = loaded.fields.arrays
    for start in (0, 32, 64):
        inputs = {n: np.ascontiguousarray(a[start : start + 32]) for n, a in fields.items()}
        step(inputs)
        timing = run(inputs)
        assert (timing.nanoseconds >= 0).all()
        assert timing.nanoseconds.sum() > 0
    states = zip(sessions[0].state.items(), sessions[1].state.values(), strict=True)
    for (name, one), other in states:
        np.testing.assert_array_equal(one, other, err_msg=name)


@everywhere
@pytest.mark.usefixtures("quick")
def test_a_kernel_in_a_loop_counts_by_call(loaded: Loaded, name: str) -> None:
    found = profile(loaded, backend(name), steps=2)
    # The sequence has eight rows: eight turns forward, and eight back.
    inside = [row for row in found.rows if row.calls >= 8]
    assert {row.calls % 8 for row in inside} == {0}
    ops = {op for row in inside for op in row.ops}
    assert {"dot_general", "tanh"} <= ops


@everywhere
@pytest.mark.usefixtures("quick")
def test_what_a_profile_tells(loaded: Loaded, name: str) -> None:
    found = profile(loaded, backend(name), steps=3)
    assert (found.backend, found.batch, found.steps, found.made_up) == (name, 32, 3, False)
    assert found.seconds > 0
    assert found.threads >= 1
    assert [row.seconds for row in found.rows] == sorted(
        (row.seconds for row in found.rows), reverse=True
    )
    assert len({row.name for row in found.rows}) == len(found.rows)
    text = SPEC.splitlines()
    dense = [
        r for r in found.rows if any(text[line - 1].endswith("dense(10)") for _, line in r.lines)
    ]
    assert any("dot_general" in row.ops for row in dense)
    assert {file for row in found.rows for file, _ in row.lines} == {"spec"}
    for row in found.rows:
        assert row.floor >= row.cost.flops / PEAKS.flops * (1 - 1e-9)
        assert row.floor >= row.cost.bytes / 1e11 * (1 - 1e-9)
        assert row.bound in ("arithmetic", "memory")
        if row.seconds:
            assert row.of_peak == pytest.approx(row.floor / row.seconds)
            assert row.flop_rate == pytest.approx(row.cost.flops / row.seconds)


@pytest.mark.usefixtures("quick")
def test_products_are_the_same_on_every_backend(loaded: Loaded) -> None:
    """Backends fuse differently, but a step has one number of multiplications."""
    sums = []
    for name in INSTALLED:
        rows = profile(loaded, backend(name), steps=1).rows
        sums.append(sum(row.cost.flops for row in rows))
    assert sums == pytest.approx([sums[0]] * len(sums), rel=0.1)


@everywhere
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("graph", ["eval_step", "predict"])
def test_other_graphs(loaded: Loaded, name: str, graph: str) -> None:
    found = profile(loaded, backend(name), graph, steps=1)
    assert found.graph == graph
    assert found.inside > 0


@everywhere
@pytest.mark.usefixtures("quick")
def test_data_that_is_not_there_is_made_up(name: str) -> None:
    text = SPEC.replace('source = embedded("digits")\n', "")
    text = text.replace(
        "x: f32[8, 8] = reshape(features / 16, [size(features, 0), 8, 8])", "x: f32[8, 8]"
    )
    text = text.replace("y: class[10] = target", "y: class[10]")
    text = text.replace("{ train: 80%, valid: 20% }", "{ train: 640, valid: 64 }")
    found = profile(load_spec(*read(text)), backend(name), steps=2)
    assert found.made_up
    assert found.batch == 32
    assert found.inside > 0


@pytest.mark.usefixtures("quick")
def test_steps_are_as_many_as_fit(loaded: Loaded) -> None:
    found = Experiment(loaded).profile("numpy")
    assert isinstance(found, Profile)
    assert 5 <= found.steps <= loaded.experiment.settings.steps // 2


def test_the_floor_is_the_longer_of_two() -> None:
    assert PEAKS.floor(Cost(flops=10**9, read=1000)) == pytest.approx(0.01)
    assert PEAKS.floor(Cost(flops=10, read=1 << 19, written=1 << 19)) == pytest.approx(2**20 / 5e10)
    assert PEAKS.bandwidth(1) == PEAKS.bandwidth(1 << 16) == 1e11
    assert PEAKS.bandwidth(1 << 30) == 1e10
    assert PEAKS.bandwidth(1 << 18) == pytest.approx(7.5e10)
    assert PEAKS.fastest_copy == (1 << 16, 1e11)


@everywhere
def test_peaks_are_those_of_a_machine(name: str) -> None:
    """Bounds that hold anywhere: a product is faster than 0.1 GFLOP/s, memory than 0.1 GB/s."""
    peaks = backend(name).peaks(F32)
    assert 1e8 < peaks.flops < 1e14
    assert all(1e8 < rate < 1e14 for _, rate in peaks.copies)
    assert [size for size, _ in peaks.copies] == sorted(size for size, _ in peaks.copies)


def test_the_fastest_of_many() -> None:
    calls: list[int] = []
    assert 0 <= fastest(0.01, [lambda: calls.append(0), lambda: calls.append(1)]) < 0.01
    assert {0, 1} == set(calls)
    assert frequency(0.01, [lambda: None] * 2) > 100


def test_a_spec_file_is_named_in_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "digits.weft"
    path.write_text(SPEC)
    found = profile(load_spec(*read(path)), backend("numpy"), steps=1)
    assert {file for row in found.rows for file, _ in row.lines} == {str(path)}
