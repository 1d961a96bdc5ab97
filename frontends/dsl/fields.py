"""Fields of a `data` block: their types, and their values, made of a source's columns."""

from __future__ import annotations

from collections.abc import Mapping

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Note, did_you_mean, one_of
from weft.compiler.graph import Graph, Node
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.program import Field
from weft.compiler.statistics import mixing
from weft.compiler.types import DTYPES, I64, Dim, DType, SymDim, TensorType
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.diagnostics import UnknownName
from weft.frontends.dsl.interpreter import Interpreter
from weft.frontends.dsl.modules import Module, Scope
from weft.frontends.dsl.signatures import dimension_text, type_text, unknown_type
from weft.frontends.dsl.values import Label, Tensor, Value, as_dim, describe, shape_text


def elaborate_field(
    interpreter: Interpreter,
    module: Module,
    declared: s.FieldDecl,
    columns: Mapping[str, Node],
    labels: Mapping[str, int],
    outside: bool,
) -> tuple[Field, Node]:
    """The field that a line of a `data` block declares, and its value, made of the columns."""
    registry = interpreter.registry
    scope = Scope(module)
    for name, node in columns.items():
        axes: tuple[Label | None, ...] = (registry.batch_label, *(None,) * (node.type.rank - 1))
        scope.values[name] = Tensor(_wide_enough(node, registry.float_type), axes, labels.get(name))
    expression = declared.expression
    lacking = "nothing from outside is" if outside else "the source has no column"
    try:
        value = interpreter.evaluate(expression, scope)
    except UnknownName as error:
        raise CompileError(
            f"{lacking} `{error.name}`",
            error.diagnostic.span,
            expected=one_of(columns),
            hint=did_you_mean(error.name, columns)
            or ("what comes from outside is a field without an expression" if outside else None),
        ) from None
    tensor = interpreter.tensor(value, registry.float_type, expression.span)
    type, classes = field_type(interpreter, declared, scope)
    if classes is not None and tensor.type.dtype.kind == "float":
        raise CompileError(
            f"`{declared.name}` is a class label, which is a whole number",
            expression.span,
            found=shape_text(tensor),
            hint="convert it with `int(...)`, or declare the field as `f32`",
        )
    if tensor.type.shape != (registry.batch_size, *type.shape):
        whole_batch = tensor.type.shape[:1] == (registry.batch_size,)
        one = tensor.type.with_shape(tensor.type.shape[1:]) if whole_batch else tensor.type
        raise CompileError(
            f"`{declared.name}` has another shape than its type says",
            expression.span,
            expected=f"{type_text(declared.type)} for each example",
            found=str(one),
            notes=[Note(f"declared as `{type_text(declared.type)}`", declared.type.span)],
        )
    _each_alone(declared, tensor.node, columns, registry.batch_size)
    field = Field(declared.name, type, classes, declared.name_span)
    return field, b.cast(tensor.node, type.dtype)


def _wide_enough(column: Node, precision: DType) -> Node:
    """A column in the precision of the run, where its own is less: numbers made here have that."""
    dtype = column.type.dtype
    narrow = dtype.kind == "float" and dtype.bits < precision.bits
    return b.cast(column, precision) if narrow else column


def field_type(
    interpreter: Interpreter, declared: s.FieldDecl, scope: Scope
) -> tuple[TensorType, int | None]:
    """The type of one example, and of a label the number of classes."""
    base = declared.type.base
    dims = [_static_dim(interpreter, d, scope) for d in declared.type.dims or ()]
    if base == "class":
        if not dims:
            raise CompileError(
                "a class label says how many classes there are",
                declared.type.span,
                expected="such as `class[10]`",
            )
        return TensorType(I64, tuple(dims[1:])), dims[0]
    if base in ("float", "f32"):
        return TensorType(interpreter.registry.float_type, tuple(dims)), None
    if base not in DTYPES:
        raise unknown_type(declared.type, ("class", "float", *DTYPES))
    return TensorType(DTYPES[base], tuple(dims)), None


def _each_alone(
    declared: s.FieldDecl, value: Node, columns: Mapping[str, Node], batch: Dim
) -> None:
    """Refuse what mixes examples: fields are prepared in pieces, and the pieces must not show.

    What is summed over the examples, or is their largest, is that of all that train.
    """
    graph = inline_calls(Graph("field", tuple(columns.values()), (value,)), frozenset())
    wrong = mixing(graph, batch) if isinstance(batch, SymDim) else None
    if wrong is not None:
        raise CompileError(
            f"`{declared.name}` mixes examples",
            wrong.span or declared.expression.span,
            expected="a value for each example that depends on that example, and on sums, means or "
            "extremes of all that train",
            found=f"`{wrong.op.name}` along the examples",
            hint="work along the other axes (`over = -1`)",
        )


def _static_dim(interpreter: Interpreter, dim: s.Expression, scope: Scope) -> int:
    value: Value = None
    open_size = isinstance(dim, s.Dots | s.Spread)  # which only a signature may have
    if not open_size:
        try:
            value = interpreter.evaluate(dim, scope)
        except UnknownName as error:
            if error.diagnostic.hint is not None or not isinstance(dim, s.Name):
                raise
            open_size = True
    if open_size:
        raise CompileError(
            f"the size `{dimension_text(dim)}` of a field is not known",
            dim.span,
            expected="a number, written here or in a `let`",
            hint="all examples are of one size; a layer that takes any names it in its signature",
        )
    size = as_dim(value)
    if not isinstance(size, int) or size < 1:
        raise CompileError(
            f"the size `{dimension_text(dim)}` of a field is a positive whole number",
            dim.span,
            found=describe(value),
        )
    return size


def field_tensor(field: Field, node: Node, label: Label) -> Tensor:
    """A field as `train` sees it: with the leading axis `batch`."""
    return Tensor(node, (label, *(None,) * field.type.rank), field.classes)
