"""Without CuPy or a GPU, `--backend cupy` says what is missing."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from weft.backends.cupy import gpu
from weft.compiler.errors import RunError
from weft.runtime.backends import backend_named


@pytest.fixture(autouse=True)
def anew() -> None:
    gpu.device.cache_clear()


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RunError, match=r"needs CuPy, cuBLAS and NVRTC(.|\n)*weft\[cuda\]"):
        backend_named("cupy")


@pytest.mark.parametrize("count", [0, None])
def test_without_a_gpu(count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices() -> int:
        if count is None:
            raise RuntimeError("no CUDA driver")
        return count

    runtime = SimpleNamespace(getDeviceCount=devices, CUDARuntimeError=RuntimeError)
    modules = {
        "cupy": SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)),
        "cupy_backends": SimpleNamespace(),
        "cupy_backends.cuda": SimpleNamespace(),
        "cupy_backends.cuda.libs": SimpleNamespace(cublas=None, nvrtc=None),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = "no device" if count == 0 else "no CUDA driver"
    with pytest.raises(RunError, match=rf"needs an NVIDIA GPU(.|\n)*{found}(.|\n)*auto"):
        backend_named("cupy")
