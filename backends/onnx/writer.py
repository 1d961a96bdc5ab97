"""Writes ONNX nodes: names, constants, casts, shapes made of symbolic sizes, each thing once.

A `Value` may be smaller than the tensor it stands for: it then broadcasts to it as NumPy does, so
that a bias meets a batch without being copied. `full` writes the broadcast out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from weft.backends.onnx.types import CODES, SINCE, runnable
from weft.compiler.errors import RunError, Span
from weft.compiler.graph import Graph, Node
from weft.compiler.types import BOOL, I64, Dim, DType, FloorDiv, Shape, SymDim, dtype_of

# Operands that must not change their type with the others: the condition of a choice.
_FIXED = {"Where": 1}
_END = np.iinfo(np.int64).max
_SPELLED = 6  # elements of a constant that its name spells out


@dataclass(frozen=True)
class Value:
    """A named ONNX value of known type; its shape broadcasts to that of what it stands for."""

    name: str
    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(eq=False)
class Writer:
    """The model being written. `values` holds what each graph node became."""

    opset: int
    taken: set[str] = field(default_factory=set)
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    values: dict[Node, Value] = field(default_factory=dict)
    symbols: dict[str, tuple[Value, int]] = field(default_factory=dict)  # where to read a size
    asked: dict[str, Value | None] = field(default_factory=dict)  # sizes that may be inputs
    scope: str = ""
    span: Span | None = None  # the place in the spec of what is being written
    graph: Callable[[Graph, Sequence[Value]], list[Value]] | None = None  # writes a body
    loops: dict[Hashable, list[Value]] = field(default_factory=dict)  # the results of each
    _written: dict[tuple[object, ...], tuple[NodeProto, list[Value]]] = field(default_factory=dict)
    _known: dict[tuple[object, ...], Value] = field(default_factory=dict)

    # -- names ------------------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        """The name, or with `_2`, `_3`, ... where it is taken, as the language names layers."""
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    @contextmanager
    def within(self, scope: str) -> Iterator[None]:
        """Names begin with `scope/`."""
        before, self.scope = self.scope, scope
        try:
            yield
        finally:
            self.scope = before

    @contextmanager
    def inner(self) -> Iterator[list[NodeProto]]:
        """Nodes go into a list of their own: a body, whose values nobody outside can read."""
        outer = self.nodes, self._written
        self.nodes, self._written = [], dict(self._written)
        try:
            yield self.nodes
        finally:
            self.nodes, self._written = outer

    # -- nodes ------------------------------------------------------------------------------------

    def has(self, op_type: str) -> bool:
        """Whether the opset has an operator."""
        return self.opset >= SINCE.get(op_type, 1)

    def op(
        self,
        op_type: str,
        *inputs: Value | None,
        dtype: DType | None = None,
        shape: Sequence[Dim] | None = None,
        **attributes: Any,
    ) -> Value:
        """A node with one result, of the first operand's type and shape unless they are given."""
        first = inputs[0]
        assert first is not None or (dtype is not None and shape is not None)
        dtype = dtype or (first.dtype if first else I64)
        shape = tuple(shape) if shape is not None else (first.shape if first else ())
        return self.several(op_type, inputs, [(dtype, shape)], **attributes)[0]

    def several(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        results: Sequence[tuple[DType, Shape]],
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """A node with several results; the same node is written once."""
        if not self.has(op_type):
            raise RunError(
                f"ONNX opset {self.opset} has no `{op_type}`",
                self.span,
                expected=f"opset {SINCE[op_type]} or later",
            )
        fixed = _FIXED.get(op_type, 0)
        subject = inputs[fixed] if len(inputs) > fixed else None
        dtype = subject.dtype if subject else results[0][0]
        wide = runnable(op_type, dtype)
        if wide == dtype:
            return self._write(op_type, inputs, results, attributes)
        operands = [
            self.cast(x, wide) if i >= fixed and x and x.dtype == dtype else x
            for i, x in enumerate(inputs)
        ]
        widened = [(wide if kind == dtype else kind, shape) for kind, shape in results]
        found = self._write(op_type, operands, widened, attributes)
        return tuple(self.cast(v, kind) for v, (kind, _) in zip(found, results, strict=True))

    def _write(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        results: Sequence[tuple[DType, Shape]],
        attributes: Mapping[str, Any],
    ) -> tuple[Value, ...]:
        names = [x.name if x else "" for x in inputs]
        key = (op_type, tuple(names), repr(sorted(attributes.items())))
        known = self._written.get(key)
        if known is None:
            name = self.fresh(f"{self.scope}/{op_type}" if self.scope else op_type)
            node = helper.make_node(op_type, names, [name], name, **attributes)
            self.nodes.append(node)
            known = self._written[key] = node, [Value(name, *results[0])]
        node, values = known
        for dtype, shape in results[len(values) :]:
            values.append(Value(self.fresh(f"{node.name}.{len(values)}"), dtype, shape))
            node.output.append(values[-1].name)
        return tuple(values[: len(results)])

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.dtype == dtype else self.op("Cast", x, dtype=dtype, to=CODES[dtype])

    def elementwise(
        self, op_type: str, *inputs: Value, dtype: DType | None = None, **attributes: Any
    ) -> Value:
        """Operands broadcast together; the result has their type unless `dtype` says another."""
        shape = broadcast_shape(x.shape for x in inputs)
        kind = dtype or inputs[_FIXED.get(op_type, 0)].dtype
        return self.op(op_type, *inputs, dtype=kind, shape=shape, **attributes)

    def extreme(self, op_type: str, x: Value, y: Value) -> Value:
        """`Max` or `Min`; of i64 by a comparison.

        The kernels of onnxruntime 1.31 (Max, Min, Clip, ReduceMax, ReduceMin) mistake the order of
        i64 beyond 32 bits.
        """
        if x.dtype != I64:
            return self.elementwise(op_type, x, y)
        test = "Greater" if op_type == "Max" else "Less"
        return self.elementwise("Where", self.elementwise(test, x, y, dtype=BOOL), x, y)

    # -- constants --------------------------------------------------------------------------------

    def constant(self, array: np.ndarray, name: str = "") -> Value:
        """An initialiser with these elements; equal ones are one."""
        dtype = dtype_of(array)
        key = (dtype, array.shape, array.tobytes())
        if key not in self._known:
            chosen = self.fresh(name or f"const/{dtype}{_spelling(array)}")
            self.constants[chosen] = initializer(chosen, array)
            self._known[key] = Value(chosen, dtype, array.shape)
        return self._known[key]

    def scalar(self, number: float, dtype: DType) -> Value:
        return self.constant(np.array(number, dtype.numpy))

    def integers(self, *numbers: int) -> Value:
        """A vector of i64, the form in which ONNX takes axes and sizes."""
        return self.constant(np.array(numbers, np.int64))

    # -- sizes ------------------------------------------------------------------------------------

    def dims(self, shape: Sequence[Dim]) -> Value:
        """Sizes as a vector of i64, computed where they are symbolic."""
        if all(isinstance(d, int) for d in shape):
            return self.integers(*(d for d in shape if isinstance(d, int)))
        parts: list[Value] = []
        numbers: list[int] = []
        for dim in shape:
            if isinstance(dim, int):
                numbers.append(dim)
                continue
            if numbers:
                parts.append(self.integers(*numbers))
                numbers = []
            parts.append(self._symbolic(dim))
        if numbers:
            parts.append(self.integers(*numbers))
        if len(parts) == 1:
            return parts[0]
        with self.within("size"):
            return self.op("Concat", *parts, shape=(len(shape),), axis=0)

    def size(self, dim: Dim) -> Value:
        """One size as a scalar of i64."""
        if isinstance(dim, int):
            return self.scalar(dim, I64)
        with self.within("size"):
            return self.op("Squeeze", self.dims([dim]), self.integers(0), shape=())

    def _symbolic(self, dim: SymDim) -> Value:
        """A polynomial of symbols as a vector of one i64."""
        with self.within("size"):
            total: Value | None = None
            for monomial, factor in dim.terms:
                term = self.integers(factor) if factor != 1 or not monomial else None
                for atom in monomial:
                    found = self._atom(atom)
                    term = self.op("Mul", term, found) if term else found
                assert term is not None
                total = self.op("Add", total, term) if total else term
            assert total is not None
            return total

    def _atom(self, atom: str | FloorDiv) -> Value:
        if isinstance(atom, FloorDiv):
            # Its dividend has no negative coefficient, so that to truncate is to round down.
            return self.op("Div", self._symbolic(atom.dividend), self.integers(atom.divisor))
        if atom not in self.symbols and atom in self.asked and atom not in self.taken:
            asked = self.asked[atom] = Value(atom, I64, ())
            return self.reshape(asked, (1,))
        if atom not in self.symbols:
            raise RunError(
                f"the size `{atom}` can't be known when the model runs",
                self.span,
                expected=f"an input with an axis of length `{atom}`",
            )
        source, axis = self.symbols[atom]
        return self.op("Shape", source, dtype=I64, shape=(1,), start=axis, end=axis + 1)

    # -- movement ---------------------------------------------------------------------------------

    def full(self, x: Value, shape: Shape) -> Value:
        """The value with its broadcast written out."""
        if x.shape == shape:
            return x
        skip = len(shape) - x.rank
        # Axes that the operand has already may be called 1 here: no size needs computing.
        wanted = [d if i < skip or x.shape[i - skip] != d else 1 for i, d in enumerate(shape)]
        return self.op("Expand", x, self.dims(wanted), shape=shape)

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        """Other axes over the same elements, with no size computed that need not be."""
        target = tuple(shape)
        if x.shape == target:
            return x
        if (axes := _ones(x.shape, target)) is not None:
            return self.op("Unsqueeze", x, self.integers(*axes), shape=target)
        if (axes := _ones(target, x.shape)) is not None:
            return self.op("Squeeze", x, self.integers(*axes), shape=target)
        if 0 in target:
            return self.op("Reshape", x, self.dims(target), shape=target, allowzero=1)
        # 0 keeps the operand's size at the same place, -1 is what is left over.
        sizes: list[Dim] = [
            0 if isinstance(d, SymDim) and i < x.rank and x.shape[i] == d else d
            for i, d in enumerate(target)
        ]
        unknown = [i for i, d in enumerate(sizes) if isinstance(d, SymDim)]
        if len(unknown) == 1:
            sizes[unknown[0]] = -1
        return self.op("Reshape", x, self.dims(sizes), shape=target)

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        order = list(permutation)
        if order == sorted(order):
            return x
        return self.op("Transpose", x, shape=[x.shape[i] for i in order], perm=order)

    def expand_at(self, x: Value, axis: int) -> Value:
        """A new axis of length 1."""
        shape = (*x.shape[:axis], 1, *x.shape[axis:])
        return self.op("Unsqueeze", x, self.integers(axis), shape=shape)

    def slice(
        self, x: Value, start: Sequence[Dim], limit: Sequence[Dim], strides: Sequence[int]
    ) -> Value:
        """`x[start:limit:strides]`, naming only the axes that change."""
        shape = [
            (high - low + (stride - 1)) // stride
            for low, high, stride in zip(start, limit, strides, strict=True)
        ]
        axes = [
            i for i, d in enumerate(x.shape) if start[i] != 0 or limit[i] != d or strides[i] != 1
        ]
        if not axes:
            return x
        ends: list[Dim] = [_END if limit[i] == x.shape[i] else limit[i] for i in axes]
        bounds = [self.dims([start[i] for i in axes]), self.dims(ends), self.integers(*axes)]
        steps = [strides[i] for i in axes]
        if any(step != 1 for step in steps):
            bounds.append(self.integers(*steps))
        return self.op("Slice", x, *bounds, shape=shape)

    def pad(self, x: Value, low: Sequence[Dim], high: Sequence[Dim], fill: Value) -> Value:
        """`fill` around; negative amounts cut."""
        if not any((*low, *high)):
            return x
        shape = tuple(a + n + b for a, n, b in zip(low, x.shape, high, strict=True))
        if not all(isinstance(p, int) for p in (*low, *high)):
            return self.op("Pad", x, self.dims([*low, *high]), fill, shape=shape)
        before, after = ([max(0, _int(p)) for p in side] for side in (low, high))
        if any((*before, *after)):
            grown: list[Dim] = [a + n + b for a, n, b in zip(before, x.shape, after, strict=True)]
            x = self.op("Pad", x, self.integers(*before, *after), fill, shape=grown)
        start = [max(0, -_int(p)) for p in low]
        limit = [n - max(0, -_int(p)) for n, p in zip(x.shape, high, strict=True)]
        return self.slice(x, start, limit, [1] * x.rank)

    def logical_not(self, x: Value) -> Value:
        return self.op("Not", x, dtype=BOOL)


def broadcast_shape(shapes: Iterable[Shape]) -> Shape:
    """The shape to which all broadcast, aligned from the right; lengths differ only by 1s."""
    result: list[Dim] = []
    for shape in shapes:
        result[:0] = [1] * (len(shape) - len(result))
        skip = len(result) - len(shape)
        for i, dim in enumerate(shape):
            if dim != 1:
                result[skip + i] = dim
    return tuple(result)


def initializer(name: str, array: np.ndarray) -> TensorProto:
    """The array as a named ONNX tensor."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return helper.make_tensor(name, CODES[dtype_of(array)], array.shape, little.tobytes(), raw=True)


def _ones(small: Shape, large: Shape) -> tuple[int, ...] | None:
    """The axes of length 1 that `large` has and `small` has not; None if they differ otherwise."""
    axes: list[int] = []
    place = 0
    for i, dim in enumerate(large):
        if place < len(small) and small[place] == dim:
            place += 1
        elif dim == 1:
            axes.append(i)
        else:
            return None
    return tuple(axes) if axes and place == len(small) else None


def _int(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim


def _spelling(array: np.ndarray) -> str:
    """What a constant's name says of it: its shape, and its elements if they are few."""
    shape = "".join(f"x{n}" for n in array.shape)
    if array.ndim >= 2 or not 0 < array.size <= _SPELLED:
        return shape
    return "_".join([shape, *map(str, array.ravel())])
