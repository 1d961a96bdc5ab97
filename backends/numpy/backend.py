"""The NumPy backend: compiles a plan by printing Python, and binds it to arrays.

The printed code comes from the typed graph alone. Names are made by the printer, constants are
passed in by value, and text of a specification appears in comments only, made printable first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.backends.arrays import aligned, checked_state
from weft.backends.base import Arrays, Held, HostState, Part, Peaks, Step, Timing
from weft.backends.numpy import blas
from weft.backends.numpy.loops import loop_scratch
from weft.backends.numpy.ops import TABLE, scratch
from weft.backends.numpy.printer import print_source
from weft.backends.numpy.timing import Clock, peaks
from weft.compiler.composites import bodies
from weft.compiler.errors import RunError
from weft.compiler.graph import Node
from weft.compiler.plan import Abilities, Plan
from weft.compiler.types import DType

_IN_PLACE = frozenset(
    {
        "negate", "abs", "sign", "floor", "ceil", "round", "exp", "expm1", "log", "log1p", "sqrt",
        "rsqrt", "sin", "cos", "tanh", "logistic", "erf", "not", "add", "subtract", "multiply",
        "divide", "floor_divide", "remainder", "power", "maximum", "minimum", "and", "or", "xor",
        "select",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class NumpyExecutable:
    """A plan as Python source, and the function that it defines."""

    plan: Plan
    source: str
    make: Callable[..., Step]

    def bind(self, state: Arrays, *, quiet: bool = False) -> Step:
        """See `Executable.bind`. State arrays must be contiguous and of the type of their input."""
        arrays = {}
        for name in sorted(self.plan.bound):
            arrays[name] = checked_state(name, self.plan, state)
        step = self.make(arrays, aligned(self.plan.arena_bytes))
        if blas.wants_one_thread(self.plan.graph):
            step = _on_one_thread(step)
        if quiet:
            return step

        wanted = [n.name for n in self.plan.graph.inputs if n.name not in self.plan.bound]

        def silenced(inputs: Arrays) -> Arrays:
            for name in wanted:
                if name not in inputs:
                    raise RunError(f"input `{name}` is missing")
            with np.errstate(all="ignore"):
                return step(inputs)

        return silenced


def _on_one_thread(step: Step) -> Step:
    found = blas.controls()
    if found is None or found[0]() == 1:
        return step

    def alone(inputs: Arrays) -> Arrays:
        with blas.one_thread():
            return step(inputs)

    return alone


def _scratch(node: Node) -> int:
    return loop_scratch(node, _ABILITIES) if node.op.name == "scan" else scratch(node)


_ABILITIES = Abilities(
    views=frozenset(
        {"reshape", "transpose", "broadcast_in_dim", "slice", "reverse", "stop_gradient"}
    ),
    strided=True,
    in_place=_IN_PLACE,
    registers=True,
    folded=frozenset({"constant", "iota", "dim_size"}),
    scratch=_scratch,
)


@dataclass(frozen=True, eq=False)
class NumpyTimed:
    """The same code with a clock after the lines of each group."""

    executable: NumpyExecutable
    clock: Clock

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self.clock.parts)

    def bind(self, state: Arrays) -> Callable[[Arrays], Timing]:
        """See `Timed.bind`."""
        step = self.executable.bind(state, quiet=True)

        def run(inputs: Arrays) -> Timing:
            step(inputs)
            return self.clock.taken()

        return run


@dataclass(frozen=True)
class NumpyBackend:
    """The reference backend: NumPy and nothing else, in every type."""

    name: str = "numpy"
    ops: frozenset[str] = frozenset(TABLE)
    composites: frozenset[str] = frozenset()
    abilities: Abilities = _ABILITIES
    packages: tuple[str, ...] = ()
    forms: tuple[str, ...] = ("python",)

    @property
    def threads(self) -> int:
        """Products of matrices have them; all else runs on one."""
        return blas.threads()

    @property
    def traits(self) -> Mapping[str, object]:
        """Sums in another order, such as that of more threads, end in other bits."""
        return {"threads": self.threads}

    def hold(self, arrays: Arrays) -> Held:
        return HostState(arrays)

    def compile(self, plan: Plan) -> NumpyExecutable:
        """Print, run the printed definitions, and keep both."""
        self._check(plan)
        source, namespace = print_source(plan, self.abilities)
        return NumpyExecutable(plan, source, _define(source, namespace, plan.graph.name))

    def listing(self, plan: Plan, form: str) -> str:
        """See `Backend.listing`."""
        assert form in self.forms
        return self.compile(plan).source

    def timed(self, plan: Plan) -> NumpyTimed:
        """See `Backend.timed`: a part is the lines of a group."""
        self._check(plan)
        source, namespace = print_source(plan, self.abilities, timed=True)
        make = _define(source, namespace, plan.graph.name)
        return NumpyTimed(NumpyExecutable(plan, source, make), namespace["clock"])

    def peaks(self, dtype: DType) -> Peaks:
        """See `Backend.peaks`: NumPy multiplies on several threads, and copies on one."""
        return peaks(dtype)

    def _check(self, plan: Plan) -> None:
        for node in (n for part in (plan.graph, *bodies(plan.graph)) for n in part.nodes):
            if node.op.name not in self.ops:
                raise RunError(f"the numpy backend has no rule for `{node.op.name}`", node.span)


def _define(source: str, namespace: Mapping[str, Any], name: str) -> Callable[..., Step]:
    printable = "".join(c if c.isalnum() else "_" for c in name)
    code = compile(source, f"<weft numpy {printable}>", "exec")
    scope = dict(namespace)
    # The source was printed from a verified graph a moment ago; no text of a user is in it.
    exec(code, scope)  # noqa: S102
    make: Callable[..., Step] = scope["bind"]
    return make


BACKEND = NumpyBackend()
