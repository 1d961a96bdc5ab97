"""From tensor IR to native code: the few passes of TVM that flat, scheduled loops need."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.build import codegen_build

from weft.backends.base import NotKept
from weft.backends.tvm.pool import POOL

_PASSES = (
    lambda: tirx.transform.VectorizeLoop(True),
    tirx.transform.UnrollLoop,
    tirx.transform.StmtSimplify,
    tirx.transform.AnnotateEntryFunc,
    tirx.transform.MakePackedAPI,
    tirx.transform.LowerTVMBuiltin,
    tirx.transform.LowerIntrin,
)
_LINKERS = ("cc", "gcc", "clang")


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


def library(modules: Iterable[Any], target: Any) -> bytes:
    """Modules as a shared library, each compiled as soon as it is there.

    That takes as many threads as a step: TVM lets go of Python while it compiles. Raises NotKept
    where the machine can't link.
    """
    linker = next(filter(None, map(shutil.which, _LINKERS)), None)
    if linker is None:
        raise NotKept("no linker", "install a C compiler: its `cc` links compiled steps")

    def compile(number: int, module: Any) -> str:
        path = str(Path(folder, f"{number}.o"))
        compiled(module, target).write_to_file(path, "o")
        return path

    with TemporaryDirectory(prefix="weft-") as folder:
        threads = ThreadPoolExecutor(POOL.width)
        try:
            begun = [threads.submit(compile, *item) for item in enumerate(modules)]
            objects = [one.result() for one in begun]
        finally:
            threads.shutdown(cancel_futures=True)  # who is interrupted doesn't wait for the rest
        linked = Path(folder, "step.so")
        command = [linker, "-shared", "-o", str(linked), *objects, "-lm", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotKept(f"`{linker}` fails: {done.stderr.strip()}")
        return linked.read_bytes()
