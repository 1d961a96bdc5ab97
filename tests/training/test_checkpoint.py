"""Checkpoints: round trips, atomic writing, detection of damage, rotation."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weft.compiler.errors import RunError
from weft.runtime.checkpoint import (
    checkpoint_path,
    checkpoints,
    latest,
    load,
    rotate,
    save,
    step_of,
)

TENSORS = {
    "b": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a": np.float64(2.5) * np.ones(()),
    "seed": np.array([1, 2], np.uint32),
    "none": np.empty((0, 3), np.float16),
    "flag": np.array(True),
}


def same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == np.shape(array)
        assert found[name].tobytes() == np.asarray(array).tobytes()


def message(path):
    with pytest.raises(RunError) as caught:
        load(path)
    return str(caught.value)


def test_round_trip(tmp_path):
    path = tmp_path / "c.safetensors"
    save(path, TENSORS, {"step": "12", "note": "µ"})
    found = load(path)
    same(found.tensors, TENSORS)
    assert found.metadata == {"step": "12", "note": "µ"}
    assert list(found.tensors) == sorted(TENSORS)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@given(
    tensors=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        hnp.arrays(
            st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.float16]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=4,
    ),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_round_trip_of_anything(tensors, metadata, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save(path, tensors, metadata)
    found = load(path)
    same(found.tensors, tensors)
    assert found.metadata == metadata


def test_views_that_are_not_contiguous(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {"t": base.T, "s": base[:, ::2], "r": base[::-1], "f": np.asfortranarray(base)}
    save(tmp_path / "c", views)
    found = load(tmp_path / "c").tensors
    for name, view in views.items():
        np.testing.assert_array_equal(found[name], view)


def test_equal_content_gives_equal_bytes(tmp_path):
    metadata = {str(i): "x" * i for i in range(9)}
    save(tmp_path / "a", TENSORS, metadata)
    save(tmp_path / "b", dict(reversed(TENSORS.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_programs_can_read_it(tmp_path):
    save(tmp_path / "c", TENSORS, {"step": "3"})
    same(safetensors.numpy.load_file(tmp_path / "c"), TENSORS)
    with safetensors.safe_open(tmp_path / "c", framework="np") as file:
        assert json.loads(file.metadata()["weft"])["metadata"] == {"step": "3"}


@pytest.mark.parametrize("array", [np.array([object()]), np.ones(2, complex), np.ones(2, ">f4")])
def test_types_that_cannot_be_saved(array, tmp_path):
    with pytest.raises(RunError, match="cannot be saved"):
        save(tmp_path / "c", {"x": array})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(RunError, match="cannot be written"):
        save(tmp_path / "no" / "c", TENSORS)


def test_missing_and_foreign_files(tmp_path):
    assert "no checkpoint" in message(tmp_path / "none")
    (tmp_path / "text").write_text("hello, world: this is no checkpoint")
    assert "another kind" in message(tmp_path / "text")
    (tmp_path / "empty").write_bytes(b"")
    assert "another kind" in message(tmp_path / "empty")
    safetensors.numpy.save_file({"x": np.ones(2)}, tmp_path / "foreign")
    assert "not a checkpoint that Weft wrote" in message(tmp_path / "foreign")
    safetensors.numpy.save_file({"x": np.ones(2)}, tmp_path / "false", {"weft": "[1]"})
    assert "is damaged" in message(tmp_path / "false")
    assert "error" in message(tmp_path)


def test_every_cut_is_noticed(tmp_path):
    save(tmp_path / "c", TENSORS, {"step": "3"})
    content = (tmp_path / "c").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        message(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(content + b"\0")
    message(tmp_path / "cut")


def test_every_changed_byte_is_noticed(tmp_path):
    save(tmp_path / "c", TENSORS, {"step": "3"})
    content = bytearray((tmp_path / "c").read_bytes())
    for place in range(len(content)):
        for change in (1, 0x80):
            content[place] ^= change
            (tmp_path / "d").write_bytes(content)
            content[place] ^= change
            try:
                found = load(tmp_path / "d")
            except RunError:
                continue
            # Only white space between the header's values may differ.
            same(found.tensors, TENSORS)
            assert found.metadata == {"step": "3"}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c"
    save(path, {"x": np.zeros(3)})

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"cannot be written"):
        save(path, {"x": np.ones(3)})
    assert load(path).tensors["x"].sum() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


WRITER = """
    import sys
    from pathlib import Path
    import numpy as np
    from weft.runtime.checkpoint import checkpoint_path, rotate, save
    folder = Path(sys.argv[1])
    for step in range(1, 10**6):
        save(checkpoint_path(folder, step), {"x": np.full(300_000, step, np.float32)})
        rotate(folder, 2)
        print(step, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process as POSIX does")
def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    for delay in rng.uniform(0, 0.02, 4):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(3):
                done = int(process.stdout.readline())
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        found = latest(tmp_path)
        assert not found.skipped
        step = step_of(found.checkpoint.path)
        assert step >= done
        assert (found.checkpoint.tensors["x"] == step).all()
        for path in checkpoints(tmp_path):
            path.unlink()


# -- folders


def fill(folder, *steps):
    for step in steps:
        save(checkpoint_path(folder, step), {"x": np.array(step)})


def damage(folder, step):
    path = checkpoint_path(folder, step)
    path.write_bytes(path.read_bytes()[:-1])


def steps(folder):
    return [step_of(path) for path in checkpoints(folder)]


def test_names():
    assert checkpoint_path(Path("c"), 120) == Path("c/step-000000120.safetensors")
    assert step_of(checkpoint_path(Path("c"), 120)) == 120
    assert step_of(Path("c/best.safetensors")) is None


def test_latest_goes_by_step_and_passes_over_damage(tmp_path):
    fill(tmp_path, 9, 100, 1_000_000_000, 20)
    (tmp_path / ".step-000000200.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "best.safetensors").write_bytes(b"")
    assert steps(tmp_path) == [1_000_000_000, 100, 20, 9]
    damage(tmp_path, 1_000_000_000)
    damage(tmp_path, 100)
    found = latest(tmp_path)
    assert found.checkpoint.path == checkpoint_path(tmp_path, 20)
    assert found.checkpoint.tensors["x"] == 20
    assert [step_of(path) for path, _ in found.skipped] == [1_000_000_000, 100]
    assert "cut off" in found.skipped[0][1]


def test_latest_of_nothing(tmp_path):
    assert latest(tmp_path).checkpoint is None
    assert latest(tmp_path / "none").checkpoint is None
    assert rotate(tmp_path / "none", 3) == []


def test_rotate(tmp_path):
    fill(tmp_path, 1, 2, 3, 4, 5)
    save(tmp_path / "best.safetensors", {"x": np.array(3)})
    leftover = tmp_path / ".step-000000006.safetensors.tmp"
    leftover.write_bytes(b"half")
    removed = rotate(tmp_path, 2)
    assert steps(tmp_path) == [5, 4]
    assert len(removed) == 4
    assert not leftover.exists()
    assert (tmp_path / "best.safetensors").exists()
    rotate(tmp_path, 0)
    assert steps(tmp_path) == [5]


def test_rotate_keeps_the_only_whole_one(tmp_path):
    fill(tmp_path, 1, 2, 3, 4, 5)
    for step in (3, 4, 5):
        damage(tmp_path, step)
    rotate(tmp_path, 2)
    assert steps(tmp_path) == [5, 4, 2]
    rotate(tmp_path, 1)
    assert steps(tmp_path) == [5, 2]
