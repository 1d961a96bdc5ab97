"""Text as examples: windows of characters, each character the number of its class.

text "abcdefgh", window 3       characters  next
                                abc         bcd
                                def         efg
"""

from __future__ import annotations

import string
from importlib import import_module
from pathlib import Path

import numpy as np

from weft.compiler.errors import RunError
from weft.runtime.data.columns import Columns

PRINTABLE = "\n" + "".join(sorted(string.digits + string.ascii_letters + string.punctuation + " "))
_PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--"}
    | {"\u2026": "...", "\u00a0": " "}
)


def windows(text: str, alphabet: str, window: int, where: str) -> Columns:
    """The windows of a text: fields `characters` and `next`, both i64 (window).

    Class i is character i of the alphabet, which is sorted and has all of the text. `next` holds
    the character after each of `characters`. Windows lie end to end, so every character is in one
    of them alone, and is what comes next in one alone; what doesn't fill the last window is left
    out. The examples keep the text's order, and splits cut it in pieces. `where` names the text in
    errors.

    Raises RunError for a window of no characters, and for a text that doesn't fill one.
    """
    if window < 1:
        raise RunError(
            "`window` is a number of characters", expected="1 or more", found=f"{window}"
        )
    count = (len(text) - 1) // window
    if count < 1:
        raise RunError(
            f"{where} is too short for a `window` of {window} characters",
            expected=f"at least {window + 1} characters, the last of which is only predicted",
            found=f"{len(text)}",
        )
    numbers = np.searchsorted(_codes(alphabet), _codes(text)).astype(np.int64)
    end = count * window
    arrays = {
        "characters": numbers[:end].reshape(count, window),
        "next": numbers[1 : end + 1].reshape(count, window),
    }
    return Columns(arrays, dict.fromkeys(arrays, tuple(alphabet)), ordered=True)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def alphabet_of(text: str) -> str:
    """The different characters of a text, sorted by code point."""
    return "".join(sorted(set(text)))


def decoded(content: bytes, where: str) -> str:
    """The text of a UTF-8 file, with `\\n` at the end of every line and no byte order mark.

    Raises RunError, with the place, for bytes that are no UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        raise RunError(
            f"{where} is not UTF-8 text",
            expected="UTF-8",
            found="a mark of UTF-16 at its start"
            if utf_16
            else f"the byte 0x{content[error.start]:02x} at position {error.start}, in line {line}",
            hint="save the file as UTF-8",
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path, window: int) -> Columns:
    """The windows of a file over its own alphabet; see `windows`. Raises RunError, OSError."""
    where = f"`{path.name}`"
    text = decoded(path.read_bytes(), where)
    return windows(text, alphabet_of(text), window, where)


def manual() -> str:
    """The reference manual of the Python that runs: the topics of its `help()`, by their names.

    English prose and code, about 460,000 characters; each version of Python has its own. Quotes and
    dashes become those of ASCII; what then is not in `PRINTABLE` is left out.

    Raises RunError where Python comes without the module `pydoc_data.topics`.
    """
    try:
        topics = import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise RunError(
            "this Python comes without its manual, the module `pydoc_data.topics`",
            expected="a full installation of Python's standard library",
            hint='`text("file.txt")` reads a text of yours',
        ) from error
    text = "\n\n".join(topics[name].strip() for name in sorted(topics)).translate(_PLAIN)
    return "".join(c for c in text if c in PRINTABLE)


TEXTS = {"manual": (manual, PRINTABLE)}
