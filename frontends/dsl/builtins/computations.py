"""Functions of a whole computation: its gradient, and the loop that repeats it."""

from __future__ import annotations

from collections.abc import Callable

from weft.compiler.gradient import differentiate
from weft.frontends.dsl.loops import scan
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import Tensor, Value, shape_text


def _grad(site: Site, expression: Value, wrt: Value) -> Value:
    """The gradient of a scalar with respect to a tensor, or to each of a list."""
    loss = site.tensor(expression)
    if loss.rank:
        raise site.wrong_value(
            expression,
            "differentiates a scalar",
            found=shape_text(loss),
            hint="sum or average it first",
        )
    targets = wrt if isinstance(wrt, list | tuple) else [wrt]
    tensors = [site.tensor(t) for t in targets]
    nodes = differentiate(loss.node, [t.node for t in tensors])
    found = [Tensor(n, t.axes) for n, t in zip(nodes, tensors, strict=True)]
    return found if isinstance(wrt, list | tuple) else found[0]


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "grad": _grad,
    "scan": scan,
}
