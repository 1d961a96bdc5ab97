"""Boxes: how much they share, which of them stay, and what a picture shows in them."""

from __future__ import annotations

import numpy as np
import pytest

from language.elaborated import check, elaborate, value

Array = np.ndarray
rng = np.random.default_rng(3)


def some_boxes(*shape: int, around: float = 20) -> Array:
    centres, sides = rng.uniform(0, around, (*shape, 2)), rng.uniform(2, 9, (*shape, 2))
    return np.concatenate([centres, sides], axis=-1)


def iou(a: Array, b: Array) -> float:
    """By corners: the plain definition for two boxes."""
    sides = []
    for centre, length in ((0, 3), (1, 2)):
        low = max(a[centre] - a[length] / 2, b[centre] - b[length] / 2)
        high = min(a[centre] + a[length] / 2, b[centre] + b[length] / 2)
        sides.append(max(high - low, 0.0))
    both = sides[0] * sides[1]
    either = a[2] * a[3] + b[2] * b[3] - both
    return both / either if either else 0.0


def suppressed(
    boxes: Array, scores: Array, keep: int, overlap: float, least: float, classes: Array | None
) -> list[int]:
    """The places that are kept, by sorting first: another algorithm than the library's."""
    kept: list[int] = []
    for place in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        rivals = [k for k in kept if classes is None or classes[k] == classes[place]]
        near = any(iou(boxes[k], boxes[place]) > overlap for k in rivals)
        if scores[place] > least and not near:
            kept.append(place)
    return kept[:keep]


def test_box_iou() -> None:
    same, half, apart, inside, empty = (
        np.array(box, float)
        for box in ([5, 5, 4, 2], [6, 5, 4, 2], [9, 5, 4, 2], [5, 5, 2, 1], [5, 5, 0, 0])
    )
    text = "fn f(a, b) = box_iou(a, b)"
    for other, expected in ((same, 1), (half, 1 / 3), (apart, 0), (inside, 1 / 4), (empty, 0)):
        assert value(text, same, other) == pytest.approx(expected)
    assert value(text, empty, empty) == 0


def test_box_iou_of_each() -> None:
    a, b = some_boxes(2, 5, around=8), some_boxes(2, 3, around=8)
    expected = [[[iou(p, q) for q in b[i]] for p in a[i]] for i in range(2)]
    assert np.count_nonzero(expected) > 10
    check("fn f(a, b) = box_iou_of_each(a, b)", a, b, expected=expected)


@pytest.mark.parametrize("overlap", [0.1, 0.5])
@pytest.mark.parametrize("least", [0.0, 0.4])
@pytest.mark.parametrize("with_classes", [False, True])
def test_non_maximum_suppression(overlap: float, least: float, with_classes: bool) -> None:
    boxes, scores = some_boxes(4, 30, around=12), rng.uniform(size=(4, 30))
    classes = rng.integers(0, 2, (4, 30))
    given = ", classes = c" if with_classes else ""
    text = f"""
fn f(x, s, c) = non_maximum_suppression(x, s, 12, {overlap}, {least}{given})
"""
    places, found = elaborate(text, boxes, scores, classes, symbolic=True).values()
    assert places.shape == found.shape == (4, 12)
    for i in range(4):
        own = classes[i] if with_classes else None
        expected = suppressed(boxes[i], scores[i], 12, overlap, least, own)
        assert 1 < len(expected) < 30
        assert places[i][found[i]].tolist() == expected


def test_non_maximum_suppression_keeps_no_box_twice() -> None:
    # An empty box shares nothing with itself; equal scores go by their places.
    boxes = np.array([[[4, 4, 0, 0], [9, 9, 2, 2], [9, 9, 2, 2.0]]])
    text = "fn f(x, s) = non_maximum_suppression(x, s, 4)"
    places, found = elaborate(text, boxes, np.array([[0.5, 0.9, 0.9]])).values()
    assert found.tolist() == [[True, True, False, False]]
    assert places[found].tolist() == [1, 0]


def read(picture: Array, row: float, column: float) -> float:
    """The picture between its pixels; outside, its outermost pixels go on."""
    row = min(max(row - 0.5, 0), picture.shape[0] - 1)
    column = min(max(column - 0.5, 0), picture.shape[1] - 1)
    top, left = int(row), int(column)
    total = 0.0
    for r, share in ((top, 1 - (row - top)), (top + 1, row - top)):
        for c, part in ((left, 1 - (column - left)), (left + 1, column - left)):
            if share and part:
                total += share * part * picture[r, c]
    return total


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_roi_align(samples: int) -> None:
    x, size = rng.normal(size=(2, 3, 9, 12)), 4
    boxes = some_boxes(2, 5, around=10)  # some of them reach out of the picture
    expected = np.zeros((2, 5, 3, size, size))
    for b, r, c, i, j in np.ndindex(expected.shape):
        cx, cy, h, w = boxes[b, r]
        values = [
            read(
                x[b, c],
                cy - h / 2 + (i + (m + 0.5) / samples) * h / size,
                cx - w / 2 + (j + (n + 0.5) / samples) * w / size,
            )
            for m in range(samples)
            for n in range(samples)
        ]
        expected[b, r, c, i, j] = np.mean(values)
    found = elaborate(f"fn f(x, b) = roi_align(x, b, 4, {samples})", x, boxes, symbolic=True)
    np.testing.assert_allclose(found.values()[0], expected, rtol=1e-9, atol=1e-12)


def test_roi_align_of_the_whole_picture_is_the_picture() -> None:
    x = rng.normal(size=(1, 2, 6, 6))
    whole = np.array([[[3.0, 3, 6, 6]]])
    check("fn f(x, b) = roi_align(x, b, 6, 1)[:, 0]", x, whole, expected=x)
    means = x.reshape(1, 2, 3, 2, 3, 2).mean(axis=(3, 5))
    check("fn f(x, b) = roi_align(x, b, 3)[:, 0]", x, whole, expected=means)


# -- peaks of maps ---------------------------------------------------------------------------------


def test_pixel_centres() -> None:
    check(
        "fn f(x) = pixel_centres(2, 3)",
        np.zeros(1),
        expected=[[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5]],
    )


def test_squared_distances() -> None:
    a, b = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 4, 3))
    expected = [[[((p - q) ** 2).sum() for q in b[i]] for p in a[i]] for i in range(2)]
    check("fn f(a, b) = squared_distances(a, b)", a, b, expected=expected)


@pytest.mark.parametrize("within", [1, 2])
def test_peaks_are_the_highest_around(within: int) -> None:
    heat = rng.uniform(size=(2, 9, 7))
    text = f"fn f(heat) {{ peaks(heat, 4, within = {within}, least = 0.6) }}"
    points, there = elaborate(text, heat).values()
    for each, found, seen in zip(heat, points, there, strict=True):
        expected = []
        for i, j in np.ndindex(each.shape):
            around = each[max(i - within, 0) : i + within + 1, max(j - within, 0) : j + within + 1]
            if each[i, j] == around.max() > 0.6:
                expected.append((each[i, j], j + 0.5, i + 0.5))
        expected = sorted(expected, reverse=True)[:4]
        assert len(expected) >= 2
        assert list(seen) == [i < len(expected) for i in range(4)]
        np.testing.assert_allclose(found[seen], [p[1:] for p in expected])
