"""A process of one framework, which trains when it is told to, and waits on its input in between.

    parent: the job, as JSON   -> worker: {"imported": s, "start": s, "step": s, "base": bytes,
                                           "loss": x}
            losses 7                      [x, ...]     of that many further steps
            time 1 20                     seconds      that 20 steps took, after 1 more
            peak                          bytes

A start lasts from when the framework is there, and parameters and batches are read, to the first
loss; "step" is the first step in it. Each framework has its own memory and its own threads, and
they take turns. Jobs of other kinds: `lacking` answers with what keeps the framework from a GPU, or
null, `profile` with what `weft profile --json` prints, and `busy` uses all cores between `work` and
`rest`. A worker ends when its parent does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads import Start

Step = Callable[[int], Any]  # trains on a batch; what it gives is the loss, once asked for
Starter = Callable[["Start"], Step]
Job = Mapping[str, Any]


def weft_starter(job: Job) -> Starter:
    """The step as the trainer runs it."""
    import numpy as np

    from weft.runtime.backends import backend_named
    from weft.runtime.session import aligned_zeros, session_for

    backend = backend_named(job["backend"])

    def aligned(array: np.ndarray) -> np.ndarray:
        copy = aligned_zeros(array.shape, array.dtype)
        copy[...] = array
        return copy

    def start(given: Start) -> Step:
        np.seterr(all="ignore")
        loaded = experiment(job).loaded
        session = session_for(loaded, backend)
        session.initialise(0)
        tensors = session.tensors()
        for name, value in given.parameters.items():
            tensors[name][...] = value
        session.state.changed()
        batches = [{k: aligned(a) for k, a in batch.items()} for batch in given.batches]
        train = session.step("train_step", loaded.experiment.settings.batch)
        return lambda i: Loss(train(batches[i]))

    return start


@dataclass(frozen=True)
class Loss:
    """The loss among the results of a step, which a GPU need not have yet."""

    results: Mapping[str, Any]

    def __float__(self) -> float:
        return float(self.results["loss"])


def experiment(job: Job) -> Any:
    """The spec, as `weft.load` gives it."""
    from workloads import SPECS

    import weft

    return weft.load(SPECS / f"{job['spec']}.weft", **job["settings"])


def torch_starter(job: Job, compiled: bool = False) -> Starter:
    import torch_models
    from workloads import arranged

    def start(given: Start) -> Step:
        return torch_models.start(
            job["spec"],
            of_the_net(job),
            job["optimiser"],
            arranged(given.parameters),
            given.batches,
            threads=len(job["cores"]),
            compiled=compiled,
            device=job["device"],
            tf32=rounds(job),
        )

    return start


def compiled_starter(job: Job) -> Starter:
    return torch_starter(job, compiled=True)


def jax_starter(job: Job) -> Starter:
    import jax_models
    from workloads import arranged

    def start(given: Start) -> Step:
        return jax_models.start(
            job["spec"],
            of_the_net(job),
            job["optimiser"],
            arranged(given.parameters),
            given.batches,
            device=job["device"],
            tf32=rounds(job),
        )

    return start


def of_the_net(job: Job) -> Mapping[str, Any]:
    """The settings that say what net it is."""
    return {k: v for k, v in job["settings"].items() if k not in ("size", "precision")}


def rounds(job: Job) -> bool:
    """Whether products may round their factors to TF32."""
    return job["settings"].get("precision") == "tf32"


def lacking(framework: str) -> str | None:
    """What keeps a framework from a GPU."""
    if framework == "jax":
        import jax_models

        return jax_models.lacking()
    import torch_models

    return torch_models.lacking(compiled=framework == "torch.compile")


def profiled(job: Job) -> Mapping[str, Any]:
    """What each kernel of Weft's step takes, beside what the device does at its best."""
    from weft.cli.profile import report

    return report(experiment(job).profile(job["backend"]), None)


FRAMEWORKS: Mapping[str, Callable[[Job], Starter]] = {
    "weft": weft_starter,
    "torch": torch_starter,
    "torch.compile": compiled_starter,
    "jax": jax_starter,
}


def memory(field: str) -> int:
    """Bytes of this process: `VmRSS` are resident now, `VmHWM` were so at most."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def keep_busy(cores: int, answer: Callable[[object], None]) -> None:
    """After `work` hash on as many threads as there are cores, until `rest`."""
    import hashlib
    import threading

    working, block = threading.Event(), bytes(1 << 20)

    def hash_blocks() -> None:
        while working.wait():
            hashlib.sha256(block)  # holds no lock

    for _ in range(cores):
        threading.Thread(target=hash_blocks, daemon=True).start()
    for line in sys.stdin:
        if line.strip() == "work":
            working.set()
        else:
            working.clear()
        answer(working.is_set())


def main() -> None:
    # What libraries print goes to the errors; the answers have the output for themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    job = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, job["cores"])  # before libraries count the cores
    match job["kind"]:
        case "busy":
            return keep_busy(len(job["cores"]), answer)
        case "lacking":
            return answer(lacking(job["framework"]))
        case "profile":
            return answer(profiled(job))
    start = FRAMEWORKS[job["framework"]](job)
    imported, base = time.monotonic(), memory("VmRSS")
    from workloads import Start  # and with it NumPy

    given = Start.read(Path(job["start"]))
    began = time.monotonic()
    step = start(given)
    ready = time.monotonic()
    loss = float(step(0))
    done = time.monotonic()
    answer(
        {
            "imported": imported - job["began"],
            "start": done - began,
            "step": done - ready,
            "base": base,
            "loss": loss,
        }
    )
    count = 1

    def train(steps: int) -> list[Any]:
        nonlocal count
        losses = [step((count + i) % job["batches"]) for i in range(steps)]
        count += steps
        return losses

    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "losses":
            answer([float(loss) for loss in train(int(numbers[0]))])
        elif command == "time":
            for loss in train(int(numbers[0])):
                float(loss)
            began = time.perf_counter()
            float(train(int(numbers[1]))[-1])
            answer(time.perf_counter() - began)
        elif command == "peak":
            answer(memory("VmHWM"))
        else:
            raise ValueError(line)


if __name__ == "__main__":
    main()
