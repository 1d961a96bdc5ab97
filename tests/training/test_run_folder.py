"""The folder of a run: fresh numbers, no overwriting, what it holds, and its log."""

import json
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.compiler.errors import RunError
from weft.runtime.metrics_log import MetricsLog
from weft.runtime.run_folder import RunFolder, environment


def begin(folder, spec="train {}", spec_hash="abc"):
    folder.begin(spec, spec_hash, {"epochs": 3}, {"hidden": 512}, environment())
    return folder


def test_numbers_are_fresh(tmp_path):
    runs = tmp_path / "deep" / "runs"
    names = [RunFolder.create(runs, "digits").path.name for _ in range(3)]
    assert names == ["digits-001", "digits-002", "digits-003"]
    (runs / "digits-1203").mkdir()
    (runs / "digits-x").mkdir()
    (runs / "digits-001").rmdir()
    assert RunFolder.create(runs, "digits").path.name == "digits-1204"
    assert RunFolder.create(runs, "digits-x").path.name == "digits-x-001"
    assert RunFolder.create(runs, "a.b+c").path.name == "a.b+c-001"


def test_processes_get_folders_of_their_own(tmp_path):
    code = (
        "import sys; from pathlib import Path; from weft.runtime.run_folder import RunFolder\n"
        "for _ in range(20): print(RunFolder.create(Path(sys.argv[1]), 'd').path.name)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = [name for process in started for name in process.communicate()[0].split()]
    assert sorted(names) == [f"d-{i:03d}" for i in range(1, 41)]


def test_what_it_holds(tmp_path):
    created = begin(RunFolder.create(tmp_path, "d"), "train { }  # µ")
    folder = RunFolder.open(created.path)
    assert folder.spec == "train { }  # µ"
    known = {"hash": "abc", "settings": {"epochs": 3}, "overrides": {"hidden": 512}}
    assert {key: folder.record[key] for key in known} == known
    assert folder.edited == []
    (folder.path / "spec.weft").write_text("train { }")
    assert folder.edited == ["spec.weft"]
    assert folder.environment["machine"] == platform.machine()
    assert folder.environment["packages"]["numpy"] == np.__version__
    assert folder.checkpoints.is_dir()
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "checkpoints",
        "environment.json",
        "spec.json",
        "spec.weft",
    ]


def test_a_given_path(tmp_path):
    path = tmp_path / "a" / "b"
    assert RunFolder.create(tmp_path, "d", path).path == path
    # A run that died before it began is not in the way.
    (path / "spec.weft").write_text("train {}")
    (path / ".spec.json.tmp").write_text("{")
    begin(RunFolder.create(tmp_path, "d", path))
    with pytest.raises(RunError, match="another run"):
        RunFolder.create(tmp_path, "d", path)
    assert RunFolder.open(path).spec == "train {}"


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is not empty"):
        RunFolder.create(tmp_path / "runs", "d", tmp_path)
    with pytest.raises(RunError, match="is a file"):
        RunFolder.create(tmp_path / "runs", "d", tmp_path / "thesis.tex")
    with pytest.raises(RunError, match="no folder for the run"):
        RunFolder.create(tmp_path / "thesis.tex", "d")


def test_opening_what_is_no_run(tmp_path):
    with pytest.raises(RunError, match="there is no run") as caught:
        RunFolder.open(tmp_path)
    assert "no `spec.json`" in str(caught.value)
    with pytest.raises(RunError, match="there is no run"):
        RunFolder.open(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_record(tmp_path, content):
    folder = begin(RunFolder.create(tmp_path, "d"))
    (folder.path / "spec.json").write_bytes(content)
    with pytest.raises(RunError):
        folder.require_spec("abc")


def test_damage_that_is_still_json_is_found(tmp_path):
    folder = begin(RunFolder.create(tmp_path, "d"))
    path = folder.path / "spec.json"
    path.write_text(path.read_text().replace('"abc"', '"abd"'))
    with pytest.raises(RunError, match="damaged"):
        folder.require_spec("abd")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY"])
def test_damaged_statistics(tmp_path, content):
    folder = begin(RunFolder.create(tmp_path, "d"))
    (folder.path / "fitted.npz").write_bytes(content)
    with pytest.raises(RunError, match="cannot be read"):
        _ = folder.fitted


def test_another_spec_is_refused(tmp_path):
    folder = begin(RunFolder.create(tmp_path, "d"))
    folder.require_spec("abc")
    with pytest.raises(RunError, match="another spec"):
        folder.require_spec("abd")


def test_a_changed_environment_is_told(tmp_path):
    folder = begin(RunFolder.create(tmp_path, "d"))
    assert folder.moved(environment()) == []
    assert folder.moved({**environment(("no-such-package",)), "threads": 4}) == [
        "packages.no-such-package: none -> not installed",
        "threads: none -> 4",
    ]


# -- the log


def test_append_and_read(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == []
    log.append({"step": 1, "loss": np.float32(0.5), "n": np.int64(3), "a": np.array(2.0)})
    log.append({"step": 2, "loss": float("nan"), "rate": float("inf"), "split": "valid"})
    assert log.read() == [
        {"step": 1, "loss": 0.5, "n": 3, "a": 2.0},
        {"step": 2, "loss": None, "rate": None, "split": "valid"},
    ]
    assert len(log.path.read_text().splitlines()) == 2


def test_keep_removes_later_steps_and_torn_lines(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        log.append({"step": step})
    with log.path.open("ab") as file:
        file.write(b'{"step": 6, "lo')
    assert [record["step"] for record in log.read()] == [1, 2, 3, 4, 5]
    assert log.keep(3) == 3
    assert log.keep(3) == 0
    log.append({"step": 4})
    assert [record["step"] for record in log.read()] == [1, 2, 3, 4]


def test_keep_of_a_damaged_middle(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.write_bytes(b'{"step": 1}\n\0\0\0\n[3]\n{"x": 1}\n\xff\n{"step": 2}\n')
    assert log.keep(9) == 4
    assert log.read() == [{"step": 1}, {"step": 2}]


def test_nothing_to_keep(tmp_path):
    assert MetricsLog(tmp_path / "none").keep(3) == 0


@given(st.integers(0, 200), st.integers(0, 12))
def test_a_run_killed_anywhere_ends_with_the_same_log(tmp_path_factory, cut, step):
    log = MetricsLog(tmp_path_factory.getbasetemp() / "metrics.jsonl")
    lines = [json.dumps({"step": i, "loss": i / 7}) + "\n" for i in range(1, 11)]
    whole = "".join(lines).encode()
    log.path.write_bytes(whole[:cut])
    log.keep(step)
    begun = len(log.read())
    assert begun <= step
    for i in range(begun + 1, 11):
        log.append({"step": i, "loss": i / 7})
    assert log.path.read_bytes() == whole


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="cannot be written"):
        MetricsLog(tmp_path / "no" / "m").append({"step": 1})
    with pytest.raises(RunError, match="cannot be read"):
        MetricsLog(tmp_path).read()
