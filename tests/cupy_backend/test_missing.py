"""Without CuPy or a GPU, `--backend cupy` says what is missing."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
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


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({}, None),
        ({"capability": (10, 3)}, None),
        ({"count": 0}, "an NVIDIA driver, but no GPU"),
        ({"status": 100}, "an NVIDIA driver, but no GPU"),
        ({"status": 803}, "an NVIDIA driver that does not start: its error 803"),
        ({"version": 12_040}, "an NVIDIA driver for CUDA 12.4: update it to one for CUDA 13"),
        ({"capability": (7, 0)}, "a GPU of compute capability 7.0: CUDA 13 begins with 7.5"),
    ],
)
def test_what_the_driver_says(
    told: dict[str, Any], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = {"status": 0, "count": 2, "version": 13_000, "capability": (7, 5), **told}

    def answer(value: int) -> Callable[..., int]:
        def function(pointer: Any, *arguments: int) -> int:
            pointer._obj.value = value
            return 0

        return function

    def attribute(pointer: Any, number: int, gpu: int) -> int:
        assert gpu == 0
        pointer._obj.value = has["capability"][{75: 0, 76: 1}[number]]
        return 0

    library = SimpleNamespace(
        cuInit=lambda flags: has["status"],
        cuDeviceGetCount=answer(has["count"]),
        cuDriverGetVersion=answer(has["version"]),
        cuDeviceGet=answer(0),
        cuDeviceGetAttribute=attribute,
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert driver.missing() == found


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RunError, match=r"needs CuPy, cuBLAS and NVRTC(.|\n)*weft\[cuda\]"):
        gpu.device()


def test_without_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a finder of libraries says is shown, not that CuPy could not be imported."""
    pathfinder = pytest.importorskip("cuda.pathfinder")

    def load(name: str) -> None:
        raise pathfinder.DynamicLibNotFoundError(f"no lib{name}.so anywhere")

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", load)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    with pytest.raises(RunError, match=r"needs CuPy, cuBLAS and NVRTC(.|\n)*no libcublas.so"):
        gpu.device()


@pytest.mark.parametrize("count", [0, None])
def test_without_a_device(count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def devices() -> int:
        if count is None:
            raise RuntimeError("no CUDA driver")
        return count

    runtime = SimpleNamespace(getDeviceCount=devices, CUDARuntimeError=RuntimeError)
    nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
    cuda = SimpleNamespace(runtime=runtime, nvrtc=nvrtc)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(gpu, "loaded", lambda: None)
    found = "no device" if count == 0 else "no CUDA driver"
    with pytest.raises(RunError, match=rf"needs an NVIDIA GPU(.|\n)*{found}(.|\n)*auto"):
        gpu.device()
