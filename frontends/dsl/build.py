"""From grammar rules to syntax: one method a rule, named as in grammar.lark, makes its node.

The parts of a rule come with all their tokens, so that a node's span runs from its first to its
last. What a grammar can't say is checked here: repeated names, order of arguments, targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from weft.compiler.errors import CompileError, Span
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.build_expressions import ExpressionBuilder, Part, nodes, texts
from weft.frontends.dsl.lexer import Token


class Builder(ExpressionBuilder):
    """Makes the nodes of one source."""

    def method(self, name: str) -> Callable[[list[Part]], s.Node]:
        """The method for a rule."""
        make: Callable[[list[Part]], s.Node] = getattr(self, name)
        return make

    def names(self, parts: Iterable[Part]) -> tuple[s.Name, ...]:
        """The names that a `let` or `for` binds."""
        found = tuple(
            s.Name(part.text, span=self.span([part]))
            for part in parts
            if isinstance(part, Token) and part.kind == "NAME"
        )
        self.distinct("the name", ((name.identifier, name.span) for name in found))
        return found

    def doc(self, start: int) -> str:
        """The text of the comment lines directly above an offset."""
        text = self.source.text
        end = text.rfind("\n", 0, start)
        lines: list[str] = []
        while end >= 0:
            begin = text.rfind("\n", 0, end) + 1
            line = text[begin:end].strip()
            if not line.startswith("#"):
                break
            lines.append(_uncomment(line))
            end = begin - 1
        return "\n".join(reversed(lines)).strip("\n")

    def plain_body(self, part: Part) -> s.Expression | s.Block:
        return self.plain(part) if isinstance(part, s.Block) else self.expression(part)

    # ---- declarations ---------------------------------------------------------------------------

    def file(self, parts: list[Part]) -> s.File:
        declarations = []
        for part in parts:
            if isinstance(part, s.Let):
                doc = self.doc(part.span.start)
                part = s.LetDecl(part.targets, part.value, span=part.span, doc=doc)
            if isinstance(part, s.Declaration):
                declarations.append(part)
        lines = []
        for line in self.source.text.lstrip().split("\n"):
            if not line.startswith("#"):
                break
            lines.append(_uncomment(line.strip()))
        span = Span(self.source, 0, len(self.source.text))
        return s.File(tuple(declarations), span=span, doc="\n".join(lines).strip("\n"))

    def import_file(self, parts: list[Part]) -> s.Import:
        span = self.span(parts)
        path = self.unquote(self.token(parts[1]))
        return s.Import(path, span=span, doc=self.doc(span.start), path_span=self.span(parts[1:]))

    def let(self, parts: list[Part]) -> s.Let:
        value = self.expression(parts[-1])
        return s.Let(self.names(parts[1:-1]), value, span=self.span(parts))

    def model(self, parts: list[Part]) -> s.ModelDecl:
        span, name = self.span(parts), self.token(parts[1])
        value = self.expression(parts[-1])
        return s.ModelDecl(
            name.text, value, span=span, doc=self.doc(span.start), name_span=self.span([name])
        )

    def function(self, parts: list[Part]) -> s.Declaration:
        kind, name = self.token(parts[0]).text, self.token(parts[1])
        span, name_span = self.span(parts), self.span([name])
        doc = self.doc(span.start)
        parameters, body = self.signature(parts), parts[-1]
        if kind == "fn":
            value, gradient = self.split_gradient(body)
            return s.FnDecl(
                name.text, parameters, value, gradient, span=span, doc=doc, name_span=name_span
            )
        value = self.plain_body(body)
        if kind == "layer":
            return s.LayerDecl(
                name.text, parameters, value, span=span, doc=doc, name_span=name_span
            )
        if kind == "optimizer":
            return s.OptimizerDecl(
                name.text, parameters, value, span=span, doc=doc, name_span=name_span
            )
        return s.ScheduleDecl(name.text, parameters, value, span=span, doc=doc, name_span=name_span)

    def initialiser(self, parts: list[Part]) -> s.InitDecl:
        span, name = self.span(parts), self.token(parts[1])
        return s.InitDecl(
            name.text,
            self.signature(parts) if texts(parts)[2] == "(" else None,
            self.plain_body(parts[-1]),
            span=span,
            doc=self.doc(span.start),
            name_span=self.span([name]),
        )

    def signature(self, parts: list[Part]) -> tuple[s.Parameter, ...]:
        parameters = nodes(parts, s.Parameter)
        self.distinct("the parameter", ((item.name, item.name_span) for item in parameters))
        return parameters

    def split_gradient(self, body: Part) -> tuple[s.Expression | s.Block, s.GradientClause | None]:
        """The body of a `fn` without its `gradient` clause, and the clause."""
        if not isinstance(body, s.Block):
            return self.expression(body), None
        clauses = nodes(body.statements, s.GradientClause)
        if not clauses:
            return body, None
        self.distinct("the clause", (("gradient", clause.span) for clause in clauses))
        rest = tuple(item for item in body.statements if item is not clauses[0])
        return s.Block(rest, span=body.span), clauses[0]

    def data(self, parts: list[Part]) -> s.DataDecl:
        span, name = self.span(parts), self.token(parts[1])
        items = tuple(part for part in parts if isinstance(part, s.Setting | s.FieldDecl))
        self.settings(items)
        return s.DataDecl(
            name.text, items, span=span, doc=self.doc(span.start), name_span=self.span([name])
        )

    def settings(self, items: Iterable[s.Statement]) -> None:
        """Refuse a setting or field that is given twice."""
        found: list[tuple[str, Span]] = []
        for item in items:
            if isinstance(item, s.Setting):
                found.append((item.key, item.key_span))
            elif isinstance(item, s.FieldDecl):
                found.append((item.name, item.name_span))
        self.distinct("", found)

    def setting(self, parts: list[Part]) -> s.Setting:
        key, value = self.token(parts[0]), self.expression(parts[2])
        return s.Setting(key.text, value, span=self.span(parts), key_span=self.span([key]))

    def field(self, parts: list[Part]) -> s.FieldDecl:
        (of_type,) = nodes(parts, s.TypeExpr)
        value = self.expression(parts[-1]) if texts(parts[-2:-1]) == ["="] else None
        return s.FieldDecl(self.token(parts[0]).text, of_type, value, span=self.span(parts))

    def train(self, parts: list[Part]) -> s.TrainDecl:
        span = self.span(parts)
        items = tuple(part for part in parts if isinstance(part, s.Setting | s.Let | s.Minimize))
        self.settings(items)
        return s.TrainDecl(self.title(parts), items, span=span, doc=self.doc(span.start))

    def study(self, parts: list[Part]) -> s.StudyDecl:
        span = self.span(parts)
        items = nodes(parts, s.Setting)
        self.settings(items)
        return s.StudyDecl(self.title(parts), items, span=span, doc=self.doc(span.start))

    def title(self, parts: list[Part]) -> str | None:
        name = self.token(parts[1])
        return name.text if name.kind == "NAME" else None

    def minimize(self, parts: list[Part]) -> s.Minimize:
        objective = self.expression(parts[1])
        return s.Minimize(objective, nodes(parts, s.Move), span=self.span(parts))

    def move(self, parts: list[Part]) -> s.Move:
        *over, last = nodes(parts, s.Expression)
        chosen = tuple(over) if texts(parts)[0] == "over" else None
        return s.Move(chosen, last, span=self.span(parts))

    # ---- signatures, types and bodies -----------------------------------------------------------

    def parameter(self, parts: list[Part]) -> s.Parameter:
        default = self.expression(parts[-1]) if texts(parts[-2:-1]) == ["="] else None
        return s.Parameter(
            self.token(parts[0]).text, self.annotation(parts), default, span=self.span(parts)
        )

    def annotation(self, parts: list[Part]) -> s.TypeExpr | None:
        found = nodes(parts, s.TypeExpr)
        return found[0] if found else None

    def type(self, parts: list[Part]) -> s.TypeExpr:
        dims = nodes(parts, s.Expression) if len(parts) > 1 else None
        return s.TypeExpr(self.token(parts[0]).text, dims, span=self.span(parts))

    def spread(self, parts: list[Part]) -> s.Spread:
        return s.Spread(self.token(parts[1]).text, span=self.span(parts))

    def dots(self, parts: list[Part]) -> s.Dots:
        return s.Dots(span=self.span(parts))

    def block(self, parts: list[Part]) -> s.Block:
        return s.Block(nodes(parts, s.Statement), span=self.span(parts))

    def line(self, parts: list[Part]) -> s.Statement:
        left, span = self.expression(parts[0]), self.span(parts)
        if len(parts) == 1:
            return s.ExprStatement(left, span=span)
        sign, value = self.token(parts[1]), self.expression(parts[2])
        targets = left.items if isinstance(left, s.TupleExpr) else (left,)
        for target in targets:
            if not isinstance(target, s.Name):
                raise CompileError(
                    f"only a name can stand to the left of `{sign.text}`",
                    target.span,
                    expected="a name",
                    found="an expression",
                    hint="to compare, write `==`" if sign.text == "=" else None,
                )
        names = nodes(targets, s.Name)
        if sign.text == "=":
            self.distinct("the name", ((name.identifier, name.span) for name in names))
            return s.Rebind(names, value, span=span)
        if len(names) > 1:
            raise CompileError("`<-` updates one name at a time", left.span)
        return s.Update(names[0], value, span=span)

    def param(self, parts: list[Part]) -> s.Param | s.StateDecl:
        values = nodes(parts, s.Expression)
        condition = values[1] if len(values) > 1 else None
        make = s.Param if self.token(parts[0]).text == "param" else s.StateDecl
        name = self.token(parts[1]).text
        return make(name, self.annotation(parts), values[0], condition, span=self.span(parts))

    def gradient(self, parts: list[Part]) -> s.GradientClause:
        (body,) = nodes(parts, s.Block)
        parameter = self.token(parts[2]).text if len(parts) > 2 else "g"
        return s.GradientClause(parameter, self.plain(body), span=self.span(parts))

    def for_each(self, parts: list[Part]) -> s.For:
        (body,) = nodes(parts, s.Block)
        iterable = self.expression(parts[-2])
        return s.For(self.names(parts), iterable, self.plain(body), span=self.span(parts))

    def results(self, parts: list[Part]) -> s.TupleExpr:
        return s.TupleExpr(nodes(parts, s.Expression), span=self.span(parts))


def _uncomment(line: str) -> str:
    return line[2:] if line.startswith("# ") else line[1:]
