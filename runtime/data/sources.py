"""The table of data sources: what a spec may write after `source =`, and what reads it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from weft.compiler.errors import RunError, did_you_mean, one_of
from weft.runtime.data.columns import Array, Columns, columns
from weft.runtime.data.embedded import EMBEDDED
from weft.runtime.data.tables import read_csv
from weft.runtime.data.text import TEXTS, read_text, windows

WINDOW = 64  # characters of an example of text, unless the spec says otherwise
SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")

# What NumPy and zipfile raise over the bytes of a damaged file.
FAULTS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    TokenError,
    EOFError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Source:
    """One way to name data: how a spec writes it, its options, and its reader.

    `options` are the names it takes, the required ones first; None means that every keyword is
    the name of a field. They are texts, but for the whole `numbers`. `read` gets the folder of the
    spec and the options by name.
    """

    usage: str
    summary: str
    options: tuple[str, ...] | None
    required: int
    read: Callable[[Path, Mapping[str, Any]], Columns]
    numbers: frozenset[str] = frozenset()


def load(
    name: str, arguments: Sequence[object], options: Mapping[str, object], base: Path
) -> Columns:
    """The data that `name(*arguments, **options)` names, relative paths being seen from `base`.

    Raises RunError when there is no such source, option, file or package, or when the file cannot
    be read as data.
    """
    if name not in SOURCES:
        raise RunError(
            f"there is no data source `{name}`",
            expected=one_of(SOURCES),
            hint=did_you_mean(name, SOURCES),
        )
    source = SOURCES[name]
    return source.read(base, _bind(name, source, arguments, options))


def _bind(
    name: str, source: Source, arguments: Sequence[object], options: Mapping[str, object]
) -> dict[str, Any]:
    """The options by name; RunError for one too many, too few, unknown or of a wrong type."""
    known = source.options or ()
    if len(arguments) > source.required:
        raise RunError(
            f"`{name}` takes {source.required or 'no'} unnamed arguments",
            expected=f"`{source.usage}`",
            found=f"{len(arguments)}",
        )
    bound = dict(zip(known, arguments, strict=False))
    for key, value in options.items():
        if key in bound or (source.options is not None and key not in known):
            raise RunError(
                f"`{name}` has `{key}` twice"
                if key in bound
                else f"`{name}` has no option `{key}`",
                expected=f"`{source.usage}`",
                hint=None if key in bound else did_you_mean(key, known),
            )
        bound[key] = value
    missing = [key for key in known[: source.required] if key not in bound]
    if missing or not bound:
        raise RunError(f"`{name}` does not say which data to read", expected=f"`{source.usage}`")
    for key, value in bound.items():
        kind, wanted = (int, "a whole number") if key in source.numbers else (str, "text")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RunError(f"`{key}` of `{name}` must be {wanted}", expected=f"`{source.usage}`")
    return bound


def _embedded(base: Path, options: Mapping[str, Any]) -> Columns:
    name, known = options["name"], (*EMBEDDED, *TEXTS)
    if name not in known:
        raise RunError(
            f"no data set `{name}` is embedded",
            expected=one_of(known),
            hint=f'`sklearn("{name}")` has it' if name in SKLEARN else did_you_mean(name, known),
        )
    if name in TEXTS:
        text, alphabet = TEXTS[name]
        return windows(text(), alphabet, options.get("window", WINDOW), f"`{name}`")
    if "window" in options:
        raise RunError(
            f"`{name}` is no text, which a `window` could go along",
            expected=f'`embedded("{name}")`',
        )
    return EMBEDDED[name]()


def _sklearn(base: Path, options: Mapping[str, Any]) -> Columns:
    """Fields: features f32 (D), target (i64 classes, or f32 for `diabetes`), image for `digits`."""
    name = options["name"]
    if name not in SKLEARN:
        raise RunError(
            f"there is no scikit-learn data set `{name}` here",
            expected=one_of(SKLEARN),
            hint=did_you_mean(name, SKLEARN),
        )
    try:
        from sklearn import datasets
    except ImportError as error:
        raise RunError(
            f'`sklearn("{name}")` needs scikit-learn, which is not installed',
            hint='`pip install "weft[data]"`',
        ) from error
    data = getattr(datasets, f"load_{name}")()
    arrays: dict[str, Array] = {"features": data.data.astype(np.float32)}
    if name == "digits":
        arrays["image"] = data.images.astype(np.float32)[:, None]
    if "target_names" not in data:
        return Columns({**arrays, "target": data.target.astype(np.float32)})
    classes = tuple(str(title) for title in data.target_names)
    return Columns({**arrays, "target": data.target.astype(np.int64)}, {"target": classes})


def _npz(base: Path, options: Mapping[str, Any]) -> Columns:
    path = find(base, options["path"])
    with _readable(path, "a NumPy `.npz` file"):
        if not zipfile.is_zipfile(path):
            raise ValueError("not an archive of arrays")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        strange = next((name for name, a in arrays.items() if not isinstance(a, np.ndarray)), None)
        if strange is not None:
            raise ValueError(f"`{strange}` in it is not an array")
    return columns(arrays, f"`{path.name}`")


def _npy(base: Path, options: Mapping[str, Any]) -> Columns:
    arrays: dict[str, Array] = {}
    for name, file in options.items():
        path = find(base, file)
        with _readable(path, "a NumPy `.npy` file"):
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(stored, np.ndarray):
                raise ValueError("an archive of several arrays, which `npz` reads")
        arrays[name] = stored
    return columns(arrays, " and ".join(f"`{file}`" for file in options.values()))


def _csv(base: Path, options: Mapping[str, Any]) -> Columns:
    path = find(base, options["path"])
    with _readable(path, "a CSV file", (OSError,)):
        return read_csv(path, delimiter=options.get("delimiter", ","), target=options.get("target"))


def _text(base: Path, options: Mapping[str, Any]) -> Columns:
    path = find(base, options["path"])
    with _readable(path, "a text in UTF-8", (OSError,)):
        return read_text(path, options.get("window", WINDOW))


SOURCES: Mapping[str, Source] = {
    "embedded": Source(
        'embedded("digits")',
        "data that comes with Weft",
        ("name", "window"),
        1,
        _embedded,
        frozenset({"window"}),
    ),
    "sklearn": Source('sklearn("diabetes")', "scikit-learn's own data", ("name",), 1, _sklearn),
    "npz": Source('npz("file.npz")', "the arrays of a NumPy archive", ("path",), 1, _npz),
    "npy": Source(
        'npy(x = "x.npy", y = "y.npy")', "NumPy files, left on disk (memory-mapped)", None, 0, _npy
    ),
    "csv": Source(
        'csv("file.csv", delimiter = ",", target = "column")',
        "a table with column names",
        ("path", "delimiter", "target"),
        1,
        _csv,
    ),
    "text": Source(
        'text("file.txt", window = 64)',
        "windows of characters, as class numbers",
        ("path", "window"),
        1,
        _text,
        frozenset({"window"}),
    ),
}


def find(base: Path, name: str) -> Path:
    """The file `name`, seen from the folder `base`; RunError when there is none."""
    path = base / name
    try:
        if path.is_file():
            return path
        if path.is_dir():
            raise RunError(f"`{name}` is a folder", expected="a file")
        folder = path.parent
        if not folder.is_dir():
            raise RunError(
                f"there is no file `{name}`",
                found=f"no folder `{normpath(folder)}`",
                hint="a path is relative to the folder of the spec",
            )
        files = [entry.name for entry in folder.iterdir() if entry.is_file()]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise RunError(f"`{name}` cannot be looked for", found=_reason(error)) from error
    close = did_you_mean(path.name, files)
    raise RunError(
        f"there is no file `{name}`",
        expected=f"a file in `{normpath(folder)}`",
        hint=close or "a path is relative to the folder of the spec",
    )


@contextmanager
def _readable(
    path: Path, expected: str, faults: tuple[type[Exception], ...] = FAULTS
) -> Iterator[None]:
    """Turns what goes wrong while a file is read into a RunError that says what was expected."""
    try:
        if not path.stat().st_size:
            raise RunError(f"`{path.name}` is empty", expected=expected)
        yield
    except faults as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise RunError(
                f"`{path.name}` holds pickled Python objects",
                expected="arrays of numbers, booleans or text",
                hint="loading those could run any code: save the data as plain arrays",
            ) from error
        raise RunError(
            f"`{path.name}` cannot be read", expected=expected, found=_reason(error)
        ) from error


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.splitlines()[0] if text else type(error).__name__
