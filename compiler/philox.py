"""Philox4x32-10 in NumPy: random bits as a pure function of seed, step, stream and position.

    key     = (seed_lo, seed_hi)
    counter = (block, step, stream_lo, stream_hi)
    word i of a stream at a step = word i % 4 of philox(counter with block = i // 4, key)

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import hashlib
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from weft.compiler.errors import CompileError

Words = NDArray[np.uint32]
_Wide = NDArray[np.uint64]
_Operation = tuple[np.ufunc, _Wide, _Wide, _Wide]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MAX_COUNT = 4 << 32
"""How many words one stream has at one step: the block number is a 32-bit word."""

_LOW = 0xFFFFFFFF
_MASK = np.uint64(_LOW)
_SHIFT = np.uint64(32)
_ZERO = np.zeros((), np.uint64)
_CHUNK = 8192  # blocks worked on at once: few enough for a core's L2 cache


def philox4x32(counter: ArrayLike | tuple[ArrayLike, ...], key: ArrayLike) -> tuple[Words, ...]:
    """The four output words for each counter: the plain statement of the generator.

    `counter` is an array of shape (..., 4) or a tuple of four broadcastable arrays, `key` holds
    two words (or two arrays that broadcast too); all are read as 32-bit unsigned. Returns four
    uint32 arrays.
    """
    lanes = counter if isinstance(counter, tuple) else np.moveaxis(np.asarray(counter), -1, 0)
    c0, c1, c2, c3 = (np.asarray(lane).astype(np.uint64) for lane in lanes)
    k0, k1 = (np.asarray(word).astype(np.uint64) for word in np.asarray(key))
    for _ in range(ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ k0,
            p1 & _MASK,
            (p0 >> _SHIFT) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + np.uint64(WEYL[0])) & _MASK, (k1 + np.uint64(WEYL[1])) & _MASK
    return tuple(np.asarray(c, dtype=np.uint32) for c in np.broadcast_arrays(c0, c1, c2, c3))


def stream_id(name: str) -> tuple[int, int]:
    """The low and high counter words of a stream: BLAKE2b-64 of its UTF-8 name, little-endian."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def seed_words(seed: int) -> Words:
    """A seed from 0 to 2^64 - 1 as the key's two words, the low one first.

    Raises CompileError for any other number.
    """
    if not 0 <= seed < 1 << 64:
        raise CompileError(
            "`seed` is out of range", expected="an integer from 0 to 2^64 - 1", found=f"`{seed}`"
        )
    return np.array([seed & _LOW, seed >> 32], dtype=np.uint32)


class Philox:
    """Draws `count` words of the stream `stream`, with scratch space that is made once.

    Scratch takes at most 1 MB however large `count` is. One object serves one thread.
    """

    def __init__(self, count: int, stream: str) -> None:
        if not 0 <= count <= MAX_COUNT:
            raise CompileError(
                f"stream `{stream}` has {MAX_COUNT} words a step", found=f"{count} were asked for"
            )
        self.count = count
        self.stream = stream
        low, self._high = stream_id(stream)
        self._product = MULTIPLIERS[1] * low  # of the first round, where it is a constant
        blocks = -(-count // 4)
        self._chunks = max(1, -(-blocks // _CHUNK))
        self._size = -(-blocks // self._chunks)
        # Per call: the numbers of rounds 1 and 2 (four) and the keys of the rounds after them.
        self._numbers = np.zeros(4 + 2 * (ROUNDS - 2), np.uint64)
        self._offset = np.zeros((), np.uint64)
        self._program, self._words = self._compile()

    def __call__(
        self, seed: ArrayLike, step: SupportsIndex | Words, out: Words | None = None
    ) -> Words:
        """Words 0 to `count` - 1 at a step: uint32 of shape (count,), written into `out` if given.

        `seed` is two 32-bit words, `step` one.
        """
        if out is None:
            out = np.empty(self.count, np.uint32)
        if not self.count:
            return out
        k0, k1 = (int(word) for word in np.asarray(seed))
        keys = [
            (k + r * w) & _LOW for r in range(ROUNDS) for k, w in ((k0, WEYL[0]), (k1, WEYL[1]))
        ]
        c0 = (self._product >> 32) ^ (int(step) & _LOW) ^ keys[0]
        second = MULTIPLIERS[0] * c0
        self._numbers[:] = (
            self._high ^ keys[1],
            (self._product & _LOW) ^ keys[2],
            (second >> 32) ^ keys[3],
            second & _LOW,
            *keys[4:],
        )
        for chunk in range(self._chunks):
            start = chunk * self._size
            self._offset[...] = start * MULTIPLIERS[0]
            for operation, left, right, result in self._program:
                operation(left, right, result)
            part = out[4 * start : 4 * (start + self._size)]
            for lane, words in enumerate(self._words):
                target = part[lane::4]
                target[...] = words[: len(target)]
        return out

    def _compile(self) -> tuple[list[_Operation], tuple[_Wide, ...]]:
        """The operations that turn `_numbers` and `_offset` into a chunk's four words.

        They are listed once because slicing would cost as much as the arithmetic of a small draw.
        Row r of `x` and `y` holds the words (c0, c1) or (c2, c3) of a block. A round exchanges the
        two halves, so the rows take turns and nothing is moved.
        """
        multiply, add = np.multiply, np.add
        shift, xor, mask = np.right_shift, np.bitwise_xor, np.bitwise_and
        m0, m1, low, half = (np.array(n, np.uint64) for n in (*MULTIPLIERS, _LOW, 32))
        n = [self._numbers[i : i + 1].reshape(()) for i in range(len(self._numbers))]
        x, y, p = (np.zeros((2, self._size), np.uint64) for _ in range(3))
        (x0, x1), (y0, y1), (p0, p1) = x, y, p
        first = np.arange(self._size, dtype=np.uint64) * m0
        program: list[_Operation] = [
            # Round 1 multiplies only the block number, round 2 only one word of each block:
            # everything else is still the same number for all of them.
            (add, first, self._offset, p0),
            (shift, p0, half, x0),
            (mask, p0, low, y0),
            (xor, x0, n[0], x0),  # row 0 is now (c2, c3)
            (multiply, x0, m1, p0),
            (xor, y0, n[2], x1),
            (shift, p0, half, x0),
            (mask, p0, low, y0),
            (xor, x0, n[1], x0),  # row 0 is (c0, c1), row 1 is (c2, c3)
            (add, n[3], _ZERO, y1),
        ]
        for turn in range(ROUNDS - 2):
            k0, k1 = n[4 + 2 * turn], n[5 + 2 * turn]
            if turn % 2:
                m_of_0, m_of_1, k_of_0, k_of_1 = m1, m0, k0, k1
            else:
                m_of_0, m_of_1, k_of_0, k_of_1 = m0, m1, k1, k0
            program += [
                (multiply, x0, m_of_0, p0),
                (multiply, x1, m_of_1, p1),
                (shift, p, half, x),
                (xor, x0, y1, x0),
                (xor, x1, y0, x1),
                (xor, x0, k_of_0, x0),
                (xor, x1, k_of_1, x1),
                (mask, p, low, y),
            ]
        return program, (x0, y0, x1, y1)


def random_bits(seed: ArrayLike, step: SupportsIndex | Words, stream: str, count: int) -> Words:
    """The first `count` words of a stream at a step: uint32 of shape (count,).

    `seed` is two 32-bit words (`seed_words`), `step` one. Who draws every step keeps a `Philox`.
    """
    return Philox(count, stream)(seed, step)
