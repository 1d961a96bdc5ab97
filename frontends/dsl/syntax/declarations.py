"""Declarations: the top-level items of a file, and the file."""

from __future__ import annotations

from dataclasses import field

from weft.compiler.errors import Span
from weft.frontends.dsl.syntax.expressions import Block, Name, Parameter
from weft.frontends.dsl.syntax.statements import FieldDecl, GradientClause, Let, Minimize, Setting
from weft.frontends.dsl.syntax.tree import Declaration, Expression, Node, syntax


@syntax
class Import(Declaration):
    """`import "file.weft"`. `path_span` is the string's place."""

    path: str
    path_span: Span = field(compare=False, repr=False, kw_only=True)


@syntax
class LetDecl(Declaration):
    """`let a = value` at the top level."""

    targets: tuple[Name, ...]
    value: Expression


@syntax
class Named(Declaration):
    """A declaration with a name; `name_span` is the place of the name."""

    name: str
    name_span: Span = field(compare=False, repr=False, kw_only=True)


@syntax
class DataDecl(Named):
    """`data name { settings and fields }`; `items` keeps the source order."""

    items: tuple[Setting | FieldDecl, ...]

    @property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(item for item in self.items if isinstance(item, Setting))

    @property
    def fields(self) -> tuple[FieldDecl, ...]:
        return tuple(item for item in self.items if isinstance(item, FieldDecl))


@syntax
class FnDecl(Named):
    """`fn name(parameters) = body` or `fn name(parameters) { body }`."""

    parameters: tuple[Parameter, ...]
    body: Expression | Block
    gradient: GradientClause | None


@syntax
class LayerDecl(Named):
    """`layer name(parameters) { body }`, or `= body`."""

    parameters: tuple[Parameter, ...]
    body: Expression | Block


@syntax
class ModelDecl(Named):
    """`model name = layer(...)`."""

    value: Expression


@syntax
class InitDecl(Named):
    """`init name = body` (parameters None) or `init name(parameters) = body`."""

    parameters: tuple[Parameter, ...] | None
    body: Expression | Block


@syntax
class OptimizerDecl(Named):
    """`optimizer name(parameters) { body }`."""

    parameters: tuple[Parameter, ...]
    body: Expression | Block


@syntax
class ScheduleDecl(Named):
    """`schedule name(parameters) = body`."""

    parameters: tuple[Parameter, ...]
    body: Expression | Block


@syntax
class TrainDecl(Declaration):
    """`train { ... }` or `train name { ... }`: settings, `let`s and `minimize`s in source order."""

    name: str | None
    statements: tuple[Setting | Let | Minimize, ...]


@syntax
class StudyDecl(Declaration):
    """`study { ... }` or `study name { ... }`."""

    name: str | None
    settings: tuple[Setting, ...]


@syntax
class File(Node):
    """A whole source. `doc` is the comment that opens it."""

    declarations: tuple[Declaration, ...]
    doc: str = field(default="", compare=False, repr=False, kw_only=True)
