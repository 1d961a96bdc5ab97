"""The random bits: known answers, agreement of the fast form with the plain one, streams."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.compiler import philox
from weft.compiler.errors import CompileError
from weft.compiler.philox import Philox, philox4x32, random_bits, seed_words, stream_id

ONES = 0xFFFFFFFF

# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, output.
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (ONES, ONES, ONES, ONES),
        (ONES, ONES),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def plain(seed, step, stream, count):
    """`random_bits` as its definition says it."""
    low, high = stream_id(stream)
    block = np.arange(-(-count // 4))
    words = philox4x32((block, step, low, high), seed)
    return np.stack(words, axis=-1).reshape(-1)[:count]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert tuple(int(word) for word in philox4x32(counter, key)) == expected


def test_counters_as_one_array():
    counters = np.array([counter for counter, _, _ in KNOWN], dtype=np.uint32)
    keys = np.array([key for _, key, _ in KNOWN], dtype=np.uint32).T
    expected = np.array([output for _, _, output in KNOWN]).T
    words = philox4x32(counters, keys)
    assert [word.dtype for word in words] == [np.uint32] * 4
    np.testing.assert_array_equal(words, expected)


@given(
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**32 - 1),
    stream=st.text(max_size=20),
    count=st.integers(0, 300),
)
def test_draws_follow_the_definition(seed, step, stream, count):
    key = seed_words(seed)
    bits = random_bits(key, step, stream, count)
    assert bits.dtype == np.uint32
    np.testing.assert_array_equal(bits, plain(key, step, stream, count))


@pytest.mark.parametrize("count", [1, 4, 31, 32, 33, 64, 997])
def test_chunks_make_no_difference(monkeypatch, count):
    monkeypatch.setattr(philox, "_CHUNK", 8)
    key = seed_words(5)
    np.testing.assert_array_equal(
        random_bits(key, 2, "net.noise", count), plain(key, 2, "net.noise", count)
    )


def test_a_large_draw_crosses_chunks():
    key = seed_words(1 << 40)
    bits = random_bits(key, 9, "x", 100_003)
    np.testing.assert_array_equal(bits, plain(key, 9, "x", 100_003))


def test_golden_words():
    """What every backend must give, for good: exported models depend on it."""
    words = random_bits(seed_words(42), 7, "net.dropout.1", 6)
    text = " ".join(f"{int(word):08x}" for word in words)
    assert text == "c2b572a8 94afd73f abed0cbf 63ebbef1 be6e9715 a62bed21"


def test_shorter_draws_are_prefixes():
    key = seed_words(3)
    np.testing.assert_array_equal(
        random_bits(key, 0, "s", 100), random_bits(key, 0, "s", 999)[:100]
    )


def test_draws_repeat_and_differ_by_seed_step_and_stream():
    draw = Philox(64, "a")
    first = draw(seed_words(0), 0)
    others = [
        draw(seed_words(1), 0),
        draw(seed_words(1 << 32), 0),
        draw(seed_words(0), 1),
        Philox(64, "b")(seed_words(0), 0),
    ]
    np.testing.assert_array_equal(draw(seed_words(0), np.uint32(0)), first)
    for other in others:
        assert np.count_nonzero(other == first) <= 1


def test_out_is_filled_and_returned():
    out = np.zeros(10, np.uint32)
    assert Philox(10, "a")(seed_words(0), 3, out) is out
    np.testing.assert_array_equal(out, random_bits(seed_words(0), 3, "a", 10))


def test_bits_are_fair():
    bits = random_bits(seed_words(0), 0, "fair", 1 << 16)
    share = np.unpackbits(bits.view(np.uint8)).reshape(-1, 32).mean(axis=0)
    assert np.abs(share - 0.5).max() < 4 * 0.5 / np.sqrt(bits.size)


def test_stream_id_is_the_digest():
    digest = hashlib.blake2b(b"net.w", digest_size=8).digest()
    low, high = stream_id("net.w")
    assert (low | high << 32).to_bytes(8, "little") == digest


def test_seed_words():
    assert seed_words(0x0123456789ABCDEF).tolist() == [0x89ABCDEF, 0x01234567]


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(CompileError, match="out of range"):
        seed_words(seed)


@pytest.mark.parametrize("count", [-1, philox.MAX_COUNT + 1])
def test_counts_out_of_range_are_refused(count):
    with pytest.raises(CompileError, match="words a step"):
        Philox(count, "a")
