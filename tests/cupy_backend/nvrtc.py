"""Compiling CUDA for tests as a GPU's driver would get it: by NVRTC, which needs no GPU."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from weft.backends.cupy.code import headers
from weft.backends.cupy.gpu import OPTIONS

TARGETS = ("sm_75", "sm_80", "sm_90", "sm_100")
# The oldest and the newest, and the others where time is plenty.
SAMPLED = [
    pytest.param(target, marks=[] if target in (TARGETS[0], TARGETS[-1]) else pytest.mark.thorough)
    for target in TARGETS
]
CUPYS_OWN = ("-ftz=true", "--device-as-default-execution-space")  # options that CuPy adds


def _version() -> tuple[int, int] | None:
    try:
        from cupy.cuda import nvrtc

        found: tuple[int, int] = nvrtc.getVersion()
    except (ImportError, RuntimeError):
        return None
    return found


compiles = pytest.mark.skipif(
    _version() is None,
    reason="needs CuPy and NVRTC: pip install cupy-cuda13x nvidia-cuda-nvrtc",
)


def compiled(functions: Mapping[str, str], target: str) -> bytes:
    """Machine code for a target; what NVRTC says fails the test, warnings too."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram("\n".join((headers(), *functions.values())), "step.cu", [], [])
    try:
        nvrtc.compileProgram(program, [*OPTIONS, *CUPYS_OWN, f"-arch={target}"])
    except nvrtc.NVRTCError as error:
        raise AssertionError(nvrtc.getProgramLog(program)) from error
    assert not nvrtc.getProgramLog(program).strip("\0\n ")
    code: bytes = nvrtc.getCUBIN(program)
    nvrtc.destroyProgram(program)
    return code
