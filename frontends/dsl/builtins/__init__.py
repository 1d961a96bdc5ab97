"""The functions that the language itself provides: the primitives, under the names of the lectures.

Each is a row `name: function(site, arguments...)` of its family's table; its Python signature is
its signature in the language. Everything else is library source in `frontends/library`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from weft.frontends.dsl.builtins import (
    computations,
    creation,
    elementwise,
    positions,
    reductions,
    shapes,
    static,
    windows,
)
from weft.frontends.dsl.values import Builtin, Value

_TABLE: dict[str, Callable[..., Value]] = {
    **elementwise.FUNCTIONS,
    **reductions.FUNCTIONS,
    **shapes.FUNCTIONS,
    **windows.FUNCTIONS,
    **positions.FUNCTIONS,
    **creation.FUNCTIONS,
    **static.FUNCTIONS,
    **computations.FUNCTIONS,
}

_STARS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def _parameters(call: Callable[..., Value]) -> tuple[str, ...]:
    """The argument names: `*name` takes any number, `**name` named ones, `name=` is optional."""
    names = []
    for p in list(inspect.signature(call).parameters.values())[1:]:
        star = _STARS.get(p.kind, "")
        names.append(f"{star}{p.name}{'=' if p.default is not p.empty else ''}")
    return tuple(names)


BUILTINS: dict[str, Builtin] = {
    name: Builtin(name, _parameters(call), call, inspect.getdoc(call) or "")
    for name, call in _TABLE.items()
}
