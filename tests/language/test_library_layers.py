"""The library's layers: against PyTorch's stored results, at their edges, in both phases."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import SEED, elaborate, fixture, fixture_result
from weft.compiler.errors import CompileError

rng = np.random.default_rng(0)

CASES = {
    "conv": "conv(3)",
    "conv_line": "conv(3, 3)",
    "conv_valid": 'conv(3, kernel = [2, 3], padding = "valid")',
    "conv_stride": "conv(3, stride = 2)",
    "conv_dilation": "conv(3, dilation = [1, 2], padding = [1, 2])",
    "conv_groups": "conv(6, groups = 2)",
    "conv_depthwise": 'conv(4, groups = 4, stride = 2, padding = "valid")',
    "dense": "dense(5)",
    "embedding": "embedding(5, 3)",
    "batch_norm": "batch_norm()",
    "batch_norm_eval": "batch_norm()",
    "batch_norm_flat": "batch_norm()",
    "layer_norm": "layer_norm()",
    "layer_norm_two": "layer_norm(axes = 2)",
}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_layers_agree_with_pytorch(name: str, symbolic: bool) -> None:
    inputs = fixture(name, "in")
    text = f"model net = {CASES[name]}\nfn f(x) = net(x)"
    training = not name.endswith("_eval")
    found = elaborate(text, inputs.pop("x"), training=training, symbolic=symbolic)
    np.testing.assert_allclose(found.values(inputs)[0], fixture_result(name), rtol=1e-11)
    expected = fixture(name, "grad")
    for argument, gradient in zip(expected, found.gradients(*expected, states=inputs), strict=True):
        np.testing.assert_allclose(gradient, expected[argument], rtol=1e-10, atol=1e-13)


def layer(text: str, *arrays: object, **options: object):  # type: ignore[no-untyped-def]
    return elaborate(f"model net = {text}\nfn f(x) = net(x)", *arrays, **options)  # type: ignore[arg-type]


def test_layers_without_bias_and_with_their_own_init() -> None:
    found = layer("dense(3, bias = false, init = ones)", np.ones((2, 4)))
    assert list(found.initial) == ["seed", "step", "net.w"]
    np.testing.assert_array_equal(found.values()[0], np.full((2, 3), 4.0))
    found = layer("conv(2, bias = false, init = constant(0.5))", np.ones((1, 3, 4)))
    assert found.initial["net.w"].shape == (2, 3, 3)
    np.testing.assert_array_equal(found.values()[0][0, 0], [3, 4.5, 4.5, 3])


def test_a_conv_with_kernel_1_is_a_dense_layer_at_each_position() -> None:
    x = rng.normal(size=(2, 3, 4, 5))
    w, bias = rng.normal(size=(6, 3, 1, 1)), rng.normal(size=6)
    found = layer("conv(6, kernel = 1)", x).values({"net.w": w, "net.b": bias})[0]
    dense = layer("dense(6)", x.transpose(0, 2, 3, 1))
    expected = dense.values({"net.w": w[:, :, 0, 0].T, "net.b": bias})[0]
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "shape", "message"),
    [
        ("conv(4, groups = 2)", (2, 3, 8), "divides the channels"),
        ("conv(3, groups = 2)", (2, 4, 8), "divides the channels"),
        ("conv(3)", (2, 4), "no"),
        ("conv(3, kernel = [3, 3])", (2, 4, 8), "one entry for each"),
        ('conv(3, padding = "smae")', (2, 4, 8), "did you mean `same`"),
        ('conv(3, kernel = 9, padding = "valid")', (2, 4, 8), "window"),
        ("dense(0)", (2, 4), "positive whole number"),
        ("dense(2.5)", (2, 4), "a whole number"),
        ("dropout(1)", (2, 4), "0 <= drop < 1"),
        ("dropout(-0.1)", (2, 4), "0 <= drop < 1"),
        ("layer_norm(axes = 3)", (2, 4), "1 or more"),
        ("dense(3, biass = false)", (2, 4), "did you mean `bias`"),
    ],
)
def test_layers_with_wrong_settings(call: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(CompileError) as caught:
        layer(call, np.zeros(shape))
    assert message in str(caught.value)
    assert "test.weft:1:" in str(caught.value) or "test.weft:2:" in str(caught.value)


def test_embedding_checks_what_it_can() -> None:
    ids = np.array([0, 5])
    with pytest.raises(CompileError, match="fewer entries"):
        layer("embedding(4, 2)", ids, classes={0: 6})
    with pytest.raises(CompileError, match="can't take this"):
        layer("embedding(4, 2)", np.zeros(2))


def test_dropout() -> None:
    x = np.ones((200, 100))
    kept = layer("dropout(0.3)", x).values()[0]
    assert set(np.unique(kept)) == {0, 1 / 0.7}
    assert abs((kept == 0).mean() - 0.3) < 0.015
    found = layer("dropout(0.3)", x)
    np.testing.assert_array_equal(found.values()[0], kept)
    mask = found.gradients(weights=np.ones(x.shape))[0]
    np.testing.assert_array_equal(mask, kept)
    later = found.values({"step": np.int64(4)})[0]
    other = found.values({"seed": SEED + np.uint32(1)})[0]
    for draw_ in (later, other):
        assert 0.3 < (draw_ != kept).mean() < 0.55
    np.testing.assert_array_equal(layer("dropout(0.3)", x, training=False).values()[0], x)
    np.testing.assert_array_equal(layer("dropout(0)", x).values()[0], x)


def test_two_dropouts_of_one_layer_differ() -> None:
    text = """
layer twice(x) { x |> dropout(0.5), x |> dropout(0.5) }
model net = twice()
fn f(x) = net(x)
"""
    one, two = elaborate(text, np.ones((50, 50))).values()
    assert 0.3 < (one != two).mean() < 0.7


def test_batch_norm_moves_its_averages() -> None:
    x = rng.normal(2, 3, size=(8, 3, 5))
    found = layer("batch_norm(momentum = 0.25)", x)
    updates = found.updates()
    np.testing.assert_allclose(updates["net.mean"], 0.25 * x.mean((0, 2)))
    var = x.var((0, 2), ddof=1)
    np.testing.assert_allclose(updates["net.var"], 0.75 + 0.25 * var)
    out = found.values()[0]
    np.testing.assert_allclose(out.mean((0, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(out.var((0, 2)), 1, rtol=1e-4)
    assert not layer("batch_norm()", x, training=False).updates()


def test_batch_norm_can_undo_itself() -> None:
    x = rng.normal(2, 3, size=(16, 3))
    states = {"net.scale": np.sqrt(x.var(0) + 1e-5), "net.shift": x.mean(0)}
    np.testing.assert_allclose(layer("batch_norm()", x).values(states)[0], x, rtol=1e-10)


def test_batch_norm_of_one_example_stays_finite() -> None:
    found = layer("batch_norm()", np.ones((1, 3)))
    assert np.isfinite(found.values()[0]).all()
    np.testing.assert_allclose(found.updates()["net.var"], 0.9)


def test_second_derivatives_pass_through_a_norm() -> None:
    """A gradient penalty through layer_norm, against differences."""
    text = """
layer net_of(x) { x |> layer_norm |> tanh |> sum }
model net = net_of()
fn f(x) = norm(grad(net(x), x))
"""
    x, d = rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    (gradient,) = elaborate(text, x).gradients("x", weights=np.ones(()))
    ends = [elaborate(text, x + s * 1e-5 * d).values()[0] for s in (1, -1)]
    np.testing.assert_allclose((gradient * d).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
