"""Kernels of convolutions with outputs side by side in vectors."""

from __future__ import annotations

from math import prod

from tvm import tirx

from weft.backends.tvm import tir, vectors
from weft.backends.tvm.tir import Buffer, Expr, Stmt
from weft.compiler.kernel import Convolution


class Weights:
    """A convolution's kernel [output, channel, tap], read some taps for a vector of outputs."""

    def __init__(self, conv: Convolution, buffers: list[Buffer]) -> None:
        self.dtype = conv.ports[conv.kernel.port].dtype
        self.lanes = vectors.lanes_for(self.dtype, conv.shape[1])
        self.outputs = conv.kernel.shape[0]
        self.window = conv.kernel.shape[2:]
        self.taps = prod(self.window)
        self.source = buffers[conv.kernel.port]
        self.strides = conv.kernel.strides

    @property
    def is_lined(self) -> bool:
        """Whether taps are neighbours, in their order or backwards."""
        *_, y, x = self.strides
        return abs(x) == 1 and (y == self.window[1] * x or self.window[0] == 1) and self.taps > 3

    def start(self, output: Expr, channel: Expr) -> Expr:
        """Where an output's taps for a channel begin. Lanes behind the last output repeat it."""
        o, c, _, _ = self.strides
        if self.outputs % self.lanes:
            output = tirx.min(output, tir.number(self.outputs - 1))
        return output * tir.number(o) + channel * tir.number(c)

    def vectors(
        self, registers: vectors.Registers, output: Expr, channel: Expr, begin: int, count: int
    ) -> tuple[list[Stmt], dict[int, Expr]]:
        """Taps that are neighbours, from `begin` on, for the outputs from `output` on."""
        if count > self.lanes:
            here, there = (begin, self.lanes), (begin + self.lanes, count - self.lanes)
            first, some = self.vectors(registers, output, channel, *here)
            last, others = self.vectors(registers, output, channel, *there)
            return [*first, *last], {**some, **others}
        backwards = self.strides[3] < 0
        lowest = -(begin + count - 1) if backwards else begin
        rows = [
            (self.source, self.start(output + tir.number(r), channel) + tir.number(lowest))
            for r in range(self.lanes)
        ]
        moves, columns = vectors.turned(registers, rows, count)
        if backwards:
            columns = columns[::-1]
        return moves, {begin + t: column.value for t, column in enumerate(columns)}

    def numbers(self, tap: Expr, output: Expr, channel: Expr) -> list[Expr]:
        """One tap's numbers for a vector of outputs, wherever they are."""
        _, _, y, x = self.strides
        v = tirx.truncdiv(tap, tir.number(self.window[1]))
        u = tirx.truncmod(tap, tir.number(self.window[1]))
        where = v * tir.number(y) + u * tir.number(x)
        return [
            tir.load(self.source, self.start(output + tir.number(r), channel) + where)
            for r in range(self.lanes)
        ]
