"""Which backend runs: the fastest that can, the one that is asked for, that of a run begun."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import weft
from weft.backends.threads import Threads
from weft.compiler.errors import RunError
from weft.runtime import backends
from weft.runtime.backends import BACKENDS, Entry, backend_named, installed

SPEC = """\
data ring {
  source = embedded("ring")
  x: f32[2] = point
  split = { train: 80%, valid: 20% }
}
model net = dense(1)
train {
  data = ring.batch(64)
  minimize mean(net(x)^2) with sgd(0.1)
  epochs = 2
}
"""


def load_numpy() -> backends.Backend:
    return BACKENDS["numpy"].load()


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    """Backends that aren't there, before the one that always is."""
    found = {
        "moon": Entry(load_numpy, ("no_such_module", "json"), "moon"),
        "sun": Entry(load_numpy, missing=lambda: "no sun"),
        "numpy": Entry(load_numpy),
    }
    monkeypatch.setattr(backends, "BACKENDS", found)
    return found


def test_auto_is_the_first_that_can_run(
    fleet: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert installed() == ("numpy",)
    assert backend_named("auto").name == "numpy"
    monkeypatch.setitem(fleet, "sun", Entry(lambda: "the sun"))  # type: ignore[arg-type, return-value]
    assert installed() == ("sun", "numpy")
    assert backend_named("auto") == "the sun"


@pytest.mark.usefixtures("fleet")
def test_one_that_cannot_run_says_what_it_lacks() -> None:
    with pytest.raises(RunError) as error:
        backend_named("moon")
    diagnostic = error.value.diagnostic
    assert diagnostic.message == "the backend `moon` can't run here"
    assert diagnostic.found == "`no_such_module` not installed"
    assert diagnostic.hint is not None
    assert 'pip install "weft[moon]"' in diagnostic.hint
    assert "`--backend numpy`" in diagnostic.hint
    with pytest.raises(RunError, match="no sun"):
        backend_named("sun")


def test_the_last_backend_needs_nothing() -> None:
    name, entry = list(BACKENDS.items())[-1]
    assert name == "numpy"
    assert entry.lacks is None
    assert installed()[-1] == "numpy"


def test_a_run_goes_on_where_it_began(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert weft.load(SPEC, epochs=1).train("numpy", out=out).backend == "numpy"
    again = weft.load(SPEC, epochs=1).train(out=out, resume=True)
    assert again.backend == "numpy"
    assert weft.open_run(out).resume().backend == "numpy"
    assert weft.open_run(out).backend == "numpy"


@pytest.mark.parametrize("name", installed())
def test_a_run_trained_on_one_backend_is_used_on_another(tmp_path: Path, name: str) -> None:
    run = weft.load(SPEC).train("numpy", out=tmp_path / "run")
    opened = weft.open_run(tmp_path / "run", backend=name)
    assert opened.backend == name
    assert opened.evaluate("valid") == pytest.approx(run.evaluate("valid"), rel=1e-5)


def test_left_out_it_is_the_fastest(tmp_path: Path) -> None:
    assert weft.load(SPEC, epochs=1).train(out=tmp_path / "run").backend == installed()[0]


@pytest.fixture
def _threads_as_before() -> Iterator[None]:
    yield
    weft.use_threads(None)


ON_THREADS = [name for name in installed() if name in ("tvm", "numpy")]


@pytest.mark.usefixtures("_threads_as_before")
@pytest.mark.parametrize("name", ON_THREADS)
def test_threads_of_a_process(name: str) -> None:
    backend = backend_named(name)
    weft.use_threads(None)  # whatever the environment told NumPy's BLAS
    of_the_cores = backend.threads
    weft.use_threads(3)
    assert backend.threads == 3
    with pytest.raises(RunError, match="at least 1"):
        weft.use_threads(0)
    weft.use_threads(None)
    assert backend.threads == of_the_cores


def test_who_has_threads_is_told_how_many() -> None:
    early: list[int | None] = []
    late: list[int | None] = []
    threads = Threads()
    threads.follow(early.append)
    threads.use(2)
    threads.follow(late.append)
    threads.use(None)
    assert early == [2, None]
    assert late == [2, None]


@pytest.mark.parametrize("name", ON_THREADS)
def test_a_backend_that_is_loaded_later_has_the_number_that_was_set(name: str) -> None:
    code = "import weft; weft.use_threads(3); from weft.runtime.backends import backend_named"
    asked = f"{code}; print(backend_named({name!r}).threads)"
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=False
    )
    assert done.stdout == "3\n", done.stderr
