"""One element at a time in the TVM backend: every op and type, bounds in ulp, and random words."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

from weft.compiler import builder as b
from weft.compiler.error_function import erf as reference_erf
from weft.compiler.errors import RunError
from weft.compiler.graph import make
from weft.compiler.ops import OPS, Kind
from weft.compiler.philox import philox4x32, random_bits, stream_id
from weft.compiler.type_rules import TypeRuleError
from weft.compiler.types import (
    BF16,
    BOOL,
    DTYPES,
    F16,
    F32,
    F64,
    I8,
    I32,
    I64,
    U8,
    U32,
    U64,
    DType,
    TensorType,
    dtype_of,
)

tvm = pytest.importorskip("tvm", reason="the tvm backend needs apache-tvm (extra `tvm`)")


from weft.backends.tvm import native, random, scalar, target, tir  # noqa: E402
from weft.backends.tvm.lines import Lines  # noqa: E402

Array = np.ndarray
Build = Callable[..., Any]
TYPES = (BOOL, I8, I32, I64, U8, U32, U64, F32, F64)
LANES = 16


class Functions:
    """Elementwise functions of arrays, all compiled at once when the first of them is called."""

    def __init__(self) -> None:
        self._bodies: dict[str, Any] = {}

    def add(self, name: str, given: Sequence[DType], results: Sequence[DType], f: Build) -> None:
        """`f(lines, *elements)` gives the element of each result."""
        count = tir.variable("count", "int32")
        types = [tir.stored(d) for d in (*given, *results)]
        pointers = [tir.pointer(f"p{i}", d) for i, d in enumerate(types)]
        memory = [
            tir.memory(f"b{i}", d, 1 << 30, p)
            for i, (d, p) in enumerate(zip(types, pointers, strict=True))
        ]
        buffers = [buffer for buffer, _ in memory]

        def lane(i: Any, j: Any) -> list[Any]:
            place = i * LANES + j
            lines, outs = Lines(j, LANES), buffers[len(given) :]
            values = f(lines, *(tir.load(buffer, place) for buffer in buffers[: len(given)]))
            stores = [tir.store(o, place, v) for o, v in zip(outs, values, strict=True)]
            return [*lines.statements, *stores]

        body = tir.loop(
            count, lambda i: tir.loop(LANES, lambda j: lane(i, j), "vectorized", "j"), name="i"
        )
        function = tir.function([*pointers, count], [*(d for _, d in memory), body])
        self._bodies[name] = function.with_attr("global_symbol", name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._bodies)

    def __call__(self, name: str, arrays: Sequence[Array], results: Sequence[DType]) -> list[Array]:
        size = arrays[0].size
        padded = -(-size // LANES) * LANES
        given = [_aligned(np.resize(a, padded)) for a in arrays]
        made = [_aligned(np.zeros(padded, d.numpy)) for d in results]
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*given, *made)]
        self._module[name](*pointers, padded // LANES)
        return [a[:size] for a in made]

    @property
    def _module(self) -> Any:
        if not hasattr(self, "_compiled"):
            self._compiled = native.compiled(tvm.IRModule(self._bodies), target.host())
        return self._compiled


def _aligned(array: Array) -> Array:
    raw = np.zeros(array.nbytes + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    found = raw[skip : skip + array.nbytes].view(array.dtype)
    found[...] = array
    return found


# -- every op and type ----------------------------------------------------------------------------

_WITHIN_ULPS = {
    "exp": 1.1, "expm1": 2, "log": 1, "log1p": 1.6, "tanh": 3, "logistic": 2.6, "erf": 1.2,
    "sin": 1.6, "cos": 1.6, "power": 0.6,
}  # fmt: skip


def _given(op: str, dtype: DType) -> list[DType]:
    arity = OPS[op].arity
    assert arity is not None
    return [BOOL, dtype, dtype] if op == "select" else [dtype] * arity


def _result(op: str, given: Sequence[DType], **attributes: Any) -> DType | None:
    """The type of the result, None for types that the op does not take."""
    try:
        inputs = [b.input_(f"x{i}", TensorType(d, ())) for i, d in enumerate(given)]
        return make(op, *inputs, **attributes).type.dtype
    except TypeRuleError:
        return None


def _cases() -> Iterator[tuple[str, list[DType], DType]]:
    for op, dtype in product(OPS.values(), TYPES):
        if op.kind is not Kind.ELEMENTWISE:
            continue
        if op.name == "cast":
            yield from (("cast", [dtype], to) for to in TYPES)
        elif (result := _result(op.name, _given(op.name, dtype))) is not None:
            yield op.name, _given(op.name, dtype), result


CASES = list(_cases())


def _name(op: str, given: Sequence[DType], result: DType) -> str:
    return f"{op}_{given[-1]}" + (f"_{result}" if op == "cast" else "")


@cache
def _all() -> Functions:
    found = Functions()
    for op, given, result in CASES:

        def build(
            lines: Lines, *xs: Any, op: str = op, result: DType = result, given: Any = given
        ) -> Any:
            return [scalar.apply(lines, op, xs, result, given)]

        found.add(_name(op, given, result), given, [result], build)
    return found


def _values(dtype: DType, size: int, seed: int) -> Array:
    """The type's special values, and random ones of every size."""
    rng = np.random.default_rng(seed)
    if dtype is BOOL:
        return rng.integers(0, 2, size).astype(bool)
    if dtype.kind != "float":
        info = np.iinfo(dtype.numpy)
        near = [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, info.max, info.max - 1, info.max // 2]
        near += [v for v in (-1, -2, -3, -7, info.min, info.min + 1) if v >= info.min]
        random = rng.integers(info.min, info.max, size - len(near), dtype.numpy, endpoint=True)
        shifted = random >> rng.integers(0, dtype.bits, random.size).astype(dtype.numpy)
        return np.concatenate([np.array(near, dtype.numpy), shifted])
    info_f = np.finfo(dtype.numpy)
    points = [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 126.5, 1e10, 2**24 + 1, 2**31, 2**63, 2**64]
    points += [float(info_f.tiny), float(info_f.smallest_subnormal), float(info_f.max), np.inf]
    both = [s * p for p in points for s in (1, -1)] + [np.nan]
    bits = rng.integers(0, 2**dtype.bits, size // 2, f"u{dtype.bytes}")
    plain = rng.normal(0, 8, max(0, size - size // 2 - len(both)))
    with np.errstate(invalid="ignore"):  # some NaN signal
        found = np.concatenate([np.array(both, dtype.numpy), bits.view(dtype.numpy), plain])
        return found[:size].astype(dtype.numpy)


def _operands(given: Sequence[DType]) -> list[Array]:
    """Every special value of each operand against every one of the others, and random ones."""
    if len(given) == 1:
        return [_values(given[0], 4096, 0)]
    first, second = _values(given[-2], 64, 1), _values(given[-1], 64, 2)
    grid = np.meshgrid(first, second, indexing="ij")
    more = [_values(given[-2], 2048, 3), np.roll(_values(given[-1], 2048, 4), 99)]
    found = [np.concatenate([g.ravel(), m]) for g, m in zip(grid, more, strict=True)]
    return [_values(BOOL, found[0].size, 5), *found] if len(given) == 3 else found


def _ulps(found: Array, exact: Array) -> Array:
    """Distance from a wider reference, in units in the last place of the found type."""
    info = np.finfo(found.dtype)
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log2(np.maximum(np.abs(exact), info.tiny)))
        distance = np.abs(found.astype(exact.dtype) - exact) / np.exp2(exponent) / info.eps
    rounded = exact.astype(found.dtype)
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    return np.where(
        same & ~np.isfinite(rounded), 0, np.where(np.isfinite(rounded), distance, np.inf)
    )


def test_every_elementwise_op_has_a_rule() -> None:
    assert set(scalar.TABLE) == {op.name for op in OPS.values() if op.kind is Kind.ELEMENTWISE}


@pytest.mark.parametrize(("op", "given", "result"), CASES, ids=[_name(*c) for c in CASES])
def test_is_what_numpy_means(op: str, given: list[DType], result: DType) -> None:
    xs = _operands(given)
    if op == "cast" and given[0].kind == "float" and result.kind in ("int", "uint"):
        xs = [_within(xs[0], result)]
    (found,) = _all()(_name(op, given, result), xs, [result])
    evaluate = OPS[op].evaluate
    assert evaluate is not None
    attributes = {"dtype": result} if op == "cast" else {}
    with np.errstate(all="ignore"):
        if op in _WITHIN_ULPS:
            exact = _exact(op, *xs)
            ulps = _ulps(found, exact)
            worst = int(np.argmax(ulps))
            assert ulps[worst] <= _WITHIN_ULPS[op], [x[worst] for x in xs]
            return
        expected = evaluate(*xs, **attributes)
    np.testing.assert_array_equal(found, expected)
    if result.kind == "float" and op not in ("maximum", "minimum", "remainder"):
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(found)[number], np.signbit(expected)[number])


def _within(x: Array, dtype: DType) -> Array:
    """Numbers whose integer part the type holds: what NumPy makes of others is the machine's."""
    info = np.iinfo(dtype.numpy)
    with np.errstate(invalid="ignore"):
        inside = (np.trunc(x) >= info.min) & (np.trunc(x) < float(info.max) + (info.max < 2**31))
    return x[inside]


# -- functions ------------------------------------------------------------------------------------


def _exact(op: str, *xs: Array) -> Array:
    """The function in the next wider type."""
    wide = [x.astype(np.float64 if x.dtype == np.float32 else np.longdouble) for x in xs]
    x = wide[0]
    if op == "logistic":
        small = np.exp(-np.abs(x))
        return np.asarray(np.where(x >= 0, 1, small) / (1 + small))
    if op == "erf":
        return reference_erf(x) if x.dtype == np.float64 else _long_erf(x)
    found: Array = getattr(np, op)(*wide)
    if op == "power":  # the C library's own long form has (-inf)^(-2^63) = inf
        return np.where(np.isinf(x), np.power(*xs), found)
    return found


def _long_erf(x: Array) -> Array:
    """`2/sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1))`: all terms are positive."""
    size = np.minimum(np.abs(x), 8)
    term, total = size, size
    for n in range(1, 300):
        term = term * 2 * size * size / (2 * n + 1)
        total = total + term
    root = np.sqrt(np.longdouble("3.14159265358979323846264338327950288"))
    value = np.minimum(2 / root * np.exp(-size * size) * total, 1)
    return np.asarray(np.where(np.isnan(x), x, np.copysign(np.where(size < 8, value, 1), x)))


FUNCTIONS = sorted(_WITHIN_ULPS.keys() - {"power"})
# How far from 0 the argument matters.
_SPAN = {"exp": 750, "expm1": 750, "logistic": 750, "tanh": 25, "erf": 7}


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("op", FUNCTIONS)
def test_keeps_its_bound_over_every_exponent(op: str, dtype: DType) -> None:
    rng = np.random.default_rng(7)
    after_point = np.finfo(dtype.numpy).nmant
    exponents = np.arange(2 ** (dtype.bits - 1 - after_point), dtype=np.uint64)
    shape = (1 << 16) // exponents.size, exponents.size
    bits = exponents << np.uint64(after_point) | rng.integers(0, 1 << after_point, shape, np.uint64)
    bits |= rng.integers(0, 2, shape, np.uint64) << np.uint64(dtype.bits - 1)
    every = bits.astype(f"u{dtype.bytes}").view(dtype.numpy).ravel()
    span = _SPAN.get(op, 1e4)
    dense = [rng.uniform(-a, a, 1 << 16).astype(dtype.numpy) for a in (1, 4, span, span / 8)]
    x = np.concatenate([every, *dense])
    (found,) = _all()(_name(op, [dtype], dtype), [x], [dtype])
    with np.errstate(all="ignore"):
        ulps = _ulps(found, _exact(op, x))
    worst = int(np.argmax(ulps))
    assert ulps[worst] <= _WITHIN_ULPS[op], (x[worst], found[worst])


def test_sine_and_cosine_near_their_zeros() -> None:
    """The f32 numbers closest to multiples of pi / 2 lose no digits."""
    multiples = np.arange(1, 1 << 17) * (np.pi / 2)
    large = np.array([16367173.0 * 2.0**72, 6381956970095103.0 * 2.0**60, 3.4028235e38, 1e30])
    x = np.concatenate([multiples, large]).astype(np.float32)
    for op in ("sin", "cos"):
        (found,) = _all()(f"{op}_f32", [x], [F32])
        ulps = _ulps(found, _exact(op, x))
        assert ulps.max() <= _WITHIN_ULPS[op], (op, x[int(np.argmax(ulps))])


# -- what a simplifier must not do ----------------------------------------------------------------

_X = F32


def _chain(*steps: tuple[str, DType, list[int | Any]]) -> Build:
    """Ops one after the other, of earlier values by number (0: the input) and of literals."""

    def build(lines: Lines, x: Any) -> Any:
        values, types = [x], [_X]
        for op, dtype, parts in steps:
            given, kinds = [], []
            for part in parts:
                if isinstance(part, int):
                    given.append(values[part])
                    kinds.append(types[part])
                else:
                    value, kind = part
                    given.append(scalar.literal(value, kind))
                    kinds.append(kind)
            values.append(scalar.apply(lines, op, given, dtype, kinds))
            types.append(dtype)
        return [values[-1]]

    return build


_BIG, _ZERO = (12582912.0, F32), (0.0, F32)
CHAINS: dict[str, tuple[DType, Build, Callable[[Array], Array]]] = {
    "sum-and-back": (
        F32,
        _chain(("add", F32, [0, _BIG]), ("subtract", F32, [1, _BIG])),
        lambda x: (x + np.float32(12582912)) - np.float32(12582912),
    ),
    "difference-from-itself": (F32, _chain(("subtract", F32, [0, 0])), lambda x: x - x),
    "quotient-by-itself": (F32, _chain(("divide", F32, [0, 0])), lambda x: x / x),
    "times-zero": (F32, _chain(("multiply", F32, [0, _ZERO])), lambda x: x * np.float32(0)),
    "plus-zero": (F32, _chain(("add", F32, [0, _ZERO])), lambda x: x + np.float32(0)),
    "minus-zero": (F32, _chain(("subtract", F32, [_ZERO, 0])), lambda x: np.float32(0) - x),
    "third": (F32, _chain(("divide", F32, [0, (3.0, F32)])), lambda x: x / np.float32(3)),
    "by-a-tiny-number": (
        F32,
        _chain(("divide", F32, [0, (1e-40, F32)])),
        lambda x: x / np.float32(1e-40),
    ),
    "equal-to-itself": (BOOL, _chain(("equal", BOOL, [0, 0])), lambda x: x == x),
    "not-less": (
        BOOL,
        _chain(("less", BOOL, [0, _ZERO]), ("not", BOOL, [1])),
        lambda x: ~(x < 0),
    ),
    "nested-choices": (
        F32,
        _chain(
            ("less_equal", BOOL, [0, _ZERO]),
            ("greater", BOOL, [0, _ZERO]),
            ("select", F32, [1, (7.0, F32), 0]),
            ("select", F32, [2, (5.0, F32), 3]),
        ),
        lambda x: np.where(x > 0, np.float32(5), np.where(x <= 0, np.float32(7), x)),
    ),
    "narrow-and-wide": (
        F32,
        _chain(("multiply", F32, [0, (0.1, F32)]), ("cast", F64, [1]), ("cast", F32, [2])),
        lambda x: x * np.float32(0.1),
    ),
    "truncated": (
        I32,
        _chain(
            ("minimum", F32, [0, (1e9, F32)]),
            ("maximum", F32, [1, (-1e9, F32)]),
            ("is_finite", BOOL, [0]),
            ("select", F32, [3, 2, _ZERO]),
            ("cast", I32, [4]),
            ("cast", I8, [5]),
            ("cast", I32, [6]),
        ),
        lambda x: (
            np.where(np.isfinite(x), np.clip(x, -1e9, 1e9), np.float32(0))
            .astype(np.int32)
            .astype(np.int8)
            .astype(np.int32)
        ),
    ),
    "wraps": (
        BOOL,
        _chain(
            ("is_finite", BOOL, [0]),
            ("select", I32, [1, (2**31 - 1, I32), (5, I32)]),
            ("add", I32, [2, (1, I32)]),
            ("greater", BOOL, [3, 2]),
        ),
        lambda x: ~np.isfinite(x),
    ),
}


@cache
def _chains() -> Functions:
    found = Functions()
    for name, (result, build, _) in CHAINS.items():
        found.add(name, [_X], [result], build)
    return found


@pytest.mark.parametrize("name", CHAINS)
def test_expressions_keep_their_meaning(name: str) -> None:
    result, _, expect = CHAINS[name]
    x = _values(F32, 4096, 11)
    (found,) = _chains()(name, [x], [result])
    with np.errstate(all="ignore"):
        expected = expect(x)
    np.testing.assert_array_equal(found, expected)
    if result is F32:
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(found)[number], np.signbit(expected)[number])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_literals_are_numpys(dtype: DType) -> None:
    values = _values(dtype, 48, 3)
    functions = Functions()
    for i, value in enumerate(values.tolist()):

        def build(lines: Lines, x: Any, value: Any = value) -> Any:
            return [scalar.literal(value, dtype)]

        functions.add(f"literal{i}", [U8], [dtype], build)
    for i, value in enumerate(values):
        (found,) = functions(f"literal{i}", [np.zeros(1, np.uint8)], [dtype])
        if value != value:
            assert np.isnan(found[0])
        else:
            assert found.tobytes() == np.array(value).tobytes()


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_short_floats_are_refused(dtype: DType) -> None:
    with pytest.raises(RunError, match="computes in f32 and f64"):
        scalar.apply(Lines(), "add", [], dtype, [dtype, dtype])


def test_every_type_is_known() -> None:
    assert {*TYPES, F16, BF16} == set(DTYPES.values())
    assert all(dtype_of(np.zeros(1, t.numpy)) is t for t in TYPES)


# -- random words ---------------------------------------------------------------------------------

_STREAM = [tvm.tirx.const(word, "uint32") for word in stream_id("net.drop")]


@cache
def _philox() -> Functions:
    found = Functions()

    def block(lines: Lines, low: Any, high: Any, step: Any, number: Any) -> Any:
        return random.block(lines, (low, high, step), _STREAM, number)

    def word(lines: Lines, low: Any, high: Any, step: Any, position: Any) -> Any:
        return [random.word(lines, (low, high, step), _STREAM, position)]

    found.add("block", [U32] * 4, [U32] * 4, block)
    for dtype in (I32, I64):
        found.add(f"word_{dtype}", [U32, U32, U32, dtype], [U32], word)
    return found


def _keys(size: int) -> list[Array]:
    rng = np.random.default_rng(5)
    keys = rng.integers(0, 2**32, (3, size), np.uint32)
    keys[:, :2] = [[0, 2**32 - 1]] * 3
    return list(keys)


def test_random_blocks_are_philox() -> None:
    low, high, step = _keys(4096)
    number = np.random.default_rng(6).integers(0, 2**32, low.size, np.uint32)
    found = _philox()("block", [low, high, step, number], [U32] * 4)
    streams = [np.full_like(number, part) for part in _STREAM]
    expected = philox4x32((number, step, *streams), np.stack([low, high]))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [I32, I64], ids=str)
def test_random_words_are_those_of_random_bits(dtype: DType) -> None:
    position = np.arange(1003, dtype=dtype.numpy)
    keys = [np.full(position.size, k, np.uint32) for k in (123, 456, 78)]
    (found,) = _philox()(f"word_{dtype}", [*keys, position], [U32])
    seed = np.array([123, 456], np.uint32)
    np.testing.assert_array_equal(found, random_bits(seed, 78, "net.drop", position.size))


def test_random_words_far_along_a_stream() -> None:
    low, high, step = _keys(4096)
    position = np.random.default_rng(8).integers(0, 2**34, low.size, np.int64)
    (found,) = _philox()("word_i64", [low, high, step, position], [U32])
    streams = [np.full(low.size, part, np.uint32) for part in _STREAM]
    words = np.stack(philox4x32((position >> 2, step, *streams), np.stack([low, high])))
    np.testing.assert_array_equal(found, words[position % 4, np.arange(low.size)])
