"""Axes: alignment by name, names that stay in their body, and the types that bind them."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import check, elaborate, refuses, value
from weft.compiler.errors import CompileError

rng = np.random.default_rng(0)
X = rng.normal(size=(4, 3))
CUBE = rng.normal(size=(2, 3, 4))


# -- alignment of axes -----------------------------------------------------------------------------


def test_a_lower_rank_operand_aligns_by_name() -> None:
    text = "fn f(x: f32[B, C, S], scale: f32[C]) = x * scale"
    check(text, CUBE, np.arange(3.0), expected=CUBE * np.arange(3.0)[:, None])
    text = "fn f(x: f32[B, C, S], w: f32[S, B]) = x + w"
    w = rng.normal(size=(4, 2))
    check(text, CUBE, w, expected=CUBE + w.T[:, None, :])
    check(text.replace("x + w", "w + x"), CUBE, w, expected=CUBE + w.T[:, None, :])


def test_names_align_even_where_all_sizes_are_equal() -> None:
    square = rng.normal(size=(3, 3))
    text = "fn f(x: f32[B, D]) = x - mean(x, over = [D])"
    check(text, square, expected=square - square.mean(1, keepdims=True))
    text = "fn f(x: f32[B, D]) = x - mean(x, over = [B])"
    check(text, square, expected=square - square.mean(0))


def test_unnamed_axes_align_from_the_right() -> None:
    check("fn f(x, y) = x + y", CUBE, X.T, expected=CUBE + X.T)
    check("fn f(x: f32[B, C, S]) = x + float(arange(4))", CUBE, expected=CUBE + np.arange(4))


def test_scalars_meet_everything() -> None:
    check("fn f(x) = 2 * x + mean(x)", X, expected=2 * X + X.mean())


@pytest.mark.parametrize(
    ("text", "shapes", "parts"),
    [
        ("fn f(x, y) = x + y", [(4, 1), (4, 3)], ["sizes 1 and 3", "f64[4, 1] and f64[4, 3]"]),
        ("fn f(x, y) = x + y", [(4, 3), (4,)], ["sizes 3 and 4", "nothing stretches"]),
        ("fn f(x, y) = x + y", [(4, 3), (1,)], ["drop the axis of size 1"]),
        (
            "fn f(x: f32[A, B], y: f32[B, A]) = x + y",
            [(3, 3), (3, 3)],
            ["axes `A` and `B` meet", "f64[A=3, B=3] and f64[B=3, A=3]"],
        ),
        (
            "fn f(x: f32[A, B], y: f32[C]) = x + y",
            [(3, 3), (3,)],
            ["axes `B` and `C` meet"],
        ),
        ("fn f(x, y) = max(x, y)", [(4, 3), (3, 4)], ["`max`: sizes"]),
        ("fn f(x, y) = where(x > 0, x, y)", [(4, 3), (5,)], ["`where`: sizes"]),
    ],
)
def test_axes_that_dont_align(text: str, shapes: list[tuple[int, ...]], parts: list[str]) -> None:
    message = refuses(text, *map(np.zeros, shapes))
    for part in parts:
        assert part in message


def test_stretching_is_written() -> None:
    text = "fn f(x, y) = x + broadcast(y, [4, 3])"
    y = rng.normal(size=(4, 1))
    check(text, X, y, expected=X + y)
    check("fn f(x, y) = x + y[..., 0]", X.T, y, expected=X.T + y[:, 0])
    message = refuses("fn f(y) = broadcast(y, [4, 5, 3])", y)
    assert "`broadcast`" in message


def test_a_repeated_name_aligns_by_position() -> None:
    square = rng.normal(size=(3, 3))
    check("fn f(x: f32[T, T]) = x + x * 2", square, expected=3 * square)
    check(
        "fn f(x: f32[T, T], y: f32[T]) = x + y", square, np.arange(3.0), expected=square + range(3)
    )


CROSSED = [
    "x - mean(x, over = 1)",
    "mean(x, over = -1) - x",
    "exp(x) / sum(exp(x - max(x)), over = 1)",
    "x - x[:, 0]",
    "x / sqrt(variance(x, over = 1))",
    "where(x > 0, x, float(arg_max(x, over = 1)))",
    "reshape(x, [1, 3, 3]) * sum(x, over = 1)",
]
BESIDE = [
    "x - mean(x, over = 0)",
    "x - x[0]",
    "x + transpose(x)",
    "x - mean(transpose(x), over = 1)",
    "x - broadcast(mean(x, over = 1), [3, 3])",
    "broadcast(reshape(x, [3, 1, 3]), [3, 3, 3]) - x",
    "broadcast(reshape(x, [3, 3, 1]), [3, 3, 3]) + x",  # as for the shortest ways of a graph
    "x @ transpose(x) - sum(x^2, over = 1)",
]


@pytest.mark.parametrize("expression", CROSSED)
def test_an_axis_without_a_name_takes_no_other_ones_place(expression: str) -> None:
    message = refuses(f"fn f(x) = {expression}", rng.normal(size=(3, 3)))
    assert "meets axis" in message
    assert "of the same tensor" in message


@pytest.mark.parametrize("expression", BESIDE)
def test_axes_without_names_that_are_where_they_belong(expression: str) -> None:
    assert np.isfinite(value(f"fn f(x) = {expression}", rng.normal(size=(3, 3)))).all()


def test_only_the_axis_that_is_misplaced_is_told() -> None:
    cube = rng.normal(size=(3, 3, 3))
    assert "axis 1 meets axis 2" in refuses("fn f(x) = x - mean(x, over = 2)", cube)
    check("fn f(x) = x - mean(x, over = [0, 1])", cube, expected=cube - cube.mean((0, 1)))
    check("fn f(x: f32[A, B, C]) = x - x[:, :, 0]", cube, expected=cube - cube[:, :, :1])
    assert "axis 2 meets axis 3" in refuses(
        "fn f(x: f32[B, C, ...]) = x - mean(x, over = 3)", rng.normal(size=(2, 3, 4, 4))
    )


# -- names of axes are lexical ---------------------------------------------------------------------


def test_names_inside_a_callee_dont_leak() -> None:
    text = """
fn double(a: f32[P, Q]) = a + a
fn g(a: f32[B]) = a * 2
fn f(x: f32[B, D], b: f32[B], d: f32[D]) = double(x) + g(d) + double(x) * g(b)
"""
    b, d = rng.normal(size=4), rng.normal(size=3)
    check(text, X, b, d, expected=2 * X + 2 * d + 2 * X * 2 * b[:, None])


def test_a_result_carries_the_names_of_the_caller() -> None:
    text = """
fn rows(a: f32[P, Q]) = sum(a, over = [Q])
fn f(x: f32[B, D]) = x * rows(x)
"""
    square = rng.normal(size=(3, 3))
    check(text, square, expected=square * square.sum(1, keepdims=True))
    text = """
fn swap(a: f32[P, Q]) = transpose(a)
fn f(x: f32[B, D]) = swap(x) + x
"""
    assert "axes `D` and `B` meet" in refuses(text, square)


def test_axes_that_a_callee_makes_have_no_name_outside() -> None:
    text = """
fn padded(a: f32[P], extra = 3) = zeros([P, extra])
fn f(x: f32[B], extra: f32[B, E]) = padded(x) + extra
"""
    check(text, np.zeros(4), X, expected=X)


def test_axes_pass_as_arguments() -> None:
    text = """
fn total(a: f32[P, Q], axes) = sum(a, over = axes)
fn f(x: f32[B, D]) = total(x, [D]) + total(x, B) |> sum
"""
    square = rng.normal(size=(3, 3))
    check(text.replace(" + total(x, B) |> sum", ""), square, expected=square.sum(1))
    check(text.replace("[D]) + total(x, B) |> sum", "B)"), square, expected=square.sum(0))


def test_untyped_arguments_keep_the_names_of_the_caller() -> None:
    text = """
fn scale(a: f32[P, Q], s) = a * s
fn f(x: f32[B, D], s: f32[B]) = scale(x, s)
"""
    square, s = rng.normal(size=(3, 3)), rng.normal(size=3)
    check(text, square, s, expected=square * s[:, None])


def test_an_axis_that_is_not_there() -> None:
    assert "no axis `B`" in refuses(
        "fn f(x: f32[D], y: f32[B]) = sum(x, over = [B])", *[np.ones(2)] * 2
    )
    assert "no axis `2`" in refuses("fn f(x) = sum(x, over = 2)", X)
    assert "an axis is a name or a number" in refuses('fn f(x) = sum(x, over = "B")', X)


# -- signatures ------------------------------------------------------------------------------------


def test_names_in_types_are_sizes_in_the_body() -> None:
    check("fn f(x: f32[B, D]) = x * (B + 10 * D)", X, expected=X * 34)
    check("fn f(x: f32[B, D], y: f32[2 * B]) = sum(y) * D", X, np.ones(8), expected=24)
    message = refuses("fn f(x: f32[B, D], y: f32[2 * B]) = sum(y)", X, np.ones(7))
    assert "`2 * B` = 8" in message
    assert "7 in f64[7]" in message


@pytest.mark.parametrize(
    ("type", "shape", "fits"),
    [
        ("float[...]", (2, 3), True),
        ("float[...]", (), True),
        ("float[...S]", (2, 3), True),
        ("float[B, ...]", (2,), True),
        ("float[B, ...]", (), False),
        ("float[...B, D]", (2, 3, 4), True),
        ("float[A, ...B, C]", (2,), False),
        ("float", (2,), True),
        ("f32[]", (), True),
        ("f32[]", (1,), False),
        ("f32[2, D]", (2, 3), True),
        ("f32[3, D]", (2, 3), False),
        ("f32[D, D]", (3, 3), True),
        ("f32[D, D]", (2, 3), False),
        ("int[D]", (3,), False),
    ],
)
def test_types_match_or_dont(type: str, shape: tuple[int, ...], fits: bool) -> None:
    text = f"fn f(x: {type}) = x"
    if type == "float" and shape:
        assert "a number" in refuses(text, np.zeros(shape))
    elif fits:
        assert value(text, np.zeros(shape)).shape == shape
    else:
        assert "can't take this as `x`" in refuses(text, np.zeros(shape))


def test_labels_have_sizes_after_the_number_of_classes() -> None:
    text = "fn f(y: class[C, B, ...S]) = 100 * C + 10 * B + len(S)"
    labels = np.zeros((2, 3), int)
    assert value(text, labels, classes={0: 5}) == 521
    with pytest.raises(CompileError, match="can't take this as `y`") as error:
        elaborate("fn f(y: class[C, B]) = C", labels, classes={0: 5})
    assert error.value.diagnostic.expected == "class[C, B], 1 axis"
    with pytest.raises(CompileError) as error:
        elaborate("fn f(y: class[C, 2, 4]) = C", labels, classes={0: 5})
    assert error.value.diagnostic.found == "3 in class[5] labels [2, 3]"


def test_a_type_has_one_spread() -> None:
    assert "at most one `...`" in refuses("fn f(x: f32[...A, ...B]) = x", X)


def test_spreads_of_two_arguments_agree() -> None:
    text = "fn f(x: f32[B, ...S], y: f32[...S]) = x + y"
    check(text, CUBE, X.T, expected=CUBE + X.T)
    message = refuses(text, CUBE, X)
    assert "`...S`" in message
    assert "[3, 4]" in message


def test_spreads_in_lists_and_calls() -> None:
    check("fn f(x: f32[B, ...S]) = reshape(x, [...S, B])", CUBE, expected=CUBE.reshape(3, 4, 2))
    check("fn f(x: f32[B, ...S]) = sum(x, over = [...S])", CUBE, expected=CUBE.sum((1, 2)))
    check("fn f(x: f32[...S]) = x * count(...S)", CUBE, expected=CUBE * 24)
    check("fn f(x: f32[...S]) = x * len(S)", CUBE, expected=CUBE * 3)
    assert "spreads a list" in refuses("fn f(x) = sum(x, over = [...x])", X)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ("g()", ["`g` needs `x`", "g(x: f32[B, D], k: int = 2"]),
        ("g(x, 1, true, 4)", ["takes 3 arguments", "one more"]),
        ("g(x, kk = 1)", ["no argument `kk`", "did you mean `k`"]),
        ("g(x, x = x)", ["`x` twice", "first given here"]),
        ("g(x, 1.5)", ["as `k`", "a whole number", "the number 1.5"]),
        ("g(x, true)", ["as `k`", "true"]),
        ("g(x, flag = 1)", ["as `flag`", "`true` or `false`"]),
        ("g(2)", ["a tensor f32[B, D]", "the number 2"]),
        ("h(x)", ["`h` is not defined"]),
        ("reluu(x)", ["`reluu` is not defined", "did you mean `relu`"]),
        ("3(x)", ["the number 3 is not a function"]),
        ("g(x)(x)", ["is not a function"]),
        ("exp(x, x)", ["`exp` takes 1 argument, and this is one more", "`exp(x)`"]),
        ("sum(x, ovr = 0)", ["no argument `ovr`", "did you mean `over`"]),
        ("odd(x)", ["there is no type `flaot`", "did you mean `float`"]),
    ],
)
def test_calls_that_dont_fit(call: str, parts: list[str]) -> None:
    text = f"""
fn g(x: f32[B, D], k: int = 2, flag: bool = false) = x * k
fn odd(x: flaot[B]) = x
fn f(x) = {call}
"""
    message = refuses(text, X)
    for part in parts:
        assert part in message


def test_defaults_may_name_other_arguments() -> None:
    text = "fn g(x: f32[B, D], wide = 2 * D, more = wide + 1) = x * more\nfn f(x) = g(x) + g(x, 1)"
    check(text, X, expected=X * 9)


def test_arguments_by_name_in_any_order() -> None:
    text = "fn g(a, b, c = 1) = a - b * c\nfn f(x) = g(b = x, c = 3, a = 1)"
    check(text, X, expected=1 - 3 * X)
