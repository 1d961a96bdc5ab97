"""Residual blocks and their shortcuts: against PyTorch, by their laws."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import refuses, value
from language.layer_fixtures import agrees, layer, parameter_count

rng = np.random.default_rng(0)

CASES = {
    "residual_block": "residual_block(5, 2)",
    "residual_block_padded": "residual_block(5, 2, shortcut_padded)",
    "residual_block_plain": "residual_block(5, 2, no_shortcut)",
    "bottleneck_block": "bottleneck_block(2, 2)",
    "bottleneck_block_late": "bottleneck_block(2, 2, late_stride = true)",
    "preactivation_block": "preactivation_block(5, 2)",
}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_pytorch(name: str, symbolic: bool) -> None:
    agrees(name, CASES[name], symbolic)


@pytest.mark.parametrize(
    "call",
    ["residual_block(4)", "bottleneck_block(1)", "residual_block(4, skip = shortcut_padded)"],
)
def test_a_block_that_adds_nothing_gives_what_it_got(call: str) -> None:
    """With the last scale at 0 the sum is x, as it is, and relu leaves what is positive."""
    x = rng.uniform(1, 2, size=(2, 4, 3, 3))
    found = layer(call, x)
    assert not any("shortcut" in name for name in found.initial)
    last = max(name for name in found.initial if name.endswith("batch_norm.scale"))
    np.testing.assert_array_equal(found.values({last: np.zeros(4)})[0], x)


def test_a_preactivation_block_goes_on_with_x_itself() -> None:
    x = rng.normal(size=(2, 4, 3, 3))
    found = layer("preactivation_block(4, drop = 0.5)", x)
    np.testing.assert_array_equal(found.values({"net.conv_2.w": np.zeros((4, 4, 3, 3))})[0], x)
    assert parameter_count(found) == 2 * 4 * 4 * 9 + 2 * 2 * 4


def test_channels_last_and_first() -> None:
    x = rng.normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(value("fn f(x) = channels_last(x)", x), np.moveaxis(x, 1, -1))
    both = value("fn f(x) = channels_first(channels_last(x))", x)
    np.testing.assert_array_equal(both, x)


def test_centre_crop() -> None:
    x = rng.normal(size=(2, 3, 5, 6))
    found = value("fn f(x) = centre_crop(x, [2, 6])", x)
    np.testing.assert_array_equal(found, x[:, :, 1:3])
    message = refuses("fn f(x) = centre_crop(x, [2, 7])", x)
    assert "no more places than the whole" in message


@pytest.mark.parametrize("stride", [2, 4])
def test_bilinear_kernels_interpolate(stride: int) -> None:
    """Away from the border, where places outside of x count as zeros."""
    x = rng.normal(size=(2, 3, 4, 5))
    call = f"conv_transposed(3, kernel = {2 * stride}, stride = {stride}, init = bilinear_kernel)"
    found = layer(call, x).values()[0]
    expected = value(f"fn f(x) = upscale_linear(x, {stride})", x)
    inner = (slice(None), slice(None), slice(stride, -stride), slice(stride, -stride))
    np.testing.assert_allclose(found[inner], expected[inner], rtol=1e-12)


def test_a_bilinear_kernel_of_odd_size_keeps_its_middle() -> None:
    w = layer("conv(2, init = bilinear_kernel)", np.zeros((1, 2, 5))).initial["net.w"]
    np.testing.assert_array_equal(w, np.eye(2)[:, :, None] * [0.5, 1, 0.5])
