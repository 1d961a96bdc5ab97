"""Worker processes as their parent sees them: started, asked, ended; and where they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from device import Gpu, Seen

WORKER = Path(__file__).with_name("worker.py")

# The frameworks with readers' names, and the packages that they need.
TITLES: Mapping[str, str] = {
    "weft": "Weft",
    "torch": "PyTorch",
    "torch.compile": "torch.compile",
    "jax": "JAX",
}
NEEDS: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torch.compile": ("torch",),
    "jax": ("jax", "optax"),
}
PEERS = tuple(NEEDS)


@dataclass(frozen=True)
class Machine:
    """Which cores all processes run on, a folder for what they leave behind, and the GPU, if it is
    the GPU that computes.
    """

    cores: tuple[int, ...]
    folder: Path
    gpu: Gpu | None = None

    @property
    def device(self) -> str:
        """As PyTorch calls it."""
        return "cpu" if self.gpu is None else "cuda"

    def watched(self) -> AbstractContextManager[Seen | None]:
        """What a block takes of the GPU's memory, where there is one."""
        return nullcontext() if self.gpu is None else self.gpu.watched()

    def environment(self, cache: Path) -> dict[str, str]:
        """Every compiler's cache in one folder, which is new where a start shall be cold."""
        own = {
            "XDG_CACHE_HOME": cache / "xdg",
            "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
            "TRITON_CACHE_DIR": cache / "triton",
            "JAX_COMPILATION_CACHE_DIR": cache / "jax",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
            "JAX_PLATFORMS": "cpu" if self.gpu is None else "",
            "CUPY_CACHE_DIR": cache / "cupy",
            "CUDA_CACHE_PATH": cache / "cuda",
            # Else JAX takes most of the GPU's memory at once, whatever it needs.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        return {**os.environ, **{k: str(v) for k, v in own.items()}}


def lacking(peer: str, machine: Machine) -> str | None:
    """What keeps a peer from running here, in words; None where it can."""
    absent = [package for package in NEEDS[peer] if find_spec(package) is None]
    if absent:
        return f"{', '.join(absent)} not installed (`pip install weft[bench]`)"
    if machine.gpu is None:
        return None
    found: str | None = Worker.once(machine, {"kind": "lacking", "framework": peer})
    return found


class Worker:
    """A process of one framework; see worker.py for what it is asked and what it answers."""

    def __init__(self, machine: Machine, cache: Path, job: Mapping[str, Any]) -> None:
        self.framework: str = job.get("framework", job["kind"])
        self._errors = machine.folder / f"{self.framework}.errors"
        began = time.monotonic()
        with self._errors.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=machine.environment(cache),
                text=True,
            )
        given = {"cores": machine.cores, "device": machine.device, "began": began}
        self.send({**job, **given})

    def send(self, message: object) -> None:
        assert self._process.stdin is not None
        text = message if isinstance(message, str) else json.dumps(message)
        try:
            print(text, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._fail()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else self._fail()

    def ask(self, *command: object) -> Any:
        self.send(" ".join(map(str, command)))
        return self.answer()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()

    @staticmethod
    def once(machine: Machine, job: Mapping[str, Any]) -> Any:
        """The only answer to a job."""
        with TemporaryDirectory(dir=machine.folder) as cache:
            worker = Worker(machine, Path(cache), job)
            try:
                return worker.answer()
            finally:
                worker.close()

    def _fail(self) -> Any:
        self.close()
        last = self._errors.read_text(encoding="utf-8").strip().splitlines()[-12:]
        sys.exit("\n".join([f"{self.framework} failed:", *last]))
