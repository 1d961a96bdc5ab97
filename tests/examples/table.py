"""What each example is known for: its size, and what it reaches when it is trained.

A row for each file of `examples/`, by its name there. Sizes are those that the paper states, or a
count by hand of its layers; a bar is one that an untrained or miswired model doesn't reach.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weft.api import Run
from weft.runtime.data.embedded import EMBEDDED


@dataclass(frozen=True)
class Example:
    """A row of the table; None for a size that nobody has stated.

    `reaches` has the lowest and the highest value of metrics such as `test.accuracy`, and is empty
    just where the data come from outside. `also` looks at the trained run. `sees` is the largest
    receptive field, in pixels of a side.
    """

    parameters: int | None = None
    multiply_adds: int | None = None
    reaches: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    also: Callable[[Run], None] | None = None
    sees: int | None = None


def finds_every_mode(run: Run) -> None:
    """Most points are near one of eight places on the unit circle, and each place has its own."""
    points = run.predict(rows=2000)["points"]
    angles = np.arange(8) * np.pi / 4
    centres = np.stack([np.cos(angles), np.sin(angles)], 1)
    distance = np.linalg.norm(points[:, None] - centres, axis=2)
    near = distance.min(1) < 0.25
    assert near.mean() > 0.7
    assert np.bincount(distance.argmin(1)[near], minlength=8).min() > 50


def walks_as_they_should(run: Run) -> None:
    """Plain descent meets the walls by turns, momentum shoots past the end, and AdaGrad neither."""
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    ways = {
        name: np.array([[row[f"train.{name}_{axis}"] for axis in "uv"] for row in rows]) - [7, 2]
        for name in ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam")
    }
    x = run.loaded.fields.arrays["x"].astype(float)
    factors = 1 - 0.09 * 2 * np.mean(x**2, axis=0)
    expected = [-7, -2] * factors ** np.arange(60)[:, None]
    np.testing.assert_allclose(ways["sgd"], expected, atol=0.02)
    assert np.all(ways["sgd"][1:30, 1] * ways["sgd"][:29, 1] < 0)
    past = {name: way[:, 0].max() for name, way in ways.items()}
    assert past["momentum"] > past["nesterov"] > 1 > past["adagrad"]
    assert past["adam"] > 1 > 0.01 > past["sgd"]
    for name in ("adagrad", "rmsprop"):  # almost straight, once they are on the floor
        assert np.abs(ways[name][10:, 1]).max() < 0.2, name


def draws_every_digit(run: Run) -> None:
    """By the nearest real digit to each that was drawn, no class is rare among a thousand."""
    real = run.loaded.fields.arrays["x"].reshape(-1, 64)
    drawn = run.predict(rows=1000)["digits"].reshape(-1, 64)
    nearest = np.linalg.norm(drawn[:, None] - real, axis=2).argmin(1)
    target = EMBEDDED["digits"]().arrays["target"]
    assert np.bincount(target[nearest], minlength=10).min() > 40


def draws_digits(run: Run) -> None:
    """Every digit is drawn, about as near to a real one as those are to each other: noise isn't."""
    draws_every_digit(run)
    real = run.loaded.fields.arrays["x"].reshape(-1, 64)
    drawn = run.predict(rows=300)["digits"].reshape(-1, 64)
    noise = np.random.default_rng(0).normal(size=drawn.shape)

    def nearest(pictures: np.ndarray) -> float:
        return float(np.linalg.norm(pictures[:, None] - real[300:], axis=2).min(1).mean())

    assert nearest(drawn) < 1.7 * nearest(real[:300]) < 0.5 * nearest(noise)


def draws_what_it_reads(run: Run) -> None:
    """The nearest real digit to each that was drawn is mostly of the class of its word."""
    arrays = run.loaded.fields.arrays
    real, target = arrays["x"], EMBEDDED["digits"]().arrays["target"]
    drawn = run.predict({"word": arrays["word"][:500]})["digits"]
    nearest = np.linalg.norm(drawn[:, None] - real, axis=2).argmin(1)
    assert (target[nearest] == target[:500]).mean() > 0.75


EXAMPLES: dict[str, Example] = {
    "alexnet": Example(61_100_840, 714_188_480, sees=195),
    "autoencoder": Example(51_784, 51_200, {"test.loss": (0.0, 0.016)}),
    "birnn": Example(27_904, 1_572_864, {"test.accuracy": (0.78, 0.95)}),
    "densenet121": Example(7_978_856, 2_834_161_664, sees=2071),
    "conv6": Example(2_262_602, 153_881_088),
    "detector": Example(
        72_991, 2_411_520, {"test.recall": (0.8, 1.0), "test.precision": (0.8, 1.0)}
    ),
    "diabetes": Example(385, 352, {"test.error": (30.0, 48.0)}),
    "diffusion": Example(251_200, 24_985_600, {"test.loss": (0.0, 0.1)}, draws_digits),
    "digits_conv": Example(28_842, 903_808, {"test.accuracy": (0.985, 1.0)}),
    "digits_mlp": Example(19_210, 18_944, {"test.accuracy": (0.97, 1.0)}),
    "ensemble": Example(19_280, 18_944, {"test.joint": (0.95, 1.0), "test.gain": (0.003, 0.1)}),
    "fcn": Example(134_376_863, 108_212_984_088),
    "gan": Example(21_666, 40_960, {"test.distance": (-0.1, 0.3)}, draws_every_digit),
    "gpt2": Example(124_439_808, 145_824_153_600),
    "inception_v1": Example(13_378_280, 1_582_671_872, sees=715),
    "instance_masks": Example(1_873, 1_914_312, {"test.iou": (0.8, 1.0)}),
    "lenet5": Example(61_706, 416_520, {"test.accuracy": (0.95, 1.0)}, sees=16),
    "linear": Example(150_528_000, 150_528_000),
    "lstm_lm": Example(117_344, 7_077_888, {"test.bits": (1.5, 2.1)}),
    "maxout": Example(369_610, 367_200, {"test.accuracy": (0.95, 1.0)}),
    "mlp_6431": Example(47, 39, {"test.error": (30.0, 50.0), "test.loss": (0.0, 0.6)}),
    "multi_task": Example(
        26_251, 25_984, {"test.accuracy": (0.94, 1.0), "test.off_by": (0.0, 1.5)}
    ),
    "panoptic": Example(22_680, 3_578_880, {"test.quality": (0.43, 1.0)}),
    "resnet110": Example(1_727_962, 252_887_680),
    "resnet18": Example(11_689_512, 1_814_073_344, sees=435),
    "resnet34": Example(21_797_672, 3_663_761_408, sees=899),
    "resnet50": Example(25_557_032, 3_857_973_248, sees=483),
    "ring_gan": Example(9_027, 4_480, {"train.distance": (0.0, 0.1)}, finds_every_mode),
    "rnn_lm": Example(43_232, 2_359_296, {"test.bits": (1.5, 2.2)}),
    "segnet": Example(29_449_355, 106_712_432_640),
    "siamese": Example(9_352, 9_216, {"test.verified": (0.92, 1.0)}),
    "small/alexnet": Example(116_130, 829_960, {"test.accuracy": (0.92, 1.0)}),
    "small/conv6": Example(24_962, 158_848, {"test.accuracy": (0.94, 1.0)}),
    "small/densenet121": Example(37_066, 889_392, {"test.accuracy": (0.95, 1.0)}),
    "small/fcn": Example(123_761, 4_092_160, {"test.iou": (0.2, 1.0)}),
    "small/inception_v1": Example(104_712, 3_089_340, {"test.accuracy": (0.85, 1.0)}),
    "small/linear": Example(640, 640, {"test.accuracy": (0.93, 1.0)}),
    "small/resnet110": Example(67_906, 631_616, {"test.accuracy": (0.95, 1.0)}),
    "small/resnet18": Example(176_578, 641_664, {"test.accuracy": (0.93, 1.0)}),
    "small/resnet50": Example(224_098, 737_792, {"test.accuracy": (0.93, 1.0)}),
    "small/segnet": Example(27_587, 3_981_312, {"test.iou": (0.25, 1.0)}),
    "small/unet": Example(29_731, 6_324_224, {"test.iou": (0.2, 1.0)}),
    "small/vgg16": Example(315_426, 5_024_256, {"test.accuracy": (0.94, 1.0)}),
    "small/vgg9": Example(32_098, 760_128, {"test.accuracy": (0.97, 1.0)}),
    "small/vit_b16": Example(39_242, 684_544, {"test.accuracy": (0.9, 1.0)}),
    "small/wide_resnet": Example(77_562, 763_520, {"test.accuracy": (0.95, 1.0)}),
    "snapshots": Example(9_866, 37_888, {"test.joint": (0.955, 1.0), "test.gain": (0.003, 0.1)}),
    "text_to_image": Example(414_960, 38_185_984, {"test.loss": (0.0, 0.1)}, draws_what_it_reads),
    "transformer_lm": Example(110_336, 7_733_248, {"test.bits": (1.5, 2.4)}),
    "unet": Example(31_030_658, 150_428_424_448, sees=204),
    "vae": Example(19_792, 9_216, {"test.loss": (220.0, 310.0)}, draws_every_digit),
    "valley": Example(12, 12, {"train.loss": (0.0, 0.1)}, walks_as_they_should),
    "vgg16": Example(138_357_544, 15_470_264_320, sees=212),
    "vgg9": Example(2_789_706, 191_564_288),
    "vit_b16": Example(86_567_656, 17_563_828_224),
    "wide_resnet": Example(36_479_194, 5_243_328_768),
}

VARIANTS: list[tuple[str, Mapping[str, Any], int]] = [
    ("conv6", {"blocks": [64]}, 4_301_642),
    ("conv6", {"blocks": [64, 128]}, 2_425_930),
    ("linear", {"hidden": [150_528]}, 22_809_206_784),
    ("linear", {"hidden": [150_528] * 50}, 1_133_084_467_200),
    ("resnet110", {"depth": 20}, 269_722),
    ("resnet110", {"depth": 56}, 853_018),
    ("resnet110", {"depth": 56, "skip": False}, 853_018),
    ("resnet110", {"depth": 1202}, 19_421_274),
    ("resnet50", {"blocks": [3, 4, 23, 3]}, 44_549_160),
]
"""Others of the same layers, by the settings that make them, and their parameters."""
