"""Initial values: their spread, their structure, and what they do to a deep net."""

from __future__ import annotations

import math

import numpy as np
import pytest

from language.elaborated import Elaborated, draw, elaborate, run, value
from weft.compiler.types import F32

Array = np.ndarray
rng = np.random.default_rng(0)

# The deviation of a weight of [200, 100].
SPREADS = {
    "he_normal_out": (2 / 100) ** 0.5,
    "random_walk": math.exp(1 / 400) / 200**0.5,
    "random_walk_relu": 2**0.5 * math.exp(1.2 / 197.6) / 200**0.5,
    "truncated_normal(0.5)": 0.5 * 0.879625661,
    "orthogonal": 1 / 200**0.5,
    "orthogonal(3)": 3 / 200**0.5,
    "sparse(50, deviation = 0.1)": 0.1 * (50 / 200) ** 0.5,
}


@pytest.mark.parametrize("init", SPREADS)
def test_initial_values_have_the_spread_they_state(init: str) -> None:
    w = draw(init, (200, 100))
    assert abs(w.mean()) < 0.03 * SPREADS[init]
    assert w.std() == pytest.approx(SPREADS[init], rel=0.02)


def test_the_three_xaviers_differ() -> None:
    """One draw, three scales: 1 / fan_in, 1 / (fan_in + fan_out), 2 / (fan_in + fan_out)."""
    fan_in = draw("xavier_fan_in", (30, 10))
    fan_sum = draw("xavier_fan_sum", (30, 10))
    glorot = draw("glorot_normal", (30, 10))
    np.testing.assert_allclose(fan_in / fan_sum, (40 / 30) ** 0.5)
    np.testing.assert_allclose(glorot / fan_sum, 2**0.5)
    uniform = draw("glorot_uniform", (300, 100))
    assert uniform.var() == pytest.approx(2 / 400, rel=0.02)
    assert np.abs(uniform).max() <= (6 / 400) ** 0.5


def test_truncated_normal_has_the_distribution_it_states() -> None:
    w = np.sort(draw("truncated_normal(2, mean = 1, cut = 1.5)", (200, 200)).ravel())
    z = (w - 1) / 2
    assert np.abs(z).max() <= 1.5 * (1 + 1e-12)
    below = np.array([0.5 * (1 + math.erf(v / 2**0.5)) for v in (-1.5, *z[::50], 1.5)])
    expected = (below[1:-1] - below[0]) / (below[-1] - below[0])
    found = np.arange(0, len(z), 50) / len(z)
    assert np.abs(found - expected).max() < 1.7 / len(z) ** 0.5  # Kolmogorov and Smirnov, 99.4 %


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (40, 40), (1, 5), (6, 2, 3), (2, 3, 3, 3), (4,)])
def test_orthogonal_weights(shape: tuple[int, ...]) -> None:
    w = draw("orthogonal", shape).reshape(shape[0], -1)
    gram = w.T @ w if w.shape[0] > w.shape[1] else w @ w.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-13)


def test_orthogonal_weights_in_single_precision_and_large() -> None:
    text = "layer l(x) {\n  param w: float[256, 256] ~ orthogonal\n  w\n}\nmodel net = l()\n"
    w = elaborate(text + "fn f(x) = net(x)", np.zeros(1), float_type=F32).initial["net.w"]
    assert w.dtype == np.float32
    assert np.abs(w @ w.T - np.eye(256)).max() < 5e-6


def test_polar_is_the_nearest_orthonormal_matrix() -> None:
    for shape in ((5, 5), (8, 3), (3, 8)):
        w = rng.normal(size=shape)
        u, _, v = np.linalg.svd(w, full_matrices=False)
        (found,) = elaborate("fn f(w) = polar(w)", w).values()
        np.testing.assert_allclose(found, u @ v, atol=1e-12)
    nearly = np.diag([1.0, 1e-5, 1e-7])
    (found,) = elaborate("fn f(w) = polar(w)", nearly).values()
    np.testing.assert_allclose(found, np.eye(3), atol=1e-10)


def test_orthogonal_matrices_turn_any_way() -> None:
    """Both determinants, and every entry alike: a draw from all orthogonal matrices."""
    text = "layer l(x) {\n  param w: float[3, 3] ~ orthogonal\n  w\n}\nmodel net = l()\n"
    found = elaborate(text + "fn f(x) = net(x)", np.zeros(1))
    drawn = [found.values(_seeded(found, seed))[0] for seed in range(200)]
    positive = np.mean([np.linalg.det(w) > 0 for w in drawn])
    assert positive == pytest.approx(0.5, abs=0.12)
    np.testing.assert_allclose(np.mean(drawn, 0), 0, atol=0.15)
    np.testing.assert_allclose(np.mean(np.square(drawn), 0), 1 / 3, atol=0.08)


def _seeded(found: Elaborated, seed: int) -> dict[str, Array]:
    """The initial states for a seed."""
    states = found.interpreter.registry.states
    words = np.array([seed, 0], np.uint32)
    return {n: run([s.init], {"seed": words})[0] for n, s in states.items() if n.startswith("net")}


def test_sparse_weights() -> None:
    w = draw("sparse(4)", (20, 30))
    np.testing.assert_array_equal((w != 0).sum(0), 4)
    assert (w != 0).any(1).all()
    kernel = draw("sparse(4)", (30, 5, 2, 2)).reshape(30, -1)
    np.testing.assert_array_equal((kernel != 0).sum(1), 4)


def test_identities() -> None:
    np.testing.assert_array_equal(draw("eye", (4, 4)), np.eye(4))
    np.testing.assert_array_equal(draw("eye(0.5)", (4, 6)), 0.5 * np.eye(4, 6))
    x = rng.normal(size=(2, 3, 6, 5))
    for kernel in ("3", "[3, 5]", "[2, 4]", "1"):
        text = f"model net = conv(3, kernel = {kernel}, init = dirac)\nfn f(x) = net(x)"
        np.testing.assert_allclose(elaborate(text, x).values()[0], x)


def test_biases_can_start_above_zero() -> None:
    for call, x in (("dense(3", np.zeros((2, 4))), ("conv(3", np.zeros((2, 4, 5)))):
        text = f"model net = {call}, bias_init = constant(0.01))\nfn f(x) = net(x)"
        found = elaborate(text, x)
        assert found.initial["net.b"].tolist() == [0.01] * 3
        assert (found.values()[0] == 0.01).all()


# -- data-dependent --------------------------------------------------------------------------------

DEEP = """
layer deep(x) {{
  for i in range(8) {{
    x = x |> dense(50, bias = false, init = {}) |> {} |> tanh
  }}
  x |> dense(50, bias = false) |> {}
}}
model net = deep()
fn f(x) = net(x)
"""


def test_lsuv_gives_every_layer_unit_variance_in_one_pass() -> None:
    x = rng.normal(size=(200, 50))
    found = elaborate(DEEP.format("gaussian(0.01)", "lsuv", "lsuv"), x)
    assert found.values()[0].std() == pytest.approx(1)
    updates = found.updates()
    for name in ("net.lsuv", "net.lsuv_5", "net.lsuv_9"):
        assert updates[f"{name}.seen"] == 1
        assert updates[f"{name}.scale"] > 1
    # From the second step on, the factors stay, whatever the data are.
    later = elaborate(DEEP.format("gaussian(0.01)", "lsuv", "lsuv"), 3 * x)
    again = later.updates(updates)
    for name, kept in updates.items():
        np.testing.assert_array_equal(again[name], kept)
    evaluated = elaborate(DEEP.format("gaussian(0.01)", "lsuv", "lsuv"), x, training=False)
    np.testing.assert_allclose(evaluated.values(updates)[0], found.values()[0])
    assert not evaluated.updates()


def test_data_start_standardises_every_channel() -> None:
    x = rng.normal(3, 2, size=(40, 5, 7)) * np.arange(1, 6)[:, None]
    found = elaborate("model net = data_start()\nfn f(x) = net(x)", x, symbolic=True)
    out = found.values()[0]
    np.testing.assert_allclose(out.mean((0, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(out.std((0, 2)), 1)
    updates = found.updates()
    np.testing.assert_allclose(updates["net.shift"], x.mean((0, 2)))
    (gradient,) = found.gradients("x", weights=np.ones(x.shape))
    scale = np.broadcast_to(updates["net.scale"][:, None], x.shape)
    np.testing.assert_allclose(gradient, scale)  # the first step's numbers are constants


# -- lengths through depth -------------------------------------------------------------------------


def growth(chain: str) -> float:
    """How much longer examples are behind a chain of layers than before it, squared."""
    text = f"{chain}\nmodel net = chain()\nfn f(x) = net(x)"
    x = np.random.default_rng(1).normal(size=(16, 64))
    return float((value(text, x) ** 2).sum() / (x**2).sum())


def test_a_gain_keeps_lengths_through_layers_of_any_widths() -> None:
    """Orthogonal weights, relu and the gain 2 (Arpit et al. 2019); as drawn they fade."""
    chain = """
layer chain(x) {{
  for i in range(4) {{
    x = x |> dense_weight_norm(96, init = orthogonal{gain}) |> relu
    x = x |> dense_weight_norm(64, init = orthogonal{gain}) |> relu
  }}
  x
}}"""
    assert 0.4 < growth(chain.format(gain=", gain = 2")) < 2.5
    assert growth(chain.format(gain="")) < 5e-3  # (1 / 6)^4, times what chance does


def test_a_gain_of_a_conv_is_that_of_its_channels() -> None:
    x = rng.normal(size=(1, 4, 5, 5))
    found = elaborate("model net = conv_weight_norm(8, gain = 2)\nfn f(x) = net(x)", x).initial
    np.testing.assert_allclose(found["net.g"], np.full(8, np.sqrt(2 * 4 / 8)))


def test_falling_scales_keep_lengths_in_residual_nets_of_any_depth() -> None:
    """Hanin and Rolnick 2018: the sum of the scales decides, not the number of blocks."""
    chain = """
layer branch(x: float[B, I]) = x |> dense(I, init = he_normal) |> relu
layer chain(x) {{
  for block in range({blocks}) {{
    x = x |> residual(branch, scale = {scale})
  }}
  x
}}"""
    falling = [growth(chain.format(blocks=n, scale="0.8^block")) for n in (20, 60)]
    assert 1 < falling[0] < 1e4
    assert 0.9 < falling[1] / falling[0] < 1.1
    even = [growth(chain.format(blocks=n, scale="1")) for n in (20, 60)]
    assert even[1] / even[0] > 1e10
