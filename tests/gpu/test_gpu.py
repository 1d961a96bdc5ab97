"""What needs a GPU: results, resuming, memory, and what a profile says. Run with `pytest -m gpu`.

So do the examples: tests/examples trains each to its bar and tests/verify verifies it, there too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rates import COPY_GOAL, GROUPS, moving
from workloads import SPECS

import weft
from cupy_backend import test_attention as attention
from cupy_backend import test_tensor_cores as tensor_cores
from cupy_backend.stopping import Killed, Killing
from cupy_backend.test_conformance import PRIMITIVES, check, gradients, primitive, random_ones
from everywhere import needs_gpu
from examples.table import EXAMPLES
from gpu import every_kernel
from gpu.keeping import Keeping
from weft.backends.cupy import tiling
from weft.backends.cupy.backend import CupyBackend
from weft.cli.profile import report
from weft.compiler.gradient import RULES
from weft.compiler.types import F32, F64, DType
from weft.runtime.backends import backend_named

pytestmark = needs_gpu
ROOT = Path(__file__).parents[2]
SANITIZER = "compute-sanitizer"
FOUND = 77  # the exit code of the sanitizer that has found something


@cache
def gpu() -> CupyBackend:
    """The backend, on the GPU; functions are compiled for a test together."""
    backend = backend_named("cupy")
    assert isinstance(backend, CupyBackend)
    return CupyBackend(Keeping(backend.device))


@pytest.mark.parametrize("op", PRIMITIVES)
def test_primitive(op: str) -> None:
    check(primitive(op), gpu())


@pytest.mark.parametrize("op", sorted(RULES))
def test_gradient(op: str) -> None:
    check(gradients(op, F32, F64), gpu())


@pytest.mark.parametrize("type", [F32, F64])
def test_attention(type: DType) -> None:
    attention.check({**attention.CASES, **attention.RANDOM}, type, gpu())


@pytest.mark.parametrize("variant", ["bf16", "f16", "tf32"])
def test_tensor_cores(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions, products and attention whose factors these multiply."""
    dtype, tf32, _ = tensor_cores.VARIANTS[variant]
    attention.check(attention.representable(dtype), dtype, gpu(), tf32)
    found = tensor_cores.wrong(tensor_cores.CASES, variant, gpu())
    monkeypatch.setattr(tiling, "ENOUGH_TILES", 1)
    found |= tensor_cores.wrong(tensor_cores.LARGE, variant, gpu())
    assert {name: error for name, error in found.items() if not error <= 1} == {}


@pytest.mark.slow
def test_random_graphs() -> None:
    check(random_ones(200), gpu())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_conv", "lstm_lm", "diffusion"])
def test_resuming_is_exact(name: str, tmp_path: Path) -> None:
    """Of windows, of a loop, and with random numbers."""
    spec = ROOT / f"examples/{name}.weft"
    whole = weft.load(spec, epochs=2).train("cupy", tmp_path / "whole")
    with pytest.raises(Killed):
        weft.load(spec, epochs=2).train("cupy", tmp_path / "parts", reporter=Killing())
    resumed = weft.load(spec, epochs=2).train("cupy", tmp_path / "parts", resume=True)
    for tensor, value in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[tensor], value)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "bf16", "f16"])
def test_rounding_keeps_what_is_learnt(precision: str, tmp_path: Path) -> None:
    """The example's own bar, less one percent."""
    experiment = weft.load(ROOT / "examples/digits_conv.weft", precision=precision)
    run = experiment.train("cupy", tmp_path / "run")
    low, _ = EXAMPLES["digits_conv"].reaches["test.accuracy"]
    assert run.metrics["test"]["accuracy"] >= low - 0.01


# -- memory ----------------------------------------------------------------------------------------


def sanitizer() -> str | None:
    """NVIDIA's memory checker, which comes with the toolkit and not with the driver."""
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [os.environ.get("PATH", ""), *(f"{place}/bin" for place in toolkits if place)]
    return shutil.which(SANITIZER, path=os.pathsep.join(places))


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_memory_is_used_as_it_should_be(tool: str) -> None:
    """No access outside of an allocation, and none to shared memory that races with another."""
    program = sanitizer()
    if program is None:
        pytest.skip(f"needs {SANITIZER}, of NVIDIA's CUDA toolkit, on the path or in CUDA_HOME")
    options = ["--tool", tool, "--report-api-errors", "no", "--error-exitcode", str(FOUND)]
    ran = subprocess.run(
        [program, *options, sys.executable, every_kernel.__file__],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]
    assert "graphs have run" in ran.stdout


# -- speed -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile() -> Mapping[str, Any]:
    """Of a step whose kernels are large: two layers of a transformer, and the update."""
    settings = {"size": 16, "tokens": 1024, "units": 768, "depth": 2, "heads": 12}
    experiment = weft.load(SPECS / "transformer.weft", **settings)
    return report(experiment.profile("cupy"), None)


@pytest.mark.slow
def test_a_profile_adds_up(profile: Mapping[str, Any]) -> None:
    """The kernels are the step: it waits for nothing else, and has no time for more."""
    assert sum(kernel["share"] for kernel in profile["kernels"]) == pytest.approx(1)
    assert 0.5 < profile["kernel_seconds"] / profile["step_seconds"] < 1.5
    floor = sum(kernel["floor_seconds"] for kernel in profile["kernels"])
    assert floor < 1.1 * profile["kernel_seconds"]


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_kernels_are_as_fast_as_copies(group: str, profile: Mapping[str, Any]) -> None:
    found = moving(profile, group)
    assert found is not None
    assert found.of_copy >= COPY_GOAL, found


@pytest.mark.slow
def test_steps_are_timed(tmp_path: Path) -> None:
    """Without peers, which may not be installed: its memory is the GPU's, beside the ceilings."""
    file = tmp_path / "run.json"
    words = ["perceptron", "--backend", "cupy", "--quick", "--json", str(file), "--peers"]
    subprocess.run([sys.executable, str(ROOT / "benchmarks/steps"), *words], check=True)
    found = json.loads(file.read_text())
    assert found["conditions"]["gpu"]
    assert found["results"]["perceptron"]["weft"]["peak"] > 10_000_000
    assert found["profiles"]["perceptron"]["peaks"]["flops"] > 1e11
