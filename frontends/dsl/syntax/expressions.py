"""Expressions and their blocks, and the types and parameters that are written with them."""

from __future__ import annotations

from dataclasses import field

from weft.compiler.errors import Span
from weft.frontends.dsl.syntax.tree import Expression, Node, Statement, part, syntax

# ---- atoms --------------------------------------------------------------------------------------


@syntax
class Number(Expression):
    """`64`, `1e-3`: an int when written without point and exponent. `text` is the spelling."""

    value: int | float
    text: str = field(compare=False)


@syntax
class Quantity(Expression):
    """`2 epochs`, `500 steps`, `80%` (unit `%`, value 80)."""

    value: int | float
    unit: str
    text: str = field(compare=False)


@syntax
class String(Expression):
    """`"digits"`: `value` is the text between the quotes with its escapes resolved."""

    value: str


@syntax
class Boolean(Expression):
    """`true` or `false`."""

    value: bool


@syntax
class Name(Expression):
    """A use of a name, or (as a target of `let`, `for`, `=`) the place that binds it."""

    identifier: str


@syntax
class Dots(Expression):
    """A bare `...`: any dimensions in a type (`float[...]`), all remaining axes in an index."""


@syntax
class Spread(Expression):
    """`...S`: the axes or items that `S` names, in a type, a list or an argument list."""

    name: str


# ---- compound expressions -----------------------------------------------------------------------


@syntax
class Attribute(Expression):
    """`net.weights`, `valid.loss`."""

    value: Expression
    name: str

    @property
    def name_span(self) -> Span:
        return Span(self.span.source, self.span.end - len(self.name), self.span.end)


@syntax
class Argument(Node):
    """`x` (name None) or `key = x` in a call. A positional value may be a `Spread`."""

    name: str | None
    value: Expression

    @property
    def name_span(self) -> Span | None:
        return None if self.name is None else part(self.span, self.name)


@syntax
class Call(Expression):
    """`f(x, key = y)`. The parser has checked that positional arguments come first."""

    function: Expression
    arguments: tuple[Argument, ...]


@syntax
class Slice(Expression):
    """`start:stop:step` in an index; absent parts are None."""

    start: Expression | None
    stop: Expression | None
    step: Expression | None


@syntax
class Index(Expression):
    """`x[i, 2:4, ...]`: each item an expression, a `Slice` or `Dots`."""

    value: Expression
    items: tuple[Expression, ...]


@syntax
class ListExpr(Expression):
    """`[a, b, ...S]`: items are expressions or `Spread`s."""

    items: tuple[Expression, ...]


@syntax
class Entry(Node):
    """`key: value` in a record."""

    name: str
    value: Expression

    @property
    def name_span(self) -> Span:
        return part(self.span, self.name)


@syntax
class Record(Expression):
    """`{ train: 80%, valid: 10% }`. The parser has checked that keys differ."""

    entries: tuple[Entry, ...]


@syntax
class TupleExpr(Expression):
    """`m, v` as a result or on the right of `=`, or `(m, v)` anywhere; at least two items."""

    items: tuple[Expression, ...]


@syntax
class Unary(Expression):
    """`-x`, `not x`."""

    op: str
    operand: Expression


@syntax
class Binary(Expression):
    """`left op right`, op one of `+ - * / // % @ ^ == != < <= > >= and or`."""

    op: str
    left: Expression
    right: Expression
    op_span: Span = field(compare=False, repr=False, kw_only=True)


@syntax
class Pipe(Expression):
    """`value |> call`: `value` becomes the first argument. `call` is a name, attribute or call."""

    value: Expression
    call: Expression


@syntax
class Block(Node):
    """`{ ... }` of a body, one statement a line; a last `ExprStatement` is the block's value."""

    statements: tuple[Statement, ...]


@syntax
class If(Expression):
    """`if condition { ... } else if ... else { ... }`: static, usable as a value."""

    condition: Expression
    then: Block
    otherwise: Block | If | None


@syntax
class When(Expression):
    """`when training { ... } else { ... }`; `when epoch_end { ... }` in a schedule."""

    condition: str
    then: Block
    otherwise: Block | None


# ---- types and signatures -----------------------------------------------------------------------


@syntax
class TypeExpr(Node):
    """`f32[B, 4 * C, ...S]`, `class[10]`, `int`: a base name, and dims when it has brackets.

    A dim is an integer expression over numbers and names, a `Spread` or `Dots`. The elaborator
    judges which base names exist. `f32[]` has `dims=()`, `f32` has `dims=None`.
    """

    base: str
    dims: tuple[Expression, ...] | None


@syntax
class Parameter(Node):
    """`name: type = default` in a signature; type and default may each be absent."""

    name: str
    type: TypeExpr | None
    default: Expression | None

    @property
    def name_span(self) -> Span:
        return part(self.span, self.name)
