"""The syntax tree: what a `.weft` file says, as frozen dataclasses that remember where it says it.

Two trees are equal when they say the same thing: spans and doc comments don't take part in
comparisons, so `parse(text) == parse(format(text))`. Positional fields are the ones to match on
(`case Binary(op, left, right)`); `span` is always passed by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from weft.compiler.errors import Span


@dataclass(frozen=True, slots=True)
class Node:
    """Anything in the tree."""

    span: Span = field(compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Expression(Node):
    """Something that has a value."""


@dataclass(frozen=True, slots=True)
class Statement(Node):
    """A line of a body, or an item of a `data`, `train` or `study` block."""


@dataclass(frozen=True, slots=True)
class Declaration(Node):
    """A top-level item. `doc` is the text of the comment lines directly above it."""

    doc: str = field(default="", compare=False, repr=False, kw_only=True)


# ---- atoms --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number(Expression):
    """`64`, `1e-3`: an int when written without point and exponent. `text` is the spelling."""

    value: int | float
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Quantity(Expression):
    """`2 epochs`, `500 steps`, `80%` (unit `%`, value 80)."""

    value: int | float
    unit: str
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class String(Expression):
    """`"digits"`: `value` is the text between the quotes with its escapes resolved."""

    value: str


@dataclass(frozen=True, slots=True)
class Boolean(Expression):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Name(Expression):
    """A use of a name, or (as a target of `let`, `for`, `=`) the place that binds it."""

    identifier: str


@dataclass(frozen=True, slots=True)
class Dots(Expression):
    """A bare `...`: any dimensions in a type (`float[...]`), all remaining axes in an index."""


@dataclass(frozen=True, slots=True)
class Spread(Expression):
    """`...S`: the axes or items that `S` names, in a type, a list or an argument list."""

    name: str


# ---- compound expressions -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attribute(Expression):
    """`net.weights`, `valid.loss`."""

    value: Expression
    name: str

    @property
    def name_span(self) -> Span:
        return Span(self.span.source, self.span.end - len(self.name), self.span.end)


@dataclass(frozen=True, slots=True)
class Argument(Node):
    """`x` (name None) or `key = x` in a call. A positional value may be a `Spread`."""

    name: str | None
    value: Expression

    @property
    def name_span(self) -> Span | None:
        return None if self.name is None else part(self.span, self.name)


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """`f(x, key = y)`. The parser has checked that positional arguments come first."""

    function: Expression
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Slice(Expression):
    """`start:stop:step` in an index; absent parts are None."""

    start: Expression | None
    stop: Expression | None
    step: Expression | None


@dataclass(frozen=True, slots=True)
class Index(Expression):
    """`x[i, 2:4, ...]`: each item an expression, a `Slice` or `Dots`."""

    value: Expression
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class ListExpr(Expression):
    """`[a, b, ...S]`: items are expressions or `Spread`s."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Entry(Node):
    """`key: value` in a record."""

    name: str
    value: Expression

    @property
    def name_span(self) -> Span:
        return part(self.span, self.name)


@dataclass(frozen=True, slots=True)
class Record(Expression):
    """`{ train: 80%, valid: 10% }`. The parser has checked that keys differ."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class TupleExpr(Expression):
    """`m, v` as a result or on the right of `=`, or `(m, v)` anywhere; at least two items."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Unary(Expression):
    """`-x`, `not x`."""

    op: str
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Expression):
    """`left op right`, op one of `+ - * / // % @ ^ == != < <= > >= and or`."""

    op: str
    left: Expression
    right: Expression
    op_span: Span = field(compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Pipe(Expression):
    """`value |> call`: `value` becomes the first argument. `call` is a name, attribute or call."""

    value: Expression
    call: Expression


@dataclass(frozen=True, slots=True)
class Block(Node):
    """`{ ... }` of a body, one statement a line; a last `ExprStatement` is the block's value."""

    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class If(Expression):
    """`if condition { ... } else if ... else { ... }`: static, usable as a value."""

    condition: Expression
    then: Block
    otherwise: Block | If | None


@dataclass(frozen=True, slots=True)
class When(Expression):
    """`when training { ... } else { ... }`; `when epoch_end { ... }` in a schedule."""

    condition: str
    then: Block
    otherwise: Block | None


# ---- types and signatures -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TypeExpr(Node):
    """`f32[B, 4 * C, ...S]`, `class[10]`, `int`: a base name, and dims when it has brackets.

    A dim is an integer expression over numbers and names, a `Spread` or `Dots`. The elaborator
    judges which base names exist. `f32[]` has `dims=()`, `f32` has `dims=None`.
    """

    base: str
    dims: tuple[Expression, ...] | None


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """`name: type = default` in a signature; type and default may each be absent."""

    name: str
    type: TypeExpr | None
    default: Expression | None

    @property
    def name_span(self) -> Span:
        return part(self.span, self.name)


# ---- statements ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExprStatement(Statement):
    """An expression on a line of its own (`if` and `when` among them)."""

    value: Expression


@dataclass(frozen=True, slots=True)
class Let(Statement):
    """`let a, b = value`."""

    targets: tuple[Name, ...]
    value: Expression


@dataclass(frozen=True, slots=True)
class Rebind(Statement):
    """`a, b = value` in a body: gives local names new values."""

    targets: tuple[Name, ...]
    value: Expression


@dataclass(frozen=True, slots=True)
class Update(Statement):
    """`target <- value`: the new value of a state or parameter."""

    target: Name
    value: Expression


@dataclass(frozen=True, slots=True)
class Param(Statement):
    """`param name: type ~ init when condition`."""

    name: str
    type: TypeExpr | None
    init: Expression
    condition: Expression | None

    @property
    def name_span(self) -> Span:
        return part(self.span, self.name, len("param"))


@dataclass(frozen=True, slots=True)
class StateDecl(Statement):
    """`state name: type ~ init when condition`."""

    name: str
    type: TypeExpr | None
    init: Expression
    condition: Expression | None

    @property
    def name_span(self) -> Span:
        return part(self.span, self.name, len("state"))


@dataclass(frozen=True, slots=True)
class For(Statement):
    """`for a, b in iterable { ... }`: unrolled; rebindings carry on to the next turn."""

    targets: tuple[Name, ...]
    iterable: Expression
    body: Block


@dataclass(frozen=True, slots=True)
class GradientClause(Statement):
    """`gradient(g) { ... }` in a `fn` body: its value is the gradient of each argument.

    `parameter` names the gradient of the result; `gradient { ... }` names it `g`. The parser moves
    the clause out of the body into `FnDecl.gradient`.
    """

    parameter: str
    body: Block


@dataclass(frozen=True, slots=True)
class Setting(Statement):
    """`key = value` in `data`, `train` or `study`. `key_span` is the key's place."""

    key: str
    value: Expression
    key_span: Span = field(compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Move(Node):
    """`over parts with optimizer`; `over` is None when left out."""

    over: tuple[Expression, ...] | None
    optimizer: Expression


@dataclass(frozen=True, slots=True)
class Minimize(Statement):
    """`minimize objective over parts with optimizer over ... with ...`: one move or more."""

    objective: Expression
    moves: tuple[Move, ...]


# ---- declarations -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import(Declaration):
    """`import "file.weft"`. `path_span` is the string's place."""

    path: str
    path_span: Span = field(compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class LetDecl(Declaration):
    """`let a = value` at the top level."""

    targets: tuple[Name, ...]
    value: Expression


@dataclass(frozen=True, slots=True)
class Named(Declaration):
    """A declaration with a name; `name_span` is the place of the name."""

    name: str
    name_span: Span = field(compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class DataDecl(Named):
    """`data name { settings and fields }`; `items` keeps the source order."""

    items: tuple[Setting | FieldDecl, ...]

    @property
    def settings(self) -> tuple[Setting, ...]:
        return tuple(item for item in self.items if isinstance(item, Setting))

    @property
    def fields(self) -> tuple[FieldDecl, ...]:
        return tuple(item for item in self.items if isinstance(item, FieldDecl))


@dataclass(frozen=True, slots=True)
class FnDecl(Named):
    """`fn name(parameters) = body` or `fn name(parameters) { body }`."""

    parameters: tuple[Parameter, ...]
    body: Expression | Block
    gradient: GradientClause | None


@dataclass(frozen=True, slots=True)
class LayerDecl(Named):
    """`layer name(parameters) { body }`, or `= body`."""

    parameters: tuple[Parameter, ...]
    body: Expression | Block


@dataclass(frozen=True, slots=True)
class ModelDecl(Named):
    """`model name = layer(...)`."""

    value: Expression


@dataclass(frozen=True, slots=True)
class InitDecl(Named):
    """`init name = body` (parameters None) or `init name(parameters) = body`."""

    parameters: tuple[Parameter, ...] | None
    body: Expression | Block


@dataclass(frozen=True, slots=True)
class OptimizerDecl(Named):
    """`optimizer name(parameters) { body }`."""

    parameters: tuple[Parameter, ...]
    body: Expression | Block


@dataclass(frozen=True, slots=True)
class ScheduleDecl(Named):
    """`schedule name(parameters) = body`."""

    parameters: tuple[Parameter, ...]
    body: Expression | Block


@dataclass(frozen=True, slots=True)
class TrainDecl(Declaration):
    """`train { ... }` or `train name { ... }`: settings, `let`s and `minimize`s in source order."""

    name: str | None
    statements: tuple[Setting | Let | Minimize, ...]


@dataclass(frozen=True, slots=True)
class StudyDecl(Declaration):
    """`study { ... }` or `study name { ... }`."""

    name: str | None
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class File(Node):
    """A whole source. `doc` is the comment that opens it."""

    declarations: tuple[Declaration, ...]
    doc: str = field(default="", compare=False, repr=False, kw_only=True)


def part(span: Span, text: str, skip: int = 0) -> Span:
    """The place of a node's name, the first `text` after `skip` characters of its span."""
    start = span.source.text.find(text, span.start + skip, span.end)
    return span if start < 0 else Span(span.source, start, start + len(text))


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below, in source order."""
    for item in fields(node):
        value = getattr(node, item.name)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from (part for part in value if isinstance(part, Node))


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, parents before children, in source order."""
    pending = [node]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed(list(children(current))))
