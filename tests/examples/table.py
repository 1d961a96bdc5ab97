"""What each example is known for: its size, and what it reaches when it is trained.

A row for each file of `examples/`, by its name there. Sizes are those that the paper states, or a
count by hand of its layers; a bar is one that an untrained or miswired model doesn't reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from weft.api import Run


@dataclass(frozen=True)
class Example:
    """A row of the table; None for a size that nobody has stated.

    `reaches` has the lowest and the highest value of metrics such as `test.accuracy`, and is empty
    just where the data come from outside. `also` looks at the trained run.
    """

    parameters: int | None = None
    multiply_adds: int | None = None
    reaches: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    also: Callable[[Run], None] | None = None


def finds_every_mode(run: Run) -> None:
    """Most points are near one of eight places on the unit circle, and each place has its own."""
    points = run.predict(rows=2000)["points"]
    angles = np.arange(8) * np.pi / 4
    centres = np.stack([np.cos(angles), np.sin(angles)], 1)
    distance = np.linalg.norm(points[:, None] - centres, axis=2)
    near = distance.min(1) < 0.25
    assert near.mean() > 0.7
    assert np.bincount(distance.argmin(1)[near], minlength=8).min() > 50


EXAMPLES: dict[str, Example] = {
    "densenet121": Example(7_978_856, 2_834_161_664),
    "diabetes": Example(385, 352, {"test.error": (30.0, 48.0)}),
    "digits_conv": Example(28_842, 903_808, {"test.accuracy": (0.985, 1.0)}),
    "digits_mlp": Example(19_210, 18_944, {"test.accuracy": (0.97, 1.0)}),
    "fcn": Example(134_376_863, 108_212_984_088),
    "gpt2": Example(124_439_808, 145_824_153_600),
    "lstm_lm": Example(117_344, 7_077_888, {"test.bits": (1.5, 2.1)}),
    "resnet110": Example(1_727_962, 252_887_680),
    "resnet18": Example(11_689_512, 1_814_073_344),
    "resnet50": Example(25_557_032, 3_857_973_248),
    "ring_gan": Example(9_027, 4_480, {"train.distance": (0.0, 0.1)}, finds_every_mode),
    "rnn_lm": Example(43_232, 2_359_296, {"test.bits": (1.5, 2.2)}),
    "segnet": Example(29_449_355, 106_712_432_640),
    "small/densenet121": Example(37_066, 889_392, {"test.accuracy": (0.95, 1.0)}),
    "small/resnet110": Example(67_906, 631_616, {"test.accuracy": (0.95, 1.0)}),
    "small/resnet18": Example(176_578, 641_664, {"test.accuracy": (0.93, 1.0)}),
    "small/resnet50": Example(224_098, 737_792, {"test.accuracy": (0.93, 1.0)}),
    "small/vit_b16": Example(39_242, 684_544, {"test.accuracy": (0.9, 1.0)}),
    "small/wide_resnet": Example(77_562, 763_520, {"test.accuracy": (0.95, 1.0)}),
    "transformer_lm": Example(110_336, 7_733_248, {"test.bits": (1.5, 2.4)}),
    "unet": Example(31_030_658, 150_428_424_448),
    "vit_b16": Example(86_567_656, 17_563_828_224),
    "wide_resnet": Example(36_479_194, 5_243_328_768),
}
