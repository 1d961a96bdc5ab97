"""From tensor IR to native code: the few passes of TVM that flat, scheduled loops need."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.build import codegen_build

_PASSES = (
    tirx.transform.FlattenBuffer,
    lambda: tirx.transform.VectorizeLoop(True),
    tirx.transform.UnrollLoop,
    tirx.transform.StmtSimplify,
    tirx.transform.AnnotateEntryFunc,
    tirx.transform.MakePackedAPI,
    tirx.transform.LowerTVMBuiltin,
    tirx.transform.LowerIntrin,
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
