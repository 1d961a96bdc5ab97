"""Philox4x32-10 in plain ONNX operators: the same bits as on every backend.

    a = [c0; c2]   b = [c1; c3]                  both [2, blocks], words in u64
    a, b = high(a m) ^ swap(b) ^ k, low(a m)     one round; it leaves the rows of a and b swapped

ONNX's own random operators keep a state that is the runtime's private matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weft.backends.onnx.elementwise import Rule
from weft.backends.onnx.writer import Value, Writer
from weft.compiler.graph import Node
from weft.compiler.philox import MULTIPLIERS, ROUNDS, WEYL, stream_id
from weft.compiler.types import I64, U32, U64, Dim

_LOW = 0xFFFFFFFF


def _column(w: Writer, name: str, *words: int) -> Value:
    return w.constant(np.array(words, np.uint64).reshape(-1, 1), f"random/{name}")


def _keys(w: Writer, seed: Value) -> Value:
    """All rounds' keys `[ROUNDS, 2, 1]`, rows in the order in which that round needs them."""
    rows = np.array([[1, 0] if r % 2 == 0 else [0, 1] for r in range(ROUNDS)], np.int64)
    weyl = np.array([[r * WEYL[i] & _LOW for i in rows[r]] for r in range(ROUNDS)], np.uint64)
    shape = (ROUNDS, 2, 1)
    first = w.op(
        "Gather", seed, w.constant(rows.reshape(shape), "random/key_order"), shape=shape, axis=0
    )
    sums = w.elementwise("Add", first, w.constant(weyl.reshape(shape), "random/key_steps"))
    return w.elementwise("BitwiseAnd", sums, w.scalar(_LOW, U64))


def _random_bits(w: Writer, node: Node, x: Sequence[Value]) -> Value:
    count: Dim = 1
    for dim in node.type.shape:
        count = dim * count
    if count == 0:
        return w.constant(np.zeros([0 if d == 0 else 1 for d in node.type.shape], np.uint32))
    with w.within(f"{w.scope}/random" if w.scope else "random"):
        words = _words(w, w.full(x[0], (2,)), x[1], (count + 3) // 4, node.attributes["stream"])
        used = w.slice(words, [0], [count], [1])
        return w.reshape(w.cast(used, U32), node.type.shape)


def _words(w: Writer, seed: Value, step: Value, blocks: Dim, stream: str) -> Value:
    """All words of the blocks as u64, four a block."""
    low, high = stream_id(stream)
    zero, one = w.scalar(0, I64), w.scalar(1, I64)
    block = w.cast(w.op("Range", zero, w.size(blocks), one, shape=(blocks,)), U64)
    first, stream_low = _column(w, "first", 1, 0), _column(w, "stream_low", 0, low)
    a = w.elementwise("Add", w.elementwise("Mul", block, first), stream_low)
    top = w.reshape(w.cast(step, U64), (1, 1))
    b = w.op("Concat", top, _column(w, "stream_high", high), shape=(2, 1), axis=0)
    keys = _keys(w, w.cast(seed, U64))
    swap, mask, half = w.integers(1, 0), w.scalar(_LOW, U64), w.scalar(32, U64)
    for turn in range(ROUNDS):
        factors = _column(w, "multipliers", *MULTIPLIERS[:: -1 if turn % 2 else 1])
        product = w.elementwise("Mul", a, factors)
        key = w.op("Gather", keys, w.scalar(turn, I64), shape=(2, 1), axis=0)
        crossed = w.op("Gather", b, swap, shape=b.shape, axis=0)
        upper = w.elementwise("BitShift", product, half, direction="RIGHT")
        a = w.elementwise("BitwiseXor", upper, w.elementwise("BitwiseXor", crossed, key))
        b = w.elementwise("BitwiseAnd", product, mask)
    pairs = [w.reshape(v, (2, 1, blocks)) for v in (a, b)]
    table = w.op("Concat", *pairs, shape=(2, 2, blocks), axis=1)
    return w.reshape(w.transpose(table, (2, 0, 1)), (blocks * 4,))


RULES: dict[str, Rule] = {"random_bits": _random_bits}
