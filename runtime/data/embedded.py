"""The data sets that come with Weft: they need no download and no other package."""

from __future__ import annotations

import math
from importlib import resources

import numpy as np

from weft.compiler.philox import random_bits, seed_words
from weft.runtime.data.columns import Columns
from weft.runtime.data.scenes import scenes

RING_SIZE = 8192
RING_MODES = 8
RING_WIDTH = 0.05


def digits() -> Columns:
    """1,797 handwritten digits of 8 x 8 pixels, each a whole number from 0 to 16.

    Fields: features f32 (64), image f32 (1, 8, 8): the same pixels, and target i64, 0 to 9.
    UCI Machine Learning Repository, "Optical Recognition of Handwritten Digits"; see `digits.txt`.
    """
    stored = _stored("digits.npz")
    pixels = stored["image"].astype(np.float32)
    target = stored["target"].astype(np.int64)
    size = len(target)
    names = tuple(str(digit) for digit in range(10))
    return Columns(
        {
            "features": pixels.reshape(size, 64),
            "image": pixels.reshape(size, 1, 8, 8),
            "target": target,
        },
        {"target": names},
    )


def diabetes() -> Columns:
    """442 patients: ten measurements, and how far their diabetes progressed in the next year.

    Fields: features f32 (10), each of mean 0 with squares summing to 1, and target f32, 25 to 346.
    Efron, Hastie, Johnstone and Tibshirani, "Least Angle Regression", 2004; see `diabetes.txt`.
    """
    stored = _stored("diabetes.npz")
    return Columns({"features": stored["features"], "target": stored["target"].astype(np.float32)})


def _stored(name: str) -> dict[str, np.ndarray]:
    with (
        resources.files(__package__).joinpath(name).open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return {key: arrays[key] for key in arrays.files}


def ring() -> Columns:
    """8,192 points from eight Gaussians (standard deviation 0.05) evenly on the unit circle.

    Fields: point f32 (2), and mode i64: which Gaussian, counted from the positive x-axis. Example
    i is of mode i mod 8. The points are the same bytes on every machine: a Gaussian number here is
    the sum of twelve uniform ones minus 6, which needs no function that libraries round variously.
    """
    words = random_bits(seed_words(0), 0, "ring", RING_SIZE * 24).reshape(RING_SIZE, 2, 12)
    # 24-bit uniform numbers at the middle of their cells: every sum of twelve is exact in f64.
    uniform = ((words >> np.uint32(8)).astype(np.float64) + 0.5) / 2**24
    noise = uniform.sum(axis=2) - 6.0
    half = math.sqrt(0.5)
    centres = np.array(
        [
            (1, 0),
            (half, half),
            (0, 1),
            (-half, half),
            (-1, 0),
            (-half, -half),
            (0, -1),
            (half, -half),
        ]
    )
    mode = np.arange(RING_SIZE, dtype=np.int64) % RING_MODES
    point = (centres[mode] + RING_WIDTH * noise).astype(np.float32)
    return Columns({"point": point, "mode": mode})


def scenes_of_digits() -> Columns:
    """4,000 pictures of one to three of the embedded digits; see `scenes`."""
    stored = _stored("digits.npz")
    return scenes(stored["image"].reshape(-1, 8, 8), stored["target"].astype(np.int64))


EMBEDDED = {"diabetes": diabetes, "digits": digits, "ring": ring, "scenes": scenes_of_digits}
