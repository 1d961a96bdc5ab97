"""Gradients of the elementwise primitives: `d_operand = ct * d(node)/d(operand)`.

Where a function has a kink, the slope is a choice, made here once:

- `abs` has slope 0 at 0.
- A tie of `maximum` or `minimum` belongs to an operand that is a constant, so that
  `relu(x) = maximum(x, 0)` has slope 0 at 0, whichever way round it is written; two operands that
  are both no constants share a tie equally, so that `maximum(x, -x)` has slope 0 at 0 as well.
- `power` has slope 0 in the base where the exponent is 0, and in the exponent where the base is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from weft.compiler import builder as b
from weft.compiler.graph import Node, Operand

Cotangents = tuple[Node | None, ...]
Rule = Callable[..., Cotangents]
"""`rule(ct, node, *operands)` gives one cotangent an operand, None where there is none."""


def _origin(x: Node) -> Node:
    """What `x` repeats or converts, looking through nodes that keep its values."""
    while x.op.name in ("broadcast_in_dim", "reshape", "cast"):
        (source,) = x.inputs
        if source.type.dtype.kind == "float" != x.type.dtype.kind:
            break
        x = source
    return x


def _is_constant(x: Node) -> bool:
    return _origin(x).op.name == "constant"


def constant_value(x: Node) -> float | None:
    """The number that `x` has everywhere, where the graph says so."""
    origin = _origin(x)
    if origin.op.name != "constant" or isinstance(origin.attributes["value"], tuple):
        return None
    return float(origin.attributes["value"])


def times(ct: Node, factor: Operand) -> Node:
    """`ct * factor`, without the product when `ct` is 1, as at the start of the walk."""
    if isinstance(factor, Node) and constant_value(ct) == 1:
        return factor
    return ct * factor


def _multiply(ct: Node, _: Node, x: Node, y: Node) -> Cotangents:
    if x is y:
        return times(ct, x + x), None
    return times(ct, y), times(ct, x)


def _divide(ct: Node, node: Node, x: Node, y: Node) -> Cotangents:
    share = ct / y
    return share, -(share * node)


def _remainder(ct: Node, node: Node, x: Node, y: Node) -> Cotangents:
    # The quotient is whole; rounding undoes what the subtraction and the division lost.
    return ct, -times(ct, b.unary("round", (x - node) / y))


def _power(ct: Node, node: Node, x: Node, y: Node) -> Cotangents:
    # log(1) where the base is 0: the slope in the exponent is 0 there, not 0 * -inf.
    at_zero = b.compare("equal", x, 0)
    d_exponent = times(ct, node * b.log(b.select(at_zero, 1, x)))
    exponent = constant_value(y)
    if exponent is None:
        # y x^(y-1), with any power of x that is finite at 0 where y is 0.
        lower = b.select(b.compare("equal", y, 0), 1, y - 1)
        return times(ct, y * x**lower), d_exponent
    if exponent == 0:
        return None, d_exponent
    if exponent == 1:
        return ct, d_exponent
    slope = x + x if exponent == 2 else exponent * x ** (exponent - 1)
    return times(ct, slope), d_exponent


def _extremum(beats: str) -> Rule:
    """`maximum` or `minimum`; `beats` compares the operand that wins with the other."""

    def rule(ct: Node, node: Node, x: Node, y: Node) -> Cotangents:
        if _is_constant(y):
            return b.select(b.compare(beats, x, y), ct, 0), None
        if _is_constant(x):
            return None, b.select(b.compare(beats, y, x), ct, 0)
        tie = b.select(b.compare("equal", x, y), times(ct, 0.5), 0)
        return (
            b.select(b.compare(beats, x, y), ct, tie),
            b.select(b.compare(beats, y, x), ct, tie),
        )

    return rule


def _select(ct: Node, _: Node, condition: Node, on_true: Node, on_false: Node) -> Cotangents:
    return None, b.select(condition, ct, 0), b.select(condition, 0, ct)


def _cast(ct: Node, _: Node, x: Node) -> Cotangents:
    return (b.cast(ct, x.type.dtype),)


def _tanh(ct: Node, y: Node, _: Node) -> Cotangents:
    return (times(ct, 1 - y * y),)


def _erf(ct: Node, _: Node, x: Node) -> Cotangents:
    return (times(ct, 2 / math.sqrt(math.pi) * b.exp(-(x * x))),)


ELEMENTWISE: dict[str, Rule] = {
    "negate": lambda ct, y, x: (-ct,),
    "abs": lambda ct, y, x: (times(ct, b.unary("sign", x)),),
    "exp": lambda ct, y, x: (times(ct, y),),
    "expm1": lambda ct, y, x: (times(ct, y + 1),),
    "log": lambda ct, y, x: (ct / x,),
    "log1p": lambda ct, y, x: (ct / (x + 1),),
    "sqrt": lambda ct, y, x: (ct * 0.5 / y,),
    "rsqrt": lambda ct, y, x: (times(ct, -0.5 * (y * y * y)),),
    "sin": lambda ct, y, x: (times(ct, b.unary("cos", x)),),
    "cos": lambda ct, y, x: (-times(ct, b.unary("sin", x)),),
    "tanh": _tanh,
    "logistic": lambda ct, y, x: (times(ct, y * (1 - y)),),
    "erf": _erf,
    "cast": _cast,
    "add": lambda ct, z, x, y: (ct, ct),
    "subtract": lambda ct, z, x, y: (ct, -ct),
    "multiply": _multiply,
    "divide": _divide,
    "remainder": _remainder,
    "power": _power,
    "maximum": _extremum("greater"),
    "minimum": _extremum("less"),
    "select": _select,
}
