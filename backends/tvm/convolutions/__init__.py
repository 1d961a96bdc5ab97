"""Convolutions: which way one is computed, by its sizes."""

from __future__ import annotations

from math import prod

from weft.backends.tvm.convolutions.direct import Direct, is_fit
from weft.backends.tvm.convolutions.sums import Sums
from weft.backends.tvm.convolutions.unfolded import Tall, Wide
from weft.backends.tvm.tir import Buffer, Stmt
from weft.compiler.kernel import Convolution

Strategy = type[Direct] | type[Sums] | type[Wide] | type[Tall]


def strategy(conv: Convolution) -> Strategy:
    """The way of a convolution, by its sizes alone."""
    height, width = conv.shape[2:]
    if prod(conv.kernel.shape[2:]) > height * width and conv.groups == 1:
        return Sums if is_fit(conv) else Tall
    return Direct if is_fit(conv) else Wide


def print_convolution(conv: Convolution, buffers: list[Buffer]) -> list[Stmt]:
    return strategy(conv)(conv, buffers).statements()
