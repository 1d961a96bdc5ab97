"""Rewrite rules of arithmetic: identities that hold for the numbers computers have.

Sums are never reassociated and products never distributed. For floats each rule gives the same
bits, apart from these, which are meant:

- the sign of a zero: `x + 0`, `0 - x`, `-(a - b)`, `sum(-x)`, zero times what is known to be
  finite, a sum over one element, and the root of -0 as a power;
- the last place: `x**3` becomes two products, and a sum over an axis made by a broadcast becomes
  one product (see `movement`);
- results that were lost to overflow, or to a convention about infinity: `log(exp(x))` is `x` and
  `(x + x) * 0.1` is `x * 0.2` also for large `x`; `x**0.5` and `x**-0.5` are roots also at -inf,
  where `pow` gives inf and 0.

`x * 0` and `x - x` stay for floats (NaN and infinity), as does `exp(log(x))` (negative `x`).
"""

from __future__ import annotations

from math import frexp

from weft.compiler.builder import cast, compare, ones, reduce, select, zeros
from weft.compiler.graph import Node, Number, make
from weft.compiler.pattern import Pattern, Rule, Rules, const, number_of, op, var
from weft.compiler.types import DType, TensorType


def is_float(type: TensorType) -> bool:
    return type.dtype.kind == "float"


def is_integer(type: TensorType) -> bool:
    return type.dtype.kind in ("int", "uint")


def _negate(x: Pattern | str) -> Pattern:
    return op("negate", x)


_INT_X = var("x", is_integer)
_BOOL_X = var("x", lambda type: type.dtype.kind == "bool")

# Exponents k such that 2**k and 2**-k are both normal numbers.
_EXPONENTS = {"f16": 14, "bf16": 126, "f32": 126, "f64": 1022}


def _by_reciprocal(x: Node, c: Node) -> Node | None:
    """Division by a power of two is a product with its reciprocal, to the bit."""
    number = number_of(c)
    if not number:
        return None
    mantissa, exponent = frexp(number)
    if abs(mantissa) != 0.5 or abs(exponent - 1) > _EXPONENTS[x.type.dtype.name]:
        return None
    return x * (1 / number)


def _times_zero(x: Node, c: Node) -> Node | None:
    """Zero, unless `x` could be infinite or NaN."""
    return c if is_integer(x.type) or _is_finite(x) else None


def _is_finite(x: Node) -> bool:
    """Known without running: constants, and what was counted or compared before it was cast."""
    while x.op.name in ("broadcast_in_dim", "reshape", "transpose", "slice", "reverse"):
        x = x.inputs[0]
    if x.op.name == "cast":
        # The largest u64 is finite in all floats but the smallest.
        return not is_float(x.inputs[0].type) and x.type.dtype.name != "f16"
    number = number_of(x)
    return number is not None and abs(number) < float("inf")


def _negated_product(x: Node, c: Node) -> Node:
    number = number_of(c)
    assert number is not None
    return x * -number


def _is_small(number: Number) -> bool:
    return abs(number) <= 1


def _doubled(x: Node, c: Node) -> Node:
    """Twice a number is exact, so it makes no difference which factor is doubled."""
    number = number_of(c)
    assert number is not None
    return x * (2 * number)


def _is_signed_number(number: Number) -> bool:
    return isinstance(number, float) or (type(number) is int and number >= 0)


SUMS = Rules(
    Rule(op("add", "x", const(0)), lambda x: x),
    Rule(op("subtract", "x", const(0)), lambda x: x),
    Rule(op("subtract", const(0), var("x", lambda t: t.dtype.kind != "uint")), lambda x: -x),
    Rule(op("subtract", _INT_X, "x"), lambda x: zeros(x.type)),
    Rule(op("add", "x", _negate("y")), lambda x, y: x - y),
    Rule(op("subtract", "x", _negate("y")), lambda x, y: x + y),
    Rule(_negate(_negate("x")), lambda x: x),
    Rule(_negate(op("subtract", "x", "y", used_once=True)), lambda x, y: y - x),
    Rule(
        op("reduce_sum", op("negate", "x", used_once=True), name="root"),
        lambda x, root: -reduce("sum", x, root.attributes["axes"]),
    ),
)

PRODUCTS = Rules(
    Rule(op("multiply", "x", const(1)), lambda x: x),
    Rule(op("multiply", "x", const(0, "c")), _times_zero),
    Rule(op("multiply", var("x", lambda t: t.dtype.kind != "uint"), const(-1)), lambda x: -x),
    Rule(op("multiply", _negate("x"), _negate("y")), lambda x, y: x * y),
    Rule(op("multiply", op("add", var("x", is_float), "x"), const(_is_small, "c")), _doubled),
    Rule(op("multiply", _negate("x"), const(_is_signed_number, "c")), _negated_product),
    Rule(
        _negate(op("multiply", "x", const(_is_signed_number, "c"), used_once=True)),
        _negated_product,
    ),
    Rule(op("divide", "x", const(1)), lambda x: x),
    Rule(op("divide", "x", const(-1)), lambda x: -x),
    Rule(op("divide", _negate("x"), _negate("y")), lambda x, y: x / y),
    Rule(op("divide", const(1), op("sqrt", "x")), lambda x: make("rsqrt", x)),
    Rule(op("divide", "x", const(lambda _: True, "c")), _by_reciprocal),
    Rule(op("floor_divide", "x", const(1)), lambda x: x),
    Rule(op("remainder", _INT_X, const(1)), lambda x: zeros(x.type)),
)

POWERS = Rules(
    Rule(op("power", "x", const(0)), lambda x: ones(x.type)),
    Rule(op("power", "x", const(1)), lambda x: x),
    Rule(op("power", "x", const(2)), lambda x: x * x),
    Rule(op("power", "x", const(3)), lambda x: x * x * x),
    Rule(op("power", "x", const(-1)), lambda x: 1 / x),
    Rule(op("power", "x", const(0.5)), lambda x: make("sqrt", x)),
    Rule(op("power", "x", const(-0.5)), lambda x: make("rsqrt", x)),
    Rule(op("log", op("exp", "x")), lambda x: x),
    Rule(op("abs", _negate("x")), lambda x: make("abs", x)),
    Rule(op("abs", op("abs", "x", name="y")), lambda x, y: y),
    Rule(op("stop_gradient", op("stop_gradient", "x", name="y")), lambda x, y: y),
)

_OPPOSITE = {
    "equal": "not_equal",
    "not_equal": "equal",
    "less": "greater_equal",
    "less_equal": "greater",
    "greater": "less_equal",
    "greater_equal": "less",
}


def _negated_comparison(x: Node, y: Node, root: Node) -> Node | None:
    """Of integers any, of floats only equality: NaN is neither less nor not less."""
    test = root.inputs[0].op.name
    if is_float(x.type) and test not in ("equal", "not_equal"):
        return None
    return compare(_OPPOSITE[test], x, y)


LOGIC = Rules(
    Rule(op("not", op("not", "x")), lambda x: x),
    Rule(op("not", op(tuple(_OPPOSITE), "x", "y"), name="root"), _negated_comparison),
    Rule(op(("and", "or"), "x", "x"), lambda x: x),
    Rule(op("and", _BOOL_X, const(True)), lambda x: x),
    Rule(op("or", _BOOL_X, const(False)), lambda x: x),
    Rule(op("xor", _BOOL_X, const(False)), lambda x: x),
    Rule(op("and", _BOOL_X, const(False)), lambda x: zeros(x.type)),
    Rule(op("or", _BOOL_X, const(True)), lambda x: ones(x.type)),
    Rule(op(("or", "xor"), _INT_X, const(0)), lambda x: x),
    Rule(op("and", _INT_X, const(0)), lambda x: zeros(x.type)),
    Rule(op(("shift_left", "shift_right"), "x", const(0)), lambda x: x),
    Rule(op(("maximum", "minimum"), "x", "x"), lambda x: x),
)

CHOICES = Rules(
    Rule(op("select", "c", "x", "x"), lambda c, x: x),
    Rule(op("select", const(True), "x", "y"), lambda x, y: x),
    Rule(op("select", const(False), "x", "y"), lambda x, y: y),
    Rule(op("select", op("not", "c"), "x", "y"), lambda c, x, y: select(c, y, x)),
    Rule(op("select", "c", op("select", "c", "x", "z"), "y"), lambda c, x, y, z: select(c, x, y)),
    Rule(op("select", "c", "x", op("select", "c", "z", "y")), lambda c, x, y, z: select(c, x, y)),
)


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    if narrow.kind == "bool" or narrow == wide:
        return True
    if wide.kind == "bool":
        return False
    if wide.kind == "float":
        digits = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
        if narrow.kind == "float":
            return wide.bits > narrow.bits
        return digits[wide.name] >= narrow.bits - (narrow.kind == "int") and (
            wide.name != "f16" or narrow.bits <= 8
        )
    if narrow.kind == "float":
        return False
    if narrow.kind == wide.kind:
        return wide.bits > narrow.bits
    return narrow.kind == "uint" and wide.bits > narrow.bits


def _cast_twice(x: Node, root: Node) -> Node | None:
    """Straight to the last type where the first cast lost nothing."""
    start, middle, last = x.type.dtype, root.inputs[0].type.dtype, root.type.dtype
    if not _holds(middle, start):
        return None
    # Floats that an integer type can't hold convert as the machine likes; integers wrap.
    if middle.kind == "float" and start.kind != "float" and last.kind in ("int", "uint"):
        return x if last == start else None
    return cast(x, last)


CASTS = Rules(
    Rule(
        op("cast", "x", name="root"),
        lambda x, root: x if x.type.dtype == root.type.dtype else None,
    ),
    Rule(op("cast", op("cast", "x"), name="root"), _cast_twice),
)

ALGEBRA = SUMS + PRODUCTS + POWERS + LOGIC + CHOICES + CASTS
