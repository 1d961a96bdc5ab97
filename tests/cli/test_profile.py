"""`weft profile`: its table, its object, its figure, and what it refuses."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from weft.backends.base import Peaks
from weft.runtime.backends import backend_named, installed

PEAKS = Peaks(1e11, ((1 << 16, 1e11), (1 << 20, 5e10), (1 << 28, 1e10)))

drawing = pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks that need no measuring."""
    for name in installed():
        monkeypatch.setattr(type(backend_named(name)), "peaks", lambda self, dtype: PEAKS)


def test_the_table(weft: Callable, spec: Path) -> None:
    outcome = weft("profile", spec, "--backend", "numpy", "--steps", "2")
    assert outcome.code == 0, outcome.err
    what, times, best, _, titles, rule, *rows = outcome.out.splitlines()
    assert what.startswith("small: train_step on numpy, batches of 64, ")
    assert what.endswith(", 2 steps timed")
    assert times.startswith("a step takes ")
    assert f" calls of {len(rows)} kernels" in times
    assert best == (
        "the machine's best: 100 GFLOP/s in a product of matrices; "
        "copies of 65.5 kB at 100 GB/s, of 268 MB at 10 GB/s"
    )
    assert titles.split()[:6] == ["kernel", "calls", "time", "share", "FLOPs", "bytes"]
    assert set(rule) == {"-"}
    assert all(row.startswith("group ") for row in rows)
    products = [row for row in rows if "dot_general" in row]
    assert any(" 12 " in row for row in products)  # the line of the layer's body


def test_the_slowest_kernels(weft: Callable, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.cli import profile

    monkeypatch.setattr(profile, "SHOWN_ROWS", 3)
    asked = ("profile", spec, "--backend", "numpy", "--steps", "1")
    few = weft(*asked).out.splitlines()[6:]
    assert len(few) == 4
    every = weft(*asked, "--all").out.splitlines()[6:]
    assert few[-1].split()[:2] == [str(len(every) - 3), "others"]


def test_the_object(weft: Callable, spec: Path) -> None:
    found = weft(
        "profile", spec, "--backend", "numpy", "--steps", "2", "--graph", "predict", "--json"
    ).json
    assert (found["name"], found["graph"], found["backend"]) == ("small", "predict", "numpy")
    assert (found["batch"], found["steps"], found["made_up"]) == (64, 2, False)
    assert found["step_seconds"] > 0
    assert found["peaks"]["flops"] == 1e11
    kernels = found["kernels"]
    assert sum(k["share"] for k in kernels) == pytest.approx(1)
    assert sum(k["seconds"] for k in kernels) == pytest.approx(found["kernel_seconds"])
    assert sum(k["flops"] for k in kernels) >= 2 * 64 * (64 * 16 + 16 * 10)
    (line,) = {line["line"] for k in kernels for line in k["lines"]}
    assert line == 12
    assert {"dot_general", "maximum"} <= {op for k in kernels for op in k["operations"]}


@pytest.mark.parametrize("name", installed())
def test_threads(weft: Callable, spec: Path, name: str) -> None:
    for count in (1, 3):
        asked = ("--backend", name, "--steps", "1", "--threads", count, "--json")
        assert weft("profile", spec, *asked).json["threads"] == count
    assert weft("profile", spec, "--threads", "0").code == 2


@drawing
def test_the_figure(weft: Callable, spec: Path, tmp_path: Path) -> None:
    outcome = weft("profile", spec, "--backend", "numpy", "--steps", "1", "--figure", "roof.svg")
    assert outcome.out.splitlines()[-1] == "drew roof.svg"
    root = ElementTree.fromstring((tmp_path / "roof.svg").read_text())
    assert root.tag.endswith("svg")
    kernels = len(outcome.out.splitlines()) - 8
    assert kernels / 2 < sum("PathCollection" in e.get("id", "") for e in root.iter()) <= kernels


def test_a_figure_needs_what_draws(
    weft: Callable, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = weft("profile", spec, "--figure", "roof.svg")
    assert outcome.code == 1
    assert "drawing needs matplotlib, which is not installed" in outcome.err
    assert 'pip install "weft[plot]"' in outcome.err


@drawing
def test_a_figure_is_an_svg(weft: Callable, spec: Path) -> None:
    outcome = weft("profile", spec, "--figure", "roof.pdf")
    assert outcome.code == 1
    assert "`.svg`" in outcome.err
