"""Functions that are done when a spec is elaborated: lists, what a value is, errors."""

from __future__ import annotations

from collections.abc import Callable

from weft.compiler.types import SymDim
from weft.frontends.dsl.diagnostics import misfit
from weft.frontends.dsl.site import Site
from weft.frontends.dsl.values import MAX_ITEMS, Tensor, Value, as_dim, describe


def _range(site: Site, *bounds: Value) -> Value:
    numbers = [as_dim(v) for v in bounds]
    if not 1 <= len(numbers) <= 3 or any(n is None or isinstance(n, SymDim) for n in numbers):
        raise site.wrong("takes one to three whole numbers")
    if len(numbers) == 3 and numbers[2] == 0:
        raise site.wrong("the step can't be 0")
    result = range(*numbers)  # type: ignore[arg-type]
    if len(result) > MAX_ITEMS:
        raise site.wrong("the range is too long to unroll", found=f"{len(result)} numbers")
    return list(result)


def _len(site: Site, items: Value) -> Value:
    if not isinstance(items, list | tuple):
        raise site.wrong("counts the items of a list", found=describe(items))
    return len(items)


def _is_label(site: Site, x: Value) -> Value:
    return isinstance(x, Tensor) and x.classes is not None


def _is_tensor(site: Site, x: Value) -> Value:
    return isinstance(x, Tensor)


def _is_float(site: Site, x: Value) -> Value:
    return isinstance(x, Tensor) and x.type.dtype.kind == "float"


def _is_list(site: Site, x: Value) -> Value:
    return isinstance(x, list | tuple)


def _classes(site: Site, x: Value) -> Value:
    if not isinstance(x, Tensor) or x.classes is None:
        raise site.wrong("takes class labels", found=describe(x))
    return x.classes


def _fail(
    site: Site,
    message: Value,
    expected: Value = None,
    found: Value = None,
    hint: Value = None,
) -> Value:
    """Stop with an error of one's own; `expected` and `found` may be values to describe."""
    facts = [v if v is None or isinstance(v, str) else describe(v) for v in (expected, found, hint)]
    raise misfit(found, str(message), site.span, expected=facts[0], found=facts[1], hint=facts[2])


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "range": _range,
    "len": _len,
    "is_label": _is_label,
    "is_tensor": _is_tensor,
    "is_float": _is_float,
    "is_list": _is_list,
    "classes": _classes,
    "fail": _fail,
}
