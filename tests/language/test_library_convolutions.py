"""Convolutions, linear forms, resizing and pooling against PyTorch, by their laws, at their edges."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import Array, elaborate, refuses, value
from language.layer_fixtures import agrees, layer, parameter_count

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
    "windows": (
        "reshape(windows(x, [2, 3], stride = [1, 2], dilation = [2, 1]), [size(x, 0), 24, 6])"
    ),
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

REFLECTED = "layer reflected(x) { x |> pad_reflect(1) |> conv(3, padding = 'valid') }"


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_pytorch(name: str, symbolic: bool) -> None:
    call = CASES[name].replace("'", '"')
    extra = REFLECTED if name == "conv_reflect" else ""
    states = {"conv_reflect": "net.conv."}.get(name, "net.")
    agrees(name, call, symbolic, extra.replace("'", '"'), states)
