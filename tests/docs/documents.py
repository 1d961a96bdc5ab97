"""Documents as fenced blocks; the end of docs/language.md says what each kind means."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and words (` ```weft error file="x.weft" `), and its text.

    `shown` is the `text` block that follows with nothing but blank lines between.
    """

    document: Path
    line: int
    language: str
    words: dict[str, str]
    text: str
    shown: Block | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """The blocks of a Markdown file in order, those that are `shown` at the block before them."""
    found: list[Block] = []
    fence = ""
    start, info, body, gap = 0, "", list[str](), False
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        match = _FENCE.match(line)
        if fence:
            if match and match.group(1).startswith(fence) and not match.group(2).strip():
                _add(found, _block(document, start, info, body), gap)
                fence, gap = "", True
            else:
                body.append(line)
        elif match:
            fence, info, start, body = match.group(1), match.group(2).strip(), number, []
        elif line.strip():
            gap = False
    assert not fence, f"{document.name}:{start}: the block has no end"
    return found


def _block(document: Path, line: int, info: str, body: list[str]) -> Block:
    language, *words = shlex.split(info) or [""]
    pairs = dict(word.split("=", 1) if "=" in word else (word, "") for word in words)
    return Block(document, line, language, pairs, "".join(f"{row}\n" for row in body))


def _add(found: list[Block], block: Block, adjacent: bool) -> None:
    """Append a block, or hang it on the one it follows directly."""
    if block.language == "text" and adjacent and found and found[-1].shown is None:
        last = found.pop()
        block = Block(last.document, last.line, last.language, last.words, last.text, block)
    found.append(block)


def table(document: Path, heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading."""
    rows: list[list[str]] = []
    inside = False
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            if rows:
                break
            inside = line.lstrip("# ").strip() == heading
        elif inside and line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif inside and rows and line.strip():
            break
    assert rows, f"{document.name}: no table below `{heading}`"
    return rows[2:]
