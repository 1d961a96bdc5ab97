"""Worker processes as their parent sees them: started, asked, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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


def missing(framework: str) -> tuple[str, ...]:
    """The packages that a framework needs and that are not installed."""
    return tuple(p for p in NEEDS[framework] if find_spec(p) is None)


@dataclass(frozen=True)
class Machine:
    """Which cores all processes run on, and a folder for what they leave behind."""

    cores: tuple[int, ...]
    folder: Path

    def environment(self, cache: Path) -> dict[str, str]:
        """Every compiler's cache in one folder, which is new where a start shall be cold."""
        own = {
            "XDG_CACHE_HOME": cache / "xdg",
            "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
            "TRITON_CACHE_DIR": cache / "triton",
            "JAX_COMPILATION_CACHE_DIR": cache / "jax",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
            "JAX_PLATFORMS": "cpu",
        }
        return {**os.environ, **{k: str(v) for k, v in own.items()}}


class Worker:
    """A process of one framework; see worker.py for what it is asked and what it answers."""

    def __init__(self, machine: Machine, cache: Path, job: Mapping[str, Any]) -> None:
        self.framework: str = job["framework"]
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
        self.send({**job, "cores": machine.cores, "began": began})

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

    def _fail(self) -> Any:
        self.close()
        last = self._errors.read_text(encoding="utf-8").strip().splitlines()[-12:]
        sys.exit("\n".join([f"{self.framework} failed:", *last]))
