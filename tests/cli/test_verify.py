"""`weft verify`: its table, its JSON, its faults and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Weft
from weft.backends.numpy import ops
from weft.backends.numpy.elementwise import ufunc
from weft.runtime.verification.checks import CHECKS

SMALL = ("--set", "hidden=2")


def test_a_row_for_each_check(weft: Weft, spec: Path) -> None:
    done = weft("verify", spec, *SMALL)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "small on numpy in f32: batches of 64, 29 and 1"
    rows = [line for line in lines if line.endswith("  ok")]
    assert [row.split("  ")[0] for row in rows] == list(CHECKS)
    assert lines[-1] == f"all {len(CHECKS)} checks passed"


def test_json(weft: Weft, spec: Path) -> None:
    found = weft("verify", spec, *SMALL, "--json").json
    assert (found["passed"], found["backend"], found["batches"]) == (True, "numpy", [64, 29, 1])
    assert [check["name"] for check in found["checks"]] == list(CHECKS)
    for check in found["checks"]:
        assert check["passed"]
        assert check["count"]
        assert check["error"] <= check["bound"]
        assert (check["faults"], check["more"]) == ([], 0)


def test_a_fault_is_shown_in_the_spec(
    weft: Weft, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ops.TABLE, "exp", ufunc("exp2"))
    done = weft("verify", spec, *SMALL)
    assert done.code == 1
    assert done.out.splitlines()[-1] == f"2 of {len(CHECKS)} checks failed: kernels, graphs"
    assert "a kernel of train_step is wrong on numpy" in done.err
    assert "minimize cross_entropy(net(x), y)" in done.err
    assert "give or take" in done.err
    found = weft("verify", spec, *SMALL, "--json")
    assert found.code == 1
    (kernels,) = (c for c in found.json["checks"] if c["name"] == "kernels")
    assert not kernels["passed"]
    assert kernels["error"] > kernels["bound"]
    assert kernels["faults"][0]["line"] == 19
    assert "give or take" in kernels["faults"][0]["expected"]


def test_there_is_no_such_backend(weft: Weft, spec: Path) -> None:
    done = weft("verify", spec, "--backend", "numbpy")
    assert done.code == 1
    assert "did you mean `numpy`?" in done.err
