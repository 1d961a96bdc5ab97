"""Namespaces: where a name that a body doesn't bind is looked up.

scope of the body -> its file -> the files it imports -> the library -> the built-in functions
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path

from weft.compiler.errors import CompileError, Note, Source, Span, did_you_mean
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.parser import outline, parse, parse_declaration, read_source
from weft.frontends.dsl.values import Label, Model, Value


@dataclass(eq=False)
class Module:
    """The named declarations of one file, and the modules its names may also come from."""

    source: Source
    declarations: dict[str, s.Declaration]
    imports: list[Module] = field(default_factory=list)
    is_library: bool = False

    def find(self, name: str) -> tuple[Module, s.Declaration] | None:
        """The declaration of a name, here or in a file that this one imports.

        Raises CompileError where two imported files declare it.
        """
        if name in self.declarations:
            return self, self.declarations[name]
        found = [one for module in self.imports if (one := module.find(name))]
        places = {str(place): place for place in (_name_of(d, name) for _, d in found)}
        if len(places) > 1:
            first, second, *_ = places.values()
            raise CompileError(
                f"`{name}` is declared in two imported files",
                second,
                hint="rename one of them, or declare the name in the file that imports both",
                notes=[Note("first declared here", first)],
            )
        return found[0] if found else None

    def names(self) -> Iterable[str]:
        yield from self.declarations
        for module in self.imports:
            yield from module.names()


class LibraryModule(Module):
    """The standard library: each declaration is parsed when it is first asked for."""

    def __init__(self) -> None:
        super().__init__(Source("library", ""), {}, is_library=True)

    @cached_property
    def index(self) -> dict[str, tuple[Source, int, int]]:
        table = {}
        folder = resources.files("weft.frontends.library")
        for file in sorted(folder.iterdir(), key=lambda f: f.name):
            if file.name.endswith(".weft"):
                source = Source(f"library/{file.name}", file.read_text(encoding="utf-8"))
                for name, (_, start, end) in outline(source).items():
                    assert name not in table, f"{name} is declared twice in the library"
                    table[name] = (source, start, end)
        return table

    def find(self, name: str) -> tuple[Module, s.Declaration] | None:
        if name not in self.declarations:
            if name not in self.index:
                return None
            self.declarations[name] = parse_declaration(*self.index[name])
        return self, self.declarations[name]

    def names(self) -> Iterable[str]:
        return iter(self.index)


@cache
def library() -> LibraryModule:
    """The one library: its files don't change while a process runs."""
    return LibraryModule()


def load_module(source: Source, base: Path | None) -> tuple[Module, list[s.Declaration]]:
    """A module of the file and its imports; also the file's own unnamed declarations."""
    return _load(source, base, ())


def _load(
    source: Source, base: Path | None, chain: tuple[Path, ...]
) -> tuple[Module, list[s.Declaration]]:
    module, unnamed = Module(source, {}), []
    for declaration in parse(source).declarations:
        match declaration:
            case s.Import():
                module.imports.append(_import(declaration, base, chain))
            case s.LetDecl():
                for target in declaration.targets:
                    _declare(module, target.identifier, declaration, target.span)
            case s.Named():
                _declare(module, declaration.name, declaration, declaration.name_span)
            case _:
                unnamed.append(declaration)
    return module, unnamed


def _import(declaration: s.Import, base: Path | None, chain: tuple[Path, ...]) -> Module:
    """What the file declares. Its `train` and `study` are its own: this spec has another."""
    path = ((base or Path()) / declaration.path).resolve()
    place = declaration.path_span
    if path in chain:
        raise CompileError(
            f"`{path.name}` is imported by what it imports",
            place,
            found=_imports([p.name for p in (*chain[chain.index(path) :], path)]),
            hint="move what the files share into one that imports neither",
        )
    if not path.is_file():
        folder = path.parent
        nearby = [f.name for f in folder.glob("*.weft")] if folder.is_dir() else []
        raise CompileError(
            f"there is no file `{declaration.path}`",
            place,
            expected="a path relative to this file",
            found=None if folder.is_dir() else f"no folder `{folder.name}`",
            hint=did_you_mean(path.name, nearby),
        )
    try:
        return _load(_read(path, declaration), path.parent, (*chain, path))[0]
    except CompileError as error:
        d = error.diagnostic
        if d.span is None:
            error.diagnostic = replace(d, span=place)
        else:
            error.diagnostic = replace(d, notes=(*d.notes, Note("imported here", place)))
        raise


def _imports(names: list[str]) -> str:
    """`a` imports `b`, which imports `a`."""
    first, *rest = [f"`{name}`" for name in names]
    return f"{first} imports {', which imports '.join(rest)}"


def _read(path: Path, declaration: s.Import) -> Source:
    """The imported file, named as seen from where the importing one is named."""
    importer = Path(declaration.span.source.name)
    return Source(os.path.normpath(importer.parent / declaration.path), read_source(path).text)


def _declare(module: Module, name: str, declaration: s.Declaration, span: Span) -> None:
    if name in module.declarations:
        raise CompileError(
            f"`{name}` is declared twice",
            span,
            hint="give one of them another name",
            notes=[Note("first declared here", _name_of(module.declarations[name], name))],
        )
    module.declarations[name] = declaration


def _name_of(declaration: s.Declaration, name: str) -> Span:
    if isinstance(declaration, s.LetDecl):
        return next(t.span for t in declaration.targets if t.identifier == name)
    return declaration.name_span if isinstance(declaration, s.Named) else declaration.span


@dataclass(eq=False, slots=True)
class Frame:
    """One call of a layer: where its parameters live and how its draws are named."""

    model: Model
    path: str  # of its parameters: `net.dense_2`
    stream: str  # of its draws, which also tells apart two calls of one model
    calls: dict[str, int] = field(default_factory=dict)

    def child(self, name: str) -> Frame:
        count = self.calls[name] = self.calls.get(name, 0) + 1
        suffix = name if count == 1 else f"{name}_{count}"
        return Frame(self.model, f"{self.path}.{suffix}", f"{self.stream}.{suffix}")


class Scope:
    """Local names of a body, the scope around it, and the module behind them."""

    __slots__ = ("frame", "labels", "module", "parent", "states", "values")

    def __init__(
        self,
        module: Module,
        values: dict[str, Value] | None = None,
        parent: Scope | None = None,
        frame: Frame | None = None,
    ) -> None:
        self.module = module
        self.values: dict[str, Value] = values if values is not None else {}
        self.parent = parent
        self.frame: Frame | None = frame if frame is not None or not parent else parent.frame
        self.states: dict[str, str] = parent.states if parent else {}  # local -> qualified name
        self.labels: dict[str, Label] = parent.labels if parent else {}

    def holder(self, name: str) -> Scope | None:
        """The innermost scope that binds the name."""
        scope: Scope | None = self
        while scope is not None and name not in scope.values:
            scope = scope.parent
        return scope

    def label(self, name: str) -> Label:
        """The label of a size named in this signature's body."""
        return self.labels.setdefault(name, Label(name))

    def names(self) -> Iterable[str]:
        scope: Scope | None = self
        while scope is not None:
            yield from scope.values
            scope = scope.parent
