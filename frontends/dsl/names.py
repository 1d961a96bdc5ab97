"""Names in what a spec declares but doesn't use: every one must mean something all the same.

What `train` reaches is elaborated and so checked in full; this finds the misspelt name in the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from weft.compiler.errors import Span
from weft.compiler.types import DTYPES
from weft.frontends.dsl import syntax as s
from weft.frontends.dsl.builtins import BUILTINS
from weft.frontends.dsl.diagnostics import UnknownName
from weft.frontends.dsl.modules import Module, library
from weft.frontends.dsl.values import WORDS

_CLOCK = ("step", "steps", "epoch", "epochs", "progress", "t")
_DRAWN = ("fan_in", "fan_out")  # wherever an initial value is computed
_AROUND: dict[type, tuple[str, ...]] = {
    s.OptimizerDecl: ("theta", "grad", "together", "gradient_at", "hessian_times", *_CLOCK),
    s.ScheduleDecl: _CLOCK,
}


def check_names(module: Module, train: s.TrainDecl, fields: Iterable[str]) -> None:
    """Raise for the first name, in the files of a spec, that nothing defines.

    `fields` are those of the data, which `train` sees beside `batch` and the splits.
    """
    _check(module, train, {*fields, "batch", "train", "valid", "test", "early"})
    _check_module(module)


def _check_module(module: Module) -> None:
    for declaration in module.declarations.values():
        _check(module, declaration, set(_AROUND.get(type(declaration), ())))
    for other in module.imports:
        _check_module(other)


def _check(module: Module, declaration: s.Declaration, around: set[str]) -> None:
    local = {*around, *_bound(declaration), *_DRAWN}
    for name, span in _used(declaration):
        if name not in local and not _is_global(module, name):
            known = [*module.names(), *library().names(), *BUILTINS]
            raise UnknownName(name, span, sorted(local - set(_DRAWN)), known)


def _is_global(module: Module, name: str) -> bool:
    return (
        name in BUILTINS
        or name in DTYPES
        or name in WORDS
        or module.find(name) is not None
        or library().find(name) is not None
    )


def _bound(declaration: s.Declaration) -> Iterator[str]:
    """Every name that something in the declaration binds, wherever."""
    for node in s.walk(declaration):
        match node:
            case s.Parameter(name, type, _):
                yield name
                yield from _sizes(type.dims or () if type else ())
            case s.Let(targets, _) | s.Rebind(targets, _):
                yield from (t.identifier for t in targets)
            case s.For(targets, _, _):
                yield from (t.identifier for t in targets)
            case s.Owned(name=name):
                yield name
            case s.GradientClause(parameter, _):
                yield parameter


def _sizes(dims: Iterable[s.Expression]) -> Iterator[str]:
    """The names that a signature's dimensions bind."""
    for dim in dims:
        if isinstance(dim, s.Name):
            yield dim.identifier
        elif isinstance(dim, s.Spread):
            yield dim.name


def _used(declaration: s.Declaration) -> Iterator[tuple[str, Span]]:
    """Names that are read; the columns of a source are known only once it is opened."""
    if isinstance(declaration, s.DataDecl):
        return
    for node in s.walk(declaration):
        if isinstance(node, s.Name):
            yield node.identifier, node.span
        elif isinstance(node, s.Spread):
            yield node.name, node.span
