"""What this machine does at its best: products and copies, on every thread of the pool."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import tvm
from tvm import tirx

from weft.backends.arrays import address, aligned
from weft.backends.base import Peaks
from weft.backends.clock import fastest, frequency
from weft.backends.tvm import native, target, threads, tir, underflow
from weft.backends.tvm.blocks import Operand, multiplied
from weft.backends.tvm.pool import POOL
from weft.compiler.types import DType

PRODUCT = 256  # rows and columns of each thread's matrices
COPIES = tuple(1 << power for power in range(16, 29, 2))  # bytes that all threads' copies touch
SECONDS = 0.15  # for which each peak is looked for
# Bytes that a thread copies in one call: more than a call costs, less than it takes another process
# to get in between.
PIECE = 1 << 20


def peaks(dtype: DType) -> Peaks:
    """Measured on as many threads as the pool has."""
    width, pool = POOL.width, ctypes.c_void_p(address(POOL.memory))
    module = native.compiled(
        tvm.IRModule({"product": _product(dtype), "copy": _copy(width), **threads.functions()}),
        target.host(),
    )
    matrix = PRODUCT * PRODUCT * dtype.bytes
    memory = aligned(max(3 * width * matrix, COPIES[-1]))
    memory[...] = 0
    start = address(memory)
    product = module["product"]
    places = [ctypes.c_void_p(start + i * 3 * matrix) for i in range(width)]
    products = frequency(SECONDS, [partial(product, place) for place in places])
    copies = []
    for size in COPIES:
        each = size // (2 * width)
        piece = min(each, PIECE)
        rounds = PIECE // piece

        def copied(place: int, each: int = each, piece: int = piece, rounds: int = rounds) -> None:
            module["copy"](pool, ctypes.c_void_p(start + place), each, piece, rounds)

        work = [partial(copied, place) for place in range(0, each - piece + 1, piece)]
        seconds = fastest(SECONDS, work)
        POOL.complete(module)
        copies.append((size, 2 * piece * width * rounds / seconds))
    return Peaks(2 * PRODUCT**3 * products, tuple(copies))


def _product(dtype: DType) -> Any:
    """The product of two matrices: `product(memory)`."""
    size, name = PRODUCT * PRODUCT, tir.stored(dtype)
    data = tir.pointer("p", name)
    memory, declare = tir.memory("b", name, 3 * size, data)
    matrices = (Operand(memory, tir.number(i * size), PRODUCT, 1) for i in range(3))
    product = multiplied(dtype, (PRODUCT, PRODUCT, PRODUCT), *matrices)
    return _exported("product", [data], [declare, *product])


def _copy(width: int) -> Any:
    """Each thread copies a piece of its part of memory, from its first half to the second.

    `copy(threads, memory, bytes of half a part, of a piece, rounds)`
    """
    pool = tir.pointer("threads", "int8")
    data = tir.pointer("p", "uint8")
    memory, declare = tir.memory("b", "uint8", 1 << 30, data)
    half, piece, rounds = (tir.variable(name) for name in ("half", "piece", "rounds"))

    def task(number: tir.Expr) -> list[tir.Stmt]:
        source = number * tir.number(2) * half
        places = (tir.address(memory, at) for at in (source + half, source))
        copied = tir.external("memcpy", *places, tirx.Cast("int64", piece))
        return [tir.loop(rounds, lambda _: [copied], name="round")]

    loop = tir.loop(width, task, "parallel", "task")
    body = tir.beside(
        underflow.code() + threads.code(), tir.sequence(threads.enter(pool), declare, loop)
    )
    return _exported("copy", [pool, data, half, piece, rounds], [body])


def _exported(name: str, parameters: list[tir.Expr], body: list[tir.Stmt]) -> Any:
    return tir.function(parameters, body).with_attr("global_symbol", name)
