"""Specs that tests of the parser share, and what it says of texts that are wrong."""

from __future__ import annotations

import pytest

from weft.compiler.errors import CompileError, Source
from weft.frontends.dsl.parser import parse
from weft.frontends.dsl.syntax import Block, FnDecl

DIGITS = """\
# digits.weft: classify handwritten digits with a two-layer perceptron.

data digits {
  source = embedded("digits")        # fields: features (64), image (1, 8, 8), target
  x: f32[64]       = features / 16
  y: class[10]     = target
  split  = { train: 80%, valid: 10%, test: 10% }
}

# A perceptron.
# Two layers.
layer mlp(x: f32[B, D], hidden = 128, classes = 10) {
  x |> dense(hidden) |> relu |> dropout(0.2) |> dense(classes)
}

model net = mlp(hidden = 256)

train {
  data     = digits.batch(64, shuffle = true)
  minimize cross_entropy(net(x), y) + 1e-4 * l2(net.weights)
    with adamw(lr = cosine(1e-3, warmup = 2 epochs))
  metrics  = { accuracy: accuracy(net(x), y) }
  clip     = global_norm(1.0)
  epochs   = 20
  stop     = early(valid.loss, patience = 5)
  seed     = 0
}
"""

LIBRARY = """\
fn gelu(x) = 0.5 * x * (1 + erf(x / sqrt(2)))

layer dense(x: float[...B, I], units: int, bias = true, init = glorot_uniform) {
  param w: float[I, units] ~ init
  param b: float[units]    ~ zeros   when bias
  x @ w + b
}

layer batch_norm(x: float[B, C, ...S], momentum = 0.1, eps = 1e-5) {
  param scale: float[C] ~ ones
  param shift: float[C] ~ zeros
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

init he_normal = normal * sqrt(2 / fan_in)

optimizer adam(lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8) {
  state m ~ zeros
  state v ~ zeros
  m <- beta1 * m + (1 - beta1) * grad
  v <- beta2 * v + (1 - beta2) * grad^2
  let m_hat = m / (1 - beta1^t)
  let v_hat = v / (1 - beta2^t)
  theta <- theta - lr * m_hat / (sqrt(v_hat) + eps)
}

schedule exponential(base, k) = base * exp(-k * step)
"""


def source(text: str) -> Source:
    return Source("test.weft", text)


def body(text: str) -> Block:
    """The statements of a body."""
    (declaration,) = parse(source(f"fn f(x) {{\n{text}\n}}")).declarations
    assert isinstance(declaration, FnDecl)
    assert isinstance(declaration.body, Block)
    return declaration.body


def mistake(text: str) -> CompileError:
    with pytest.raises(CompileError) as caught:
        parse(source(text))
    return caught.value
