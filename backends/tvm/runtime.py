"""TVM's runtime, the library, without its Python package, which takes seconds to import.

It is the very file that the package loads, so both see one pool of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

from weft.backends.tvm import packages

_INT, _TEXT = 1, 8  # TVM's numbers for kinds of values
_OBJECTS = 64  # from here on, values are objects that count their references


class Any(ctypes.Structure):
    """A value of TVM's: an integer, the address of a text, or an object."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("padding", ctypes.c_uint32),
        ("value", ctypes.c_int64),
    )


class _Bytes(ctypes.Structure):
    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_size_t))


@cache
def interface() -> ctypes.CDLL:
    """TVM's calling conventions."""
    return ctypes.CDLL(str(packages.library("tvm_ffi", "tvm_ffi")), mode=ctypes.RTLD_GLOBAL)


@cache
def library() -> ctypes.CDLL:
    """The runtime itself."""
    interface()
    return ctypes.CDLL(str(packages.library("tvm", "tvm_runtime")))


def call(name: str, *arguments: int | Sequence[str]) -> None:
    """A function that TVM knows by name, for its effect. Raises RuntimeError where it fails."""
    library()
    given = [_array(a) if isinstance(a, Sequence) else Any(_INT, 0, a) for a in arguments]
    try:
        _call(name, given)
    finally:
        for argument in given:
            if argument.kind >= _OBJECTS:
                interface().TVMFFIObjectDecRef(ctypes.c_void_p(argument.value))


def _array(texts: Sequence[str]) -> Any:
    held = [ctypes.create_string_buffer(text.encode()) for text in texts]
    return _call("ffi.Array", [Any(_TEXT, 0, ctypes.addressof(text)) for text in held])


def _call(name: str, arguments: Sequence[Any]) -> Any:
    function, result, key = ctypes.c_void_p(), Any(), name.encode()
    ask = interface().TVMFFIFunctionGetGlobal
    failed = ask(ctypes.byref(_Bytes(key, len(key))), ctypes.byref(function))
    if failed or function.value is None:
        raise RuntimeError(f"TVM has no function `{name}`")
    table = (Any * len(arguments))(*arguments)
    failed = interface().TVMFFIFunctionCall(
        function, table, ctypes.c_int32(len(arguments)), ctypes.byref(result)
    )
    interface().TVMFFIObjectDecRef(function)
    if failed:
        raise RuntimeError(f"TVM's function `{name}` fails")
    return result
