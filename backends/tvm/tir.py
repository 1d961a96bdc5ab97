"""TVM's tensor IR in few words: constructors for what the backend's kernels are made of.

IR is built directly, for parsing a script of it costs as much as compiling it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from tvm import ir, tirx
from tvm.tirx import stmt as s

from weft.compiler.types import DType

Expr = Any  # TVM's expressions have no types of their own for a checker
Stmt = Any
Buffer = Any

_CPU = 1
_NAMES = {
    "bool": "uint8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u32": "uint32",
    "u64": "uint64",
    "f32": "float32",
    "f64": "float64",
}


def stored(dtype: DType) -> str:
    """TVM's name of the type in memory; a boolean is a byte, 0 or 1."""
    return _NAMES[dtype.name]


@lru_cache(1 << 12)
def number(value: int) -> Expr:
    """A constant index; kernels are full of the same few."""
    return tirx.const(value, "int32" if abs(value) < 2**31 else "int64")


def variable(name: str, dtype: str = "int32") -> Expr:
    return ir.Var(name, dtype)


def pointer(name: str, dtype: str) -> Expr:
    return ir.Var(name, ir.PointerType(ir.PrimType(dtype), "global"))


def memory(name: str, dtype: str, size: int, data: Expr) -> tuple[Buffer, Stmt]:
    """A flat buffer over a pointer, and the statement that declares it."""
    buffer = tirx.decl_buffer((size,), dtype, name=name, data=data, data_alignment=1, layout=None)
    return buffer, s.DeclBuffer(buffer, data=data)


def local(name: str, dtype: str, size: int, scope: str = "local") -> tuple[Buffer, Stmt]:
    """Scratch memory, and the statement that makes it: registers, or `global` for the heap."""
    buffer = tirx.decl_buffer((size,), dtype, name=name, scope=scope, layout=None)
    on_stack = scope == "local"  # where LLVM makes registers of it
    return buffer, s.AllocBuffer(buffer, {"disable_lower_builtin": number(1)} if on_stack else None)


def load(buffer: Buffer, index: Expr) -> Expr:
    return buffer[index]


def store(buffer: Buffer, index: Expr, value: Expr) -> Stmt:
    return s.BufferStore(buffer, value, [index])


def sequence(*parts: Stmt | Sequence[Stmt]) -> Stmt:
    """Statements one after another."""
    found: list[Stmt] = []
    for part in parts:
        found.extend(part if isinstance(part, (list, tuple)) else [part])
    return found[0] if len(found) == 1 else s.SeqStmt(found)


_PARALLEL: ContextVar[list[str] | None] = ContextVar("parallel", default=None)


@contextmanager
def parallel_loops() -> Iterator[list[str]]:
    """The names of the parallel loops that are made inside: looking for them later costs more."""
    found: list[str] = []
    token = _PARALLEL.set(found)
    try:
        yield found
    finally:
        _PARALLEL.reset(token)


def loop(
    extent: int | Expr,
    body: Callable[[Expr], Stmt | list[Stmt]],
    kind: str = "serial",
    name: str = "i",
) -> Stmt:
    """`body` at each number from 0; `kind` is serial, parallel, vectorized or unrolled."""
    if isinstance(extent, int) and extent == 1 and kind != "parallel":
        return sequence(body(number(0)))
    found = _PARALLEL.get()
    if kind == "parallel" and found is not None:
        found.append(name)
    counter = variable(name)
    size = number(extent) if isinstance(extent, int) else extent
    kinds = s.ForKind
    return s.For(counter, number(0), size, kinds[kind.upper()], sequence(body(counter)))


def bind(name: str, value: Expr) -> tuple[Expr, Stmt]:
    """A name for a value in the statements that follow."""
    found = ir.Var(name, value.ty)
    return found, s.Bind(found, value)


def when(condition: Expr, body: Stmt) -> Stmt:
    return s.IfThenElse(condition, body, None)


def either(condition: Expr, body: Stmt, other: Stmt) -> Stmt:
    return s.IfThenElse(condition, body, other)


def call(name: str, *arguments: Expr) -> Expr:
    """What a C function gives, an `int`."""
    return tirx.call_extern("int32", name, *arguments)


def external(name: str, *arguments: Expr) -> Stmt:
    """A call of a C function for its effect."""
    return s.Evaluate(call(name, *arguments))


def beside(code: str, body: Stmt) -> Stmt:
    """The statement, in a module that has this text of LLVM's too."""
    return s.AttrStmt(ir.StringImm("default"), "pragma_import_llvm", ir.StringImm(code), body)


def address(buffer: Buffer, index: Expr) -> Expr:
    return tirx.address_of(buffer[index])


def function(parameters: Sequence[Expr], body: Sequence[Stmt]) -> Any:
    """A function of the module's own: it takes pointers as they are, and gives 0."""
    whole = sequence(list(body))
    for key, value in (("device_type", _CPU), ("device_id", 0)):  # of scratch memory
        whole = s.AttrStmt(ir.StringImm("default"), key, number(value), whole)
    # Scratch memory is given back where the attributes end, which must be before the return.
    whole = sequence(whole, s.Return(number(0)))
    made = tirx.PrimFunc(list(parameters), whole, ret_type=ir.PrimType("int32"))
    return made.with_attr({"tirx.noalias": True})
