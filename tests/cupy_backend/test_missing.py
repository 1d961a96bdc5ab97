"""Without CuPy or a GPU, `--backend cupy` says what is missing."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from weft.backends.cupy import driver, gpu
from weft.compiler.errors import RunError
from weft.runtime import backends
from weft.runtime.backends import backend_named


@pytest.fixture(autouse=True)
def anew() -> None:
    gpu.device.cache_clear()
    driver.missing.cache_clear()


def no_driver(name: str) -> None:
    raise OSError(name)


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    monkeypatch.setattr(backends, "find_spec", lambda name: name)
    with pytest.raises(RunError, match=r"`cupy` can't run here(.|\n)*no NVIDIA driver"):
        backend_named("cupy")
    assert "cupy" not in backends.installed()


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"`cupy` not installed(.|\n)*weft\[cuda\]"):
        backend_named("cupy")


@pytest.mark.parametrize("count", [0, 2])
def test_the_driver_counts_devices(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(pointer: Any) -> int:
        pointer._obj.value = count
        return 0

    library = SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGetCount=counted)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert driver.missing() == (None if count else "an NVIDIA driver, but no GPU")


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RunError, match=r"needs CuPy, cuBLAS and NVRTC(.|\n)*weft\[cuda\]"):
        gpu.device()


@pytest.mark.parametrize("count", [0, None])
def test_without_a_device(count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
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
        gpu.device()
