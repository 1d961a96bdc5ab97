"""Native code over arrays: a table of addresses, filled once but for the inputs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from weft.backends.arrays import address, aligned, checked_array
from weft.backends.base import Arrays
from weft.backends.tvm.image import ARENA, THREADS, Image, Memory, Value
from weft.backends.tvm.pool import POOL
from weft.compiler.errors import RunError
from weft.compiler.types import static_shape

Run = Callable[[Any], Any]  # the code, called with a pointer to the table


class Bound:
    """A step over state. It keeps alive all that the table has addresses of."""

    def __init__(self, image: Image, run: Run, state: Arrays) -> None:
        self.run = run
        arena = aligned(max(1, image.arena_bytes))
        self.memory: dict[Memory, np.ndarray] = {ARENA: arena, THREADS: POOL.memory}
        for name, type in image.states.items():
            self.memory[Memory("state", name)] = checked_array(name, type, state)
        for name, value in image.constants.items():
            held = aligned(max(1, value.nbytes))
            held[: value.nbytes] = value.view(np.uint8)
            self.memory[Memory("constant", name)] = held
        self.fault = POOL.fault
        self.slots = {memory: number for number, memory in enumerate(image.slots)}
        self.table = (ctypes.c_uint64 * len(image.slots))()
        self.pointer = ctypes.c_void_p(ctypes.addressof(self.table))
        for memory, array in self.memory.items():
            self.place(memory, array)
        slots = {memory.name: n for memory, n in self.slots.items() if memory.kind == "input"}
        self.inputs = [
            (name, type, static_shape(type.shape), type.dtype.numpy, slots.get(name))
            for name, type in image.inputs.items()
        ]
        self.outputs = [(name, self._reader(value)) for name, value in image.outputs.items()]
        self.stores = [
            (self.memory[Memory("state", name)], self._source(value))
            for name, value in image.stores
        ]

    def place(self, memory: Memory, array: np.ndarray) -> None:
        """Give the code this array, which the caller keeps alive, as that memory."""
        slot = self.slots.get(memory)
        if slot is not None:
            self.table[slot] = address(array)

    def step(self, inputs: Arrays) -> dict[str, np.ndarray]:
        given: dict[str, np.ndarray] = {}
        table = self.table
        for name, type, shape, dtype, slot in self.inputs:
            array = inputs.get(name)
            if array is None:
                raise RunError(f"input `{name}` is missing")
            if array.shape != shape or array.dtype != dtype:
                raise RunError(
                    f"input `{name}` has another type",
                    expected=f"`{type}`",
                    found=f"{array.dtype} of shape {array.shape}",
                )
            if not array.flags.carray:
                array = np.ascontiguousarray(array)
            given[name] = array
            if slot is not None:
                table[slot] = address(array)
        self.run(self.pointer)
        if self.fault.value:
            self.fault.value = 0
            raise MemoryError("a step needs more working memory than there is")
        if POOL.incomplete:
            POOL.complete(self.run)
        results = {name: read(given) for name, read in self.outputs}
        if self.stores:
            for state, value in [(state, read(given)) for state, read in self.stores]:
                state[...] = value
        return results

    def _source(self, value: Value) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        """What gives the new value of a state: itself where no store before may change it."""
        if value.memory.kind in ("arena", "constant"):
            view = _view(value, self.memory[value.memory])
            return lambda given: view
        return self._reader(value)

    def _reader(self, value: Value) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        """What copies the value out after a run on these inputs."""
        if value.memory in self.memory:
            view = _view(value, self.memory[value.memory])
            return lambda given: view.copy()
        return lambda given: _view(value, given[value.memory.name]).copy()


def _view(value: Value, memory: np.ndarray) -> np.ndarray:
    layout, dtype = value.layout, value.dtype.numpy
    if not layout.size:
        return np.zeros(layout.shape, dtype)
    size = dtype.itemsize
    strides = tuple(stride * size for stride in layout.strides)
    return np.ndarray(layout.shape, dtype, memory, layout.offset * size, strides)
