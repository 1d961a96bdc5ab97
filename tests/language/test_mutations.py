"""Specs with random slips in them: each still compiles or is a CompileError, and soon."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from weft.compiler.errors import CompileError, Source
from weft.runtime.loading import load_spec

EXAMPLES = Path(__file__).parents[2] / "examples"  # where their imports are
MUTATIONS = 60  # of each spec
SECONDS = 60  # of processor time that one spec may take: far more than any needs

# Everything of the language in one spec, beside what the examples use.
RICH = """\
let widths = [32, 16]
let rate = 1e-3

data digits {
  source = embedded("digits")
  x: f32[1, 8, 8] = image / 16
  y: class[10]    = target
  split = { train: 80%, valid: 20% }
}

init small(scale: float = 0.1) = scale * normal * sqrt(2 / fan_in)

fn tamed(x, limit: float = 3) {
  let low = max(x, -limit)
  min(low, limit)
  gradient(g) { where(abs(x) < limit, g, 0) }
}

layer scaled(x: float[...B, D], on = true) {
  param gain: float[D] ~ ones when on
  state seen: float[D] ~ zeros
  when training {
    seen <- lerp(seen, mean(x, over = [...B]), 0.1)
    x * gain
  } else {
    x * gain + 0 * seen
  }
}

layer net_of(x: f32[B, C, H, W], classes = 10, activation = relu) {
  let h = x |> conv(4, kernel = [3, 3], stride = 2) |> batch_norm |> activation |> max_pool
  let parts = [flatten(h), reshape(x, [B, C * H * W])[..., 0:16]]
  h = concat(parts, over = -1)
  for width in widths {
    if width % 2 == 0 and not (width < 4) { h = h |> dense(width, init = small(0.2)) |> tamed }
    h = scaled(h)
  }
  h |> dropout(0.1) |> dense(classes)
}

model net = net_of(classes = 10)
model other = dense(4)

optimizer plain(lr: float = 0.1, beta = 0.9) {
  state v ~ zeros
  v <- beta * v + grad / (1 + norm(grad))
  theta <- theta - lr * v / (1 - beta^t)
}

schedule falling(base: float, over: duration = 1 epochs) = base / (1 + step / over)

train fast {
  data = digits.batch(32, shuffle = true)
  let z = normal([batch, 8])
  let slope = grad(mean(other(z)^2), z)
  minimize cross_entropy(net(x), y) + 1e-4 * l2(net.weights) over net
    with plain(lr = falling(rate, over = 2 epochs))
  minimize mean(slope^2) + mean((other(z) - 1)^2) over other with adamw(cosine(rate, warmup = 10%))
  metrics = { accuracy: accuracy(net(x), y), size: mean(abs(z)) }
  clip    = global_norm(1.0)
  average = ema(0.99)
  steps   = 100
  stop    = early(valid.accuracy, patience = 5, mode = "max")
  seed    = 7
}
"""
SPECS = {"rich": RICH} | {path.stem: path.read_text() for path in sorted(EXAMPLES.glob("*.weft"))}
TOKEN = re.compile(r'[A-Za-z_]\w*|[0-9][0-9.e]*|"[^"\n]*"|\s+|[^\w\s]')
FURTHER = """
    0 -1 1e9 2^40 true nothing ... [ { ( |> @ <- ~ when if for grad where range(5) zeros over with
    [] {} state param stack sum float int top_k sort pad take pick one_hot len shape i32 80%
"""
WORDS = [
    *(word for text in SPECS.values() for word in TOKEN.findall(text) if word.strip()),
    *FURTHER.split(),
    "\n",
]


def mutated(draw: random.Random, text: str) -> str:
    """The text with one to three slips: a token lost, doubled, moved or another, or a character."""
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        tokens = TOKEN.findall(text)
        here, there = (draw.randrange(len(tokens)) for _ in range(2))
        match draw.randrange(7):
            case 0:
                del tokens[here]
            case 1:
                tokens.insert(here, tokens[there])
            case 2:
                tokens[here], tokens[there] = tokens[there], tokens[here]
            case 3:
                place = draw.randrange(len(text))
                piece = draw.choice(["", chr(draw.randrange(32, 127)), "\t", "\0", "\u00e9"])
                tokens = [text[:place], piece, text[place + draw.randrange(2) :]]
            case _:
                places = [i for i, token in enumerate(tokens) if token.strip()]
                tokens[draw.choice(places)] = draw.choice(WORDS)
        text = "".join(tokens)
    return text


@contextmanager
def soon() -> Iterator[None]:
    """Fail a body that doesn't end."""

    def give_up(*_: object) -> None:
        pytest.fail(f"still at it after {SECONDS} s of processor time")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("name", SPECS)
def test_the_specs_compile(name: str) -> None:
    assert not load_spec(Source("spec.weft", SPECS[name]), EXAMPLES).warnings


def mistake(text: str) -> CompileError | None:
    """What is wrong with a spec, if anything is."""
    try:
        with soon():
            load_spec(Source("spec.weft", text), EXAMPLES)
    except CompileError as error:
        return error
    except Exception as error:
        raise AssertionError(text) from error
    return None


@pytest.mark.parametrize("name", SPECS)
def test_mutated_specs_compile_or_are_compile_errors(name: str) -> None:
    for seed in range(MUTATIONS):
        text = mutated(random.Random(f"{name}{seed}"), SPECS[name])
        error = mistake(text)
        if error is not None:
            assert str(error).startswith("spec.weft:"), text


def test_cut_specs_are_compile_errors() -> None:
    """A file that was written only in part."""
    for end in range(0, len(RICH) - 1, 40):
        error = mistake(RICH[:end])
        assert error is not None
        assert str(error).startswith("spec.weft:")
