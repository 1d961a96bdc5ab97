"""Receptive fields: worked by hand, and found by changing the input place by place."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import SEED, Elaborated, elaborate
from weft.compiler.graph import Graph, Node, topological
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.receptive import ReceptiveField, by_kernel, largest, receptive_fields

SIDE = 72
CHANNELS = 4
LOUD = 1e9
TURNS = 6  # places, after which every chain below repeats its phases

EXTRA = """
layer residual_of(x) = x + (x |> conv(4) |> conv(4, dilation = 2))
layer inception(x) = concat([x |> conv(2, kernel = 1), x |> conv(2, kernel = 5)], over = 1)
layer lopsided(x) = concat([x |> conv(5, kernel = 1), x |> conv(2, kernel = 5)], over = 1)
layer late(x) { x |> conv(4, stride = 2) |> conv_transposed(4, kernel = 4, stride = 2) }
layer skipped(x) = concat([x, x |> late], over = 1) |> conv(3)
layer turned(x) { transpose(transpose(x, [0, 1, 3, 2]) |> conv(4, kernel = [1, 5]), [0, 1, 3, 2]) }
layer in_blocks(x: float[B, C, H, W]) {
  let blocks = transpose(reshape(x, [B, C, H // 3, 3, W // 3, 3]), [0, 1, 3, 5, 2, 4])
  reshape(blocks, [B, 9 * C, H // 3, W // 3])
}
fn mirrored(x) = reverse(x, over = [2, 3])
fn cropped(x) = x[..., 3:-2:2, 1:]
fn centred(x: float[B, C, ...S]) = x - mean(x, over = [...S])
fn in_another_order(x) = sort(x, over = -1)
fn halves(x: float[B, C, H, W]) = concat([x[..., H // 2:, :], x[..., :H // 2, :]], over = 2)
"""

CHAINS = [
    "conv(4)",
    "conv(4) |> conv(4) |> conv(4)",
    "conv(4, kernel = 4, padding = 'valid') |> max_pool(2) |> conv(4, kernel = 2)",
    "conv(4, kernel = 5, stride = 3) |> conv(4, dilation = 3)",
    "conv(4, kernel = [5, 2], stride = [2, 1], padding = [[2, 1], 0]) |> average_pool(3, 2)",
    "max_pool(3, stride = 2, padding = 1) |> depthwise_conv(1) |> separable_conv(4)",
    "residual_of |> max_pool(2) |> residual_of",
    "inception |> inception",
    "lopsided |> lopsided |> max_pool(2) |> conv(4)",
    "conv_transposed(4, kernel = 2, stride = 2) |> conv(4)",
    "conv_transposed(4, kernel = 3, stride = 2) |> conv(4)",
    "conv_transposed(4, kernel = 2, stride = 3) |> conv(4)",
    "max_pool(4) |> conv(4) |> conv_transposed(4, kernel = 5, stride = 3) |> max_pool(2)",
    "late |> conv(4)",
    "skipped |> skipped",
    "max_pool(2) |> conv(4) |> upscale_nearest |> conv(4)",
    "max_pool(3) |> upscale_linear(2) |> conv(4)",
    "conv(4) |> resize_nearest([48, 54]) |> conv(4)",
    "conv(4, stride = 2) |> resize_linear([54, 24]) |> conv(4)",
    "max_pool(2) |> conv(16) |> pixel_shuffle |> conv(4)",
    "pixel_unshuffle(2) |> conv(4)",
    "in_blocks |> conv(4, kernel = [4, 2])",
    "conv(4) |> local_response_norm |> batch_norm |> relu |> conv(4)",
    "turned |> conv(4, kernel = [1, 3])",
    "max_pool(2) |> mirrored |> conv(4, padding = [[0, 2], [2, 0]])",
    "cropped |> conv(4) |> average_pool(2)",
    "pad_reflect(2) |> conv(4, padding = 'valid', stride = 2) |> conv(4)",
]


def net(chain: str, shape: tuple[int, ...] = (1, CHANNELS, SIDE, SIDE)) -> Elaborated:
    text = f"""{EXTRA}
layer chain(x) = x |> {chain.replace("'", '"')}
model net = chain()
fn f(x) = net(x)
"""
    return elaborate(text, np.ones(shape), training=False)


def found(made: Elaborated) -> dict[Node, ReceptiveField]:
    outputs = [t.node for t in made.results]
    inputs = [n for n in topological(outputs) if n.op.name == "input"]
    graph = inline_calls(Graph("net", tuple(inputs), tuple(outputs)))
    return receptive_fields(graph, {n.name for n in inputs} - {"x"})


def fields(chain: str) -> list[str]:
    return [str(field) for field in found(net(chain)).values()]


def seen(chain: str, axis: int) -> list[tuple[int, int]]:
    """What the middle third of the result's places sees along an axis of the input.

    An example for each place of the input makes that place loud. What depends on it changes: no
    weight is negative, so that nothing cancels.
    """
    sides = [SIDE if i == axis else SIDE // 4 for i in range(2)]
    made = net(chain, (SIDE + 1, CHANNELS, *sides))
    (x,) = made.arrays
    for place in range(SIDE):
        x[(place, slice(None), *[slice(None)] * axis, place)] = LOUD
    weights = {name: np.abs(w) for name, w in made.initial.items() if name != "seed"}
    (y,) = made.values({**weights, "seed": SEED})
    changes = np.abs(y[:-1] / y[-1] - 1) > 1e-9
    depends = changes.any(axis=(1, 3 - axis)).T  # [place of the result, place of the input]
    third = len(depends) // 3
    places = [np.flatnonzero(row) for row in depends[third:-third]]
    return [(int(p[0]), int(p[-1])) for p in places]


@pytest.mark.parametrize("chain", CHAINS)
def test_a_field_is_what_changes_the_result(chain: str) -> None:
    field = list(found(net(chain)).values())[-1]
    for axis in range(2):
        spans = seen(chain, axis)
        assert max(high - low + 1 for low, high in spans) == field.size[axis]
        moves = {abs(b[0] - a[0]) for a, b in zip(spans, spans[TURNS:], strict=False)}
        assert moves == {TURNS * field.stride[axis]}


def test_fields_are_those_of_hand() -> None:
    """The stages of VGG: 2 more for a convolution at stride 1, 1 for a pooling, 4 at stride 2."""
    assert fields("conv(4) |> conv(4) |> max_pool(2) |> conv(4, kernel = [3, 1])") == [
        "3 x 3 every 1",
        "5 x 5 every 1",
        "6 x 6 every 2",
        "10 x 6 every 2",
    ]
    assert fields("conv(4, stride = [2, 1]) |> conv_transposed(4, kernel = 4, stride = 4)") == [
        "3 x 3 every 2 x 1",
        "3 x 3 every 1/2 x 1/4",
    ]


@pytest.mark.parametrize("chain", ["centred", "instance_norm", "in_another_order", "halves"])
def test_nothing_is_said_of_what_sees_everything(chain: str) -> None:
    assert fields(f"conv(4) |> {chain} |> conv(4)") == ["3 x 3 every 1"]


def test_kernels_have_the_largest_of_their_fields() -> None:
    """A model that is called at two places, and a weight that is made of two parameters."""
    text = """
model shared = conv(4)
layer twice(x) {
  let h = x |> shared |> max_pool(2) |> shared
  h |> weight_normed_conv(4)
}
layer weight_normed_conv(x: float[B, C, H, W], channels: int) {
  param v: float[channels, C, 5, 5] ~ normal
  param g: float[channels]          ~ ones
  convolve(x, weight_norm(v, g, over = [1, 2, 3]))
}
model net = twice()
fn f(x) = net(x)
"""
    fields = by_kernel(found(elaborate(text, np.ones((1, 4, 32, 32)))))
    assert {name: str(field) for name, field in fields.items()} == {
        "shared.w": "8 x 8 every 2",
        "net.weight_normed_conv.v": "16 x 16 every 2",
        "net.weight_normed_conv.g": "16 x 16 every 2",
    }


def test_of_equals_the_last_is_the_largest() -> None:
    coarse, fine = ReceptiveField((9, 4), (2, 2)), ReceptiveField((6, 6), (1, 1))
    assert largest([coarse, fine]) is fine
    assert largest([fine, coarse]) is coarse
