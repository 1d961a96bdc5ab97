"""Convolutions: which way one is computed, by its sizes.

                      small windows                     windows larger than the result
    3 x 3             winograd                          winograd_sums
    otherwise         direct                            sums
    few outputs       unfolded                          unfolded_sums
    groups            depthwise, unfolded               grouped_sums

The gradient of a kernel is a convolution with a large window. 3 x 3 means with strides of 1 and no
gaps, and sizes that are worth it; few outputs, that vectors of outputs would be mostly empty.
Groups of one channel are depthwise.
"""

from __future__ import annotations

from math import prod

from weft.backends.tvm.convolutions import depthwise, winograd, winograd_sums
from weft.backends.tvm.convolutions.depthwise import Depthwise
from weft.backends.tvm.convolutions.direct import Direct, is_fit
from weft.backends.tvm.convolutions.grouped_sums import GroupedSums
from weft.backends.tvm.convolutions.sums import Sums
from weft.backends.tvm.convolutions.unfolded import Unfolded
from weft.backends.tvm.convolutions.unfolded_sums import UnfoldedSums
from weft.backends.tvm.convolutions.winograd import Winograd
from weft.backends.tvm.convolutions.winograd_sums import WinogradSums
from weft.backends.tvm.tir import Buffer, Stmt
from weft.compiler.kernel import Convolution

Strategy = type[
    Depthwise | Direct | GroupedSums | Sums | Unfolded | UnfoldedSums | Winograd | WinogradSums
]


def strategy(conv: Convolution) -> Strategy:
    """The way of a convolution, by its sizes and strides alone."""
    height, width = conv.shape[2:]
    is_large = prod(conv.kernel.shape[2:]) > height * width
    if conv.groups > 1:
        if is_large:
            return GroupedSums
        return Depthwise if depthwise.is_fit(conv) else Unfolded
    if is_large:
        if not is_fit(conv):
            return UnfoldedSums
        return WinogradSums if winograd_sums.is_fit(conv) else Sums
    if not is_fit(conv):
        return Unfolded
    return Winograd if winograd.is_fit(conv) else Direct


def print_convolution(conv: Convolution, buffers: list[Buffer]) -> list[Stmt]:
    return strategy(conv)(conv, buffers).statements()
