"""Convolutions: which way one is computed, by its sizes."""

from __future__ import annotations

from math import prod

from weft.backends.tvm.convolutions import winograd, winograd_sums
from weft.backends.tvm.convolutions.direct import Direct, is_fit
from weft.backends.tvm.convolutions.sums import Sums
from weft.backends.tvm.convolutions.unfolded import Tall, Wide
from weft.backends.tvm.convolutions.winograd import Winograd
from weft.backends.tvm.convolutions.winograd_sums import WinogradSums
from weft.backends.tvm.tir import Buffer, Stmt
from weft.compiler.kernel import Convolution

Strategy = type[Direct] | type[Sums] | type[Winograd] | type[WinogradSums] | type[Wide] | type[Tall]


def strategy(conv: Convolution) -> Strategy:
    """The way of a convolution, by its sizes alone."""
    height, width = conv.shape[2:]
    if prod(conv.kernel.shape[2:]) > height * width and conv.groups == 1:
        if not is_fit(conv):
            return Tall
        return WinogradSums if winograd_sums.is_fit(conv) else Sums
    if not is_fit(conv):
        return Wide
    return Winograd if winograd.is_fit(conv) else Direct


def print_convolution(conv: Convolution, buffers: list[Buffer]) -> list[Stmt]:
    return strategy(conv)(conv, buffers).statements()
