"""The syntax tree: what a `.weft` file says, as frozen dataclasses that remember where it says it.

Two trees are equal when they say the same thing: spans and doc comments don't take part in
comparisons, so `parse(text) == parse(format(text))`. Positional fields are the ones to match on
(`case Binary(op, left, right)`); `span` is always passed by name.
"""

from __future__ import annotations

from weft.frontends.dsl.syntax.declarations import (
    DataDecl,
    File,
    FnDecl,
    Import,
    InitDecl,
    LayerDecl,
    LetDecl,
    ModelDecl,
    Named,
    OptimizerDecl,
    ScheduleDecl,
    StudyDecl,
    TrainDecl,
)
from weft.frontends.dsl.syntax.expressions import (
    Argument,
    Attribute,
    Binary,
    Block,
    Boolean,
    Call,
    Dots,
    Entry,
    If,
    Index,
    ListExpr,
    Name,
    Number,
    Parameter,
    Pipe,
    Quantity,
    Record,
    Slice,
    Spread,
    String,
    TupleExpr,
    TypeExpr,
    Unary,
    When,
)
from weft.frontends.dsl.syntax.statements import (
    ExprStatement,
    FieldDecl,
    For,
    GradientClause,
    Let,
    Minimize,
    Move,
    Owned,
    Param,
    Rebind,
    Setting,
    StateDecl,
    Update,
)
from weft.frontends.dsl.syntax.tree import (
    Declaration,
    Expression,
    Node,
    Statement,
    children,
    part,
    walk,
)

__all__ = [
    "Argument", "Attribute", "Binary", "Block", "Boolean", "Call", "DataDecl", "Declaration",
    "Dots", "Entry", "ExprStatement", "Expression", "FieldDecl", "File", "FnDecl", "For",
    "GradientClause", "If", "Import", "Index", "InitDecl", "LayerDecl", "Let", "LetDecl",
    "ListExpr", "Minimize", "ModelDecl", "Move", "Name", "Named", "Node", "Number",
    "OptimizerDecl", "Owned", "Param", "Parameter", "Pipe", "Quantity", "Rebind", "Record",
    "ScheduleDecl", "Setting", "Slice", "Spread", "StateDecl", "Statement", "String",
    "StudyDecl", "TrainDecl", "TupleExpr", "TypeExpr", "Unary", "Update", "When", "children",
    "part", "walk",
]  # fmt: skip
