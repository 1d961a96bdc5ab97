"""Library calls kept whole: a `call` node with the body as its own graph.

A backend that has the function takes the call as it is; everyone else gets the body inlined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from weft.compiler import builder as b
from weft.compiler.errors import CompileError, Span
from weft.compiler.graph import Graph, Node, make, substitute, topological
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.arguments import static_arguments
from weft.frontends.dsl.diagnostics import Misfit, and_list
from weft.frontends.dsl.modules import Scope
from weft.frontends.dsl.values import Closure, Tensor, Value, describe, unlabelled

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter


class Composites(Enum):
    """Which calls are kept whole."""

    LIBRARY = "the library's, and those of functions that state their gradient"
    STATED = "those of functions that state their gradient: differentiation opens all others"
    NONE = "none"


def stays_whole(function: Closure, composites: Composites) -> bool:
    stated = isinstance(function.decl, s.FnDecl) and function.decl.gradient is not None
    match composites:
        case Composites.LIBRARY:
            return stated or function.module.is_library
        case Composites.STATED:
            return stated
        case Composites.NONE:
            return False


def wrap(
    interpreter: Interpreter, function: Closure, scope: Scope, values: Mapping[str, Value]
) -> Value:
    """The body's value: one `call` node where it can be one, else the body's nodes."""
    tensors = {name: v for name, v in values.items() if isinstance(v, Tensor)}
    formal = {name: b.input_(name, t.type) for name, t in tensors.items()}
    for name, tensor in tensors.items():
        scope.values[name] = Tensor(formal[name], tensor.axes, tensor.classes)
    before, interpreter.updates = interpreter.updates, {}
    try:
        result = interpreter.body(function.decl.body, scope)
    except Misfit as error:
        known = {formal[name]: tensor for name, tensor in tensors.items()}
        if isinstance(error.value, Tensor) and error.value.node in known:
            error.about(known[error.value.node])
        raise
    finally:
        changed, interpreter.updates = interpreter.updates, before
        before.update(changed)
    actual = {formal[name]: tensor.node for name, tensor in tensors.items()}
    clause = function.decl.gradient if isinstance(function.decl, s.FnDecl) else None
    if clause is not None and tensors and not isinstance(result, Tensor):
        raise CompileError(
            f"`{function.name}` states its gradient, so it gives one tensor",
            s.part(clause.span, "gradient"),
            found=describe(result),
        )
    itself = isinstance(result, Tensor) and result.node in actual and clause is None
    if not isinstance(result, Tensor) or changed or not tensors or itself:
        result, updates = _replaced(result, changed, actual)
        interpreter.updates |= updates
        interpreter.current |= updates
        return result
    captured = [n for n in topological([result.node]) if n.op.name == "input" and n not in actual]
    prefix = f"{scope.frame.path}." if scope.frame else ""
    names = {n: n.name.removeprefix(prefix) for n in captured}
    taken = {*formal}
    local = {}
    for node in captured:
        name = names[node] if names[node] not in taken else node.name
        taken.add(name)
        local[node] = b.input_(name, node.type)
    body = substitute([result.node], local)[0]
    graph = Graph(function.name, (*formal.values(), *local.values()), (body,))
    node = make(
        "call",
        *actual.values(),
        *captured,
        # Backends know the library's functions by name; a spec's own is not one of them.
        name=function.name if function.module.is_library else f"spec.{function.name}",
        body=graph,
        config=tuple(sorted(static_arguments(values).items())),
        gradient=_gradient(interpreter, function, scope, formal, result, len(captured)),
    )
    return Tensor(node, result.axes, result.classes)


def _replaced(
    value: Value, updates: Mapping[str, Node], actual: Mapping[Node, Node]
) -> tuple[Value, dict[str, Node]]:
    """All tensors of a value, and the updates, substituted together: they go on sharing nodes."""
    nodes = list(dict.fromkeys([*updates.values(), *_nodes(value)]))
    made = dict(zip(nodes, substitute(nodes, actual), strict=True))

    def replaced(part: Value) -> Value:
        if isinstance(part, Tensor):
            return Tensor(made[part.node], part.axes, part.classes)
        if isinstance(part, list | tuple):
            return type(part)(map(replaced, part))
        return part

    return replaced(value), {name: made[node] for name, node in updates.items()}


def _nodes(value: Value) -> Iterator[Node]:
    if isinstance(value, Tensor):
        yield value.node
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _nodes(part)


def _gradient(
    interpreter: Interpreter,
    function: Closure,
    body: Scope,
    formal: Mapping[str, Node],
    result: Tensor,
    captured: int,
) -> Graph | None:
    """The stated gradient as a graph from the arguments and the result's cotangent.

    It sees what the body has named: what both need is written once.
    """
    clause = function.decl.gradient if isinstance(function.decl, s.FnDecl) else None
    if clause is None:
        return None
    if captured:
        raise CompileError(
            f"`{function.name}` states its gradient, so it can use its arguments only",
            s.part(clause.span, "gradient"),
        )
    scope = Scope(function.module, parent=body)
    cotangent = b.input_(f"{clause.parameter}'", result.type)
    scope.values[clause.parameter] = Tensor(cotangent, result.axes)
    value = interpreter.body(clause.body, scope)
    parts = list(value) if isinstance(value, tuple | list) else [value]
    place, places = _places(clause, len(parts))
    if len(parts) != len(formal):
        raise CompileError(
            f"the gradient of `{function.name}` has one value for each tensor argument",
            place,
            expected=f"a gradient for {and_list(formal)}" if formal else "none",
            found="1 value" if len(parts) == 1 else f"{len(parts)} values",
            hint="separate them with commas: `g * y, g * x`" if len(formal) > 1 else None,
        )
    nodes = []
    for part, place, (name, node) in zip(parts, places, formal.items(), strict=True):
        tensor = part if isinstance(part, Tensor) else None
        if tensor is None and node.type.rank == 0:
            tensor = interpreter.tensor(part, node.type.dtype, place)
        if tensor is None:
            tensor = unlabelled(b.zeros(node.type)) if part == 0 else None
        tensor = interpreter.converted(tensor, node.type.dtype)
        if tensor is None or tensor.type != node.type:
            raise CompileError(
                f"the gradient for `{name}` has another type than `{name}`",
                place,
                expected=str(node.type),
                found=describe(part),
            )
        nodes.append(tensor.node)
    return Graph(
        f"{function.name}_gradient", (*formal.values(), cotangent), tuple(nodes), tuple(formal)
    )


def _places(clause: s.GradientClause, count: int) -> tuple[Span, list[Span]]:
    """The place of what a gradient clause gives, and of each of its values."""
    last = clause.body.statements[-1] if clause.body.statements else None
    value = last.value if isinstance(last, s.ExprStatement) else None
    whole = value.span if value is not None else s.part(clause.span, "gradient")
    if isinstance(value, s.TupleExpr) and len(value.items) == count:
        return whole, [item.span for item in value.items]
    return whole, [whole] * count
