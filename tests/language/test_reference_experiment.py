"""The initialisation experiment of the lectures: ten layers of 500 units, drawn in five ways.

1000 inputs of 500 normal numbers pass through ten layers without bias. What the lectures print of
each layer's activations was one draw; here it must be one that Weft could have made.
"""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import elaborate, run
from weft.compiler.types import F32

Array = np.ndarray

# activation, initial values; printed deviation of each layer.
PRINTED = {
    ("tanh", "gaussian(0.01)"): (
        0.213081, 0.047551, 0.010630, 0.002378, 0.000532,
        0.000119, 0.000026, 0.000006, 0.000001, 0.000000,
    ),
    ("tanh", "gaussian(1)"): (
        0.981879, 0.981649, 0.981601, 0.981755, 0.981614,
        0.981560, 0.981520, 0.981913, 0.981728, 0.981736,
    ),
    ("tanh", "xavier_fan_in"): (
        0.627953, 0.486051, 0.407723, 0.357108, 0.320917,
        0.292116, 0.273387, 0.254935, 0.239266, 0.228008,
    ),
    ("relu", "xavier_fan_in"): (
        0.582273, 0.403795, 0.276912, 0.198685, 0.140299,
        0.103280, 0.072748, 0.051572, 0.038583, 0.026076,
    ),
    ("relu", "he_normal"): (
        0.825232, 0.827835, 0.813855, 0.826902, 0.834092,
        0.860035, 0.870610, 0.889348, 0.845357, 0.844523,
    ),
}  # fmt: skip

# Printed means; those of tanh are 0 but for noise.
MEANS = {
    ("relu", "xavier_fan_in"): (
        0.398623, 0.272352, 0.186076, 0.136442, 0.099568,
        0.072234, 0.049775, 0.035138, 0.025404, 0.018408,
    ),
    ("relu", "he_normal"): (
        0.562488, 0.553614, 0.545867, 0.565396, 0.547678,
        0.587103, 0.596867, 0.623214, 0.567498, 0.552531,
    ),
}  # fmt: skip

# How far the deviations of two draws lie apart, layer by layer; measured over 24 draws in NumPy.
SPREAD = {
    ("tanh", "gaussian(0.01)"): (2.5e-4, 1.1e-4, 4e-5, 9e-6, 2e-6, *[5e-7] * 5),
    ("tanh", "gaussian(1)"): (1.3e-4,) * 10,
    ("tanh", "xavier_fan_in"): (4e-4, 7e-4, 9e-4, 8e-4, 8e-4, 11e-4, 13e-4, 15e-4, 15e-4, 17e-4),
    ("relu", "xavier_fan_in"): (
        0.0010, 0.0079, 0.0101, 0.0107, 0.0101, 0.0087, 0.0067, 0.0064, 0.0052, 0.0040,
    ),
    ("relu", "he_normal"): (
        0.0014, 0.0159, 0.0287, 0.0427, 0.0572, 0.0695, 0.0755, 0.1020, 0.1188, 0.1275,
    ),
}  # fmt: skip

TOWER = """
layer tower(f: function, init) {{
  let x = normal([1000, 500])
  let facts = []
  for depth in range(10) {{
    x = x |> dense(500, bias = false, init = init) |> f
    let dead = mean(float(max(x, over = 0) <= 0))
    let saturated = mean(float(abs(x) > 0.99))
    facts = facts + [stack([mean(x), sqrt(variance(x, over = [0, 1])), dead, saturated])]
  }}
  stack(facts)
}}
model net = tower(f = {}, init = {})
fn f(x) = net()
"""

rows = pytest.mark.parametrize("row", PRINTED, ids=" ".join)


def experiment(row: tuple[str, str], seeds: range) -> Array:
    """Mean, deviation, share of dead units and of saturated ones: [seed, layer, fact]."""
    found = elaborate(TOWER.format(*row), np.zeros(1), float_type=F32)
    names = [n for n in found.interpreter.registry.states if n.startswith("net.")]
    draws = [found.interpreter.registry.states[n].init for n in names]
    drawn = []
    for seed in seeds:
        words = {"seed": np.array([seed, 0], np.uint32)}
        states = dict(zip(names, run(draws, words), strict=True))
        drawn.append(found.values({**states, **words})[0])
    return np.stack(drawn)


@rows
def test_one_draw_is_like_the_printed_one(row: tuple[str, str]) -> None:
    """Two draws differ by the root of two times the spread; four times that is allowed."""
    facts = experiment(row, range(1))[0]
    allowed = 4 * 2**0.5 * np.array(SPREAD[row])
    assert (np.abs(facts[:, 1] - PRINTED[row]) < allowed).all(), facts[:, 1]
    if row in MEANS:
        assert (np.abs(facts[:, 0] - MEANS[row]) < allowed).all(), facts[:, 0]
    else:
        assert (np.abs(facts[:, 0]) < 0.01).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [pytest.param(r, marks=[] if r in MEANS else pytest.mark.thorough) for r in PRINTED],
    ids=" ".join,
)
def test_what_is_printed_lies_within_24_draws(row: tuple[str, str]) -> None:
    """Each printed number within three deviations of the mean of 24 draws."""
    facts = experiment(row, range(24))
    centre, spread = facts.mean(0), np.maximum(facts.std(0, ddof=1), 5e-7)  # printed to 1e-6
    z = (np.array(PRINTED[row]) - centre[:, 1]) / spread[:, 1]
    assert (np.abs(z) < 3).all(), z
    if row in MEANS:
        z = (np.array(MEANS[row]) - centre[:, 0]) / spread[:, 0]
        assert (np.abs(z) < 3).all(), z
        dead = (0, 0, 0.001, 0.006, 0.019, 0.034, 0.046, 0.066, 0.081, 0.099)
        np.testing.assert_allclose(centre[:, 2], dead, atol=0.015)
    if row == ("tanh", "gaussian(1)"):
        np.testing.assert_allclose(centre[:, 3], 0.904, atol=0.003)
