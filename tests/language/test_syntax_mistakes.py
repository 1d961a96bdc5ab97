"""What is told of texts that do not parse; any text parses, or is refused in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from language.parsed import DIGITS, LIBRARY, body, mistake, source
from weft.compiler.errors import CompileError
from weft.frontends.dsl.parser import parse

SLIPS = [
    ("optimiser adam(lr = 1) { x }", "1:1", "did you mean `optimizer`?"),
    ("modle net = f(1)", "1:1", "did you mean `model`?"),
    ("def f(x):\n  return x", "1:1", "a function is declared with `fn"),
    ("class A { }", "1:1", "a `layer` owns parameters"),
    ("x = 3", "1:1", "a constant is declared with `let"),
    ("fn f(x) = x ** 2", "1:13", "a power is written `x^2`"),
    ("fn f(x) -> 3", "1:9", "the type of a result isn't written"),
    ("fn f(x) {\n  x := 3\n}", "2:5", "`let x = ...` declares a name"),
    ("fn f(x) {\n  x += 3\n}", "2:5", "write `x = x + ...`"),
    ("let a = 3; let b = 4", "1:10", "a line of its own"),
    ("let s = 'a'", "1:9", "double quotes"),
    ("let s = a && b", "1:11", "write `and`"),
    ('let s = "abc', "1:9", 'a quote inside a string is written `\\"`'),
    ('let s = "a\\qb"', "1:11", "a backslash itself"),
    ("let θ = 3", "1:5", "letters a to z"),
    ("let a = .5", "1:9", "digits on both sides"),
    ("let a = 1.", "1:11", "digits on both sides"),
    ("let a = b < c < d", "1:15", "`a < b and b < c`"),
    ("let a = x |> f + 3", "1:16", "put the pipeline in parentheses"),
    ("let a = f(lr: 3)", "1:13", "an argument is named with `=`"),
    ("let a = f(b = 1, 2)", "1:18", "put it first"),
    ("let a = 80 % ", "1:13", "no space before its sign"),
    ("let a = { b = 1 }", "1:13", "`:` follows the key"),
    ("let if = 3", "1:5", "`if` is a keyword"),
    ("import layers", "1:8", '`import "layers.weft"`'),
    ("fn f(x) { if x = 3 { 1 } }", "1:16", "to compare, write `==`"),
    ("fn f(x):\n  x", "1:8", "a body stands in braces"),
    ("fn f(x)\n{\n  x\n}", "1:8", "belongs on the line before"),
    ("fn f(x) = {\n  let y = 3\n  y\n}", "2:7", "has no `=` before them"),
    ("fn f(x) {\n  for i in x:\n    y\n}", "2:13", "a body stands in braces"),
    ("fn f(x) {\n  return x\n}", "2:3", "the last expression of a body"),
    ("fn f(x) {\n  if x { 1 }\n  elif y { 2 }\n}", "3:3", "write `else if`"),
    ("fn f(x) {\n  x\n    + 3\n}", "3:5", "a line goes on where the one before ends"),
    ("fn f(x) {\n  when trainig { x }\n}", "2:8", "write `if`"),
    ("layer f(x) {\n  parm w: float[3] ~ zeros\n}", "2:3", "did you mean `param`?"),
    ("train {\n  lr: 3\n}", "2:5", "to give a value, write `=`"),
    ("train {\n  minimise f(x) with adam(1)\n}", "2:3", "did you mean `minimize`?"),
    ("train {\n  minimize f(x)\n}", "2:16", "every `minimize` names its optimizer"),
    ("train {\n  param w ~ zeros\n}", "2:3", "belongs in the body of a `layer`"),
]


@pytest.mark.parametrize(("text", "place", "hint"), SLIPS, ids=[text[:24] for text, _, _ in SLIPS])
def test_slips_are_explained(text: str, place: str, hint: str) -> None:
    diagnostic = mistake(text).diagnostic
    assert diagnostic.span is not None
    assert f"{diagnostic.span.line}:{diagnostic.span.column}" == place
    assert diagnostic.hint is not None
    assert hint in diagnostic.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("let x = f(a b)", "`)` or `,`"),
        ("let x =", "an expression"),
        ("let 3 = x", "a name"),
        ("data d {\n  x: f32[3] 4\n}", "a new line, `=` or `}`"),
        ("fn f(x) {\n  x y\n}", "an operator, a new line or `}`"),
        ("train {\n  3\n}", "a setting, `let`, `minimize` or `}`"),
    ],
)
def test_expectations_are_in_words(text: str, expected: str) -> None:
    assert mistake(text).diagnostic.expected == expected


@pytest.mark.parametrize(
    ("text", "opener"),
    [
        ("let a = [1, 2", "1:9"),
        ("let a = (1, 2]", "1:9"),
        ("layer f(x) {\n  x |> dense(3\n  y + 1\n}", "2:13"),
        ("layer f(x) {\n  x |> dense(3)\n\nmodel net = f(2)", "1:12"),
        ("layer l(x: f32[3) { x }", "1:15"),
    ],
)
def test_a_missing_bracket_points_to_its_opener(text: str, opener: str) -> None:
    diagnostic = mistake(text).diagnostic
    assert diagnostic.message.startswith("missing")
    (note,) = diagnostic.notes
    assert note.span is not None
    assert f"{note.span.line}:{note.span.column}" == opener


@pytest.mark.parametrize(
    "text",
    [
        "let a = f(b = 1, b = 2)",
        "let a = { b: 1, b: 2 }",
        "let a, a = 1",
        "fn f(x, x) = 1",
        "train {\n  seed = 1\n  seed = 2\n}",
        "data d {\n  x = 1\n  x: f32 = 2\n}",
    ],
)
def test_what_is_given_twice_is_refused(text: str) -> None:
    assert "is given twice" in mistake(text).diagnostic.message


@pytest.mark.parametrize(
    "text",
    [
        "fn f(x) = " + "(" * 10_000,
        "fn f(x) = " + "(" * 10_000 + "x" + ")" * 10_000,
        "let x = " + "-" * 10_000 + "1",
        "let x = 1" + " + 1" * 10_000,
        "let x = 2" + "^2" * 10_000,
        "let x = a" + ".b" * 10_000,
        "fn f(x) = " + "if x { " * 10_000,
        "let x = " + "[" * 150 + "2^" * 150 + "1" + "]" * 150,
    ],
)
def test_deep_nesting(text: str) -> None:
    assert "nested more than" in mistake(text).diagnostic.message


def test_long_is_not_deep() -> None:
    parse(source("let x = [" + "1, " * 20_000 + "]"))
    assert len(body("x = x\n" * 2_000).statements) == 2_000


def test_deep_trees_compare_and_print() -> None:
    text = "fn f(x) = " + "if x { " * 40 + "1" + " }" * 40
    assert parse(source(text)) == parse(source(text))
    assert "If(" in repr(parse(source(text)))


def refusal(text: str) -> CompileError | None:
    """The error for a text, if there is one."""
    try:
        parse(source(text))
    except CompileError as error:
        return error
    return None


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    error = refusal(text)
    assert error is None or str(error).startswith("test.weft:")


@given(st.lists(st.sampled_from(re.findall(r"\w+|\n|[^\w\s]+", DIGITS + LIBRARY)), max_size=30))
def test_any_tokens_parse_or_are_refused(pieces: list[str]) -> None:
    error = refusal(" ".join(pieces))
    assert error is None or str(error).startswith("test.weft:")


@given(st.integers(0, len(LIBRARY)), st.integers(1, 40))
def test_a_gap_in_a_spec_is_explained(start: int, length: int) -> None:
    error = refusal(LIBRARY[:start] + LIBRARY[start + length :])
    assert error is None or error.diagnostic.span is not None
