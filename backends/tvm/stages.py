"""What a stage of a nest is like: whether vectors pay, how long they are, how much work it is."""

from __future__ import annotations

from weft.compiler.index import Axis
from weft.compiler.kernel import Stage, walk
from weft.compiler.scalar import Apply, Bits, Guard, Literal, Scalar

REGISTER = 64  # bytes

_SLOW = frozenset({
    "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "logistic", "erf", "power", "divide",
    "sqrt", "rsqrt", "remainder", "floor_divide",
})  # fmt: skip


def is_vector(stage: Stage, axis: Axis) -> bool:
    """Whether neighbours along the axis are neighbours in memory, so that vectors pay."""
    if axis.extent < 2:
        return False
    if any(store.index.factor(axis) != 1 for store in stage.stores):
        return False
    fit = True

    def visit(scalar_: Scalar) -> None:
        nonlocal fit
        if isinstance(scalar_, Guard) and any(axis in i.axes for i in scalar_.tests):
            fit = False
        for index in scalar_.indices:
            if not isinstance(scalar_, Guard) and index.factor(axis) not in (0, 1):
                fit = False

    walk(stage, visit)
    return fit


def lanes_of(stage: Stage) -> int:
    """Elements in a vector: of the widest type one register, or two where there is little to do."""
    widest, heavy = 4, work(stage) > 12

    def visit(scalar_: Scalar) -> None:
        nonlocal widest
        if not isinstance(scalar_, Literal):
            widest = max(widest, scalar_.dtype.bytes)

    walk(stage, visit)
    return REGISTER // widest * (1 if heavy else 2)


def work(stage: Stage) -> int:
    """Operations for one point, roughly."""
    total = len(stage.folds) + len(stage.stores)

    def visit(scalar_: Scalar) -> None:
        nonlocal total
        if isinstance(scalar_, Apply):
            total += 10 if scalar_.op in _SLOW else 1
        elif isinstance(scalar_, Bits):
            total += 40

    walk(stage, visit)
    return total
