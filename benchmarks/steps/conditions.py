"""Where and how a run was made."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from device import Gpu
from workloads import Suite, suite_for

_PEERS = ("torch", "jax", "jaxlib", "optax")
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("numpy", "apache-tvm", *_PEERS),
    "cuda": ("numpy", "cupy-cuda13x", "nvidia-cublas", "nvidia-cuda-nvrtc", "triton", *_PEERS),
}


@dataclass(frozen=True)
class Conditions:
    """All that figures depend on beside Weft itself. `gpu` is empty where a CPU computes."""

    backend: str
    threads: int
    load: float  # average of the minute before: 0 on a machine with nothing else to do
    processor: str
    memory: str
    python: str
    packages: Mapping[str, str]  # their versions
    gpu: str = ""
    precision: str = "f32"

    @staticmethod
    def here(
        backend: str, threads: int, gpu: Gpu | None = None, precision: str = "f32"
    ) -> Conditions:
        found = {}
        for package in PACKAGES["cpu" if gpu is None else "cuda"]:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
        return Conditions(
            backend=backend,
            threads=threads,
            load=os.getloadavg()[0],
            processor=_processor(),
            memory=_memory(),
            python=platform.python_version(),
            packages=found,
            gpu="" if gpu is None else _described(gpu),
            precision=precision,
        )

    @property
    def suite(self) -> Suite:
        return suite_for("cuda" if self.gpu else "cpu", self.precision)

    def words(self) -> str:
        versions = [f"Python {self.python}", *(f"{k} {v}" for k, v in self.packages.items())]
        where = f"on an {self.gpu}; the host has " if self.gpu else ""
        return (
            f"Weft's backend is `{self.backend}`{', ' if where else '; '}{where}"
            f"{self.threads} threads on {self.threads} cores of {self.processor}, {self.memory}; "
            f"{', '.join(versions)}. The load of the machine before the run was {self.load:.1f}."
        )


def _described(gpu: Gpu) -> str:
    _, total = gpu.memory()
    return f"{gpu.name} with {total / (1 << 30):.0f} GiB, its driver for CUDA {gpu.cuda}"


def _processor() -> str:
    for row in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if row.startswith("model name"):
            return row.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    first = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()[0]
    return f"{int(first.split()[1]) / (1 << 20):.0f} GiB"
