"""One function of a spec as a callable on NumPy arrays, with its gradients.

arrays --types--> graph (elaborated, differentiated) --backend--> code, kept for these types
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weft.backends.base import Backend, Step
from weft.compiler.errors import RunError, Source, did_you_mean, one_of
from weft.compiler.gradient import differentiate
from weft.compiler.graph import Graph
from weft.compiler.passes.decompose import inline_calls
from weft.compiler.philox import seed_words
from weft.compiler.types import F32, F64, DType, TensorType, dtype_of
from weft.frontends.dsl.elaborate import elaborate_function, find_function
from weft.runtime.backends import backend_named
from weft.runtime.session import compiled

_SEED, _STEP = "seed", "step"

Value = Any
"""An array, or a tuple of arrays for a function with several results."""


@dataclass(frozen=True)
class _Compiled:
    step: Step
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: int  # how many of the outputs are the function's own


@dataclass(eq=False)
class Function:
    """`fn name` of a spec. Compiled anew for other shapes and types of its arguments.

    Floating arguments compute in their own type; Python numbers take the type of the arrays beside
    them (f32 where there are none). What the function draws at random is that of `seed` and `step`.
    """

    source: Source
    base: Path
    name: str
    backend: str
    _cache: dict[tuple[object, ...], _Compiled] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raises CompileError where the spec has no such function."""
        find_function(self.source, self.name, self.base)

    def __call__(self, *arrays: Any, seed: int = 0, step: int = 0) -> Value:
        """The function's value. Raises CompileError where the arguments don't fit."""
        return self._run(arrays, (), seed, step)[0]

    def value_and_grad(
        self,
        *arrays: Any,
        wrt: Sequence[int | str] | int | str = (0,),
        seed: int = 0,
        step: int = 0,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """The scalar value and its gradient for each argument in `wrt` (by place or by name).

        Raises RunError for a value that is no scalar and for arguments that are no floats.
        """
        chosen = (wrt,) if isinstance(wrt, int | str) else tuple(wrt)
        value, gradients = self._run(arrays, chosen, seed, step)
        return value, gradients

    def _run(
        self, arrays: Sequence[Any], wrt: tuple[int | str, ...], seed: int, step: int
    ) -> tuple[Value, tuple[np.ndarray, ...]]:
        values, float_type = _arrays(arrays)
        types = tuple(TensorType(_dtype(i, v), v.shape) for i, v in enumerate(values))
        key = (types, float_type, wrt)
        if key not in self._cache:
            self._cache[key] = self._compile(types, float_type, wrt)
        function = self._cache[key]
        inputs = dict(zip(function.inputs, values, strict=False))
        if not 0 <= step < 1 << 63:
            raise RunError(
                "`step` is out of range", expected="from 0 to 2^63 - 1", found=f"`{step}`"
            )
        inputs |= {_SEED: seed_words(seed), _STEP: np.asarray(step, np.int64)}
        results = function.step({n: inputs[n] for n in function.inputs})
        found = [np.array(results[n]) for n in function.outputs]
        own = found[: function.values]
        return own[0] if len(own) == 1 else tuple(own), tuple(found[function.values :])

    def _compile(
        self, types: Sequence[TensorType], float_type: DType, wrt: tuple[int | str, ...]
    ) -> _Compiled:
        graph = elaborate_function(self.source, self.name, types, self.base, float_type)
        backend = backend_named(self.backend, [type.dtype for type in types])
        for node in graph.inputs[len(types) :]:
            if node.name not in (_SEED, _STEP):
                raise RunError(
                    f"`{self.name}` has parameters of its own",
                    expected="a `fn`, whose value depends on its arguments alone",
                    found=f"`{node.name}`",
                )
        count = len(graph.outputs)
        if wrt:
            graph = self._differentiated(graph, len(types), wrt, backend)
        return _Compiled(
            compiled(graph, backend, {}),
            tuple(node.name for node in graph.inputs),
            graph.output_names,
            count,
        )

    def _differentiated(
        self, graph: Graph, arguments: int, wrt: tuple[int | str, ...], backend: Backend
    ) -> Graph:
        """The graph with the gradients behind its value. Stated gradients are kept."""
        stated = {
            str(n.attributes["name"])
            for n in graph.nodes
            if n.op.name == "call" and n.attributes["gradient"] is not None
        }
        graph = inline_calls(graph, backend.composites | stated)
        if len(graph.outputs) != 1 or graph.outputs[0].type.rank:
            found = ", ".join(str(node.type) for node in graph.outputs)
            raise RunError(
                f"only a scalar has a gradient, and `{self.name}` gives none",
                expected="one number, such as `sum(...)` or `mean(...)`",
                found=found,
            )
        places = [self._place(which, graph, arguments) for which in wrt]
        gradients = differentiate(graph.outputs[0], [graph.inputs[i] for i in places])
        return Graph(graph.name, graph.inputs, (*graph.outputs, *gradients))

    def _place(self, which: int | str, graph: Graph, arguments: int) -> int:
        names = [node.name for node in graph.inputs[:arguments]]
        if isinstance(which, str):
            if which not in names:
                raise RunError(
                    f"`{self.name}` has no argument `{which}`",
                    expected=one_of(names),
                    hint=did_you_mean(which, names),
                )
            which = names.index(which)
        if not isinstance(which, int):
            raise RunError(
                "`wrt` names arguments by place or by name",
                expected=one_of(names),
                found=f"{which}",
            )
        if not -arguments <= which < arguments:
            raise RunError(
                f"`{self.name}` has no argument {which}",
                expected=f"a place from 0 to {arguments - 1}",
            )
        type = graph.inputs[which % arguments].type
        if type.dtype.kind != "float":
            raise RunError(
                f"there is no gradient for `{names[which]}`",
                expected="a floating-point argument",
                found=str(type),
            )
        return which % arguments


def _arrays(given: Sequence[Any]) -> tuple[list[np.ndarray], DType]:
    """The arguments as arrays, Python floats in the widest float type of the others; that type."""
    given = [_native(place, value) for place, value in enumerate(given)]
    kinds = [dtype_of_float(a) for a in given if isinstance(a, np.ndarray | np.generic)]
    floats = [k for k in kinds if k is not None]
    widest = F64 if F64 in floats else (floats[0] if floats else F32)
    arrays = []
    for value in given:
        array = np.asarray(value)
        weak = not isinstance(value, np.ndarray | np.generic)
        if weak and array.dtype.kind == "f":
            array = array.astype(widest.numpy)
        arrays.append(np.ascontiguousarray(array).reshape(array.shape))
    return arrays, widest


def _native(place: int, value: Any) -> Any:
    """An argument, of arrays those in the machine's own byte order."""
    if isinstance(value, np.ndarray | np.generic):
        return value.astype(value.dtype.newbyteorder("="), copy=False)
    try:
        np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise RunError(f"argument {place} is no array of numbers", found=str(error)) from error
    return value


def dtype_of_float(array: np.ndarray | np.generic) -> DType | None:
    """The element type of a floating array; None for others."""
    try:
        found = dtype_of(np.asarray(array))
    except TypeError:
        return None
    return found if found.kind == "float" else None


def _dtype(place: int, array: np.ndarray) -> DType:
    try:
        return dtype_of(array)
    except TypeError as error:
        raise RunError(
            f"argument {place} is no array of numbers", found=f"type `{array.dtype}`"
        ) from error
