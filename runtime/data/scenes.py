"""Pictures of a few digits each, made while they are loaded: for detection, masks, segmentation.

    words of a Philox stream -> which digits, how large, where -> ink, boxes, masks; noise

Only whole numbers and exact fractions are computed with, so every machine has the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.compiler.philox import Words, random_bits, seed_words
from weft.runtime.data.columns import Columns

COUNT = 4000
SIDE = 32
MOST = 3  # digits in a picture
SIDES = (8, 12, 16)  # of a digit
TRIES = 16  # to find room for a digit
FULL = 16  # the darkest ink of a digit
STROKE = 8  # as much ink belongs to the digit's mask

Array = NDArray[Any]


def scenes(ink: Array, digit: Array) -> Columns:
    """4,000 pictures of 32 x 32 pixels with one to three of the given digits on light noise.

    `ink` holds digits of 8 x 8 pixels from 0 to 16, `digit` their classes. A digit is 8, 12 or 16
    pixels wide and high, every pixel repeated evenly; the squares of two digits share no pixel, and
    a digit without room is left out. Fields, of which those with an axis of 3 have a row for each
    digit that there could be:

        image    f32   (1, 32, 32)   from 0 to 1: the ink, and noise below 1/4
        label    i64   (32, 32)      0 for the background, 1 + the digit where its mask is
        boxes    f32   (3, 4)        cx, cy, h, w in pixels: the smallest box around the mask; pixel
                                     i of an axis reaches from i to i + 1
        classes  i64   (3)           the digit
        present  bool  (3)           whether there is such a digit: else its other rows are all 0
        masks    bool  (3, 32, 32)   where its ink is at least half of the darkest

    The same handwriting can occur in several pictures.
    """
    drawn = random_bits(seed_words(0), 0, "scenes", COUNT * (1 + MOST * (2 + 2 * TRIES)))
    drawn = drawn.reshape(COUNT, -1)
    wanted = 1 + _below(drawn[:, 0], MOST)
    per_digit = drawn[:, 1:].reshape(COUNT, MOST, 2 + 2 * TRIES)
    which = _below(per_digit[:, :, 0], len(digit))
    side = np.array(SIDES)[_below(per_digit[:, :, 1], len(SIDES))]
    tries = per_digit[:, :, 2:].reshape(COUNT, MOST, 2, TRIES)
    corner = _below(tries, SIDE + 1 - side[:, :, None, None])
    corner, room = _with_room(corner, side)
    present = room & (np.arange(MOST) < wanted[:, None])

    painted = np.where(present[:, :, None, None], _painted(ink[which], corner, side), 0)
    masks = painted >= STROKE
    classes = np.where(present, digit[which], 0)
    bits = random_bits(seed_words(0), 0, "scenes.noise", COUNT * SIDE * SIDE // 4)
    noise = bits.astype("<u4").view(np.uint8).reshape(COUNT, SIDE, SIDE) & 63
    image = np.minimum(painted.max(axis=1).astype(np.int64) * (256 // FULL) + noise, 256)
    marks = masks * (1 + classes).astype(np.uint8)[:, :, None, None]
    names = tuple(str(number) for number in range(10))
    return Columns(
        {
            "image": (image / 256).astype(np.float32)[:, None],
            "label": marks.max(axis=1).astype(np.int64),
            "boxes": _boxes(masks),
            "classes": classes,
            "present": present,
            "masks": masks,
        },
        {"label": ("background", *names), "classes": names},
    )


def _below(words: Words, count: int | Array) -> NDArray[np.int64]:
    """Each word as a whole number from 0 to `count` - 1."""
    return (words.astype(np.uint64) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def _with_room(corner: Array, side: Array) -> tuple[Array, Array]:
    """For each digit the first corner tried whose square meets no square of the digits before it.

    `corner` is (scene, digit, row and column, try). Gives (scene, digit, row and column), and
    whether there is such a corner.
    """
    chosen = corner[..., 0].copy()
    room = np.ones(side.shape, bool)
    for digit in range(MOST):
        free = np.ones((COUNT, TRIES), bool)
        for other in range(digit):
            gap = corner[:, digit] - chosen[:, other, :, None]
            apart = (gap >= side[:, None, other, None]) | (gap <= -side[:, None, digit, None])
            free &= apart.any(axis=1) | ~room[:, other, None]
        room[:, digit] = free.any(axis=1)
        chosen[:, digit] = corner[np.arange(COUNT), digit, :, free.argmax(axis=1)]
    return chosen, room


def _painted(ink: Array, corner: Array, side: Array) -> Array:
    """The ink of each digit in the whole picture, (scene, digit, row, column)."""
    cells = ink.shape[-1]
    within = np.arange(SIDE) - corner[..., None]  # (scene, digit, row and column, place)
    inside = (within >= 0) & (within < side[..., None, None])
    cell = np.where(inside, within * cells // side[..., None, None], 0)
    scene, digit = np.ogrid[:COUNT, :MOST]
    rows, columns = cell[:, :, 0, :, None], cell[:, :, 1, None, :]
    read = ink[scene[..., None, None], digit[..., None, None], rows, columns]
    return np.where(inside[:, :, 0, :, None] & inside[:, :, 1, None, :], read, 0)


def _boxes(masks: Array) -> NDArray[np.float32]:
    """cx, cy, h, w around each mask; zeros where it is empty."""
    (top, bottom), (left, right) = _ends(masks, 3), _ends(masks, 2)
    box = np.stack([(left + right) / 2, (top + bottom) / 2, bottom - top, right - left], axis=2)
    return np.where(masks.max(axis=(2, 3))[..., None], box, 0).astype(np.float32)


def _ends(masks: Array, across: int) -> tuple[Array, Array]:
    """Where each mask begins and ends along the axis that is not `across`."""
    line: Array = masks.max(axis=across)
    return line.argmax(axis=2), line.shape[2] - line[..., ::-1].argmax(axis=2)
