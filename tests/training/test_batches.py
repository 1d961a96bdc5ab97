"""Splits of data into parts, and batches of a part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.compiler.errors import RunError
from weft.runtime.data.batches import BatchPlan, gather, sweep
from weft.runtime.data.sources import load
from weft.runtime.data.splits import Part, split

# -- splits


@given(size=st.integers(3, 500), cut=st.integers(1, 98), name=st.sampled_from(["a", "digits"]))
def test_splits_are_disjoint_and_cover(size, cut, name):
    fractions = {"train": cut / 100, "rest": (100 - cut) / 100}
    try:
        parts = split(size, fractions, name)
    except RunError:
        assert min(fractions.values()) * size < 1
        return
    rows = np.concatenate([part.rows() for part in parts.values()])
    np.testing.assert_array_equal(np.sort(rows), np.arange(size))
    for part, fraction in fractions.items():
        assert abs(parts[part].size - fraction * size) < 1


def test_split_sizes_by_largest_remainder():
    parts = split(1797, {"train": 0.8, "valid": 0.1, "test": 0.1}, "digits")
    assert {name: part.size for name, part in parts.items()} == {
        "train": 1437,
        "valid": 180,
        "test": 180,
    }
    assert [p.size for p in split(1000, {"a": 0.7, "b": 0.2, "c": 0.1}, "d").values()] == [
        700,
        200,
        100,
    ]


def test_split_is_fixed_by_the_name():
    fractions = {"train": 0.8, "test": 0.2}
    first, again, other = (split(500, fractions, name) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first["test"].rows(), again["test"].rows())
    assert set(first["test"].rows()) != set(other["test"].rows())


def test_split_by_counts():
    parts = split(100, {"train": 60, "test": 30}, "d")
    rows = np.concatenate([part.rows() for part in parts.values()])
    assert [part.size for part in parts.values()] == [60, 30]
    assert len(set(rows.tolist())) == 90


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, "names no parts"),
        ({"train": 0.8, "test": 0.1}, "90%"),
        ({"train": 0.99, "test": 0.01}, "`test` of `d` would be empty"),
        ({"train": 10, "test": 0}, "`test` of `d` would be empty"),
        ({"train": 1.5, "test": -0.5}, "is negative"),
        ({"train": float("nan"), "test": 0.5}, "is negative"),
        ({"train": 8, "test": 0.2}, "mixes"),
        ({"train": 8, "test": 3}, "at most 10"),
    ],
)
def test_split_errors(parts, expected):
    with pytest.raises(RunError) as caught:
        split(10, parts, "d")
    assert expected in str(caught.value)


# -- batches


@given(
    size=st.integers(1, 200),
    batch=st.integers(1, 64),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_an_epoch_sees_each_row_once(size, batch, shuffle, drop_last):
    if drop_last and size < batch:
        return
    plan = BatchPlan(Part(size), batch, shuffle, 1, "d.order", drop_last)
    steps = plan.steps_per_epoch
    assert steps == (size // batch if drop_last else -(-size // batch))
    for epoch in (0, 3):
        batches = [plan.indices(epoch * steps + i) for i in range(steps)]
        assert [len(b) for b in batches] == [plan.size(i) for i in range(steps)]
        assert all(len(b) == batch for b in batches[:-1])
        rows = np.concatenate(batches)
        assert len(set(rows.tolist())) == len(rows) == (steps * batch if drop_last else size)
        assert rows.max() < size
        if not shuffle:
            np.testing.assert_array_equal(rows, np.arange(len(rows)))


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=30))
def test_steps_may_be_asked_in_any_order(steps):
    part = split(50_000, {"train": 0.9, "test": 0.1}, "d")["train"]
    plan = BatchPlan(part, 64, True, 3, "d.order")
    for step in steps:
        fresh = BatchPlan(part, 64, True, 3, "d.order").indices(step)
        np.testing.assert_array_equal(plan.indices(step), fresh)
        assert plan.place(step) == divmod(step, 704)


def test_epochs_and_seeds_differ_and_rows_belong_to_the_part():
    part = split(300, {"train": 0.5, "test": 0.5}, "d")["train"]
    plan, other = (BatchPlan(part, 150, True, seed, "d.order") for seed in (0, 1))
    first = plan.indices(0)
    assert set(first.tolist()) == set(part.rows().tolist())
    assert first.tolist() != plan.indices(1).tolist() != other.indices(0).tolist()


def test_indices_cannot_be_spoilt():
    indices = BatchPlan(Part(10), 4, False, 0, "d").indices(0)
    with pytest.raises(ValueError, match="read-only"):
        indices[0] = 5


def test_batch_errors():
    with pytest.raises(RunError, match="drop every batch"):
        BatchPlan(Part(10), 11, True, 0, "d", drop_last=True)
    with pytest.raises(RunError, match="at least one"):
        BatchPlan(Part(10), 0, True, 0, "d")


def test_sweep():
    part = split(10, {"a": 7, "b": 3}, "d")["a"]
    batches = list(sweep(part, 3))
    assert [len(b) for b in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), part.rows())


def test_gather(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(20.0).reshape(10, 2))
    arrays = load("npy", [], {"x": "x.npy"}, tmp_path).arrays
    rows = np.array([7, 0, 7])
    expected = [[14, 15], [0, 1], [14, 15]]
    taken = gather(arrays, rows)["x"]
    assert type(taken) is np.ndarray
    assert taken.tolist() == expected
    for dtype in (np.float64, np.float32):
        out = {"x": np.full((4, 2), -1, dtype)}
        taken = gather(arrays, rows, out)["x"]
        assert taken.base is out["x"]
        assert taken.tolist() == expected
        assert out["x"][3].tolist() == [-1, -1]
