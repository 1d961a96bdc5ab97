"""Runs every kind of kernel, for a tool that watches memory: the conformance table, and steps.

    compute-sanitizer --tool memcheck python tests/gpu/every_kernel.py

Every allocation is one of the driver's own, so that what lies behind its end is nobody's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import weft
from cupy_backend import test_tensor_cores as tensor_cores
from cupy_backend.test_conformance import PRIMITIVES, Named, check, primitive, random_ones
from gpu.keeping import Keeping
from weft.backends.cupy.backend import CupyBackend
from weft.backends.cupy.device import Device
from weft.runtime.feed import Rows
from weft.runtime.session import session_for

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = ("digits_conv", "lstm_lm", "transformer_lm", "diffusion")


def run(device: Device, named: Sequence[Named], examples: Sequence[str]) -> int:
    """How many graphs have run. They give what the reference gives; steps give finite numbers."""
    backend = CupyBackend(Keeping(device))
    check(list(named), backend)
    for example in examples:
        loaded = weft.load(EXAMPLES / f"{example}.weft").loaded
        session, batch = session_for(loaded, backend), loaded.experiment.settings.batch
        session.initialise(0)
        rows = Rows(loaded.fields, session.fields("train_step"), backend)
        for step in range(2):
            inputs = dict(rows(np.arange(batch) + step * batch))
            outputs = session.run("train_step", inputs, batch)
            assert all(np.isfinite(value).all() for value in outputs.values()), example
    return len(named) + 2 * len(examples)


def main() -> None:
    import cupy

    from weft.backends.cupy.gpu import device

    cupy.cuda.set_allocator(None)
    named = [graph for op in PRIMITIVES for graph in primitive(op)] + random_ones(30)
    print(f"{run(device(), named, STEPS)} graphs have run")
    backend = CupyBackend(Keeping(device()))
    for variant in ("bf16", "f16", "tf32"):
        errors = tensor_cores.wrong(tensor_cores.CASES, variant, backend)
        assert max(errors.values()) <= 1, errors
        print(f"{len(errors)} results of tensor cores in {variant}")


if __name__ == "__main__":
    main()
