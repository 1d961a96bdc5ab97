"""Philox4x32-10 as integer expressions: the words of `weft.compiler.philox`, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx as T

from weft.backends.tvm.lines import Lines
from weft.backends.tvm.tir import Expr
from weft.compiler.philox import MULTIPLIERS, ROUNDS, WEYL

Key = tuple[Expr, Expr, Expr]
"""The seed's low and high word and the step, all u32."""


def word(lines: Lines, key: Key, stream: Sequence[Expr], position: Expr) -> Expr:
    """The word at a position (not negative, of any integer type) of the stream with these words.

    It makes the position's whole block and takes one word of it: four words as cheap as one come
    from `block`.
    """
    position = lines.let(T.Cast("uint64", position))
    number = T.Cast("uint32", position >> T.const(2, "uint64"))
    words = block(lines, key, stream, number)
    lane = lines.let(T.Cast("uint32", position) & _word(3))
    first = lines.select(T.EQ(lane, _word(0)), words[0], words[1])
    last = lines.select(T.EQ(lane, _word(2)), words[2], words[3])
    return lines.select(lane < _word(2), first, last)


def block(
    lines: Lines, key: Key, stream: Sequence[Expr], number: Expr
) -> tuple[Expr, Expr, Expr, Expr]:
    """The words at positions `4 number` to `4 number + 3`; `number` is a u32."""
    low, high, step = (lines.let(part) for part in key)
    c0, c1 = lines.let(number), step
    c2, c3 = (lines.let(part) for part in stream)
    for turn in range(ROUNDS):
        k0, k1 = (
            _plus(seed, turn * weyl & 0xFFFFFFFF)
            for seed, weyl in zip((low, high), WEYL, strict=True)
        )
        high0, low0 = _product(lines, c0, MULTIPLIERS[0])
        high1, low1 = _product(lines, c2, MULTIPLIERS[1])
        c0, c1 = lines.let(high1 ^ c1 ^ k0), low1
        c2, c3 = lines.let(high0 ^ c3 ^ k1), low0
    return c0, c1, c2, c3


def _word(value: int) -> Expr:
    return T.const(value, "uint32")


def _plus(word: Expr, number: int) -> Expr:
    """Modulo 2^32: the sum is taken in 64 bits, as LLVM is told that sums don't overflow."""
    return T.Cast("uint32", T.Cast("uint64", word) + T.const(number, "uint64"))


def _product(lines: Lines, word: Expr, number: int) -> tuple[Expr, Expr]:
    """The high and the low word of a product."""
    if isinstance(word, T.IntImm):
        product = word.value * number
        return _word(product >> 32), _word(product & 0xFFFFFFFF)
    product = lines.let(T.Cast("uint64", word) * T.const(number, "uint64"))
    high = T.Cast("uint32", product >> T.const(32, "uint64"))
    return lines.let(high), lines.let(T.Cast("uint32", product))
