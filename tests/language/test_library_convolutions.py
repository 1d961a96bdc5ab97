"""Convolutions, linear forms, resizing, pooling: against PyTorch, by their laws, at their edges."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import Array, cotangent, elaborate, refuses, value
from language.layer_fixtures import agrees, layer, parameter_count
from weft.compiler.graph import topological

rng = np.random.default_rng(0)

CASES = {
    "dense_transposed": "dense_transposed(5)",
    "dense_folded": "dense_folded(3)",
    "bilinear": "bilinear(6)",
    "cosine_similarity": "cosine_similarity(x, y)",
    "conv_volume": "conv(3)",
    "conv_sides": "conv(3, kernel = [3, 2], padding = [[2, 1], [0, 1]])",
    "conv_reflect": "reflected()",
    "true_conv": "true_conv(3)",
    "depthwise_conv": "depthwise_conv(2)",
    "separable_conv": "separable_conv(3)",
    "conv_transposed": "conv_transposed(3, padding = 'valid')",
    "conv_transposed_line": "conv_transposed(3, kernel = 4, stride = 2)",
    "conv_transposed_settings": (
        "conv_transposed(6, kernel = [3, 2], stride = [2, 3], padding = [1, 0], "
        "output_padding = [1, 2], groups = 2, dilation = [2, 1])"
    ),
    "conv_transposed_cut": "conv_transposed(3, kernel = 2, stride = 2, padding = 3)",
    "conv_transposed_volume": "conv_transposed(3, kernel = 2, stride = 2)",
    "locally_connected": "locally_connected(3, kernel = [2, 3], stride = [1, 2])",
    "locally_connected_line": "locally_connected(2)",
    "windows": "unfolded(x)",
    "pad_reflect": "pad_reflect(x, [[2, 0], [3, 1]])",
    "pad_replicate": "pad_replicate(x, [[1, 3], [2, 0]])",
    "pad_circular": "pad_circular(x, [[0, 3], [1, 2]])",
    "upscale_nearest": "upscale_nearest(x, [2, 3])",
    "upscale_linear": "upscale_linear(x, [2, 3])",
    "upscale_linear_line": "upscale_linear(x)",
    "upscale_linear_volume": "upscale_linear(x, 2)",
    "upscale_linear_corners": "upscale_linear_corners(x)",
    "resize_nearest": "resize_nearest(x, [7, 4])",
    "resize_linear": "resize_linear(x, [9, 4])",
    "resize_linear_corners": "resize_linear_corners(x, [9, 4])",
    "resize_linear_one": "resize_linear_corners(x, [1, 3])",
    "pixel_shuffle": "pixel_shuffle(x)",
    "pixel_unshuffle": "pixel_unshuffle(x, 2)",
    "adaptive_average_pool": "adaptive_average_pool(x, [3, 4])",
    "adaptive_average_pool_line": "adaptive_average_pool(x, 3)",
    "adaptive_max_pool": "adaptive_max_pool(x, [3, 4])",
    "max_unpool": "max_unpool(y, x, size = [2, 3])",
}

EXTRA = """
layer reflected(x) { x |> pad_reflect(1) |> conv(3, padding = "valid") }
fn unfolded(x: float[B, ...S]) {
  reshape(windows(x, [2, 3], stride = [1, 2], dilation = [2, 1]), [B, 24, 6])
}
"""


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_pytorch(name: str, symbolic: bool) -> None:
    path = "net.conv." if name == "conv_reflect" else "net."
    agrees(name, CASES[name].replace("'", '"'), symbolic, EXTRA, path)


def run(call: str, x: Array, **states: Array) -> Array:
    """A model's result with these parameters in place of the drawn ones."""
    return layer(call, x).values({f"net.{k.replace('__', '.')}": v for k, v in states.items()})[0]


# -- laws of dense layers and convolutions ---------------------------------------------------------


def test_the_forms_of_a_dense_layer_are_one_function() -> None:
    x, w, b = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)
    expected = run("dense(5)", x, w=w, b=b)
    np.testing.assert_allclose(run("dense_transposed(5)", x, w=w.T, b=b), expected)
    np.testing.assert_allclose(run("dense_folded(5)", x, theta=np.vstack([w, b])), expected)


@pytest.mark.parametrize("sizes", [(5,), (3, 4), (2, 3, 2)])
def test_a_pointwise_conv_is_a_dense_layer_at_each_position(sizes: tuple[int, ...]) -> None:
    x, w, b = rng.normal(size=(2, 3, *sizes)), rng.normal(size=(3, 6)), rng.normal(size=6)
    ones = (1,) * len(sizes)
    found = run("pointwise_conv(6)", x, conv__w=w.T.reshape(6, 3, *ones), conv__b=b)
    dense = run("dense(6)", np.moveaxis(x, 1, -1), w=w, b=b)
    np.testing.assert_allclose(np.moveaxis(found, 1, -1), dense, rtol=1e-12)


def test_a_true_conv_is_numpys() -> None:
    x, w = rng.normal(size=9), rng.normal(size=4)
    for padding, mode in (("valid", "valid"), ([3, 3], "full")):
        text = f'"{padding}"' if isinstance(padding, str) else f"[{padding}]"
        found = run(
            f"true_conv(1, 4, padding = {text}, bias = false)", x[None, None], w=w[None, None]
        )
        np.testing.assert_allclose(found[0, 0], np.convolve(x, w, mode), rtol=1e-12)


def test_turning_the_window_round_exchanges_true_conv_and_conv() -> None:
    x, w, b = rng.normal(size=(2, 4, 5, 6)), rng.normal(size=(6, 2, 3, 2)), rng.normal(size=6)
    call = "conv(6, kernel = [3, 2], stride = 2, groups = 2)"
    turned = run(f"true_{call}", x, w=w[:, :, ::-1, ::-1], b=b)
    np.testing.assert_allclose(turned, run(call, x, w=w, b=b), rtol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "extra", "groups"),
    [
        (3, 1, 0, 1, 0, 1),
        (3, 2, 1, 1, 1, 1),
        (2, 3, 0, 1, 2, 2),
        (3, 1, 2, 2, 0, 2),
        (4, 2, 3, 1, 0, 1),
        (1, 2, 0, 1, 1, 1),
    ],
)
def test_a_transposed_conv_is_the_adjoint_of_conv(
    kernel: int, stride: int, padding: int, dilation: int, extra: int, groups: int
) -> None:
    """<conv(x), y> = <x, conv_transposed(y)>, for the same weights with channels exchanged."""
    settings = f"kernel = {kernel}, stride = {stride}, padding = {padding}, dilation = {dilation}"
    settings += f", groups = {groups}, bias = false"
    y = rng.normal(size=(2, 6, 4, 5))
    w = rng.normal(size=(4, 6 // groups, kernel, kernel))
    back = run(f"conv_transposed(4, output_padding = {extra}, {settings})", y, w=w)
    x = rng.normal(size=back.shape)
    split = w.reshape(groups, 4 // groups, 6 // groups, kernel, kernel).swapaxes(1, 2)
    forward = run(f"conv(6, {settings})", x, w=split.reshape(6, 4 // groups, kernel, kernel))
    assert forward.shape == y.shape
    np.testing.assert_allclose((forward * y).sum(), (x * back).sum(), rtol=1e-10)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_multiplies_the_size_by_the_stride(kernel: int, stride: int) -> None:
    found = layer(f"conv_transposed(2, {kernel}, {stride})", np.ones((1, 1, 5)))
    assert found.values()[0].shape == (1, 2, 5 * stride)


def test_a_locally_connected_layer_with_equal_weights_is_a_conv() -> None:
    x, w = rng.normal(size=(2, 3, 5, 6)), rng.normal(size=(4, 3, 2, 3))
    expected = run('conv(4, [2, 3], padding = "valid", bias = false)', x, w=w)
    same = np.broadcast_to(w.reshape(4, 18).T[:, None], (18, 16, 4)).reshape(18, 64)
    found = run("locally_connected(4, [2, 3], bias = false)", x, w=same)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_parameter_counts() -> None:
    layers = "layer mlp(x) { x |> dense(4) |> tanh |> dense(3) |> tanh |> dense(1) }"
    assert parameter_count(layer("mlp()", np.ones((2, 6)), extra=layers)) == 24 + 4 + 12 + 3 + 3 + 1
    six = np.ones((2, 1, 6))
    assert parameter_count(layer("dense(5, bias = false)", six)) == 30
    assert parameter_count(layer("locally_connected(1, 2, bias = false)", six)) == 10
    assert parameter_count(layer("conv(1, 2, bias = false)", six)) == 2
    image = np.ones((1, 8, 6, 6))
    assert parameter_count(layer("conv(16)", image)) == 8 * 16 * 9 + 16
    assert parameter_count(layer("separable_conv(16)", image)) == 8 * 9 + 8 * 16 + 16


# -- laws of sizes ---------------------------------------------------------------------------------


def test_sizes_there_and_back() -> None:
    x = rng.normal(size=(2, 4, 3, 4))
    for text in (
        "average_pool(upscale_nearest(x, 3), 3)",
        "pixel_unshuffle(pixel_shuffle(x))",
        "resize_linear(x, [3, 4])",
        "resize_linear_corners(x, [3, 4])",
        "resize_nearest(upscale_nearest(x, [2, 5]), [3, 4])",
    ):
        np.testing.assert_allclose(value(f"fn f(x) = {text}", x), x, rtol=1e-12)


def test_interpolation_keeps_straight_lines() -> None:
    x = np.linspace(2, 7, 6)[None, None]
    found = value("fn f(x) = resize_linear_corners(x, 11)", x)
    np.testing.assert_allclose(found[0, 0], np.linspace(2, 7, 11))
    found = value("fn f(x) = upscale_linear(x)", x)
    np.testing.assert_allclose(found[0, 0, 1:-1], np.linspace(2.25, 6.75, 10))
    assert value("fn f(x) = upscale_linear(x, 3)", np.full((1, 1, 2, 2), 5.0)) == pytest.approx(5)


def test_adaptive_pooling_of_whole_parts_is_pooling() -> None:
    x = rng.normal(size=(2, 3, 6, 8))
    for kind in ("average", "max"):
        found = value(f"fn f(x) = adaptive_{kind}_pool(x, [3, 2])", x)
        expected = value(f"fn f(x) = {kind}_pool(x, [2, 4])", x)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        found = value(f"fn f(x) = flatten(adaptive_{kind}_pool(x))", x)
        expected = value(f"fn f(x) = global_{kind}_pool(x)", x)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_of_one_place_take_places(stride: int, symbolic: bool) -> None:
    """There and back: where nothing is compared, no place is looked for."""
    x = rng.normal(size=(2, 3, 7, 5))
    for kind in ("average", "max"):
        source = f"fn f(x: float[B, C, H, W]) = {kind}_pool(x, 1, stride = {stride})"
        found = elaborate(source, x, symbolic=symbolic)
        (taken,) = found.values()
        np.testing.assert_array_equal(taken, x[:, :, ::stride, ::stride])
        (back,) = found.gradients("x")
        expected = np.zeros_like(x)
        expected[:, :, ::stride, ::stride] = cotangent(taken.shape)
        np.testing.assert_array_equal(back, expected)
        ops = {node.op.name for node in topological([found.results[0].node])}
        assert not {op for op in ops if "window" in op}


def test_unpooling_puts_back_what_pooling_took() -> None:
    x = rng.normal(size=(2, 3, 6, 4))
    back = value("fn f(x) = max_unpool(max_pool(x), x)", x)
    assert (back != 0).sum() == x.size // 4
    np.testing.assert_array_equal(back[back != 0], x[back != 0])


def test_paddings_are_numpys() -> None:
    x = rng.normal(size=(2, 3, 5, 4))
    for name, mode in (("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")):
        found = value(f"fn f(x) = pad_{name}(x, [[0, 3], [2, 1]])", x)
        np.testing.assert_array_equal(found, np.pad(x, [(0, 0), (0, 0), (0, 3), (2, 1)], mode))
        found = value(f"fn f(x) = pad_{name}(x)", x)
        np.testing.assert_array_equal(found, np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], mode))


def test_similarity_of_a_zero_vector_is_zero_and_smooth() -> None:
    x, y = np.zeros((1, 3)), np.ones((1, 3))
    found = elaborate("fn f(x, y) = cosine_similarity(x, y)", x, y)
    assert found.values()[0] == 0
    assert all(np.isfinite(g).all() for g in found.gradients())
    x = rng.normal(size=(4, 3))
    np.testing.assert_allclose(value("fn f(x) = cosine_similarity(x, 3 * x)", x), 1)


# -- the primitive, and mistakes -------------------------------------------------------------------


def test_convolve_spreads_its_input_and_pads_each_side() -> None:
    x, w = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 10.0]]])
    spread = value("fn f(x, w) = convolve(x, w, spread = 2)", x, w)
    np.testing.assert_array_equal(spread[0, 0], [1, 20, 2, 30])
    sides = value("fn f(x, w) = convolve(x, w, padding = [[2, 1]])", x, w)
    np.testing.assert_array_equal(sides[0, 0], [0, 10, 21, 32, 3])
    cut = value("fn f(x, w) = convolve(x, w, padding = [[-1, 0]])", x, w)
    np.testing.assert_array_equal(cut[0, 0], [32])
    same = value('fn f(x, w) = convolve(x, w, spread = 2, padding = "same")', x, w)
    np.testing.assert_array_equal(same[0, 0], [1, 20, 2, 30, 3])
    pooled = value("fn f(x) = window_sum(x, 2, stride = 1, padding = [[1, 0]])", x)
    np.testing.assert_array_equal(pooled[0, 0], [1, 3, 5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("conv(3, padding = [1])", "one entry for each of 2 axes"),
        ("conv(3, padding = [[1, 1, 1], 0])", "a number, or a pair: [before, after]"),
        ("conv(3, padding = [-1, 0])", "at least 0"),
        ("true_conv(3, groups = 2)", "divides the channels"),
        ("conv_transposed(3, groups = 2)", "divides the channels"),
        ("conv_transposed(3, stride = [1, 2, 3])", "one entry for each axis"),
        ("conv_transposed(3, spread = 2)", "no argument `spread`"),
        ("depthwise_conv(0)", "positive whole number"),
        ("locally_connected(3, 7)", "larger than its axis"),
        ("pad_reflect(4)", "fewer places than the axis"),
        ("pad_circular(5)", "at most as many places"),
        ("pixel_shuffle()", "divides the channels"),
        ("pixel_unshuffle(3)", "divides height and width"),
        ("upscale_nearest([2, 2, 2])", "one entry for each axis"),
    ],
)
def test_wrong_settings(call: str, message: str) -> None:
    extra = "layer called(x) { x |> " + call + " }\nmodel net = called()\nfn f(x) = net(x)"
    assert message in refuses(extra, np.zeros((2, 3, 4, 4)))
