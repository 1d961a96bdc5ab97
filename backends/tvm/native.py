"""From tensor IR to native code: the few passes of TVM that flat, scheduled loops need."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.build import codegen_build

_PASSES = (
    lambda: tirx.transform.FlattenBuffer(),
    lambda: tirx.transform.VectorizeLoop(True),
    lambda: tirx.transform.UnrollLoop(),
    lambda: tirx.transform.StmtSimplify(),
    lambda: tirx.transform.AnnotateEntryFunc(),
    lambda: tirx.transform.MakePackedAPI(),
    lambda: tirx.transform.LowerTVMBuiltin(),
    lambda: tirx.transform.LowerIntrin(),
)


def lowered(module: Any, target: Any) -> Any:
    """The module as TVM's code generator wants it."""
    with tvm.transform.PassContext(opt_level=3):
        module = tirx.transform.BindTarget(target.with_host(target))(module)
        for make in _PASSES:
            module = make()(module)
    return module


def compiled(module: Any, target: Any) -> Any:
    """Native code, ready to call."""
    return codegen_build(lowered(module, target), target)
