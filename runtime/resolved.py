"""A spec that stands by itself: what it imports is copied beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from weft.compiler.errors import Source
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.parser import parse, read_source

FOLDER = "imports"


@dataclass(frozen=True)
class Resolved:
    """The spec's text with its imports named as here, and their texts by name."""

    text: str
    imports: dict[str, str]


def resolved(source: Source, base: Path) -> Resolved:
    """The spec and all that it imports, directly or not, as files of one folder.

    Only the paths after `import` change, each in its place. The spec has been elaborated, so
    every file is there and none imports itself.
    """
    copier = _Copier()
    text = copier.rewritten(source, base, f"{FOLDER}/")
    return Resolved(text, {f"{FOLDER}/{name}": copier.texts[name] for name in copier.texts})


@dataclass
class _Copier:
    names: dict[Path, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def rewritten(self, source: Source, base: Path, prefix: str) -> str:
        """The text with each import's path replaced, after what it names has been copied."""
        text = source.text
        imports = [d for d in parse(source).declarations if isinstance(d, s.Import)]
        for declaration in reversed(imports):
            name = self._copied((base / declaration.path).resolve())
            place = declaration.path_span
            text = text[: place.start] + json.dumps(prefix + name) + text[place.end :]
        return text

    def _copied(self, path: Path) -> str:
        if path not in self.names:
            self.names[path] = name = self._free(path)
            self.texts[name] = ""  # taken, while the files that it imports find theirs
            self.texts[name] = self.rewritten(read_source(path), path.parent, "")
        return self.names[path]

    def _free(self, path: Path) -> str:
        name, number = path.name, 1
        while name in self.texts:
            number += 1
            name = f"{path.stem}_{number}{path.suffix}"
        return name
