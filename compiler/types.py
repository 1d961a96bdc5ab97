"""Element types, dimensions (numbers or symbolic polynomials) and tensor types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import mul

import numpy as np


@dataclass(frozen=True, eq=False)
class DType:
    """An element type. `kind` is one of `float`, `int`, `uint`, `bool`.

    There is one object of each, in the table `DTYPES`.
    """

    name: str
    kind: str
    bits: int

    @property
    def numpy(self) -> np.dtype:
        """The NumPy type; `bf16` is the one of `ml_dtypes`, a dependency of onnx."""
        if self.name == "bf16":
            import ml_dtypes

            found: np.dtype = np.dtype(ml_dtypes.bfloat16)
            return found
        return np.dtype(_NUMPY_NAMES[self.name])

    @property
    def bytes(self) -> int:
        return max(1, self.bits // 8)

    @property
    def is_narrow(self) -> bool:
        """Whether it is a float of 16 bits: what is computed of such is computed in f32."""
        return self.kind == "float" and self.bits < 32

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


BOOL = DType("bool", "bool", 8)
I8 = DType("i8", "int", 8)
I32 = DType("i32", "int", 32)
I64 = DType("i64", "int", 64)
U8 = DType("u8", "uint", 8)
U32 = DType("u32", "uint", 32)
U64 = DType("u64", "uint", 64)
F16 = DType("f16", "float", 16)
BF16 = DType("bf16", "float", 16)
F32 = DType("f32", "float", 32)
F64 = DType("f64", "float", 64)

DTYPES: dict[str, DType] = {
    d.name: d for d in (BOOL, I8, I32, I64, U8, U32, U64, F16, BF16, F32, F64)
}

_NUMPY_NAMES = {
    "bool": "bool",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u32": "uint32",
    "u64": "uint64",
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
}


def dtype_of(array: np.ndarray) -> DType:
    """The element type of a NumPy array; a TypeError for types that Weft does not have."""
    for name, dtype in DTYPES.items():
        if array.dtype.name == _NUMPY_NAMES[name] and array.dtype == dtype.numpy:
            return dtype
    raise TypeError(f"no element type for {array.dtype}")


# A monomial is a sorted tuple of atoms: `("batch", "batch")` is batch squared. An atom is a
# symbol's name, or a `FloorDiv` whose quotient is not exact.
@dataclass(frozen=True)
class FloorDiv:
    """The atom `floor(dividend / divisor)` of a polynomial whose division is not exact."""

    dividend: SymDim
    divisor: int

    def __str__(self) -> str:
        dividend = str(self.dividend)
        if " " in dividend or "*" in dividend:
            dividend = f"({dividend})"
        return f"({dividend} // {self.divisor})"


Atom = str | FloorDiv
Monomial = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class SymDim:
    """A size known only at run time: a polynomial with integer coefficients over symbols.

    Two are equal exactly when they are the same polynomial, so `2*batch == batch + batch`.
    Terms are kept sorted; a polynomial without symbols is a plain `int`, never a `SymDim`.
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        parts = []
        for monomial, factor in self.terms:
            names = "*".join(str(atom) for atom in monomial)
            if not names:
                parts.append(str(factor))
            else:
                parts.append(names if factor == 1 else f"{factor}*{names}")
        return " + ".join(parts).replace("+ -", "- ")

    __repr__ = __str__

    def __add__(self, other: Dim) -> Dim:
        total = dict(self.terms)
        for monomial, factor in _terms(other):
            total[monomial] = total.get(monomial, 0) + factor
        return _dim(total)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    def __mul__(self, other: Dim) -> Dim:
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                monomial = tuple(sorted(left + right, key=str))
                total[monomial] = total.get(monomial, 0) + a * b
        return _dim(total)

    __rmul__ = __mul__

    def __floordiv__(self, divisor: Dim) -> Dim:
        if isinstance(divisor, SymDim):
            quotient = _exact_quotient(self, divisor)
            if quotient is None:
                raise ValueError(f"cannot divide {self} by {divisor} exactly")
            return quotient
        # floor((q * d + r) / d) = q + floor(r / d), so whole parts leave: (2*n + 1) // 2 is n.
        whole = {monomial: factor // divisor for monomial, factor in self.terms}
        rest = _dim({monomial: factor % divisor for monomial, factor in self.terms})
        if isinstance(rest, SymDim):
            atom: Monomial = (FloorDiv(rest, divisor),)
            whole[atom] = whole.get(atom, 0) + 1
        return _dim(whole)

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(
            name
            for monomial, _ in self.terms
            for atom in monomial
            for name in ({atom} if isinstance(atom, str) else atom.dividend.symbols)
        )


Dim = int | SymDim


def symbol(name: str) -> SymDim:
    """The dimension that is just the named symbol."""
    return SymDim((((name,), 1),))


def _terms(dim: Dim) -> Iterable[tuple[Monomial, int]]:
    return dim.terms if isinstance(dim, SymDim) else (((), int(dim)),)


def _dim(total: Mapping[Monomial, int]) -> Dim:
    terms = sorted(((m, f) for m, f in total.items() if f), key=lambda t: (-len(t[0]), str(t[0])))
    if not terms:
        return 0
    if len(terms) == 1 and terms[0][0] == ():
        return terms[0][1]
    return SymDim(tuple(terms))


def _exact_quotient(dividend: SymDim, divisor: SymDim) -> Dim | None:
    """The quotient by a single-term divisor when it is exact, as in `batch*64 / batch`."""
    if len(divisor.terms) != 1:
        return 1 if dividend == divisor else None
    (monomial, factor), total = divisor.terms[0], {}
    for atoms, coefficient in dividend.terms:
        rest = list(atoms)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % factor:
            return None
        total[tuple(rest)] = coefficient // factor
    return _dim(total)


def divide(dividend: Dim, divisor: Dim) -> Dim:
    """The quotient of two sizes; a ValueError where a symbolic divisor leaves a remainder."""
    if isinstance(divisor, int):
        return dividend // divisor
    if isinstance(dividend, int):
        raise ValueError(f"cannot divide {dividend} by {divisor} exactly")
    return dividend // divisor


def bind_dim(dim: Dim, sizes: Mapping[str, Dim]) -> Dim:
    """The dimension with symbols replaced by the given sizes."""
    if not isinstance(dim, SymDim):
        return dim
    total: Dim = 0
    for monomial, factor in dim.terms:
        total = total + factor * reduce(mul, (_bind_atom(a, sizes) for a in monomial), 1)
    return total


def _bind_atom(atom: Atom, sizes: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, FloorDiv):
        return bind_dim(atom.dividend, sizes) // atom.divisor
    return sizes[atom] if atom in sizes else symbol(atom)


Shape = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """An element type and a shape, such as `f32[batch, 64]`."""

    dtype: DType
    shape: Shape = ()

    def __eq__(self, other: object) -> bool:
        """Most types that are compared are one object: an elementwise node has its operand's."""
        if self is other:
            return True
        if not isinstance(other, TensorType):
            return NotImplemented
        return self.dtype is other.dtype and self.shape == other.shape

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """The number of elements."""
        return reduce(mul, self.shape, 1)

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @property
    def bytes(self) -> int:
        """The size in bytes of a static type."""
        return prod(static_shape(self.shape)) * self.dtype.bytes

    def with_shape(self, shape: Iterable[Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(d) for d in self.shape)}]"

    __repr__ = __str__


def static_shape(shape: Shape) -> tuple[int, ...]:
    """The shape as plain integers; a ValueError names the dimension that is symbolic."""
    known = tuple([dim for dim in shape if isinstance(dim, int)])
    if len(known) < len(shape):
        unknown = next(dim for dim in shape if not isinstance(dim, int))
        raise ValueError(f"dimension {unknown} is not known yet")
    return known
