"""Statements: the lines of bodies, and the items of `data`, `train` and `study` blocks."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from weft.compiler.errors import Span
from weft.frontends.dsl.syntax.expressions import Block, Name, TypeExpr
from weft.frontends.dsl.syntax.tree import Expression, Node, Statement, part, syntax


@syntax
class ExprStatement(Statement):
    """An expression on a line of its own (`if` and `when` among them)."""

    value: Expression


@syntax
class Let(Statement):
    """`let a, b = value`."""

    targets: tuple[Name, ...]
    value: Expression


@syntax
class Rebind(Statement):
    """`a, b = value` in a body: gives local names new values."""

    targets: tuple[Name, ...]
    value: Expression


@syntax
class Update(Statement):
    """`target <- value`: the new value of a state or parameter."""

    target: Name
    value: Expression


@syntax
class Owned(Statement):
    """`keyword name: type ~ init when condition`: what a layer or an optimiser owns."""

    keyword: ClassVar[str]

    name: str
    type: TypeExpr | None
    init: Expression
    condition: Expression | None

    @property
    def name_span(self) -> Span:
        return part(self.span, self.name, len(self.keyword))


@syntax
class Param(Owned):
    """`param name: type ~ init when condition`."""

    keyword = "param"


@syntax
class StateDecl(Owned):
    """`state name: type ~ init when condition`."""

    keyword = "state"


@syntax
class For(Statement):
    """`for a, b in iterable { ... }`: unrolled; rebindings carry on to the next turn."""

    targets: tuple[Name, ...]
    iterable: Expression
    body: Block


@syntax
class GradientClause(Statement):
    """`gradient(g) { ... }` in a `fn` body: its value is the gradient of each argument.

    `parameter` names the gradient of the result; `gradient { ... }` names it `g`. The parser moves
    the clause out of the body into `FnDecl.gradient`.
    """

    parameter: str
    body: Block


@syntax
class Setting(Statement):
    """`key = value` in `data`, `train` or `study`. `key_span` is the key's place."""

    key: str
    value: Expression
    key_span: Span = field(compare=False, repr=False, kw_only=True)


@syntax
class FieldDecl(Statement):
    """`name: type = value` in `data`; `value` is None when left out."""

    name: str
    type: TypeExpr
    value: Expression | None

    @property
    def name_span(self) -> Span:
        return part(self.span, self.name)

    @property
    def expression(self) -> Expression:
        """The value; where it is left out, the column that has the field's name."""
        return self.value or Name(self.name, span=self.name_span)


@syntax
class Move(Node):
    """`over parts with optimizer`; `over` is None when left out."""

    over: tuple[Expression, ...] | None
    optimizer: Expression


@syntax
class Minimize(Statement):
    """`minimize objective over parts with optimizer over ... with ...`: one move or more."""

    objective: Expression
    moves: tuple[Move, ...]
