"""The documents are true: their specs compile and run, their commands and tables are as written."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from docs.documents import DOCUMENTS, ROOT, Block, blocks, table
from docs.specs import facts, spelled
from weft.compiler.errors import CompileError, Source
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.format import format_source
from weft.frontends.dsl.training.block import KEYS
from weft.runtime.data.sources import SOURCES

LANGUAGE = ROOT / "docs/language.md"
LIBRARY = ROOT / "docs/library.md"  # written from the library, whose own tests judge its source
SPECS = [b for d in DOCUMENTS if d != LIBRARY for b in blocks(d) if b.language == "weft"]
SESSIONS = [d for d in DOCUMENTS if any(b.language == "console" for b in blocks(d))]


def prepared(folder: Path, block: Block) -> None:
    """Write the files that the blocks before this one give."""
    for other in blocks(block.document):
        if other.line < block.line and "file" in other.words:
            (folder / other.words["file"]).write_text(other.text, encoding="utf-8")


def in_order(parts: list[str], text: str) -> str | None:
    """The first part that doesn't come in the text after the parts before it."""
    position = 0
    for part in parts:
        place = text.find(part, position)
        if place < 0:
            return part
        position = place + len(part)
    return None


@pytest.mark.parametrize("block", [b for b in SPECS if "error" not in b.words], ids=str)
def test_a_spec_is_true(block: Block, tmp_path: Path) -> None:
    prepared(tmp_path, block)
    shown = block.shown.text.splitlines() if block.shown else []
    keys = [re.split(r" =|(?<=:)", line)[0] for line in shown]
    found = facts(block.text, tmp_path, [key for key in keys if not key.endswith(":")])
    for key, line in zip(keys, shown, strict=True):
        assert found.get(key) == line, f"{block}: of {list(found)}"


@pytest.mark.parametrize("block", [b for b in SPECS if "error" in b.words], ids=str)
def test_a_mistake_is_refused(block: Block, tmp_path: Path) -> None:
    prepared(tmp_path, block)
    assert block.shown is not None, "show the message in a `text` block"
    with pytest.raises(CompileError) as caught:
        facts(block.text, tmp_path, [])
    message = str(caught.value)
    missing = in_order(block.shown.text.splitlines(), message)
    assert missing is None, f"{block}: `{missing}` is not in\n{message}"


@pytest.mark.parametrize("block", [b for b in SPECS if b.document.parent != ROOT], ids=str)
def test_a_spec_has_the_canonical_layout(block: Block) -> None:
    source = Source(str(block), block.text)
    with suppress(CompileError) if "error" in block.words else nullcontext():
        assert format_source(source) == block.text


@pytest.mark.slow
@pytest.mark.parametrize("document", SESSIONS, ids=lambda d: d.name)
def test_a_session_goes_as_written(document: Path, tmp_path: Path) -> None:
    """Every command of a document in order, in one folder."""
    for block in blocks(document):
        if "file" in block.words:
            (tmp_path / block.words["file"]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            shown = block.shown.text.splitlines() if block.shown else []
            _run([sys.executable, "-c", block.text], tmp_path, block, shown)
        elif block.language == "console":
            for command, shown in _commands(block):
                _run(["bash", "-c", command], tmp_path, block, shown)


def _commands(block: Block) -> list[tuple[str, list[str]]]:
    """Command lines (after `$`), each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            assert found, f"{block}: the output comes before its command"
            found[-1][1].append(line)
    return found


def _run(command: list[str], folder: Path, block: Block, shown: list[str]) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONWARNINGS": "error", "COLUMNS": "120"},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == ("error" in block.words), f"{block}: {command[-1]}\n{printed}"
    parts = [_loosely(part) for line in shown for part in line.split("...")]
    missing = in_order([part for part in parts if part], _loosely(printed))
    assert missing is None, f"{block}: `{missing}` is not in\n{printed}"


def _loosely(text: str) -> str:
    """The text but for the width of its gaps and the digits of numbers with a decimal point."""
    return " ".join(re.sub(r"\d+\.\d+", "0.0", text).split())


def signature(name: str) -> str:
    """A built-in function's signature as the reference writes it: `sum(x, over?)`."""
    written = []
    for p in list(inspect.signature(BUILTINS[name].call).parameters.values())[1:]:
        if p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            written.append(f"{p.name}...")
        elif p.default is inspect.Parameter.empty:
            written.append(p.name)
        elif p.default is None:
            written.append(f"{p.name}?")
        else:
            written.append(f"{p.name} = {spelled(p.default)}")
    return f"`{name}({', '.join(written)})`"


def test_the_reference_lists_every_built_in_function() -> None:
    rows = table(LANGUAGE, "Built-in functions")
    assert [row[0] for row in rows] == [signature(name) for name in BUILTINS]
    assert all(len(row) == 2 and row[1] for row in rows)


def test_the_reference_lists_every_setting_of_train() -> None:
    assert [row[0] for row in table(LANGUAGE, "Settings")] == [f"`{key}`" for key in KEYS]


def test_the_reference_lists_every_data_source() -> None:
    rows = table(LANGUAGE, "Data")
    assert {row[0] for row in rows} == {f"`{source.usage}`" for source in SOURCES.values()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert link.startswith("https://") or target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ +(.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_paths_in_the_text_exist(document: Path) -> None:
    """`compiler/ops.py` in the text is a file or folder of the repository."""
    text = re.sub(
        r"^(`{3,}).*?^\1", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    folders = "backends|benchmarks|compiler|docs|examples|frontends|runtime|src|tests"
    for path in re.findall(rf"`((?:{folders})/[\w/.*-]*)`", text):
        assert any(ROOT.glob(path.rstrip("/"))), path
