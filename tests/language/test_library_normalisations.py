"""Normalisations of values and of weights: against PyTorch, by their laws, at their edges."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import Array, elaborate, fixture_names, refuses, value
from language.layer_fixtures import FILE, agrees, layer, parameter_count
from language.test_library_attention import CASES as ATTENTION
from language.test_library_blocks import CASES as BLOCKS
from language.test_library_convolutions import CASES as CONVOLUTIONS

rng = np.random.default_rng(0)

CASES = {
    "instance_norm": "instance_norm()",
    "instance_norm_plain": "instance_norm(affine = false)",
    "group_norm": "group_norm(groups = 2)",
    "group_norm_flat": "group_norm(groups = 2)",
    "rms_norm": "rms_norm(eps = 1e-5)",
    "rms_norm_two": "rms_norm(axes = 2)",
    "local_response_norm_mean": "local_response_norm_mean(x, alpha = 0.1)",
    "local_response_norm_even": "local_response_norm_mean(x, 4, k = 2, alpha = 0.1)",
    "dense_weight_norm": "dense_weight_norm(5)",
    "conv_weight_norm": 'conv_weight_norm(3, kernel = [3, 2], padding = "valid")',
    "dense_spectral_norm": "dense_spectral_norm(5, iterations = 2)",
    "dense_spectral_norm_eval": "dense_spectral_norm(5)",
    "conv_spectral_norm": 'conv_spectral_norm(3, kernel = 2, padding = "valid", iterations = 2)',
}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_pytorch(name: str, symbolic: bool) -> None:
    agrees(name, CASES[name], symbolic)


def test_every_stored_case_is_compared() -> None:
    assert fixture_names(FILE) == {*CASES, *ATTENTION, *BLOCKS, *CONVOLUTIONS}


# -- laws of normalisations ------------------------------------------------------------------------


def normalised(x: Array, axes: tuple[int, ...], eps: float = 1e-5) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (2, 4, 3, 2)])
def test_group_norm_lies_between_layer_and_instance_norm(shape: tuple[int, ...]) -> None:
    x = rng.normal(2, 3, size=shape)
    scale, shift = rng.normal(size=4), rng.normal(size=4)
    states = {"net.scale": scale, "net.shift": shift}
    one = layer("group_norm(groups = 1, affine = false)", x).values()[0]
    whole = layer(f"layer_norm(axes = {len(shape) - 1}, affine = false)", x).values()[0]
    np.testing.assert_allclose(one, whole, rtol=1e-10, atol=1e-12)
    if len(shape) > 2:
        each = layer("group_norm(groups = 4)", x).values(states)[0]
        instance = layer("instance_norm()", x).values(states)[0]
        np.testing.assert_allclose(each, instance, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_biased", "batch_norm_cumulative"])
@pytest.mark.parametrize("shape", [(16, 3), (4, 3, 5)])
def test_batch_norm_can_undo_itself(name: str, shape: tuple[int, ...]) -> None:
    x = rng.normal(2, 3, size=shape)
    axes = (0, *range(2, len(shape)))
    states = {"net.scale": np.sqrt(x.var(axes) + 1e-5), "net.shift": x.mean(axes)}
    found = layer(f"{name}(eps = 1e-5)", x)
    np.testing.assert_allclose(found.values(states)[0], x, rtol=1e-10)


def test_every_normalisation_can_go_without_scale_and_shift() -> None:
    x = rng.normal(2, 3, size=(4, 6, 5))
    for call, axes in (
        ("batch_norm(", (0, 2)),
        ("batch_norm_biased(eps = 1e-5, ", (0, 2)),
        ("batch_norm_cumulative(", (0, 2)),
        ("layer_norm(", (2,)),
        ("instance_norm(", (2,)),
    ):
        found = layer(f"{call}affine = false)", x)
        assert parameter_count(found) == 0
        np.testing.assert_allclose(found.values()[0], normalised(x, axes), rtol=1e-10)
    found = layer("rms_norm(affine = false)", x)
    assert parameter_count(found) == 0
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found.values()[0], expected, rtol=1e-10)


def test_running_averages_biased_and_cumulative() -> None:
    x = rng.normal(2, 3, size=(8, 3, 5))
    mean, var = x.mean((0, 2)), x.var((0, 2))
    updates = layer("batch_norm_biased(keep = 0.9)", x).updates()
    np.testing.assert_allclose(updates["net.mean"], 0.1 * mean)
    np.testing.assert_allclose(updates["net.var"], 0.9 + 0.1 * var)
    found = layer("batch_norm_cumulative()", x)
    states = {"net.mean": np.ones(3), "net.var": np.full(3, 2.0), "net.batches": np.float64(3)}
    first, fourth = found.updates(), found.updates(states)
    np.testing.assert_allclose(first["net.mean"], mean)
    np.testing.assert_allclose(first["net.var"], x.var((0, 2), ddof=1))
    np.testing.assert_allclose(fourth["net.mean"], (3 + mean) / 4)
    np.testing.assert_allclose(fourth["net.batches"], 4)
    running = {"net.mean": mean, "net.var": var}
    for call in ("batch_norm_biased(eps = 1e-5)", "batch_norm_cumulative()"):
        found = layer(call, x, training=False)
        assert not found.updates()
        np.testing.assert_allclose(found.values(running)[0], normalised(x, (0, 2)), rtol=1e-10)


def test_batch_renorm_without_correction_is_batch_norm() -> None:
    x = rng.normal(2, 3, size=(8, 3, 2))
    found = layer("batch_renorm(r_max = 1, d_max = 0, eps = 1e-5)", x)
    states = {"net.mean": rng.normal(size=3), "net.deviation": rng.uniform(1, 2, 3)}
    plain = layer("batch_norm()", x)
    np.testing.assert_allclose(found.values(states)[0], plain.values()[0], rtol=1e-10)
    given, expected = (f.gradients(states=s)[0] for f, s in ((found, states), (plain, None)))
    np.testing.assert_allclose(given, expected, rtol=1e-9, atol=1e-12)


def test_batch_renorm_within_its_limits_is_evaluation() -> None:
    x = rng.normal(2, 3, size=(8, 3, 2))
    states = {"net.mean": np.full(3, 1.5), "net.deviation": np.full(3, 2.5)}
    found = layer("batch_renorm(momentum = 0.25)", x)
    expected = layer("batch_renorm()", x, training=False).values(states)[0]
    np.testing.assert_allclose(found.values(states)[0], expected, rtol=1e-10)
    np.testing.assert_allclose(expected, (x - 1.5) / 2.5, rtol=1e-10)
    updates = found.updates(states)
    deviation = np.sqrt(x.var((0, 2)) + 1e-3)
    np.testing.assert_allclose(updates["net.mean"], 0.75 * 1.5 + 0.25 * x.mean((0, 2)))
    np.testing.assert_allclose(updates["net.deviation"], 0.75 * 2.5 + 0.25 * deviation)


def test_batch_renorm_is_held_by_its_limits() -> None:
    x = rng.normal(50, 30, size=(8, 3))
    found = layer("batch_renorm()", x)
    s = np.sqrt(x.var(0) + 1e-3)
    np.testing.assert_allclose(found.values()[0], (x - x.mean(0)) / s * 3 + 5, rtol=1e-10)


def test_noisy_batch_norm_is_noisy_in_training_alone() -> None:
    x = rng.normal(2, 3, size=(600, 2, 4))
    plain = normalised(x, (0, 2))
    call = "noisy_batch_norm(centre = 2, factor = 3)"
    found = layer(call, x)
    y = found.values()[0]
    fit = [np.polyfit(plain[:, c, p], y[:, c, p], 1) for c in range(2) for p in range(4)]
    factors, centres = np.transpose(fit)
    assert abs(factors - 2).max() < 1.05
    assert abs(centres).max() < 2.05
    assert np.ptp(factors) > 0.5
    assert np.ptp(centres) > 0.5
    exact = factors.reshape(2, 4) * plain + centres.reshape(2, 4)
    assert 0.05 < (y - exact).std() < 0.2
    assert not np.allclose(found.values({"step": np.int64(4)})[0], y)
    running = {"net.batch_norm.mean": x.mean((0, 2)), "net.batch_norm.var": x.var((0, 2))}
    evaluated = layer(call, x, training=False).values(running)[0]
    np.testing.assert_allclose(evaluated, plain, rtol=1e-10)


def test_local_response_norm_is_its_formula() -> None:
    x = rng.normal(size=(2, 7, 3, 2)) * 20
    found = value("fn f(x) = local_response_norm(x, alpha = 0.01)", x)
    for c in range(7):
        squares = (x[:, max(0, c - 2) : c + 3] ** 2).sum(1)
        np.testing.assert_allclose(found[:, c], x[:, c] / (2 + 0.01 * squares) ** 0.75)
    mean = value("fn f(x) = local_response_norm_mean(x, k = 2, alpha = 0.05)", x)
    np.testing.assert_allclose(mean, found, rtol=1e-12)


# -- weights ---------------------------------------------------------------------------------------


def test_weight_norm_starts_as_the_plain_layer() -> None:
    x = rng.normal(size=(2, 4))
    found = layer("dense_weight_norm(5)", x)
    v, g = found.initial["net.v"], found.initial["net.g"]
    np.testing.assert_allclose(g, np.linalg.norm(v, axis=0))
    np.testing.assert_allclose(found.values()[0], x @ v)
    np.testing.assert_allclose(found.values({"net.v": 3 * v})[0], x @ v)
    image = rng.normal(size=(2, 4, 5, 5))
    found = layer("conv_weight_norm(3)", image)
    v, g = found.initial["net.v"], found.initial["net.g"]
    np.testing.assert_allclose(g, np.sqrt((v**2).sum((1, 2, 3))))


def test_weights_of_ones_own_layer_can_be_normalised() -> None:
    text = """
layer own(x: float[B, I], units) {
  param v: float[I, units] ~ glorot_uniform
  param g: float[units]    ~ lengths(v, over = I)
  x @ weight_norm(v, g, over = I)
}
layer held(x: float[B, I], units) {
  param w: float[I, units] ~ glorot_uniform
  x @ (w |> spectral_norm(iterations = 60))
}
model a = own(units = 3)
model b = held(units = 3)
fn f(x) = a(x), b(x)
"""
    found = elaborate(text, np.eye(4))
    one, other = found.values()
    np.testing.assert_allclose(one, found.initial["a.v"])
    assert np.linalg.norm(other, 2) == pytest.approx(1)
    np.testing.assert_allclose(
        other, found.initial["b.w"] / np.linalg.norm(found.initial["b.w"], 2)
    )


@pytest.mark.parametrize("call", ["dense_spectral_norm(5)", "conv_spectral_norm(3)"])
def test_the_power_method_arrives_at_the_largest_singular_value(call: str) -> None:
    x = rng.normal(size=(2, 4) if "dense" in call else (2, 4, 5))
    found = layer(call, x)
    states = dict(found.initial)
    for _ in range(200):
        states |= found.updates(states)
    w = states["net.w"].reshape(len(states["net.w"]), -1)
    u, v = states["net.spectral_norm.u"], states["net.spectral_norm.v"]
    assert u @ w @ v == pytest.approx(np.linalg.norm(w, 2))
    np.testing.assert_allclose([np.linalg.norm(u), np.linalg.norm(v)], 1)
    assert not layer(call, x, training=False).updates()


def test_an_initial_value_depends_on_parameters_but_not_on_data() -> None:
    text = """
layer twice(x: float[B, I]) {
  param a: float[I] ~ normal
  param b: float[I] ~ 2 * a + 1
  state c: float[]  ~ sum(b)
  x * a + b * c
}
model net = twice()
fn f(x) = net(x)
"""
    initial = elaborate(text, np.ones((2, 3))).initial
    np.testing.assert_allclose(initial["net.b"], 2 * initial["net.a"] + 1)
    np.testing.assert_allclose(initial["net.c"], initial["net.b"].sum())
    message = refuses(text.replace("2 * a + 1", "mean(x, over = B)"), np.ones((2, 3)))
    assert "the initial value of `b` depends on a tensor" in message


@pytest.mark.parametrize(
    ("call", "shape", "message"),
    [
        ("group_norm(groups = 3)", (2, 4), "divides the channels"),
        ("instance_norm()", (2, 4), "after batch and channels"),
        ("rms_norm(axes = 3)", (2, 4), "1 or more"),
        ("conv_weight_norm(4, groups = 3)", (2, 4, 5), "divides the channels"),
        ("batch_norm(momentun = 0.1)", (2, 4), "did you mean `momentum`"),
    ],
)
def test_wrong_settings(call: str, shape: tuple[int, ...], message: str) -> None:
    text = f"model net = {call}\nfn f(x) = net(x)"
    assert message in refuses(text, np.zeros(shape))
