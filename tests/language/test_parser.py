"""Parsing: trees, spans, where lines end, and which words are keywords."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from language.parsed import DIGITS, LIBRARY, body, source
from weft.compiler.errors import CompileError
from weft.frontends.dsl import tables
from weft.frontends.dsl.parser import (
    MAX_BYTES,
    outline,
    parse,
    parse_declaration,
    parse_expression,
    read_source,
)
from weft.frontends.dsl.syntax import (
    Argument,
    Attribute,
    Binary,
    Block,
    Boolean,
    Call,
    DataDecl,
    Dots,
    Expression,
    ExprStatement,
    FnDecl,
    For,
    If,
    Import,
    Index,
    InitDecl,
    LayerDecl,
    Let,
    LetDecl,
    ListExpr,
    Minimize,
    ModelDecl,
    Name,
    Number,
    OptimizerDecl,
    Param,
    Pipe,
    Quantity,
    Rebind,
    Record,
    ScheduleDecl,
    Slice,
    Spread,
    StateDecl,
    String,
    StudyDecl,
    TrainDecl,
    TupleExpr,
    TypeExpr,
    Unary,
    Update,
    When,
    walk,
)

RING = """\
train {
  data = ring.batch(128)
  let z    = normal([batch, 16])
  let fake = G(z)
  minimize bce(D(x), 1) + bce(D(stop_gradient(fake)), 0) over D with adam(2e-4, beta1 = 0.5)
  minimize bce(D(fake), 1)                               over G with adam(2e-4, beta1 = 0.5)
  steps = 5000
}
"""


def expression(text: str) -> Expression:
    return parse_expression(source(text))


def n(text: str) -> Name:
    return Name(text, span=NOWHERE)


def i(value: int) -> Number:
    return Number(value, str(value), span=NOWHERE)


NOWHERE = parse(source("")).span


# ---- the language by example --------------------------------------------------------------------


def test_digits() -> None:
    file = parse(source(DIGITS))
    data, layer, model, train = file.declarations
    assert file.doc == "digits.weft: classify handwritten digits with a two-layer perceptron."
    assert isinstance(data, DataDecl)
    assert [setting.key for setting in data.settings] == ["source", "split"]
    assert [field.name for field in data.fields] == ["x", "y"]
    assert data.fields[1].type == TypeExpr("class", (i(10),), span=NOWHERE)
    assert data.doc == ""
    assert isinstance(layer, LayerDecl)
    assert layer.doc == "A perceptron.\nTwo layers."
    assert [parameter.name for parameter in layer.parameters] == ["x", "hidden", "classes"]
    assert isinstance(model, ModelDecl)
    assert model.name == "net"
    assert isinstance(train, TrainDecl)
    assert train.name is None
    minimize = train.statements[1]
    assert isinstance(minimize, Minimize)
    (move,) = minimize.moves
    assert move.over is None
    warmup = Argument("warmup", Quantity(2, "epochs", "2", span=NOWHERE), span=NOWHERE)
    assert any(node == warmup for node in walk(move.optimizer))


def test_library() -> None:
    gelu, dense, norm, he, adam, schedule = parse(source(LIBRARY)).declarations
    assert isinstance(gelu, FnDecl)
    assert isinstance(dense, LayerDecl)
    assert isinstance(dense.body, Block)
    weights, bias, result = dense.body.statements
    assert isinstance(weights, Param)
    assert weights.condition is None
    assert isinstance(bias, Param)
    assert bias.condition == n("bias")
    assert isinstance(result, ExprStatement)
    assert isinstance(norm, LayerDecl)
    assert isinstance(norm.body, Block)
    when = norm.body.statements[-1]
    assert isinstance(when, ExprStatement)
    assert isinstance(when.value, When)
    assert when.value.otherwise is not None
    # A line that begins with a parenthesis is no call of the line before.
    assert len(when.value.then.statements) == 4
    assert isinstance(he, InitDecl)
    assert he.parameters is None
    assert isinstance(adam, OptimizerDecl)
    assert isinstance(schedule, ScheduleDecl)


def test_several_objectives() -> None:
    (train,) = parse(source(RING)).declarations
    assert isinstance(train, TrainDecl)
    parts = [item.moves[0].over for item in train.statements if isinstance(item, Minimize)]
    assert parts == [(n("D"),), (n("G"),)]


def test_other_declarations() -> None:
    text = 'import "a.weft"\nlet a, b = f(1)\nstudy lr { lr = [1, 2] }\ntrain warm { epochs = 1 }\n'
    first, let, study, train = parse(source(text)).declarations
    assert isinstance(first, Import)
    assert first.path == "a.weft"
    assert isinstance(let, LetDecl)
    assert let.targets == (n("a"), n("b"))
    assert isinstance(study, StudyDecl)
    assert isinstance(train, TrainDecl)
    assert (study.name, train.name) == ("lr", "warm")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "  \t\r\n"])
def test_empty(text: str) -> None:
    assert parse(source(text)).declarations == ()


def test_gradient_clause_moves_to_the_function() -> None:
    text = "fn f(x) {\n  gradient(dy) {\n    dy * 2\n  }\n  x * 2\n}"
    (function,) = parse(source(text)).declarations
    assert isinstance(function, FnDecl)
    assert function.gradient is not None
    assert function.gradient.parameter == "dy"
    assert isinstance(function.body, Block)
    assert len(function.body.statements) == 1


# ---- expressions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("-x^2", "-(x^2)"),
        ("a^b^c", "a^(b^c)"),
        ("2^-n", "2^(-n)"),
        ("-a * b", "(-a) * b"),
        ("x @ w + b", "(x @ w) + b"),
        ("7 % 3 // 2", "(7 % 3) // 2"),
        ("7%3", "7 % 3"),
        ("a < b and not c == d or e", "((a < b) and (not (c == d))) or e"),
        ("x |> f |> g(1)", "(x |> f) |> g(1)"),
        ("x + y |> f", "(x + y) |> f"),
        ("a.b(c)[d].e", "((a.b)(c)[d]).e"),
        ("f(a,)", "f(a)"),
        ("1_000", "1000"),
    ],
)
def test_binding(text: str, same: str) -> None:
    assert expression(text) == expression(same)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("true", Boolean(True, span=NOWHERE)),
        ('"a\\n\\"b\\\\"', String('a\n"b\\', span=NOWHERE)),
        ("1.5e3", Number(1500.0, "1.5e3", span=NOWHERE)),
        ("80%", Quantity(80, "%", "80", span=NOWHERE)),
        ("500 steps", Quantity(500, "steps", "500", span=NOWHERE)),
        ("[]", ListExpr((), span=NOWHERE)),
        ("{}", Record((), span=NOWHERE)),
        ("(a, b)", TupleExpr((n("a"), n("b")), span=NOWHERE)),
        ("[a, ...S]", ListExpr((n("a"), Spread("S", span=NOWHERE)), span=NOWHERE)),
        ("valid.loss", Attribute(n("valid"), "loss", span=NOWHERE)),
        ("x |> relu", Pipe(n("x"), n("relu"), span=NOWHERE)),
        ("-x", Unary("-", n("x"), span=NOWHERE)),
    ],
)
def test_trees(text: str, tree: Expression) -> None:
    assert expression(text) == tree


def test_indices() -> None:
    index = expression("x[0, 1:, :n, ::2, 1:2:3, ...]")
    assert isinstance(index, Index)
    assert index.items == (
        i(0),
        Slice(i(1), None, None, span=NOWHERE),
        Slice(None, n("n"), None, span=NOWHERE),
        Slice(None, None, i(2), span=NOWHERE),
        Slice(i(1), i(2), i(3), span=NOWHERE),
        Dots(span=NOWHERE),
    )


def test_integers_stay_integers() -> None:
    one, point = expression("1"), expression("1.0")
    assert isinstance(one, Number)
    assert isinstance(point, Number)
    assert (type(one.value), type(point.value)) == (int, float)


def test_spans_cover_what_they_name() -> None:
    text = source("let y = (a + b) * f(x, key = 3) # end\n")
    spans = {
        type(node).__name__: text.text[node.span.start : node.span.end]
        for node in walk(parse(text))
        if isinstance(node, Call | Binary | Argument | LetDecl)
    }
    assert spans["LetDecl"] == "let y = (a + b) * f(x, key = 3)"
    assert spans["Call"] == "f(x, key = 3)"
    assert spans["Argument"] == "key = 3"


# ---- lines and words ----------------------------------------------------------------------------


def test_a_line_ends_a_statement() -> None:
    first, second = body("let y = f\n(x)").statements
    assert isinstance(first, Let)
    assert first.value == n("f")
    assert isinstance(second, ExprStatement)


@pytest.mark.parametrize(
    "text",
    [
        "f(\n  a,\n\n  # why\n  b\n)",
        "a +\n  b",
        "a\n\n  |> b",
        "a\n  # why\n  |> b",
        "if a { b }\nelse { c }",
        "{\n  a: 1,\n  b: 2,\n}",
        "[\n1,\n]",
        "a and\nb",
        "-\nb",
    ],
)
def test_a_line_goes_on(text: str) -> None:
    (statement,) = body(f"let y = {text}").statements
    assert isinstance(statement, Let)


def test_clauses_on_lines_of_their_own() -> None:
    text = "train {\n  minimize a\n    over b, c\n    with d\n  over = 3\n  with = 4\n}"
    (train,) = parse(source(text)).declarations
    assert isinstance(train, TrainDecl)
    assert len(train.statements) == 3


KEYWORDS = [
    "data",
    "fn",
    "layer",
    "model",
    "init",
    "optimizer",
    "schedule",
    "train",
    "study",
    "let",
    "param",
    "state",
    "minimize",
    "gradient",
    "over",
    "with",
    "in",
    "when",
    "and",
    "or",
    "if",
    "for",
    "not",
    "else",
]


@pytest.mark.parametrize("word", KEYWORDS)
def test_keywords_are_names_where_only_a_name_can_be(word: str) -> None:
    expression(f"f(a, {word} = 1)")
    expression(f"{{ {word}: 1 }}")
    expression(f"a.{word}")
    parse(source(f"train {{\n  {word} = 1\n}}"))
    parse(source(f"data d {{\n  {word}: f32[3] = 1\n}}"))
    parse(source(f"fn f({word} = 1) = 2"))


@pytest.mark.parametrize(
    "word",
    [
        "data",
        "model",
        "init",
        "train",
        "state",
        "param",
        "over",
        "with",
        "in",
        "when",
        "and",
        "or",
        "step",
        "gradient",
    ],
)
def test_soft_keywords_are_names_anywhere(word: str) -> None:
    text = f"let {word} = 1\n{word} + 1\nlet y = 2 * {word}\n[{word}, f({word}, 1)]\n{word}.x\n"
    text += f"for {word} in xs {{ y = {word} }}\n"
    assert len(body(text).statements) == 6


def test_statements() -> None:
    text = (
        "a, b = b, a\nm <- 2\nstate s ~ zeros\nfor a, b in c { d = a }\nif a { b } else if c { d }"
    )
    swap, update, state, loop, choice = body(text).statements
    assert isinstance(swap, Rebind)
    assert swap.value == TupleExpr((n("b"), n("a")), span=NOWHERE)
    assert isinstance(update, Update)
    assert isinstance(state, StateDecl)
    assert isinstance(loop, For)
    assert isinstance(choice, ExprStatement)
    assert isinstance(choice.value, If)
    assert isinstance(choice.value.otherwise, If)


def test_line_ends_of_other_systems_and_tabs() -> None:
    text = LIBRARY.replace("  ", "\t").replace("\n", "\r\n")
    assert parse(source(text)) == parse(source(LIBRARY))


# ---- files --------------------------------------------------------------------------------------


def test_read_source(tmp_path: Path) -> None:
    path = tmp_path / "a.weft"
    path.write_bytes(b"\xef\xbb\xbflet a = 1\r\nlet b = 2\r")
    assert read_source(path).text == "let a = 1\nlet b = 2\n"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (MAX_BYTES + 1), "too large"),
        (b"\x00\x01", "not a text file"),
    ],
)
def test_unreadable_contents(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "a.weft"
    path.write_bytes(raw)
    with pytest.raises(CompileError, match=message):
        parse(read_source(path))


def test_unreadable_places(tmp_path: Path) -> None:
    (tmp_path / "there.weft").write_text("")
    with pytest.raises(CompileError, match="there is no file") as caught:
        read_source(tmp_path / "their.weft")
    assert caught.value.diagnostic.hint == "beside it: `there.weft`"
    with pytest.raises(CompileError, match="is a folder"):
        read_source(tmp_path)
    with pytest.raises(CompileError, match="can't be read"):
        read_source("a\0b")


# ---- parts of a source --------------------------------------------------------------------------


def test_outline_finds_every_declaration() -> None:
    text = source(DIGITS + LIBRARY + "let a, b = f(1)\n" + RING)
    found = outline(text)
    assert list(found) == [
        "digits",
        "mlp",
        "net",
        "gelu",
        "dense",
        "batch_norm",
        "he_normal",
        "adam",
        "exponential",
        "a",
        "b",
    ]
    whole = {getattr(item, "name", None): item for item in parse(text).declarations}
    for name, (kind, start, end) in found.items():
        declaration = parse_declaration(text, start, end)
        assert text.text[declaration.span.start :].startswith(kind)
        if kind != "let":
            assert declaration == whole[name]
            assert declaration.span == whole[name].span
            assert declaration.doc == whole[name].doc


def test_mistakes_in_a_part_are_placed_in_the_whole() -> None:
    text = source("let a = 1\n\nfn f(x) = x +\n\nlet b = 2\n")
    _, start, end = outline(text)["f"]
    with pytest.raises(CompileError) as caught:
        parse_declaration(text, start, end)
    assert caught.value.diagnostic.span is not None
    assert caught.value.diagnostic.span.line == 3


# ---- tables -------------------------------------------------------------------------------------


def test_kept_tables_are_those_of_the_grammar() -> None:
    folder = files("weft.frontends.dsl")
    grammar = folder.joinpath("grammar.lark").read_text(encoding="utf-8")
    kept = folder.joinpath("tables.txt").read_text(encoding="utf-8")
    built = tables.build(grammar)
    assert tables.dump(built, grammar) == kept, "run python -m weft.frontends.dsl.tables"
    assert tables.parse(kept) == built
