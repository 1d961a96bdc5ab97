"""Names for values that are used more than once, and arithmetic that TVM leaves alone.

A name is a place in memory that LLVM keeps in a register: one element, or one for each lane of the
vectorised loop that the lines are in. TVM's own names for values won't do, for it writes them out
to simplify what uses them, in time that grows exponentially with their number, and simplifies
floating-point expressions as if they were exact: `(x + c) - c` to `x`, `x - x` to 0. Within one
expression it does that still, so sums and products of floats are calls of LLVM's `fmuladd`.

TVM also takes the opposite of a `Select`'s condition for granted in its last operand, which is
wrong for NaN: a `Select` never stands inside of another one (`Lines.select`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import ir, tirx

from weft.backends.tvm.tir import Expr, Stmt, load, local, number, store


@dataclass(eq=False)
class Lines:
    """Statements that give names to values, in order; each may use the names before it.

    `lane` is the counter of the vectorised loop around, if there is one, and `lanes` its length.
    """

    lane: Expr | None = None
    lanes: int = 1
    statements: list[Stmt] = field(default_factory=list)
    _names: dict[int, Expr] = field(default_factory=dict)

    def let(self, value: Expr) -> Expr:
        """The value under a name of its own; a name or a number is given back as it is."""
        if isinstance(value, (ir.Var, tirx.IntImm, tirx.FloatImm)) or id(value) in self._names:
            return value
        lane = number(0) if self.lane is None else self.lane
        buffer, make = local(f"t{len(self._names)}", type_name(value), self.lanes)
        self.statements += [make, store(buffer, lane, value)]
        found = load(buffer, lane)
        self._names[id(found)] = found
        return found

    def select(self, condition: Expr, yes: Expr, no: Expr) -> Expr:
        """`yes` where the condition holds, else `no`; both are computed."""
        return self.let(tirx.Select(condition, self.let(yes), self.let(no)))


def type_name(value: Expr) -> str:
    """TVM's name of an expression's element type."""
    return str(value.ty.dtype)


def special(value: float, name: str) -> Expr:
    """Any floating-point number in a form that TVM does not fold."""
    dtype: np.dtype[Any] = np.dtype(name)
    word = f"uint{8 * dtype.itemsize}"
    if value == 0 and not np.signbit(value):  # TVM takes a number of bits 0 for a null pointer
        return tirx.abs(special(-0.0, name))
    bits = int(np.array(value, dtype).view(word))
    return tirx.reinterpret(name, tirx.const(bits, word))


def fused(a: Expr, b: Expr, c: Expr) -> Expr:
    """`a b + c`, rounded once where the machine can and twice elsewhere."""
    return tirx.call_llvm_pure_intrin(type_name(a), "llvm.fmuladd", a, b, c)


def plus(x: Expr, y: Expr) -> Expr:
    return fused(x, tirx.const(1.0, type_name(x)), y)


def times(x: Expr, y: Expr) -> Expr:
    return fused(x, y, special(-0.0, type_name(x)))


def minus(x: Expr, y: Expr) -> Expr:
    return plus(negative(y), x)


def negative(x: Expr) -> Expr:
    name = type_name(x)
    if isinstance(x, tirx.FloatImm):
        return tirx.const(-x.value, name)
    return times(x, tirx.const(-1.0, name))


def nearest_integer(x: Expr) -> Expr:
    """Halves to even."""
    return tirx.call_llvm_pure_intrin(type_name(x), "llvm.rint", x)


def with_sign(size: Expr, sign: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(type_name(size), "llvm.copysign", size, sign)


def negated(condition: Expr) -> Expr:
    """`not condition`. TVM's own turns `not x < y` into `y <= x`, which is wrong for NaN."""
    return tirx.bitwise_xor(condition, tirx.const(True, "bool"))


def is_equal(x: Expr, y: Expr) -> Expr:
    """`x == y` of floats. TVM's own takes `x == x` for true, also of NaN."""
    return tirx.bitwise_and(x <= y, x >= y)


def is_nan(x: Expr) -> Expr:
    return negated(x <= special(np.inf, type_name(x)))
