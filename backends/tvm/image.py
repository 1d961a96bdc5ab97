"""What of a plan its native code is bound by, as plain data: it is kept beside the code.

slots      | arena | input x | state arena.0.parameter | constant 0 | ...    addresses
outputs    loss = the arena's f32 at 128, shape [], strides []
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from weft.compiler.graph import Node
from weft.compiler.ops import OPS
from weft.compiler.passes.views import Layout
from weft.compiler.plan import Buffer, Plan
from weft.compiler.types import DTYPES, DType, TensorType, static_shape


@dataclass(frozen=True)
class Memory:
    """A run of memory: the `arena`, or by its name a `state`, an `input` or a `constant`.

    Constants are numbered, for those of a loop's turns have names of their own. The pool of
    `threads` is memory too, and the `clock` of a timed step.
    """

    kind: str
    name: str = ""


ARENA, THREADS, CLOCK = Memory("arena"), Memory("threads"), Memory("clock")


@dataclass(frozen=True)
class Value:
    """A value in memory; its layout counts elements from the memory's start."""

    memory: Memory
    dtype: DType
    layout: Layout


@dataclass(frozen=True, eq=False)
class Image:
    """Everything that binding needs to know.

    `slots` say what each address of the code's table is of; `stores` are values that become states
    at the end of the step.
    """

    arena_bytes: int
    slots: tuple[Memory, ...]
    states: Mapping[str, TensorType]
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, Value]
    stores: tuple[tuple[str, Value], ...]
    constants: Mapping[str, np.ndarray]


def image(plan: Plan, slots: Iterable[Buffer | str]) -> Image:
    """That of a plan whose code takes a table of these addresses, in this order."""
    graph = plan.graph
    types = {node.name: node.type for node in graph.inputs}
    constants: dict[Buffer, Memory] = {}

    def memory(buffer: Buffer | str) -> Memory:
        if isinstance(buffer, str):
            return Memory(buffer)
        if buffer.kind == "constant":
            return constants.setdefault(buffer, Memory("constant", str(len(constants))))
        return ARENA if buffer.kind in ("arena", "scratch") else Memory(buffer.kind, buffer.name)

    def value(node: Node) -> Value:
        buffer, layout = plan.places[node].buffer, plan.places[node].layout
        start = buffer.offset // buffer.dtype.bytes
        return Value(memory(buffer), buffer.dtype, layout.shifted(start))

    return Image(
        arena_bytes=plan.arena_bytes,
        slots=tuple(memory(buffer) for buffer in slots),
        states={name: type for name, type in types.items() if name in plan.bound},
        inputs={name: type for name, type in types.items() if name not in plan.bound},
        outputs={n: value(v) for n, v in graph.named_outputs.items() if n not in plan.bound},
        stores=tuple((store.name, value(store.source)) for store in plan.stores),
        constants={m.name: _constant(buffer) for buffer, m in constants.items()},
    )


def _constant(buffer: Buffer) -> np.ndarray:
    node = buffer.nodes[0]
    evaluate = OPS[node.op.name].evaluate
    assert evaluate is not None
    value: np.ndarray = evaluate(**node.attributes)
    return value.reshape(-1)


# -- as files -------------------------------------------------------------------------------------


def to_bytes(image: Image) -> bytes:
    """A line of JSON, then the constants in NumPy's format, in their order."""
    about = {
        "arena_bytes": image.arena_bytes,
        "slots": [_memory_json(memory) for memory in image.slots],
        "states": {name: _type_json(type) for name, type in image.states.items()},
        "inputs": {name: _type_json(type) for name, type in image.inputs.items()},
        "outputs": {name: _value_json(value) for name, value in image.outputs.items()},
        "stores": [[name, _value_json(value)] for name, value in image.stores],
        "constants": list(image.constants),
    }
    file = io.BytesIO()
    file.write(json.dumps(about).encode() + b"\n")
    for value in image.constants.values():
        np.lib.format.write_array(file, value, allow_pickle=False)
    return file.getvalue()


def from_bytes(content: bytes) -> Image:
    """Back from `to_bytes`."""
    file = io.BytesIO(content)
    about = json.loads(file.readline())
    read = np.lib.format.read_array
    return Image(
        arena_bytes=about["arena_bytes"],
        slots=tuple(Memory(*memory) for memory in about["slots"]),
        states={name: _type(found) for name, found in about["states"].items()},
        inputs={name: _type(found) for name, found in about["inputs"].items()},
        outputs={name: _value(found) for name, found in about["outputs"].items()},
        stores=tuple((name, _value(found)) for name, found in about["stores"]),
        constants={name: read(file, allow_pickle=False) for name in about["constants"]},
    )


def _memory_json(memory: Memory) -> list[str]:
    return [memory.kind, memory.name]


def _type_json(type: TensorType) -> list[Any]:
    return [type.dtype.name, list(static_shape(type.shape))]


def _value_json(value: Value) -> list[Any]:
    layout = value.layout
    return [
        _memory_json(value.memory),
        value.dtype.name,
        [layout.offset, list(layout.shape), list(layout.strides)],
    ]


def _type(found: list[Any]) -> TensorType:
    dtype, shape = found
    return TensorType(DTYPES[dtype], tuple(shape))


def _value(found: list[Any]) -> Value:
    memory, dtype, (offset, shape, strides) = found
    return Value(Memory(*memory), DTYPES[dtype], Layout(offset, tuple(shape), tuple(strides)))
