"""Data from NumPy files and CSV: what is read, and each way it can fail."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources import fails, write
from weft.compiler.errors import RunError
from weft.runtime.data import tables
from weft.runtime.data.sources import load

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
