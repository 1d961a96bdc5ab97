"""Parameters of a model by what they are and by where they live: `net.biases`, `net.dense_2.w`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from weft.compiler.errors import CompileError, Span
from weft.frontends.dsl.values import Model, Part, Tensor, Value, unlabelled

if TYPE_CHECKING:
    from weft.frontends.dsl.interpreter import Interpreter

KINDS = ("parameters", "weights", "biases", "norms")
SHOWN = 6  # layers that a message names
_NORM = re.compile(r"(.*_)?norm(_[0-9]+)?")


def select(
    interpreter: Interpreter, owner: Model | Part, name: str, span: Span
) -> tuple[Value, list[str]]:
    """What `owner.name` selects, or None; and all names that select something.

    `weights` have two axes or more, `biases` fewer, and `norms` are those of layers that are called
    `..._norm`: each of the `parameters` is in one of the three.
    """
    model, path = (owner, owner.name) if isinstance(owner, Model) else (owner.model, owner.path)
    states = interpreter.registry.states
    roles = ("parameter", "average")
    inside = [n for n in model.states if n.startswith(f"{path}.") and states[n].role in roles]
    if not inside and (isinstance(owner, Part) or name in KINDS):
        raise CompileError(
            f"`{path}` has no parameters yet",
            span,
            hint=f"a model gets them in its first call: put `{model.name}(x)` before",
        )
    if name in KINDS:
        chosen = [n for n in inside if name in ("parameters", _kind(interpreter, model, n))]
        return [unlabelled(interpreter.read(n)) for n in chosen], [*KINDS]
    further = f"{path}.{name}"
    if further in inside:
        tensor: Tensor = unlabelled(interpreter.read(further))
        return tensor, [*KINDS]
    if any(n.startswith(f"{further}.") for n in inside):
        return Part(model, further), [*KINDS]
    layers = dict.fromkeys(n.removeprefix(f"{path}.").split(".")[0] for n in inside)
    return None, [*KINDS, *list(layers)[:SHOWN]]


def _kind(interpreter: Interpreter, model: Model, name: str) -> str:
    layers = name.removeprefix(f"{model.name}.").split(".")[:-1]
    if _NORM.fullmatch(layers[-1] if layers else model.function.name):
        return "norms"
    return "weights" if interpreter.registry.states[name].type.rank >= 2 else "biases"
