"""Bodies and static arithmetic: each rule by an example and by the error that breaking it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from language.elaborated import check, refuses, value
from weft.compiler.errors import CompileError, Source
from weft.frontends.dsl.modules import load_module

rng = np.random.default_rng(0)
X = rng.normal(size=(4, 3))


# -- bodies ----------------------------------------------------------------------------------------


def test_let_and_rebinding() -> None:
    check("fn f(x) {\n  let y = x * 2\n  y = y + 1\n  y\n}", X, expected=2 * X + 1)
    check("fn f(x) {\n  let a, b = x, 2\n  a, b = b, a\n  a * b\n}", X, expected=2 * X)
    assert "`y` is not a local name" in refuses("fn f(x) {\n  y = x\n  x\n}", X)
    assert "did you mean `width`" in refuses("fn f(x) {\n  let width = 1\n  widht = 2\n  x\n}", X)
    assert "2 names need 2 values" in refuses("fn f(x) {\n  let a, b = x\n  x\n}", X)


def test_a_loop_carries_rebindings_on() -> None:
    text = "fn f(x) {\n  for k in [2, 3, 4] {\n    x = x * k\n  }\n  x\n}"
    check(text, X, expected=24 * X)
    text = "fn f(x) {\n  for a, b in [[1, 2], [3, 4]] {\n    x = x * a + b\n  }\n  x\n}"
    check(text, X, expected=(X + 2) * 3 + 4)
    text = "fn f(x) {\n  for i in range(1, 6, 2) {\n    x = x + i\n  }\n  x\n}"
    check(text, X, expected=X + 9)
    assert "`for` runs over a list" in refuses("fn f(x) {\n  for i in 3 {\n  }\n  x\n}", X)
    assert "`i` is not defined" in refuses("fn f(x) {\n  for i in [1] {\n  }\n  x * i\n}", X)
    assert "too long" in refuses("fn f(x) {\n  for i in range(10^9) {\n  }\n  x\n}", X)


def test_names_of_an_inner_block_stay_inside() -> None:
    text = "fn f(x) {\n  if true {\n    let y = 2\n    x = x * y\n  }\n  x\n}"
    check(text, X, expected=2 * X)
    assert "`y` is not defined" in refuses(text.replace("\n  x\n}", "\n  x * y\n}"), X)


def test_if_is_decided_before_running() -> None:
    text = "fn f(x: f32[B, D]) = if D == 3 and not (B < 4) { x } else { 0 * x }"
    check(text, X, expected=X)
    text = "fn f(x: f32[B, D]) = if D == 1 { x } else if D == 3 { 2 * x } else { 3 * x }"
    check(text, X, expected=2 * X)
    assert "where(condition, a, b)" in refuses("fn f(x) = if sum(x) > 0 { x } else { -x }", X)
    assert "`true` or `false`" in refuses("fn f(x) = if 1 { x } else { -x }", X)
    assert "has no result" in refuses("fn f(x) = if false { x }", X)


def test_when_training_is_the_only_difference() -> None:
    text = "fn f(x) = when training { x } else { 2 * x }"
    assert value(text, 1.0) == 1
    assert value(text, 1.0, training=False) == 2
    assert "`when` tells training from evaluation" in refuses(
        "fn f(x) = when trainin { x } else { x }", X
    )


def test_a_body_needs_a_result() -> None:
    assert "`f` has no result" in refuses("fn f(x) {\n  let y = x\n}", X)
    assert "this has no value" in refuses("fn f(x) {\n  let y = if false { x }\n  x\n}", X)


def test_lists_hold_tensors() -> None:
    text = """
fn f(x) {
  let skips = []
  for k in range(3) {
    skips = skips + [x * k]
  }
  concat(skips) + concat([...skips, x])[:, 3:]
}
"""
    expected = np.concatenate([0 * X, X, 2 * X], 1) + np.concatenate([X, 2 * X, X], 1)
    check(text, X, expected=expected)
    check("fn f(x) = stack([x, 2 * x], at = 1)", X, expected=np.stack([X, 2 * X], 1))
    assert "different ranks" in refuses("fn f(x) = concat([x, x[0]])", X)
    assert "a list of tensors" in refuses("fn f(x) = concat(x)", X)
    assert "`concat`" in refuses("fn f(x) = concat([x, x[:, :2]], over = 0)", X)


def test_pipes_pass_the_first_argument() -> None:
    check("fn g(a, b = 1) = a - b\nfn f(x) = x |> g |> g(3) |> g(b = 2)", X, expected=X - 6)
    check("fn f(x) = x\n  |> exp\n  |> sum(over = 0)", X, expected=np.exp(X).sum(0))
    assert "is not a function" in refuses("fn f(x) {\n  let y = 2\n  x |> y\n}", X)


def test_functions_are_values() -> None:
    text = "fn g(x, activation = relu) = activation(x)\nfn f(x) = g(x) + g(x, activation = tanh)"
    check(text, X, expected=np.maximum(X, 0) + np.tanh(X))
    text = "fn f(x) {\n  for h in [exp, relu, sqrt] {\n    x = x |> h\n  }\n  x\n}"
    check(text, X, expected=np.sqrt(np.exp(X)))
    text = 'fn named(n: string) = if n == "exp" { exp } else { tanh }\nfn f(x) = named("exp")(x)'
    check(text, X, expected=np.exp(X))
    text = "fn g(x, h: function) = h(x)\nfn f(x) = g(x, 2)"
    assert "a function" in refuses(text, X)


def test_a_callee_does_not_see_the_callers_names() -> None:
    text = "fn g(x) = x * secret\nfn f(x) {\n  let secret = 2\n  g(x)\n}"
    assert "`secret` is not defined" in refuses(text, X)
    check("let secret = 3\n" + text, X, expected=3 * X)


def test_top_level_lets_are_made_once_in_any_order() -> None:
    text = "fn f(x) = x * area\nlet area = side^2\nlet side, other = 3, 4"
    check(text, X, expected=9 * X)
    assert "is defined by itself" in refuses("let a = b\nlet b = a\nfn f(x) = x * a", X)


def test_recursion_ends_in_an_error() -> None:
    assert "nested too deeply" in refuses("fn f(x) = f(x)", X)
    text = "fn a(x) {\n  if true {\n    for i in [1] {\n      x = b(x)\n    }\n  }\n  x\n}\n"
    assert "nested too deeply" in refuses(text + "fn b(x) = 1 + (2 * a(x))\nfn f(x) = a(x)", X)
    check(
        "fn g(n: int) = if n == 0 { 1 } else { n * g(n - 1) }\nfn f(x) = x * g(5)",
        X,
        expected=120 * X,
    )


# -- static arithmetic and units -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "7 // 2": 3,
        "-7 // 2": -4,
        "7 % 3": 1,
        "2^10": 1024,
        "2^3^2": 512,
        "-2^2": -4,
        "2^-1": 0.5,
        "1 / 4": 0.25,
        "1_000 + 1e3": 2000,
        "sqrt(16)": 4,
        "exp(0) + log(1)": 1,
        "max(2, 3) + min([4, 5, 6])": 7,
        "round(2.6) + floor(2.6) + ceil(2.1)": 8,
        "len([1, 2, 3][1:])": 2,
        "[1, 2, 3][-1]": 3,
        "count(2, 3, 4)": 24,
        "float(3) / 2": 1.5,
        "int(3.7)": 3,
        "where(1 < 2, 5, 6)": 5,
        "abs(-3) + sign(-2)": 2,
        "if [2, 3] == [2, 3] { 1 } else { 0 }": 1,
        'if "a" != "b" or 1 / 0 > 0 { 1 } else { 0 }': 1,
        "{ a: 4, b: 5 }.b": 5,
    }.items(),
)
def test_static_arithmetic(text: str, expected: float) -> None:
    assert value(f"fn f(x) = x * ({text})", 1.0) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("10^30", "too large"),
        ("10.0^400", "too large for a number"),
        ("(-8)^0.5", "fractional power"),
        ("log(0)", "outside the domain"),
        ("sqrt(-1)", "outside the domain"),
        ("[1, 2][2]", "outside the list"),
        ("[1, 2][0.5]", "whole number"),
        ("2 epochs * 3", "a quantity with a unit"),
        ("1 + 80%", "a quantity with a unit"),
        ('1 + "a"', "a tensor or a number"),
        ("[1] + 2", "a tensor or a number"),
        ("not 3", "`not` takes "),
        ("{ a: 4 }.b", "has no `b`"),
        ("x.size", "has no `size`"),
        ("range(0, 5, 0)", "step can't be 0"),
        ('fail("not today", expected = "more", found = [2, 3])', "not today"),
    ],
)
def test_static_arithmetic_that_fails(text: str, message: str) -> None:
    assert message in refuses(f"fn f(x) = x * ({text})", X)


def test_durations() -> None:
    text = "fn g(d: duration = 3 epochs) = d\nfn f(x) = x * {}"
    for call, steps in {
        "g()": 30,
        "g(12)": 12,
        "g(5 steps)": 5,
        "g(20%)": 20,
        "g(0.5 epochs)": 5,
    }.items():
        assert value(text.format(call), 1.0) == steps
    assert "no unit of training time" in refuses(text.format("g(3 epocs)"), X)
    assert "did you mean `epochs`" in refuses(text.format("g(3 epocs)"), X)
    assert "a duration such as" in refuses(text.format("g(1.5)"), X)
    assert "can't be negative" in refuses(text.format("g(-(1 steps))"), X)


def test_a_name_of_two_imported_files(tmp_path: Path) -> None:
    """One declaration that comes two ways is one; two of them are an error, if any uses them."""
    (tmp_path / "base.weft").write_text("let q = 3\nlet r = 1\n")
    (tmp_path / "left.weft").write_text('import "base.weft"\n')
    (tmp_path / "right.weft").write_text('import "base.weft"\nlet r = 2\n')
    text = 'import "left.weft"\nimport "right.weft"\n'
    module, _ = load_module(Source("all.weft", text), tmp_path)
    assert module.find("q") is not None
    assert module.find("p") is None
    with pytest.raises(CompileError, match="`r` is declared in two imported files"):
        module.find("r")
    module, _ = load_module(Source("all.weft", text + "let r = 4\n"), tmp_path)
    found = module.find("r")
    assert found is not None
    assert found[0] is module
