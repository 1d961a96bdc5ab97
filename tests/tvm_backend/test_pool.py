"""The threads of native code: any number of them gives the same bits, from any caller."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from weft.backends.threads import THREADS
from weft.runtime.loading import load_spec, read
from weft.runtime.session import Session, session_for

pytest.importorskip("tvm", reason="the tvm backend needs apache-tvm (extra `tvm`)")

from weft.backends.tvm.backend import BACKEND
from weft.backends.tvm.pool import MOST, POOL, Pool

# Large enough for every kind of kernel to be shared out: products, folds, elementwise work.
SPEC = """\
data noise {
  x: f32[3, 24, 24]
  y: class[10]
  split = { train: 640, valid: 64 }
}
layer net(x: f32[B, C, H, W]) {
  x |> conv(16, 3, padding = "same") |> batch_norm |> relu |> dropout(0.2) |> flatten |> dense(10)
}
model m = net()
train {
  data    = noise.batch(32)
  minimize cross_entropy(m(x), y) with adam(1e-2)
  metrics = { accuracy: accuracy(m(x), y) }
  clip    = global_norm(1.0)
  epochs  = 1
}
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    width = POOL.width
    yield
    POOL.use(width)


def session() -> Session:
    made = session_for(load_spec(*read(SPEC)), BACKEND)
    made.initialise(0)
    return made


@cache
def batches() -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [
        {
            "x": draw.normal(size=(32, 3, 24, 24)).astype(np.float32),
            "y": draw.integers(0, 10, 32),
        }
        for _ in range(4)
    ]


def trained(made: Session) -> dict[str, np.ndarray]:
    """The state after a few steps."""
    made.initialise(0)
    for inputs in batches():
        made.run("train_step", inputs, 32)
    return made.copy()


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    made = session()
    found = []
    for count in (1, 2, 7, 3, 1, 7):  # also fewer than before, and more again
        THREADS.use(count)
        assert BACKEND.threads == count
        found.append(trained(made))
    assert [same(found[0], other) for other in found] == [True] * 6
    assert not same(found[0], {n: np.zeros_like(a) for n, a in found[0].items()})


def test_callers_at_the_same_time_do_not_disturb_each_other() -> None:
    THREADS.use(3)
    expected, sessions = trained(session()), [session() for _ in range(3)]
    found: list[dict[str, np.ndarray]] = []

    def call(own: Session) -> None:
        found.append(trained(own))

    callers = [threading.Thread(target=call, args=(own,)) for own in sessions]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 3
    assert all(same(expected, one) for one in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_process_has_threads_of_its_own(tmp_path: Path) -> None:
    THREADS.use(2)
    made = session()
    expected = trained(made)
    child = os.fork()
    if not child:  # no test must end here
        try:
            code = 0 if same(expected, trained(made)) else 1
        except BaseException:  # noqa: BLE001
            code = 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert same(expected, trained(made))


def test_a_task_that_fails_is_an_error() -> None:
    made = session()
    step = made.step("train_step", 32)
    POOL.fault.value = -1
    with np.errstate(all="ignore"), pytest.raises(MemoryError, match="more working memory"):
        step(batches()[0])
    with np.errstate(all="ignore"):
        step(batches()[0])


def test_the_width_of_a_pool() -> None:
    pool = Pool()
    assert pool.width >= 1
    pool.use(5)
    assert pool.width == 5
    pool.use(10**6)
    assert pool.width == MOST
    pool.use(5)
    pool.memory[0] = 1
    pool.complete(None)
    pool.forget()  # as in a child
    assert pool.width == 5
    assert pool.incomplete
    assert not pool.memory[:64].any()


def test_the_code_of_workers_stays() -> None:
    """A step without parallel loops starts no workers: it is a later one whose code they run."""
    pool = Pool()
    pool.use(3)
    pool.complete("a step without parallel loops")
    assert pool.incomplete
    started = pool.memory.view(np.int32)[50:51]  # see %Pool in pool.ll
    started[0] = 2
    pool.complete("a step whose workers these are")
    assert not pool.incomplete
    assert pool._kept == ["a step whose workers these are"]
