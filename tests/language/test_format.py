"""Formatting: the canonical form of each construct; it never drifts and never changes a meaning."""

from __future__ import annotations

import re
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.compiler.errors import CompileError, Source
from weft.frontends.dsl.format import format_source
from weft.frontends.dsl.parser import parse

# The language's examples of itself: they are what a formatted spec looks like.
EXAMPLES = """\
# digits.weft: classify handwritten digits with a two-layer perceptron.

data digits {
  source = embedded("digits")        # fields: features (64), image (1, 8, 8), target
  x: f32[64]       = features / 16
  y: class[10]     = target
  split  = { train: 80%, valid: 10%, test: 10% }
}

layer batch_norm(x: float[B, C, ...S], momentum = 0.1, eps = 1e-5) {
  param scale: float[C] ~ ones
  param shift: float[C] ~ zeros   when bias
  state mean:  float[C] ~ zeros
  state var:   float[C] ~ ones
  when training {
    let m, v = moments(x, over = [B, ...S])
    mean <- lerp(mean, m, momentum)
    var  <- lerp(var, unbiased(v, count(B, ...S)), momentum)
    (x - m) * rsqrt(v + eps) * scale + shift
  } else {
    (x - mean) * rsqrt(var + eps) * scale + shift
  }
}

fn relu(x)    = max(x, 0)
fn sigmoid(x) = 1 / (1 + exp(-x))

optimizer sgd(lr = 1e-3) {
  theta <- theta - lr * grad^2 / (1 - beta1^t)
}

train {
  data = ring.batch(128)
  let z    = normal([batch, 16])
  let fake = G(z)
  minimize bce(D(x), 1) + bce(D(stop_gradient(fake)), 0) over D with adam(2e-4, beta1 = 0.5)
  minimize bce(D(fake), 1)                               over G with adam(2e-4, beta1 = 0.5)
  minimize cross_entropy(net(x), y) + 1e-4 * l2(net.weights)
    with adamw(lr = cosine(1e-3, warmup = 2 epochs))
  metrics  = { accuracy: accuracy(net(x), y) }
  clip     = global_norm(1.0)
}
"""


def fmt(text: str) -> str:
    return format_source(Source("test.weft", text))


def test_examples_are_canonical() -> None:
    assert fmt(EXAMPLES) == EXAMPLES


def test_examples_without_their_spaces_come_back() -> None:
    bare = re.sub(r"(?<=\n) +", "", EXAMPLES)
    assert fmt(bare) == EXAMPLES


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        ("", ""),
        ("\n\n# a\n\n\n# b\n\n", "# a\n\n# b\n"),
        ("let   a=1+2*-3 ^ 2", "let a = 1 + 2 * -3^2\n"),
        ("let a=f( x,key=3 ) [ 1 : 2 ,... ] . b", "let a = f(x, key = 3)[1:2, ...].b\n"),
        ("let a = x[...,:n,1 :,: : 2]", "let a = x[..., :n, 1:, ::2]\n"),
        ("let a={a:80%,b:2epochs}\nlet b={ }", "let a = { a: 80%, b: 2 epochs }\nlet b = {}\n"),
        ("let a=[ ... S,not b]", "let a = [...S, not b]\n"),
        ("let a = 1 # x\nlet bcd = 2    # y", "let a = 1  # x\nlet bcd = 2    # y\n"),
        ("fn f(x:f32[ 4*C ],n:int=3){x}", "fn f(x: f32[4 * C], n: int = 3) { x }\n"),
        ("init a( b )=normal*b", "init a(b) = normal * b\n"),
        ("train{epochs=1}", "train { epochs = 1 }\n"),
        ("let a = if b{c}else{d}", "let a = if b { c } else { d }\n"),
    ],
)
def test_spaces(text: str, formatted: str) -> None:
    assert fmt(text) == formatted


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        (
            """
            layer f(x) {

                let a = 1


                    # why

              if a { b
              }

              else { c }
              x
              |> g(
              1, # one
                  2
              )
              # last

            }
            let b = 1
            let c = 2
            fn g(x) { let y = x
              y }
            """,
            """
            layer f(x) {
              let a = 1

              # why

              if a {
                b
              } else { c }
              x
                |> g(
                  1,  # one
                  2
                )
              # last
            }

            let b = 1
            let c = 2

            fn g(x) {
              let y = x
              y
            }
            """,
        ),
        (
            """
            train {
              a = 1
              bcd = 2
              let e = 3

              fg = [
                1,
              ]
              h = 4
              # i
              jk = 5
            }
            """,
            """
            train {
              a   = 1
              bcd = 2
              let e = 3

              fg = [
                1,
              ]
              h = 4
              # i
              jk = 5
            }
            """,
        ),
    ],
)
def test_lines(text: str, formatted: str) -> None:
    assert fmt(dedent(text)) == dedent(formatted).lstrip("\n")


def test_long_lines_are_broken() -> None:
    name = "name_that_takes_thirty_columns"
    assert fmt(f"layer f(x) {{ x |> {name} |> {name} |> {name} }}") == dedent(
        f"""\
        layer f(x) {{
          x
            |> {name}
            |> {name}
            |> {name}
        }}
        """
    )
    assert fmt(f"let x = f({name}, [{name}, {name}], 3)") == dedent(
        f"""\
        let x = f(
          {name},
          [{name}, {name}],
          3
        )
        """
    )
    assert fmt(f"train {{\n  minimize {name}({name}, 1) over {name} with {name}\n}}") == dedent(
        f"""\
        train {{
          minimize {name}({name}, 1)
            over {name} with {name}
        }}
        """
    )
    assert fmt(f"let x = a + {name} * {name} * 3 - {name}") == dedent(
        f"""\
        let x = a +
          {name} * {name} * 3 -
          {name}
        """
    )


def test_what_does_not_parse_is_refused() -> None:
    with pytest.raises(CompileError):
        fmt("let a = (")


# ---- properties ---------------------------------------------------------------------------------

NAMES = st.sampled_from(["x", "net", "over", "data", "a_rather_long_name_of_many_letters", "state"])
ATOMS = NAMES | st.sampled_from(["1", "2.5", "80%", "2 epochs", '"s # t"', "true", "[]", "{}"])


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions made of others, with line breaks where they may be."""
    line = st.sampled_from(["", " ", "\n", " # why\n", "\n\n\n# why\n"])
    calls = st.builds("{}({}{},{}key = {}{})".format, NAMES, line, inner, line, inner, line)
    return st.one_of(
        calls,
        st.builds("{} {} {}".format, inner, st.sampled_from(["+", "-\n", "@", "^"]), inner).map(
            "({})".format
        ),
        st.builds("-{}".format, inner).map("({})".format),
        st.builds("[{}{}, ...S{}]".format, line, inner, line),
        st.builds("{{{}a: {},{}b: {}{}}}".format, line, inner, line, inner, line),
        st.builds("({}{}|> {} |> {})".format, inner, line, NAMES, calls),
        st.builds("net[{}, 1:{}]".format, inner, inner),
        st.builds("if {} {{{}{}}} else {{ {} }}".format, inner, line, inner, inner).map(
            "({})".format
        ),
    )


EXPRESSIONS = st.recursive(ATOMS, _compound, max_leaves=12)
ENDS = st.sampled_from(["\n", "\n\n\n", "   # why\n", "\n# why\n", " # a\n\n  # b\n"])
SPACES = st.sampled_from(["", " ", "    ", "\t"])


def _body(*kinds: str) -> st.SearchStrategy[str]:
    lines = st.sampled_from(kinds).flatmap(
        lambda kind: st.builds(
            lambda indent, name, space, value, end: (
                indent + kind.replace("NAME", name).replace(" =", space + " =") + value + end
            ),
            SPACES,
            NAMES,
            SPACES,
            EXPRESSIONS,
            ENDS,
        )
    )
    return st.lists(lines, max_size=6).map("".join)


BODIES = _body("let NAME = ", "NAME = ", "NAME <- ", "param NAME: f32[B]   ~ ", "state NAME ~ ", "")
TRAINING = _body("let NAME = ", "minimize NAME over x   with ", "minimize NAME\n  with ")
DECLARATIONS = st.one_of(
    st.builds("layer f(x: f32[B], y={}) {{\n{}}}".format, EXPRESSIONS, BODIES),
    st.builds("fn f(x) {{\nfor a in b {{\n{}}}\n{}}}".format, BODIES, BODIES),
    st.builds("train {{\n{}}}".format, TRAINING),
    st.builds("let {} = {}".format, NAMES, EXPRESSIONS),
    st.builds(
        lambda values: "train {\n" + "".join(f"k{i * 7}={v}\n" for i, v in enumerate(values)) + "}",
        st.lists(EXPRESSIONS, max_size=5),
    ),
)
FILES = st.lists(st.builds("{}{}".format, DECLARATIONS, ENDS), max_size=4).map("".join)


@given(FILES)
def test_formatting_settles_at_once_and_keeps_the_meaning(text: str) -> None:
    once = fmt(text)
    assert fmt(once) == once
    assert parse(Source("a", once)) == parse(Source("b", text))


@given(FILES)
def test_comments_stay_in_order(text: str) -> None:
    def comments(source: str) -> list[str]:
        return re.findall(r"#[^\n]*", source.replace('"s # t"', ""))

    assert comments(fmt(text)) == comments(text)


@given(FILES)
def test_no_trailing_spaces_and_one_blank_line_at_most(text: str) -> None:
    once = fmt(text)
    assert not re.search(r"[ \t]\n|\n\n\n|\A\n|\n\n\Z", once)
