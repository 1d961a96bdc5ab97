"""Data: sources and their errors, splits, batches."""

import hashlib
import io
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.compiler.errors import RunError
from weft.runtime.data import tables
from weft.runtime.data.batches import BatchPlan, gather, sweep
from weft.runtime.data.sources import SKLEARN, SOURCES, load
from weft.runtime.data.splits import Part, split
from weft.runtime.data.text import PRINTABLE


def fails(name, *arguments, base, **options):
    """The message of the RunError that loading gives."""
    with pytest.raises(RunError) as caught:
        load(name, arguments, options, base)
    return str(caught.value)


def write(folder, name, text):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


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


# -- NumPy files


def test_npz(tmp_path):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "d.npz", x=x, y=np.array(["b", "a", "b"]), z=np.arange(3, dtype=">i2"))
    data = load("npz", ["d.npz"], {}, tmp_path)
    np.testing.assert_array_equal(data.arrays["x"], x)
    assert data.arrays["y"].tolist() == [1, 0, 1]
    assert data.classes == {"y": ("a", "b")}
    assert data.arrays["z"].dtype == np.int32
    assert data.arrays["z"].tolist() == [0, 1, 2]


def test_npy_stays_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    np.save(tmp_path / "y.npy", np.array([b"u", b"v", b"u", b"w"]))
    data = load("npy", [], {"x": "x.npy", "y": "y.npy"}, tmp_path)
    assert isinstance(data.arrays["x"], np.memmap)
    assert data.arrays["x"].dtype == np.float64
    assert data.arrays["y"].tolist() == [0, 1, 0, 2]
    assert data.classes == {"y": ("u", "v", "w")}


def test_absolute_paths(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(2))
    assert load("npy", [], {"x": str(tmp_path / "x.npy")}, tmp_path / "no").size == 2


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_pickles_are_refused(kind, tmp_path):
    path = tmp_path / f"d.{kind}"
    objects = np.array([_Bomb(), _Bomb()], dtype=object)
    if kind == "npz":
        np.savez(path, x=objects)
        message = fails("npz", path.name, base=tmp_path)
    else:
        np.save(path, objects, allow_pickle=True)
        message = fails("npy", base=tmp_path, x=path.name)
    assert "pickled Python objects" in message


@pytest.mark.parametrize("array", [np.ones(2, complex), np.zeros(2, "M8[s]"), np.zeros(2, "i4,f4")])
def test_types_without_a_meaning_are_refused(array, tmp_path):
    np.savez(tmp_path / "d.npz", x=array)
    assert "type that Weft does not read" in fails("npz", "d.npz", base=tmp_path)


def test_lengths_that_differ(tmp_path):
    np.savez(tmp_path / "d.npz", a=np.ones(3), b=np.ones(3), c=np.ones(4))
    message = fails("npz", "d.npz", base=tmp_path)
    assert "`a` and `c`" in message
    assert "3 in `a`, 4 in `c`" in message


def test_no_examples_no_arrays_single_values(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((0, 3)))
    np.savez(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=np.float32(3))
    assert "has no examples" in fails("npz", "a.npz", base=tmp_path)
    assert "holds no arrays" in fails("npz", "b.npz", base=tmp_path)
    assert "is a single value" in fails("npz", "c.npz", base=tmp_path)


def test_missing_files(tmp_path):
    write(tmp_path, "train.csv", "a\n1\n")
    (tmp_path / "folder").mkdir()
    assert "did you mean `train.csv`?" in fails("csv", "trian.csv", base=tmp_path)
    assert "relative to the folder of the spec" in fails("csv", "zzz", base=tmp_path)
    assert "no folder" in fails("csv", "no/train.csv", base=tmp_path)
    assert "is a folder" in fails("csv", "folder", base=tmp_path)
    assert "error" in fails("csv", "a\0b", base=tmp_path)
    assert "error" in fails("csv", "x" * 5000, base=tmp_path)


def _archive():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(1000), y=np.arange(1000))
    return buffer.getvalue()


@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=50).map(lambda b: b"\x93NUMPY\x01\x00" + b),
        st.integers(0, 3000).map(lambda n: _archive()[:n]),
        st.tuples(st.integers(0, 3000), st.integers(1, 255)).map(
            lambda change: bytes(
                byte ^ (change[1] if i == change[0] else 0) for i, byte in enumerate(_archive())
            )
        ),
        st.text(alphabet='a1,;"\n\r\t -.', max_size=60).map(str.encode),
    )
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["npz", "npy", "csv"])
def test_damaged_files_give_data_or_a_run_error(kind, content, tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    write(base, "damaged", content)
    arguments, options = ([], {"x": "damaged"}) if kind == "npy" else (["damaged"], {})
    try:
        data = load(kind, arguments, options, base)
    except RunError:
        return
    assert data.size > 0


def test_an_archive_without_arrays_inside(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as file:
        file.writestr("readme.txt", "hello")
    assert "error" in fails("npz", "d.npz", base=tmp_path)


# -- CSV


TABLE = """\
age, sepal length (cm), species, city
31, 5.1, "setosa", Köln
40, , virginica, "a, b"

22, nan, setosa, Köln
"""


def test_csv(tmp_path):
    write(tmp_path, "t.csv", "\ufeff" + TABLE)
    data = load("csv", ["t.csv"], {}, tmp_path)
    assert list(data.arrays) == ["age", "sepal_length_cm", "species", "city"]
    assert data.arrays["age"].dtype == np.int64
    np.testing.assert_array_equal(data.arrays["sepal_length_cm"], [5.1, np.nan, np.nan])
    assert data.arrays["species"].tolist() == [0, 1, 0]
    assert data.classes == {"species": ("setosa", "virginica"), "city": ("Köln", "a, b")}


def test_csv_target(tmp_path):
    write(tmp_path, "t.csv", "a\tb\tkind\n1\t2.5\tx\n3\t4\ty\n")
    data = load("csv", ["t.csv"], {"delimiter": "tab", "target": "kind"}, tmp_path)
    assert data.arrays["features"].dtype == np.float32
    assert data.arrays["features"].tolist() == [[1, 2.5], [3, 4]]
    assert data.arrays["target"].tolist() == [0, 1]
    assert data.classes == {"target": ("x", "y")}


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        ("a,b\n", {}, "no examples"),
        ("1,2\n3,4\n", {}, "names the columns"),
        ("a,a\n1,2\n", {}, "the name `a`"),
        ("a,b\n1,2\n3\n", {}, "line 3 of `t.csv` has 1 values"),
        ("a,b\n\n1,2\n\n\n3\n", {}, "line 6 of `t.csv` has 1 values"),
        ('a,b\n"x\ny",2\n3\n', {}, "line 4 of `t.csv` has 1 values"),
        ('a,b\n1,2\n"x\ny"\n', {}, "line 3 of `t.csv` has 1 values"),
        ("a\n1,2\n", {}, "is `delimiter` what"),
        ("a;b\n1;2\n", {}, 'delimiter = ";"'),
        ("a\tb\n1\t2\n", {}, 'delimiter = "tab"'),
        ('a,b\n1,"2\n', {}, "not a CSV file"),
        (b"a,b\n1,\xff\n", {}, "not text in UTF-8"),
        ("a,b\n1,2\n", {"delimiter": ",,"}, "one character"),
        ("a,b\n1,2\n", {"target": "c"}, "no column `c`"),
        ("a,b\nx,2\n", {"target": "b"}, "text in `a`"),
        ("b\n2\n", {"target": "b"}, "no other column"),
    ],
)
def test_csv_errors(text, options, expected, tmp_path):
    write(tmp_path, "t.csv", text)
    assert expected in fails("csv", "t.csv", base=tmp_path, **options)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (["1", "2"], np.int64, [1, 2]),
        (["1", "2.5"], np.float64, [1, 2.5]),
        (["1", "1e3"], np.float64, [1, 1000]),
        (["99999999999999999999", "0"], np.float64, [1e20, 0]),
        (["1_000", "2"], np.int64, [0, 1]),
        (["0x10", "2"], np.int64, [0, 1]),
        (["b", "a"], np.int64, [1, 0]),
    ],
)
def test_csv_kinds_of_columns(values, dtype, expected, tmp_path):
    write(tmp_path, "t.csv", "v\n" + "\n".join(values) + "\n")
    (array,) = load("csv", ["t.csv"], {}, tmp_path).arrays.values()
    assert array.dtype == dtype
    assert array.tolist() == expected


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2", "2.5", "x"]), st.sampled_from(["7", "", "y", "0.5"])),
        min_size=1,
        max_size=12,
    )
)
def test_csv_chunks_make_no_difference(tmp_path_factory, rows):
    base = tmp_path_factory.getbasetemp()
    write(base, "t.csv", "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
    whole = load("csv", ["t.csv"], {}, base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_CHUNK", 2)
        pieces = load("csv", ["t.csv"], {}, base)
    assert whole.classes == pieces.classes
    for name, array in whole.arrays.items():
        assert array.dtype == pieces.arrays[name].dtype
        np.testing.assert_array_equal(array, pieces.arrays[name])


# -- splits


@given(size=st.integers(3, 500), cut=st.integers(1, 98), name=st.sampled_from(["a", "digits"]))
def test_splits_are_disjoint_and_cover(size, cut, name):
    fractions = {"train": cut / 100, "rest": (100 - cut) / 100}
    try:
        parts = split(size, fractions, name)
    except RunError:
        assert min(fractions.values()) * size < 1
        return
    rows = np.concatenate([part.rows() for part in parts.values()])
    np.testing.assert_array_equal(np.sort(rows), np.arange(size))
    for part, fraction in fractions.items():
        assert abs(parts[part].size - fraction * size) < 1


def test_split_sizes_by_largest_remainder():
    parts = split(1797, {"train": 0.8, "valid": 0.1, "test": 0.1}, "digits")
    assert {name: part.size for name, part in parts.items()} == {
        "train": 1437,
        "valid": 180,
        "test": 180,
    }
    assert [p.size for p in split(1000, {"a": 0.7, "b": 0.2, "c": 0.1}, "d").values()] == [
        700,
        200,
        100,
    ]


def test_split_is_fixed_by_the_name():
    fractions = {"train": 0.8, "test": 0.2}
    first, again, other = (split(500, fractions, name) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first["test"].rows(), again["test"].rows())
    assert set(first["test"].rows()) != set(other["test"].rows())


def test_split_by_counts():
    parts = split(100, {"train": 60, "test": 30}, "d")
    rows = np.concatenate([part.rows() for part in parts.values()])
    assert [part.size for part in parts.values()] == [60, 30]
    assert len(set(rows.tolist())) == 90


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, "names no parts"),
        ({"train": 0.8, "test": 0.1}, "90%"),
        ({"train": 0.99, "test": 0.01}, "`test` of `d` would be empty"),
        ({"train": 10, "test": 0}, "`test` of `d` would be empty"),
        ({"train": 1.5, "test": -0.5}, "is negative"),
        ({"train": float("nan"), "test": 0.5}, "is negative"),
        ({"train": 8, "test": 0.2}, "mixes"),
        ({"train": 8, "test": 3}, "at most 10"),
    ],
)
def test_split_errors(parts, expected):
    with pytest.raises(RunError) as caught:
        split(10, parts, "d")
    assert expected in str(caught.value)


# -- batches


@given(
    size=st.integers(1, 200),
    batch=st.integers(1, 64),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_an_epoch_sees_each_row_once(size, batch, shuffle, drop_last):
    if drop_last and size < batch:
        return
    plan = BatchPlan(Part(size), batch, shuffle, 1, "d.order", drop_last)
    steps = plan.steps_per_epoch
    assert steps == (size // batch if drop_last else -(-size // batch))
    for epoch in (0, 3):
        batches = [plan.indices(epoch * steps + i) for i in range(steps)]
        assert [len(b) for b in batches] == [plan.size(i) for i in range(steps)]
        assert all(len(b) == batch for b in batches[:-1])
        rows = np.concatenate(batches)
        assert len(set(rows.tolist())) == len(rows) == (steps * batch if drop_last else size)
        assert rows.max() < size
        if not shuffle:
            np.testing.assert_array_equal(rows, np.arange(len(rows)))


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=30))
def test_steps_may_be_asked_in_any_order(steps):
    part = split(50_000, {"train": 0.9, "test": 0.1}, "d")["train"]
    plan = BatchPlan(part, 64, True, 3, "d.order")
    for step in steps:
        fresh = BatchPlan(part, 64, True, 3, "d.order").indices(step)
        np.testing.assert_array_equal(plan.indices(step), fresh)
        assert plan.place(step) == divmod(step, 704)


def test_epochs_and_seeds_differ_and_rows_belong_to_the_part():
    part = split(300, {"train": 0.5, "test": 0.5}, "d")["train"]
    plan, other = (BatchPlan(part, 150, True, seed, "d.order") for seed in (0, 1))
    first = plan.indices(0)
    assert set(first.tolist()) == set(part.rows().tolist())
    assert first.tolist() != plan.indices(1).tolist() != other.indices(0).tolist()


def test_indices_cannot_be_spoilt():
    indices = BatchPlan(Part(10), 4, False, 0, "d").indices(0)
    with pytest.raises(ValueError, match="read-only"):
        indices[0] = 5


def test_batch_errors():
    with pytest.raises(RunError, match="drop every batch"):
        BatchPlan(Part(10), 11, True, 0, "d", drop_last=True)
    with pytest.raises(RunError, match="at least one"):
        BatchPlan(Part(10), 0, True, 0, "d")


def test_sweep():
    part = split(10, {"a": 7, "b": 3}, "d")["a"]
    batches = list(sweep(part, 3))
    assert [len(b) for b in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), part.rows())


def test_gather(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(20.0).reshape(10, 2))
    arrays = load("npy", [], {"x": "x.npy"}, tmp_path).arrays
    rows = np.array([7, 0, 7])
    expected = [[14, 15], [0, 1], [14, 15]]
    taken = gather(arrays, rows)["x"]
    assert type(taken) is np.ndarray
    assert taken.tolist() == expected
    for dtype in (np.float64, np.float32):
        out = {"x": np.full((4, 2), -1, dtype)}
        taken = gather(arrays, rows, out)["x"]
        assert taken.base is out["x"]
        assert taken.tolist() == expected
        assert out["x"][3].tolist() == [-1, -1]
