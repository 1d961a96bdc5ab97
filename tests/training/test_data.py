"""Data: sources that come with Weft or with scikit-learn, text, and their errors."""

import hashlib
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources import fails, write
from weft.runtime.data.sources import SKLEARN, SOURCES, load
from weft.runtime.data.splits import split
from weft.runtime.data.text import PRINTABLE

# -- embedded and scikit-learn


def test_digits(tmp_path):
    digits = load("embedded", ["digits"], {}, tmp_path)
    assert {name: (a.dtype.name, a.shape) for name, a in digits.arrays.items()} == {
        "features": ("float32", (1797, 64)),
        "image": ("float32", (1797, 1, 8, 8)),
        "target": ("int64", (1797,)),
    }
    assert digits.size == 1797
    assert digits.classes == {"target": tuple("0123456789")}
    image = digits.arrays["image"]
    assert image.min() == 0
    assert image.max() == 16
    np.testing.assert_array_equal(image.reshape(1797, 64), digits.arrays["features"])


def test_digits_are_those_of_scikit_learn(tmp_path):
    pytest.importorskip("sklearn")
    ours = load("embedded", ["digits"], {}, tmp_path)
    theirs = load("sklearn", ["digits"], {}, tmp_path)
    assert list(ours.arrays) == list(theirs.arrays)
    assert ours.classes == theirs.classes
    for name, array in ours.arrays.items():
        assert array.dtype == theirs.arrays[name].dtype
        np.testing.assert_array_equal(array, theirs.arrays[name])


def test_diabetes_is_scikit_learns(tmp_path):
    pytest.importorskip("sklearn")
    mine = load("embedded", ["diabetes"], {}, tmp_path).arrays
    theirs = load("sklearn", ["diabetes"], {}, tmp_path).arrays
    for name in ("features", "target"):
        assert mine[name].dtype == np.float32
        np.testing.assert_array_equal(mine[name], theirs[name])


def test_ring(tmp_path):
    ring = load("embedded", ["ring"], {}, tmp_path)
    point, mode = ring.arrays["point"], ring.arrays["mode"]
    assert (point.dtype, point.shape, mode.dtype) == (np.float32, (8192, 2), np.int64)
    for k in range(8):
        own = point[mode == k]
        centre = np.array([np.cos(k * np.pi / 4), np.sin(k * np.pi / 4)])
        np.testing.assert_allclose(own.mean(axis=0), centre, atol=0.01)
        np.testing.assert_allclose(own.std(axis=0), 0.05, rtol=0.1)
    # The same bytes everywhere.
    assert (
        hashlib.md5(point.astype("<f4").tobytes()).hexdigest() == "fec433bd8749318be961bc15562e5d33"
    )


def test_scenes(tmp_path):
    scenes = load("embedded", ["scenes"], {}, tmp_path)
    assert {name: (a.dtype.name, a.shape) for name, a in scenes.arrays.items()} == {
        "image": ("float32", (4000, 1, 32, 32)),
        "label": ("int64", (4000, 32, 32)),
        "boxes": ("float32", (4000, 3, 4)),
        "classes": ("int64", (4000, 3)),
        "present": ("bool", (4000, 3)),
        "masks": ("bool", (4000, 3, 32, 32)),
    }
    names = tuple("0123456789")
    assert scenes.classes == {"label": ("background", *names), "classes": names}
    image, label = scenes.arrays["image"][:, 0], scenes.arrays["label"]
    masks, present, classes = (scenes.arrays[n] for n in ("masks", "present", "classes"))
    assert set(present.sum(axis=1)) == {1, 2, 3}
    np.testing.assert_array_equal(masks.any(axis=(2, 3)), present)
    assert masks.sum(axis=1).max() == 1  # no pixel belongs to two digits
    np.testing.assert_array_equal(label > 0, masks.any(axis=1))
    for digit in range(3):
        own = masks[:, digit]
        np.testing.assert_array_equal(label[own], 1 + classes[np.nonzero(own)[0], digit])
    assert np.bincount(classes[present]).min() > 600
    assert not classes[~present].any()
    assert image.min() == 0
    assert image.max() == 1
    assert image[label > 0].min() >= 0.5
    # The same bytes everywhere.
    assert (
        hashlib.md5(image.astype("<f4").tobytes()).hexdigest() == "98982f1d44c0db9368541850c3cc6e24"
    )


def test_boxes_of_scenes_are_around_their_masks(tmp_path):
    scenes = load("embedded", ["scenes"], {}, tmp_path).arrays
    assert not scenes["boxes"][~scenes["present"]].any()
    for scene, digit in np.argwhere(scenes["present"])[:200]:
        rows, columns = np.nonzero(scenes["masks"][scene, digit])
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        expected = [(left + right) / 2, (top + bottom) / 2, bottom - top, right - left]
        assert scenes["boxes"][scene, digit].tolist() == expected


@pytest.mark.parametrize("name", SKLEARN)
def test_sklearn(name, tmp_path):
    pytest.importorskip("sklearn")
    data = load("sklearn", [name], {}, tmp_path)
    assert data.arrays["features"].dtype == np.float32
    assert data.arrays["features"].ndim == 2
    target = data.arrays["target"]
    if name == "diabetes":
        assert target.dtype == np.float32
        assert not data.classes
    else:
        assert target.dtype == np.int64
        assert len(data.classes["target"]) == target.max() + 1


def test_sklearn_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = fails("sklearn", "iris", base=tmp_path)
    assert "needs scikit-learn" in message
    assert "weft[data]" in message


def test_names_are_suggested(tmp_path):
    assert "did you mean `digits`?" in fails("embedded", "digit", base=tmp_path)
    assert 'sklearn("iris")' in fails("embedded", "iris", base=tmp_path)
    assert "did you mean `diabetes`?" in fails("sklearn", "diabtes", base=tmp_path)
    assert "did you mean `sklearn`?" in fails("sklern", "iris", base=tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "options", "expected"),
    [
        ("npz", [], {}, "does not say which data"),
        ("npy", [], {}, "does not say which data"),
        ("npz", ["a", "b"], {}, "takes 1 unnamed"),
        ("npy", ["a"], {}, "takes no unnamed"),
        ("npz", ["a"], {"path": "b"}, "`path` twice"),
        ("csv", ["a"], {"delimeter": ";"}, "did you mean `delimiter`?"),
        ("csv", ["a"], {"delimiter": 3}, "must be text"),
        ("embedded", [3], {}, "must be text"),
        ("embedded", ["digits"], {"window": 8}, "`digits` is no text"),
        ("embedded", ["manual"], {"window": 0}, "`window` is a number of characters"),
        ("text", [], {}, "does not say which data"),
        ("text", ["a"], {"window": "8"}, "must be a whole number"),
        ("text", ["a"], {"window": True}, "must be a whole number"),
        ("text", ["a"], {"window": 8.0}, "must be a whole number"),
        ("text", ["a"], {"windows": 8}, "did you mean `window`?"),
    ],
)
def test_wrong_arguments(name, arguments, options, expected, tmp_path):
    assert expected in fails(name, *arguments, base=tmp_path, **options)


def test_the_table_shows_how_to_write_each():
    for name, source in SOURCES.items():
        assert source.usage.startswith(f"{name}(")
        assert source.summary


# -- text


def spelled(data, name, row):
    return "".join(data.classes[name][number] for number in data.arrays[name][row])


def test_text_is_windows_over_its_own_alphabet(tmp_path):
    file = write(tmp_path, "t.txt", "\ufeffbadé cab\r\nbee\rz")
    data = load("text", [file], {"window": 4}, tmp_path)
    assert data.classes == dict.fromkeys(("characters", "next"), tuple("\n abcdezé"))
    assert [a.dtype for a in data.arrays.values()] == [np.int64] * 2
    assert [spelled(data, "characters", i) for i in range(data.size)] == ["badé", " cab", "\nbee"]
    assert [spelled(data, "next", i) for i in range(data.size)] == ["adé ", "cab\n", "bee\n"]
    whole = load("text", [file], {"window": 13}, tmp_path)
    assert spelled(whole, "next", 0) == "adé cab\nbee\nz"


@given(st.text(min_size=2, max_size=60), st.integers(1, 20))
def test_every_character_of_a_text_is_predicted_once(tmp_path_factory, text, window):
    folder = tmp_path_factory.mktemp("text")
    plain = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    file = write(folder, "t.txt", text)
    if len(plain) <= window:
        assert "too short" in fails("text", file, window=window, base=folder)
        return
    data = load("text", [file], {"window": window}, folder)
    end = (len(plain) - 1) // window * window
    rows = range(data.size)
    assert "".join(spelled(data, "characters", i) for i in rows) == plain[:end]
    assert "".join(spelled(data, "next", i) for i in rows) == plain[1 : end + 1]
    assert list(data.classes["next"]) == sorted(set(plain))


def test_a_text_is_split_in_its_order(tmp_path):
    file = write(tmp_path, "t.txt", "".join(chr(97 + i // 10) for i in range(201)))
    data = load("text", [file], {"window": 2}, tmp_path)
    assert data.ordered
    parts = split(data.size, {"train": 0.5, "valid": 0.3, "test": 0.2}, "t", data.ordered)
    rows = [part.rows().tolist() for part in parts.values()]
    assert rows == [list(range(50)), list(range(50, 80)), list(range(80, 100))]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "`t.txt` is empty"),
        (b"four", "at least 5 characters"),
        (b"one line\nand \xff another", "the byte 0xff at position 13, in line 2"),
        (b"cut \xc3", "the byte 0xc3 at position 4, in line 1"),
        ("wide".encode("utf-16"), "a mark of UTF-16 at its start"),
    ],
)
def test_text_errors(content, expected, tmp_path):
    message = fails("text", write(tmp_path, "t.txt", content), window=4, base=tmp_path)
    assert "`t.txt`" in message
    assert expected in message
    assert "did you mean `t.txt`?" in fails("text", "t.tx", base=tmp_path)


def test_the_manual_is_printable_english(tmp_path):
    data = load("embedded", ["manual"], {}, tmp_path)
    assert data.classes["next"] == tuple(PRINTABLE)
    assert len(PRINTABLE) == 96
    assert data.arrays["characters"].shape[1] == 64
    assert data.size > 5000
    text = "".join(spelled(data, "characters", i) for i in range(data.size))
    assert text.count(" the ") > 3000
    again = load("embedded", ["manual"], {}, tmp_path)
    np.testing.assert_array_equal(data.arrays["next"], again.arrays["next"])


def test_a_python_without_its_manual(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    message = fails("embedded", "manual", base=tmp_path)
    assert "comes without its manual" in message
    assert 'text("file.txt")' in message
