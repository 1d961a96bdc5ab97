"""The backends by name, what each needs, and which is the fastest that can run here.

A backend is imported when it is first asked for: finding out what is installed imports nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from weft.backends.base import Backend
from weft.compiler.errors import RunError, did_you_mean, one_of
from weft.compiler.types import DType


@dataclass(frozen=True)
class Entry:
    """How a backend is had: what loads it, and the modules that it needs, from an extra of Weft's.

    `missing` tells what else it needs and does not find, such as a device; `shown` loads it where
    only its code is wanted, and needs nothing. `narrow`: whether it computes floats of 16 bits.
    """

    load: Callable[[], Backend]
    needs: tuple[str, ...] = ()
    extra: str = ""
    missing: Callable[[], str | None] = lambda: None
    shown: Callable[[], Backend] | None = None
    narrow: bool = True

    @property
    def absent(self) -> list[str]:
        """The modules that it needs and that aren't installed."""
        return [name for name in self.needs if find_spec(name) is None]

    @property
    def lacks(self) -> str | None:
        """What keeps it from running here, in words; None where it can run."""
        if self.absent:
            return f"`{'`, `'.join(self.absent)}` not installed"
        return self.missing()


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


def _cupy_shown() -> Backend:
    from weft.backends.cupy.backend import SHOWN

    return SHOWN


def _no_gpu() -> str | None:
    from weft.backends.cupy.driver import missing

    return missing()


# The fastest comes first; the last one runs everywhere.
BACKENDS: Mapping[str, Entry] = {
    "cupy": Entry(_cupy, ("cupy",), "cuda", _no_gpu, _cupy_shown),
    "tvm": Entry(_tvm, ("tvm",), "tvm", narrow=False),
    "numpy": Entry(_numpy),
}
AUTO = "auto"


def installed() -> tuple[str, ...]:
    """The backends that can run here, the fastest first."""
    return tuple(name for name, entry in BACKENDS.items() if entry.lacks is None)


def backend_named(name: str, types: Collection[DType] = ()) -> Backend:
    """The backend of this name; `auto` is the fastest that can run here, and computes these types.

    Raises RunError when there is none of the name, and for one that can't run here or not these.
    """
    narrow = sorted(dtype.name for dtype in types if dtype.is_narrow)
    if name == AUTO:
        name = next(found for found in installed() if BACKENDS[found].narrow or not narrow)
    if name not in BACKENDS:
        raise RunError(
            f"there is no backend `{name}`",
            expected=one_of([AUTO, *BACKENDS]),
            hint=did_you_mean(name, BACKENDS),
        )
    entry = BACKENDS[name]
    lacks = entry.lacks
    if lacks is not None:
        other = f"run on another: `--backend {installed()[0]}`"
        remedy = f'`pip install "weft[{entry.extra}]"`, or {other}' if entry.absent else other
        raise RunError(f"the backend `{name}` can't run here", found=lacks, hint=remedy)
    if narrow and not entry.narrow:
        others = [other for other, row in BACKENDS.items() if row.narrow]
        raise RunError(
            f"the backend `{name}` computes in f32 and f64",
            found=f"`precision = {narrow[0]}`",
            hint=f"run on {one_of(others)}, with `--backend`, or train with `precision = f32`",
        )
    return entry.load()


def backend_shown(name: str) -> Backend:
    """The backend of this name, to show its code: what runs it need not be there."""
    entry = BACKENDS.get(name)
    return entry.shown() if entry is not None and entry.shown is not None else backend_named(name)
