"""Without CuPy or a GPU, `--backend cupy` says what is missing."""

from __future__ import annotations

import sys

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


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = pytest.importorskip("cupy")
    pytest.importorskip("cupy_backends.cuda.libs.cublas", exc_type=ImportError)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    with pytest.raises(RunError, match=r"needs an NVIDIA GPU(.|\n)*no device(.|\n)*auto"):
        backend_named("cupy")
