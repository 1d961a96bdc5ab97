"""The code of the pool of threads, for a module whose parallel loops run on it: see `pool.ll`."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from tvm import ir, tirx
from tvm.tirx import stmt as s

from weft.backends.tvm import tir
from weft.backends.tvm.pool import MOST

SHARE = 4  # tasks for each thread: who is interrupted leaves some of its own to others
SPINS = 2_000  # looks for work before a thread sleeps: about 50 us
_PLAIN = 2  # the convention of functions whose arguments TVM leaves as they are
_PAUSES = {"x86_64": "pause", "amd64": "pause", "aarch64": "yield", "arm64": "yield"}


@cache
def code() -> str:
    """LLVM's text."""
    text = files("weft.backends.tvm").joinpath("pool.ll").read_text(encoding="utf-8")
    pause = _PAUSES.get(platform.machine().lower(), "")
    told = f'call void asm sideeffect "{pause}", ""()'
    return Template(text).substitute(pause=told, share=SHARE, spins=SPINS, most=MOST)


def enter(pool: tir.Expr) -> tir.Stmt:
    """What a function begins with whose loops run on the pool at this address."""
    return tir.external("weft_enter", pool)


def functions() -> Mapping[Any, Any]:
    """Those of the pool that have an address: the module needs them beside the text."""
    lambda_, data, seat = (tir.pointer(name, "int8") for name in ("lambda", "data", "seat"))
    return dict([
        _function("weft_launch", "weft_loop", lambda_, data, tir.variable("asked")),
        _function("weft_work", "weft_life", seat),
    ])  # fmt: skip


def _function(name: str, called: str, *parameters: tir.Expr) -> tuple[Any, Any]:
    body = tir.sequence(tir.external(called, *parameters), s.Return(tir.number(0)))
    made = tirx.PrimFunc(list(parameters), body, ret_type=ir.PrimType("int32"))
    return ir.GlobalVar(name), made.with_attr({"global_symbol": name, "calling_conv": _PLAIN})
