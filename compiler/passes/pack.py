"""State arenas: named tensors as slices of one flat, 64-byte aligned vector.

    theta: f32[4816] = | net.w1 4096 | net.b1 64 | net.w2 640 | net.b2 10 | zeros 6 |

Every member starts on a 64-byte boundary. The elements between members are zero at first; an
update of the whole vector may leave anything there, and nothing reads them back into a member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from weft.compiler.builder import concat, flatten, input_, reshape, slice_, zeros
from weft.compiler.errors import InternalError
from weft.compiler.graph import Graph, Node, transform
from weft.compiler.types import DType, Shape, TensorType, static_shape

ALIGNMENT = 64


@dataclass(frozen=True)
class Member:
    """A tensor that lives in an arena, `offset` elements from its start."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Arena:
    """One flat vector of `size` elements holding its members, padding included."""

    name: str
    dtype: DType
    size: int
    members: tuple[Member, ...]

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, (self.size,))

    @cached_property
    def by_name(self) -> Mapping[str, Member]:
        return {member.name: member for member in self.members}

    def __str__(self) -> str:
        return f"{self.name}: {self.type} of {len(self.members)} tensors"


def layout(name: str, dtype: DType, members: Iterable[tuple[str, Shape]]) -> Arena:
    """The arena that holds (name, shape) pairs in this order, each one aligned."""
    step = max(1, ALIGNMENT // dtype.bytes)
    placed, offset = [], 0
    for member, shape in members:
        sizes = static_shape(shape)
        placed.append(Member(member, offset, sizes))
        offset += -(-prod(sizes) // step) * step
    if len({member.name for member in placed}) != len(placed):
        raise InternalError(f"arena `{name}` holds a name twice")
    return Arena(name, dtype, offset, tuple(placed))


def pack_values(values: Sequence[Node], arena: Arena) -> Node:
    """One value a member, flattened and joined, with zeros between them.

    Members that are slices of one vector of the arena's layout give that vector back.
    """
    known = _source(values, arena)
    if known is not None:
        return known
    parts: list[Node] = []
    end = 0
    for value, member in zip(values, arena.members, strict=True):
        if value.type != TensorType(arena.dtype, member.shape):
            raise InternalError(f"`{member.name}` of {arena} can't hold {value.type}")
        _fill(parts, member.offset - end, arena.dtype)
        if member.size:
            parts.append(flatten(value))
        end = member.offset + member.size
    _fill(parts, arena.size - end, arena.dtype)
    return concat(parts, 0) if parts else zeros(arena.type)


def _source(values: Sequence[Node], arena: Arena) -> Node | None:
    """The vector of which the values are the members, each in its place, if there is one."""
    source: Node | None = None
    for value, member in zip(values, arena.members, strict=True):
        if not member.size:
            continue
        while value.op.name == "reshape":
            value = value.inputs[0]
        if value.op.name == "slice" and value.type.rank == 1:
            begin, end = value.attributes["start"][0], value.attributes["limit"][0]
            step = value.attributes["strides"][0]
            value = value.inputs[0]
            if (begin, end, step) != (member.offset, member.offset + member.size, 1):
                return None
        elif arena.size != member.size:
            return None
        if value.type != arena.type or (source is not None and value is not source):
            return None
        source = value
    return source


def _fill(parts: list[Node], count: int, dtype: DType) -> None:
    if count:
        parts.append(zeros(TensorType(dtype, (count,))))


def unpack_values(flat: Node, arena: Arena) -> tuple[Node, ...]:
    """The members as slices of the flat vector: the inverse of `pack_values`."""
    return tuple(_member(flat, member) for member in arena.members)


def _member(flat: Node, member: Member) -> Node:
    part = slice_(flat, (member.offset,), (member.offset + member.size,))
    return reshape(part, member.shape)


def pack(graph: Graph, arenas: Iterable[Arena]) -> Graph:
    """The graph with the members of each arena replaced by slices of one input.

    An arena of which any member is an input becomes one input, at the place of the first of them.
    An arena of which any member is an output becomes one output; members that the graph leaves
    alone contribute their old slice.
    """
    arenas = tuple(arenas)
    home = {member.name: (arena, member) for arena in arenas for member in arena.members}
    outputs = set(graph.output_names)
    flats: dict[str, Node] = {}

    def flat(arena: Arena) -> Node:
        if arena.name not in flats:
            flats[arena.name] = input_(arena.name, arena.type)
        return flats[arena.name]

    def replace(node: Node, operands: tuple[Node, ...]) -> Node | None:
        if node.op.name == "concat":
            return _unpacked(operands, node.type, sizes)
        if node.op.name != "input" or node.name not in home:
            return None
        arena, member = home[node.name]
        if node.type != TensorType(arena.dtype, member.shape):
            raise InternalError(f"`{node.name}` of {arena} can't hold {node.type}")
        return _member(flat(arena), member)

    sizes: dict[TensorType, tuple[Arena, ...]] = {}
    for arena in arenas:
        sizes[arena.type] = (*sizes.get(arena.type, ()), arena)
    body = transform(graph, replace)
    values = dict(zip(graph.output_names, body.outputs, strict=True))
    packed: dict[str, Node] = {}
    for name, value in values.items():
        if name not in home:
            packed[name] = value
            continue
        arena, _ = home[name]
        if arena.name not in packed:
            packed[arena.name] = pack_values(
                [
                    values[m.name] if m.name in outputs else _member(flat(arena), m)
                    for m in arena.members
                ],
                arena,
            )
    inputs: dict[str, Node] = {}
    for old, new in zip(graph.inputs, body.inputs, strict=True):
        if old.name in home:
            arena, _ = home[old.name]
            inputs.setdefault(arena.name, flat(arena))
        else:
            inputs[old.name] = new
    inputs |= {name: node for name, node in flats.items() if name not in inputs}
    return Graph(graph.name, tuple(inputs.values()), tuple(packed.values()), tuple(packed))


def _unpacked(
    parts: tuple[Node, ...], type: TensorType, arenas: Mapping[TensorType, tuple[Arena, ...]]
) -> Node | None:
    """The arena's vector where `pack_values` joined its members with zeros between."""
    for arena in arenas.get(type, ()):
        offsets = {member.offset: None for member in arena.members if member.size}
        values: dict[int, Node] = {}
        start = 0
        for part in parts:
            if start in offsets:
                values[start] = part
            elif not _is_zero(part):
                break
            size = part.type.size
            assert isinstance(size, int)
            start += size
        if values.keys() == offsets.keys():
            members = [values.get(m.offset, parts[0]) for m in arena.members]
            found = _source(members, arena)
            if found is not None and found.op.name == "input":
                return found
    return None


def _is_zero(node: Node) -> bool:
    while node.op.name == "broadcast_in_dim":
        node = node.inputs[0]
    return node.op.name == "constant" and node.attributes["value"] == 0


def views(flat: np.ndarray, arena: Arena) -> dict[str, np.ndarray]:
    """The members of an arena's array by name: views, so that writing them writes the arena."""
    return {m.name: flat[m.offset : m.offset + m.size].reshape(m.shape) for m in arena.members}


def gathered(values: Mapping[str, np.ndarray], arena: Arena) -> np.ndarray:
    """A new flat array holding the members' values, zero between them."""
    flat = np.zeros(arena.size, arena.dtype.numpy)
    for name, view in views(flat, arena).items():
        view[...] = values[name]
    return flat
