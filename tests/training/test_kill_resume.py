"""A run killed at any moment, also while it saves, ends after `resume` with the bytes of one never
killed.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import training_specs as specs
import weft
from weft.runtime.checkpoint import checkpoints

TRAIN = """
import sys
import weft
weft.load(sys.argv[1], epochs=12).train("numpy", out=sys.argv[2], resume=True, checkpoint_every=3)
"""

# As above, but the process dies by `kill -9` inside the n-th write, with a part of it on the disk.
DIE_SAVING = """
import os, signal, sys
import weft
from weft.runtime import checkpoint, files
count = int(sys.argv[3])
def write(path, content):
    global count
    count -= 1
    if count < 0:
        path.with_name(f".{path.name}.tmp").write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    files.write_atomically(path, content)
checkpoint.write_atomically = write
weft.load(sys.argv[1], epochs=12).train("numpy", out=sys.argv[2], resume=True, checkpoint_every=3)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> int:
    _, told = process.communicate(timeout=120)
    assert process.returncode in (0, -9), told.decode()
    return process.returncode


def outcome(folder: Path) -> dict[str, bytes]:
    """The bytes of what a run ends with."""
    newest = checkpoints(folder / "checkpoints")[0]
    files = [newest, folder / "metrics.jsonl", folder / "result.json"]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return specs.points(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="module")
def whole(spec: Path) -> dict[str, bytes]:
    """What the run that was never killed ends with."""
    assert finish(start(TRAIN, str(spec), str(spec.parent / "whole"))) == 0
    return outcome(spec.parent / "whole")


def killed_somewhere(spec: Path, folder: Path, moments: int, seed: int) -> int:
    """Kill and resume at that many random moments of the work; how often a kill met the run."""
    rng = random.Random(seed)
    kills = 0
    for _ in range(moments):
        process = start(TRAIN, str(spec), str(folder))
        # The log grows with the run: waiting for its next line puts the kill inside the training.
        log, wait = folder / "metrics.jsonl", rng.random() * 0.02
        size, until = _size(log), time.monotonic() + 60
        while process.poll() is None and _size(log) == size and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(wait)
        process.kill()
        kills += finish(process) == -9
        if (folder / "result.json").exists():
            break
    return kills


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check_kills(spec: Path, whole: dict[str, bytes], folder: Path, moments: int, seed: int) -> None:
    kills = killed_somewhere(spec, folder, moments, seed)
    assert finish(start(TRAIN, str(spec), str(folder))) == 0
    assert outcome(folder) == whole
    assert kills


def test_killed_runs_end_the_same(spec: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    check_kills(spec, whole, tmp_path / "run", 3, seed=1)
    assert weft.open_run(tmp_path / "run").metrics["test"]


@pytest.mark.parametrize("write", [0, 4, 5])
def test_killed_while_saving(
    spec: Path, whole: dict[str, bytes], tmp_path: Path, write: int
) -> None:
    folder = tmp_path / "run"
    assert finish(start(DIE_SAVING, str(spec), str(folder), str(write))) == -9
    assert finish(start(TRAIN, str(spec), str(folder))) == 0
    assert outcome(folder) == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_twenty_moments(
    spec: Path, whole: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    check_kills(spec, whole, tmp_path / "run", 4, seed=100 + seed)


@pytest.mark.slow
@pytest.mark.parametrize("write", range(1, 20, 3))
def test_killed_in_many_saves(
    spec: Path, whole: dict[str, bytes], tmp_path: Path, write: int
) -> None:
    test_killed_while_saving(spec, whole, tmp_path, write)
