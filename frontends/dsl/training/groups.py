"""Which parameters each optimiser of a `minimize` moves: `over net.weights with adam(1e-3)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from weft.compiler.errors import CompileError
from weft.compiler.gradient import flowing
from weft.compiler.graph import Node, topological
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.training.passes import Pass
from weft.frontends.dsl.values import Closure, Model, Part, Tensor, Value, describe

_STEPWISE = "comparisons, `arg_max`, whole numbers and `stop_gradient` pass no gradient on"


def groups(
    run: Pass,
    minimize: s.Minimize,
    loss: Node,
    current: Mapping[str, Node],
) -> list[list[str]]:
    """The parameters of each `over ... with`; a `with` alone takes those that are left.

    `current` has all parameters, as the loss sees them.
    """
    reached = flowing([loss])
    named = [
        None if move.over is None else list(dict.fromkeys(_over(run, move.over, current)))
        for move in minimize.moves
    ]
    taken: set[str] = set()
    for move, group in zip(minimize.moves, named, strict=True):
        for n in group or ():
            if n in taken:
                raise CompileError(
                    f"two groups of this `minimize` have `{n}`",
                    move.span,
                    expected="each parameter after one `over`",
                    hint="a last `with` that has no `over` takes all that are left",
                )
            if current[n] not in reached:
                raise _independent(n, minimize, current[n] in topological([loss]))
            taken.add(n)
    for move in [m for m in minimize.moves if m.over is None][1:]:
        raise CompileError(
            "only one `with` can take what is left",
            move.span,
            expected="`over ... with ...` for each of the other groups",
        )
    rest = [n for n, node in current.items() if node in reached and n not in taken]
    found = [rest if group is None else group for group in named]
    if not any(found):
        raise _moves_nothing(minimize, any(n in current.values() for n in topological([loss])))
    return found


def _over(run: Pass, over: Sequence[s.Expression], current: Mapping[str, Node]) -> Iterator[str]:
    for expression in over:
        value = run.interpreter.evaluate(expression, run.scope)
        if isinstance(value, Model | Part):
            model = value if isinstance(value, Model) else value.model
            if model.follows is not None:
                raise CompileError(
                    f"`{model.name}` is a copy, which isn't trained",
                    expression.span,
                    hint=f"train what it follows: `over {model.follows.model.name}`",
                )
            if isinstance(value, Model) and not value.states:
                raise CompileError(
                    f"the objective does not call the model `{value.name}`",
                    expression.span,
                    expected="a model whose parameters act on the objective",
                )
            yield from _names(
                run.interpreter.attribute(value, "parameters", expression.span),
                current,
                expression,
            )
        else:
            yield from _names(value, current, expression)


def _names(value: Value, current: Mapping[str, Node], expression: s.Expression) -> Iterator[str]:
    tensors = value if isinstance(value, list | tuple) else [value]
    for tensor in tensors:
        name = next(
            (
                n
                for n, node in current.items()
                if isinstance(tensor, Tensor) and node is tensor.node
            ),
            None,
        )
        if name is None:
            raise CompileError(
                "`over` takes models and parameters",
                expression.span,
                expected="such as `over net` or `over net.weights`",
                found=describe(tensor),
                hint="a layer has no parameters of its own: name the `model`"
                if isinstance(tensor, Closure) and tensor.kind == "layer"
                else None,
            )
        yield name


def _moves_nothing(minimize: s.Minimize, acts: bool) -> CompileError:
    """The error for an objective whose gradient reaches no parameter; `acts`: its value depends."""
    if acts:
        return CompileError(
            "no gradient of the objective reaches a parameter",
            minimize.objective.span,
            expected="an objective that changes smoothly with the parameters",
            hint=_STEPWISE,
        )
    return CompileError(
        "the objective depends on no parameter",
        minimize.objective.span,
        expected="an objective that calls a model",
    )


def _independent(name: str, minimize: s.Minimize, acts: bool) -> CompileError:
    """The error for a parameter after `over` that the objective's gradient doesn't reach."""
    if acts:
        return CompileError(
            f"no gradient of the objective reaches `{name}`",
            minimize.objective.span,
            expected="an objective that changes smoothly with every parameter after `over`",
            hint=_STEPWISE,
        )
    return CompileError(
        f"the objective doesn't depend on `{name}`",
        minimize.objective.span,
        expected="an objective that every parameter after `over` acts on",
        hint=f"does it call `{name.split('.', maxsplit=1)[0]}`?",
    )
