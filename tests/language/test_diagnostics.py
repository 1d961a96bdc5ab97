"""Broken specs and what is said of each: at the right place, in plain words, with a way on.

`broken/NAME.weft` opens with what is wrong with it and the text that the caret must be under:

    # A misspelt activation.
    # caret: rleu

("end of line" where it points behind a line, "nowhere" for a `# set: key = value` from outside.)
The messages are in `golden/broken`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from goldens import Golden
from weft.compiler.errors import CompileError, Diagnostic, Note, did_you_mean
from weft.frontends.dsl.elsewhere import ARGUMENTS, FUNCTIONS, SETTINGS, TYPES
from weft.frontends.dsl.modules import library
from weft.frontends.dsl.parser import read_source
from weft.frontends.dsl.signatures import STATIC_TYPES, TENSOR_TYPES
from weft.frontends.dsl.training.block import KEYS
from weft.runtime.loading import load_spec

BROKEN = Path(__file__).parent / "broken"
NAMES = sorted(path.stem for path in BROKEN.glob("*.weft"))

START = 'data d {\n  source = embedded("digits")\n  x: f32[64] = features\n}\n'
GENERATED: dict[str, bytes] = {
    "empty": b"",
    "blank": b"\n\n   \n",
    "only_comments": b"# Nothing here yet.\n",
    "binary": b"\x7fELF\x02\x01\x01\x00\x00\x00" * 20,
    "zip": b"PK\x03\x04\x14\x00\x08\x08\xff\xfe" * 20,
    "latin_1": "data d {\n  # gr\u00f6\u00dfer\n}\n".encode("latin-1"),
    "utf_16": "data d {\n}\n".encode("utf-16"),
    "nul_in_text": (START + "let a = 1\0\n").encode(),
    "nul_in_string": b'import "layers\0.weft"\n',
    "windows_lines": (START + "let a = relu(\n  b ]\n").replace("\n", "\r\n").encode(),
    "old_mac_lines": (START + "let a = = 1\n").replace("\n", "\r").encode(),
    "byte_order_mark": b"\xef\xbb\xbf" + b"lett a = 1\n",
    "long_line": ("let a = " + "1 + " * 2000 + "* 2" + " + 1" * 2000 + "\n").encode(),
    "deep_parentheses": ("let a = " + "(" * 5000 + "1" + ")" * 5000 + "\n").encode(),
    "deep_lists": ("let a = " + "[" * 5000 + "]" * 5000 + "\n").encode(),
    "deep_signs": ("let a = " + "-" * 5000 + "1\n").encode(),
    "deep_powers": ("let a = " + "^".join(["2"] * 5000) + "\n").encode(),
    "deep_blocks": ("fn f(x) {\n" + "if true {\n" * 5000 + "x\n" + "}\n" * 5001).encode(),
    "deep_else": ("fn f(x) = " + "if false { 1 } else " * 5000 + "{ 2 }\n").encode(),
    "deep_pipes": ("fn f(x) = x" + " |> relu" * 5000 + "\n").encode(),
    "long_number": ("let a = " + "9" * 5000 + "\n").encode(),
    "long_name": (START + "let a = " + "b" * 5000 + " +\n").encode(),
    "infinite_number": b"let a = 1e999\n",
    "unclosed_at_the_end": (START + "train {\n  data = d.batch(").encode(),
}


@pytest.fixture(autouse=True)
def _beside_the_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN)


def diagnose(path: Path, overrides: dict[str, str] | None = None) -> Diagnostic:
    """The error of a spec, or its first warning."""
    try:
        loaded = load_spec(read_source(path), path.parent, overrides)
    except CompileError as error:
        return error.diagnostic
    assert loaded.warnings, "nothing is said of this spec"
    return loaded.warnings[0]


def header(path: Path) -> dict[str, list[str]]:
    """What the comments at the top of a broken spec say of it."""
    found: dict[str, list[str]] = {"caret": [], "set": []}
    for line in path.read_text().splitlines():
        key, colon, value = line.removeprefix("# ").partition(": ")
        if line.startswith("# ") and colon and key in found:
            found[key].append(value)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_broken_spec(name: str, golden: Golden) -> None:
    path = Path(f"{name}.weft")
    said = header(path)
    overrides = dict(text.split(" = ") for text in said["set"])
    diagnostic = diagnose(path, overrides)
    assert pointed_at(diagnostic) == said["caret"][0]
    check_place(diagnostic, outside=bool(overrides))
    check_words(diagnostic)
    golden(f"broken/{name}.txt", diagnostic.render())


@pytest.mark.parametrize("name", GENERATED)
def test_file_that_is_no_spec(
    name: str, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"{name}.weft")
    path.write_bytes(GENERATED[name])
    diagnostic = diagnose(path)
    check_place(diagnostic, outside=diagnostic.span is None)
    check_words(diagnostic)
    text = diagnostic.render()
    assert f"{name}.weft" in text
    assert max(map(len, text.splitlines())) < 250
    golden(f"broken/{name}.txt", text)


def test_the_corpus_is_whole() -> None:
    assert len(NAMES) >= 180
    goldens = {p.stem for p in (BROKEN.parents[1] / "golden" / "broken").glob("*.txt")}
    assert goldens == {*NAMES, *GENERATED}


def pointed_at(diagnostic: Diagnostic) -> str:
    """The text that the caret is under."""
    if diagnostic.span is None:
        return "nowhere"
    span = diagnostic.span
    return span.source.text[span.start : span.end].split("\n")[0] or "end of line"


def check_place(diagnostic: Diagnostic, outside: bool) -> None:
    """Every place is the user's (the library's only in a note), and the carets stand under it."""
    places = [Note(diagnostic.message, diagnostic.span), *diagnostic.notes]
    assert outside or diagnostic.span is not None
    assert diagnostic.span is None or not diagnostic.span.source.name.startswith("library/")
    lines = diagnostic.render().split("\n")
    for note in places:
        if note.span is None:
            continue
        assert not note.span.source.name.startswith("/"), "a path of this machine"
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{note.span}: "))
        assert lines[at].endswith(note.message)
        source, marker = lines[at + 2], lines[at + 3]
        start, end = marker.index("^"), marker.rindex("^") + 1
        text = note.span.source.text[note.span.start : note.span.end].split("\n")[0]
        shown = source.expandtabs()[len(marker[:start].expandtabs()) :][: end - start]
        printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        assert printable.startswith(shown) or not text


# Words of the implementation, that a user has no use for.
_INSIDE = re.compile(
    r"\b(None|True|False|NoneType|Tensor|Closure|Partial|SymDim|Axis|Node|Graph|Span|\w+Error|"
    r"Traceback|Python|numpy|dict|tuple|str|isinstance|lambda|object|__\w+__|symbolic)\b|<\w+|0x[0-9a-f]{3}"
)


def check_words(diagnostic: Diagnostic) -> None:
    """Plain sentences without capitals and full stops, names in backticks, and a way on."""
    facts = [diagnostic.expected, diagnostic.found, diagnostic.hint]
    assert any(facts) or diagnostic.notes, "it does not say what to do"
    texts = [diagnostic.message, *(t for t in facts if t), *(n.message for n in diagnostic.notes)]
    for text in texts:
        assert text == text.strip()
        assert "\n" not in text
        assert not text.endswith("."), text
        assert not re.match(r"[A-Z][a-z]", text), text
        assert text.count("`") % 2 == 0, text
        plain = re.sub(r"`[^`]*`|\"[^\"]*\"", "", text)
        assert not _INSIDE.search(plain), text
        assert len(text) < 140, text
    assert diagnostic.message[0].islower() or diagnostic.message[0] in "`0123456789"
    assert diagnostic.hint is None or diagnostic.hint != diagnostic.expected
    if diagnostic.span is not None:
        check_quoted(diagnostic)


def check_quoted(diagnostic: Diagnostic) -> None:
    """A name that the caret is under is in backticks where the message says it."""
    name = pointed_at(diagnostic)
    if re.fullmatch(r"\w*_\w*|\w{1,2}", name):
        plain = re.sub(r"`[^`]*`|\"[^\"]*\"", "", diagnostic.message)
        assert not re.search(rf"\b{name}\b", plain), diagnostic.message


def test_a_closer_name_among_few_and_in_any_case() -> None:
    assert did_you_mean("ReLU", ["relu", "gelu"]) == "did you mean `relu`?"
    assert did_you_mean("validation", ["train", "valid", "test"]) == "did you mean `valid`?"
    assert did_you_mean("validation", ["train", "valid", "test"], cutoff=0.75) is None
    assert did_you_mean("relu", ["relu"]) is None


def test_what_hints_name_exists() -> None:
    """Words of other libraries lead to names that are there, and none of them shadows a name."""
    arguments = {
        p.name
        for name in library().names()
        if (found := library().find(name)) is not None
        for p in getattr(found[1], "parameters", None) or ()
    }
    assert set(ARGUMENTS.values()) <= {*arguments, "over", "size", "shuffle", "drop_last"}
    assert set(TYPES.values()) <= {*STATIC_TYPES, *TENSOR_TYPES}
    assert not set(TYPES) & {*STATIC_TYPES, *TENSOR_TYPES}
    # `linear` is a schedule here: only its capitalised kin are the layer of other libraries.
    assert set(FUNCTIONS) & set(library().names()) == {"linear"}
    assert not set(SETTINGS) & set(KEYS)
