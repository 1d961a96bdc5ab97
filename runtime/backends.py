"""The backends by name; each is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from weft.backends.base import Backend
from weft.compiler.errors import RunError, did_you_mean, one_of


def _numpy() -> Backend:
    from weft.backends.numpy.backend import BACKEND

    return BACKEND


def _tvm() -> Backend:
    from weft.backends.tvm.backend import BACKEND

    return BACKEND


def _cupy() -> Backend:
    from weft.backends.cupy.backend import CupyBackend
    from weft.backends.cupy.gpu import device

    return CupyBackend(device())


# The fastest that is installed comes first.
BACKENDS: Mapping[str, Callable[[], Backend]] = {"numpy": _numpy, "tvm": _tvm, "cupy": _cupy}
AUTO = "auto"


def backend_named(name: str) -> Backend:
    """The backend of this name; `auto` is the fastest. Raises RunError when there is none."""
    if name == AUTO:
        return next(iter(BACKENDS.values()))()
    if name not in BACKENDS:
        raise RunError(
            f"there is no backend `{name}`",
            expected=one_of([AUTO, *BACKENDS]),
            hint=did_you_mean(name, BACKENDS),
        )
    return BACKENDS[name]()
