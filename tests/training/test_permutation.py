"""The epoch's order: a bijection for every size, well mixed, and pure."""

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime import permutation
from weft.runtime.permutation import Permutation


def order(size, seed=0, stream="d", epoch=0):
    return Permutation(size, seed, stream, epoch)(np.arange(size))


def excess(counts, expected, freedom):
    """Chi-square of the counts, as standard deviations from what chance gives."""
    chi = ((counts - expected) ** 2 / expected).sum()
    return (chi - freedom) / math.sqrt(2 * freedom)


def test_bijective_for_every_small_size():
    for size in range(1, 300):
        np.testing.assert_array_equal(np.sort(order(size, seed=size)), np.arange(size))


@given(
    size=st.integers(1, 50_000),
    seed=st.integers(0, 2**64 - 1),
    stream=st.text(max_size=9),
    epoch=st.integers(0, 2**32 - 1),
)
def test_bijective(size, seed, stream, epoch):
    seen = np.zeros(size, bool)
    seen[order(size, seed, stream, epoch)] = True
    assert seen.all()


@pytest.mark.parametrize("size", [10**9 + 7, 2**40 + 1, permutation.MAX_SIZE])
def test_large_sizes_stay_in_range_and_distinct(size):
    positions = np.concatenate([np.arange(5000), size - 1 - np.arange(5000)])
    found = Permutation(size, 1, "d", 2)(positions)
    assert found.min() >= 0
    assert found.max() < size
    assert len(np.unique(found)) == len(found)


def test_memory_does_not_grow_with_the_size():
    def peak(size):
        tracemalloc.start()
        Permutation(size, 0, "d")(np.arange(1000))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1000)
    assert peak(10**12) < 2 * peak(1000) < 10**6


def test_any_shape_and_any_positions():
    whole = order(1000)
    positions = np.array([[3, 999], [0, 3]])
    np.testing.assert_array_equal(Permutation(1000, 0, "d")(positions), whole[positions])
    assert Permutation(5, 0, "d")(np.empty(0, np.int64)).shape == (0,)


def test_blocks_make_no_difference(monkeypatch):
    whole = order(1000)
    monkeypatch.setattr(permutation, "_BLOCK", 7)
    np.testing.assert_array_equal(order(1000), whole)


def test_pure_and_different_by_seed_stream_and_epoch():
    first = order(200)
    np.testing.assert_array_equal(order(200), first)
    for other in (order(200, seed=1), order(200, stream="e"), order(200, epoch=1)):
        assert np.count_nonzero(other == first) < 15


def test_golden_order():
    """A resumed run of an older version must see the same examples."""
    assert order(12, seed=7, stream="digits.order", epoch=3).tolist() == [
        4,
        8,
        3,
        0,
        1,
        10,
        11,
        7,
        9,
        2,
        5,
        6,
    ]


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_tiny_sizes_take_every_order_equally_often(size):
    orders = 100 * math.factorial(size)
    counts = Counter(tuple(order(size, epoch=epoch)) for epoch in range(orders))
    assert len(counts) == math.factorial(size)
    assert excess(np.array(list(counts.values())), 100, len(counts) - 1) < 4


@pytest.mark.parametrize("size", [10, 37, 64, 101])
def test_well_mixed_over_epochs(size):
    epochs = 1000
    orders = np.array([order(size, epoch=epoch) for epoch in range(epochs)])
    # Each thing stands at each place equally often.
    table = np.zeros((size, size))
    np.add.at(table, (np.arange(size)[None], orders), 1)
    assert abs(excess(table, epochs / size, (size - 1) ** 2)) < 4
    # One thing stays at its place on average, as in a random order, with variance 1.
    fixed = (orders == np.arange(size)).sum(axis=1)
    assert abs(fixed.mean() - 1) < 4 / math.sqrt(epochs)
    # Neighbours differ by each number equally often.
    steps = np.bincount(((orders[:, 1:] - orders[:, :-1]) % size).ravel(), minlength=size)[1:]
    assert abs(excess(steps, steps.mean(), size - 2)) < 4


def test_neighbours_and_epochs_are_uncorrelated():
    size = 20_000
    first, second = order(size), order(size, epoch=1)
    bound = 4 / math.sqrt(size)
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(first[lag:], first[:-lag])[0, 1]) < bound
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    assert abs(np.corrcoef(first, np.arange(size))[0, 1]) < bound
    assert np.count_nonzero(first == second) < 10


@pytest.mark.parametrize("size", [0, -1, permutation.MAX_SIZE + 1])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match="a permutation needs"):
        Permutation(size, 0, "d")


@pytest.mark.parametrize("size", [1, 2, 37, 1437])
def test_epochs_together_are_the_same_orders(size):
    together = permutation.orders(size, 3, "d", 5, 4)
    for i in range(4):
        np.testing.assert_array_equal(together[i], order(size, 3, "d", 5 + i))
