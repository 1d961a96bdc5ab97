"""A random order of 0..size-1 that is computed, not stored: a keyed Feistel network.

The numbers 0..size-1 are written with two digits, (left, right), to the bases a and b, where
a * b >= size by the smallest margin. A round replaces one digit by itself plus a keyed hash of the
other, modulo its base; each such step can be undone, so their chain is a bijection of 0..a*b-1.
A result past the end goes through the network again until it falls inside ("cycle walking"),
which keeps it a bijection of 0..size-1.

Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (methods 2 and 3).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weft.compiler.philox import philox4x32, random_bits, seed_words, stream_id

Indices = NDArray[np.int64]
_Wide = NDArray[np.uint64]

ROUNDS = 12
MAX_SIZE = 1 << 62  # so that each digit fits 32 bits

_HALF = np.uint64(32)
_MIX = np.uint64(29)
_BLOCK = 8192  # positions worked on at once: the scratch arrays stay in cache


class Permutation:
    """The order of `size` things in an epoch: position -> which thing is there.

    A pure function of (size, seed, stream, epoch); the keys are the Philox words of that stream,
    with the epoch in the place of the step. It takes the same small memory for every size.
    """

    def __init__(self, size: int, seed: int, stream: str, epoch: int = 0) -> None:
        self._network = _Network(size, seed, stream, epoch, 1)
        self.size = size

    def __call__(self, positions: Indices) -> Indices:
        """What stands at each position: int64 of the shape of `positions`, all in 0..size-1."""
        flat = np.ascontiguousarray(positions, dtype=np.int64).reshape(-1)
        out = np.empty_like(flat)
        for start in range(0, flat.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            out[block] = self._network.walk(flat[None, block].astype(np.uint64))[0]
        return out.reshape(np.shape(positions))


def orders(size: int, seed: int, stream: str, epoch: int, count: int) -> Indices:
    """The whole orders of `count` epochs from `epoch` on: int64 of shape (count, size).

    The same numbers as `Permutation` gives, for small sizes in a fraction of the time.
    """
    positions = np.broadcast_to(np.arange(size, dtype=np.uint64), (count, size)).copy()
    return _Network(size, seed, stream, epoch, count).walk(positions).astype(np.int64)


class _Network:
    """The network of `count` epochs at once: row i of what it works on is of epoch + i."""

    def __init__(self, size: int, seed: int, stream: str, epoch: int, count: int) -> None:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"a permutation needs a size from 1 to 2^62, not {size}")
        self.size = size
        left = math.isqrt(size - 1) + 1
        self._bases = (left, -(-size // left))
        words = _words(seed, stream, epoch, count)
        low, high = words[0::2], words[1::2]
        keys = (high << _HALF) | low
        # Each round has an offset and an odd multiplier: h(v) = high bits of mix(v + offset).
        self._offsets = np.ascontiguousarray(keys[0::2])
        self._multipliers = keys[1::2] | np.uint64(1)

    def walk(self, values: _Wide) -> _Wide:
        """The things at positions of shape (count, any): again through the network until inside."""
        values = self._mixed(values, self._offsets, self._multipliers)
        rows, columns = np.nonzero(values >= self.size)
        while rows.size:
            again = self._mixed(
                values[rows, columns], self._offsets[:, rows, 0], self._multipliers[:, rows, 0]
            )
            values[rows, columns] = again
            outside = again >= self.size
            rows, columns = rows[outside], columns[outside]
        return values

    def _mixed(self, values: _Wide, offsets: _Wide, multipliers: _Wide) -> _Wide:
        base = np.uint64(self._bases[1])
        left = values // base
        right = values - left * base
        digits, bases = [left, right], [np.uint64(b) for b in self._bases]
        scratch, mixed = np.empty_like(values), np.empty_like(values)
        for turn in range(ROUNDS):
            to, source = turn % 2, 1 - turn % 2
            target = digits[to]
            np.add(digits[source], offsets[turn], out=mixed)
            np.multiply(mixed, multipliers[turn], out=mixed)
            np.right_shift(mixed, _MIX, out=scratch)
            np.bitwise_xor(mixed, scratch, out=mixed)
            np.multiply(mixed, multipliers[turn], out=mixed)
            # The top 32 bits as a fraction of 2^32, times the base: a number in 0..base-1.
            np.right_shift(mixed, _HALF, out=mixed)
            np.multiply(mixed, bases[to], out=mixed)
            np.right_shift(mixed, _HALF, out=mixed)
            np.add(target, mixed, out=target)
            # Modulo without a division: one subtraction too many wraps round to a huge number.
            np.subtract(target, bases[to], out=scratch)
            np.minimum(target, scratch, out=target)
        return left * base + right


def _words(seed: int, stream: str, epoch: int, count: int) -> _Wide:
    """The random words of each epoch: shape (4 * ROUNDS, count, 1)."""
    key, size = seed_words(seed), 4 * ROUNDS
    if count == 1:
        return random_bits(key, epoch, stream, size).astype(np.uint64).reshape(size, 1, 1)
    blocks, epochs = np.arange(ROUNDS)[:, None], epoch + np.arange(count)[None]
    lanes = philox4x32((blocks, epochs, *stream_id(stream)), key)
    return np.stack(lanes, axis=1).reshape(size, count, 1).astype(np.uint64)
