"""What is timed on a GPU, as far as a CPU can tell: driver, peers, rates of kernels, pages."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rates
import worker
from conditions import Conditions
from device import DriverError, Gpu
from gpu_page import gpu_page
from measuring import Bench, Measured
from processes import PEERS, Machine, lacking
from rates import Ceilings, Totals, moving
from records import Record
from reports import missed
from workloads import SPECS, SUITES, Suite, prepared, suite_for

import weft
from cupy_backend.emulated import BACKEND, emulated
from tiny_steps import TINY
from weft.backends.base import Peaks
from weft.backends.cupy.backend import CupyBackend
from weft.backends.cupy.timing import peaks
from weft.cli.profile import report
from weft.compiler.types import DType
from weft.runtime import backends
from weft.runtime.profile import profile as profiled

STEPS = Path(__file__).parents[2] / "benchmarks/steps"
SUITE = SUITES["cuda"]
TITLES = {name: row.title for name, row in SUITE.workloads.items()}


def set_(pointer: Any, value: int) -> int:
    pointer._obj.value = value
    return 0


class Driver:
    """As NVIDIA's, of a GPU with 1,000 bytes of which some are in use."""

    def __init__(self, used: Iterator[int]) -> None:
        self.used = used

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 0

    def cuDeviceGetName(self, into: Any, size: int, device: Any) -> int:
        into.value = b"a GPU"
        return 0

    def cuDriverGetVersion(self, into: Any) -> int:
        return set_(into, 13010)

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        set_(free, 1000 - next(self.used))
        return set_(total, 1000)


def test_the_driver_tells_what_a_gpu_is() -> None:
    gpu = Gpu(Driver(iter([300])))
    assert (gpu.name, gpu.cuda, gpu.memory()) == ("a GPU", "13.1", (300, 1000))


def test_memory_is_what_is_taken_at_most() -> None:
    """Of a process that comes with 100 bytes, has 600 for a moment and then 200."""

    def used() -> Iterator[int]:
        yield from (300, 400, 900)
        while True:
            yield 500

    driver = Driver(used())
    with Gpu(driver).watched() as seen:
        while seen.most < 600:
            pass
        driver.used = iter(lambda: 500, None)
    assert seen.most == 600


def test_a_call_that_fails_says_which() -> None:
    driver = SimpleNamespace(cuInit=lambda flags: 100)
    with pytest.raises(DriverError, match="cuInit gives error 100"):
        Gpu(driver)


# -- the command -----------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *words: object, steps: Path = STEPS) -> int:
    """What the command gives back; the message that it leaves with is an error here."""
    monkeypatch.setattr(sys, "argv", ["steps", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(steps / "__main__.py"), run_name="__main__")
    if isinstance(ended.value.code, str):
        raise AssertionError(ended.value.code)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = replace(backends.BACKENDS["cupy"], needs=(), missing=lambda: "no NVIDIA driver")
    monkeypatch.setitem(backends.BACKENDS, "cupy", gone)
    with pytest.raises(AssertionError, match=r"on a GPU here(.|\n)*no NVIDIA driver"):
        command(monkeypatch, "--backend", "cupy")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["vit_small"], "no workload `vit_small` on cpu: there are perceptron, "),
        (["lenet", "--write"], "--write needs all workloads"),
        (["--threads", "0"], "--threads 0: this process may use "),
        (["--peers", "keras"], "invalid choice: 'keras'"),
        (["--precision", "tf32"], "--precision tf32 is of a GPU: add --backend cupy"),
    ],
)
def test_wrong_words(
    words: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, *words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("unet", "no workload `unet` on cuda: there are perceptron, "),
        ("--busy", "--busy and --scaling are of a CPU"),
        ("--scaling", "--busy and --scaling are of a CPU"),
    ],
)
def test_words_that_are_of_a_cpu(
    word: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = backends.Entry(lambda: SimpleNamespace(name="cupy"))  # type: ignore[arg-type, return-value]
    monkeypatch.setitem(backends.BACKENDS, "cupy", there)
    assert command(monkeypatch, "--backend", "cupy", word) == 2
    assert says in capsys.readouterr().err


# -- the peers -------------------------------------------------------------------------------------


def machine(folder: Path, gpu: Gpu | None = None) -> Machine:
    """One core."""
    return Machine((min(os.sched_getaffinity(0)),), folder, gpu)


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_without_cuda_says_so(peer: str, tmp_path: Path) -> None:
    """Whatever this machine has: a framework that runs on a GPU lacks nothing."""
    if lacking(peer, machine(tmp_path)):
        pytest.skip(f"needs {peer}: pip install 'weft[bench]'")
    gpu = Gpu(Driver(iter(lambda: 0, None)))
    found = lacking(peer, machine(tmp_path, gpu))
    says = {"jax": "has no CUDA plugin", None: "without CUDA|finds no GPU|triton"}
    assert found is None or re.search(says.get(peer, says[None]), found)


def test_jax_takes_no_memory_ahead(tmp_path: Path) -> None:
    gpu = Gpu(Driver(iter(lambda: 0, None)))
    on_gpu = machine(tmp_path, gpu).environment(tmp_path)
    assert on_gpu["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert on_gpu["JAX_PLATFORMS"] == ""
    assert machine(tmp_path).environment(tmp_path)["JAX_PLATFORMS"] == "cpu"


class TinyBench(Bench):
    """The workloads of a GPU with tiny settings, on a CPU."""

    @property
    def suite(self) -> Suite:
        rows = {n: replace(SUITE.workloads[n], batch=3, settings=TINY[n]) for n in TINY}
        return replace(SUITE, workloads=rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm_256", "transformer_768", "vit_small"])
def test_peers_do_equal_work(name: str, tmp_path: Path) -> None:
    """Their losses are Weft's, or the run would end; what `start` gets is what a GPU gets."""
    here = machine(tmp_path)
    peers = [p for p in PEERS if p != "torch.compile" and lacking(p, here) is None]
    if not peers:
        pytest.skip("needs PyTorch or JAX: pip install 'weft[bench]'")
    found = TinyBench(here, "numpy", ["weft", *peers], seconds=0.1).measure(name)
    assert all(measured.peak > measured.base > 0 for measured in found.values())


def test_memory_of_a_gpu_is_watched(tmp_path: Path) -> None:
    """Not that of the host: the process of this one takes 7 bytes."""
    steps = iter([5])
    gpu = Gpu(Driver(iter(lambda: next(steps, 12), None)))
    bench = TinyBench(machine(tmp_path, gpu), "numpy", ["weft"], seconds=0.1)
    found = bench.measure("lstm_256")["weft"]
    assert (found.peak, found.base) == (7, 0)


@emulated
@pytest.mark.slow
def test_a_step_begins_with_the_parameters_that_all_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU draws its own first: those that are given have to reach it."""
    monkeypatch.setitem(backends.BACKENDS, "cupy", backends.Entry(lambda: BACKEND))
    start = prepared("perceptron", {"size": 4})
    for value in start.parameters.values():
        value *= 2
    job = {"spec": "perceptron", "settings": {"size": 4}}
    losses = []
    for backend in ("numpy", "cupy"):
        step = worker.weft_starter({**job, "backend": backend})(start)
        losses.append([float(step(i)) for i in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-5)


# -- kernels ---------------------------------------------------------------------------------------


def kernel(name: str, operations: str, seconds: float, moved: int, flops: int = 1) -> Any:
    """On a device of 1 GFLOP/s and 1 GB/s."""
    by_memory, by_arithmetic = moved * 1e-9, flops * 1e-9
    floor = max(by_memory, by_arithmetic)
    return {
        "name": name,
        "operations": operations.split(),
        "calls": 2,
        "seconds": seconds,
        "flops": flops,
        "bytes_read": moved // 2,
        "bytes_written": moved - moved // 2,
        "floor_seconds": floor,
        "of_peak": floor / seconds,
        "bound": "memory" if by_memory > by_arithmetic else "arithmetic",
    }


def profile() -> dict[str, Any]:
    kernels = [
        kernel("gemm", "dot_general add", 4e-3, 1_000_000, 3_000_000),
        kernel("gelu", "erf multiply add", 1e-3, 900_000),
        kernel("update", "sqrt divide multiply subtract", 2e-3, 1_000_000),
        kernel("norm", "reduce_sum subtract rsqrt multiply", 1e-3, 850_000),
        kernel("lookup", "gather", 1e-3, 800_000),
        kernel("bias", "reduce_sum", 1e-3, 1_000),
    ]
    copies = [{"bytes": 100_000, "rate": 1e9}, {"bytes": 1_000_000_000, "rate": 1e9}]
    peaks = {"flops": 1e9, "copies": copies}
    return {
        "kernels": kernels,
        "peaks": peaks,
        "kernel_seconds": sum(k["seconds"] for k in kernels),
    }


def test_what_a_step_computes_and_moves() -> None:
    total = Totals.of(profile())
    assert (total.flops, total.bytes) == (3_000_005, 4_551_000)
    assert total.floor == pytest.approx(3e-3 + 3.551e-3)
    faster = profile()
    faster["peaks"]["flops"] = 3e9
    assert Ceilings.of({"a": profile(), "b": faster}) == Ceilings(2e9, 1_000_000_000, 1e9)


def test_kernels_that_memory_holds_up() -> None:
    """By what they do: neither products nor lookups, nor what moves too little for a copy."""
    elementwise, sums = (moving(profile(), group) for group in rates.GROUPS)
    assert elementwise is not None
    assert sums is not None
    assert (elementwise.kernels, elementwise.bytes, elementwise.slowest) == (2, 1_900_000, "update")
    assert elementwise.of_copy == pytest.approx(1.9 / 3)
    assert elementwise.rate == pytest.approx(1.9e6 / 3e-3)
    assert (sums.kernels, sums.slowest) == (1, "norm")
    assert sums.of_copy == pytest.approx(0.85)
    assert moving({**profile(), "kernels": []}, "elementwise") is None


def test_slow_kernels_are_told() -> None:
    (told,) = rates.missed(TITLES, {"vit_small": profile()})
    assert told.startswith("ViT-S/16, 3 x 224 x 224: kernels elementwise reach 63% of the ")
    assert told.endswith("bandwidth of copies, not 80%; the slowest is update")


def test_weft_profiles_its_step(tmp_path: Path) -> None:
    found = TinyBench(machine(tmp_path), "numpy", ["weft"], seconds=0.1).profile("vit_small")
    assert found["batch"] == 3
    assert Totals.of(found).flops > 0
    assert Ceilings.of({"vit_small": found}).flops > 0
    operations = {op for row in found["kernels"] for op in row["operations"]}
    assert {"dot_general", "erf", "reduce_sum"} <= operations


@emulated
@pytest.mark.slow
def test_kernels_of_a_gpu_are_known_by_what_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a transformer: attention and products are neither, softmax of the loss has sums."""

    def few(backend: CupyBackend, dtype: DType) -> Peaks:
        return peaks(backend.device, dtype, product=32, copies=(1 << 10, 1 << 12))

    monkeypatch.setattr(CupyBackend, "peaks", few)
    settings = {**TINY["transformer_768"], "depth": 1, "size": 3}
    loaded = weft.load(SPECS / "transformer.weft", **settings).loaded
    found = report(profiled(loaded, BACKEND, steps=1), None)
    kinds = {group: set() for group in (*rates.GROUPS, None)}
    for row in found["kernels"]:
        kinds[rates.group_of(row)].add(row["kind"])
    assert kinds["elementwise"] == kinds["with sums"] == {"nest"}
    assert {"product", "attention", "special"} <= kinds[None]
    for group in rates.GROUPS:
        kernels = moving(found, group)
        assert kernels is not None
        assert kernels.bytes >= kernels.kernels << 10
    assert rates.rows_of_moving(TITLES, {"transformer_768": found})


# -- pages -----------------------------------------------------------------------------------------


def measured(step: float) -> Measured:
    losses, steps = [2.0, 1.0], [step, 0.9 * step, 1.2 * step]
    return Measured(1.0, 10 * step, step, 0.3 * step, 0, losses, int(1e8 * step), steps)


CONDITIONS = Conditions(
    *("cupy", 8, 0.1, "a processor", "64 GiB", "3.11", {"cupy-cuda13x": "14.0"}),
    gpu="NVIDIA X100 with 80 GiB, its driver for CUDA 13.1",
)
FOUND = {"weft": measured(0.006), "torch": measured(0.012), "jax": measured(0.01)}


def record(*names: str) -> Record:
    return Record(CONDITIONS, dict.fromkeys(names, FOUND), {name: profile() for name in names})


def test_the_page_of_a_gpu() -> None:
    page = gpu_page(record("lenet", "vit_small"))
    assert "on an NVIDIA X100 with 80 GiB, its driver for CUDA 13.1; the host has 8 threads" in page
    assert "| LeNet-5, 28 x 28 | 64 | momentum | 6.00 | 12.0 | 10.0 | **0.60** | 0.5 |" in page
    assert "| ViT-S/16, 3 x 224 x 224 | 64 | adamw | 6.00 | 12.0 | 10.0 | **0.60** | 1.2 |" in page
    assert "Geometric mean of the ratios: **0.60**." in page
    assert "0.001 TFLOP/s in a product" in page
    step = "| ViT-S/16, 3 x 224 x 224 | 0.003 | 0.0005 | 50% | 0.00455 | 0.758 | 76% | 109% |"
    assert step in page
    assert "| ViT-S/16, 3 x 224 x 224 | elementwise | 2 | 30% | 0.633 | **63%** |" in page
    assert "| ViT-S/16, 3 x 224 x 224 | with sums | 1 | 10% | 0.85 | **85%** |" in page
    assert "| ViT-S/16, 3 x 224 x 224 | 1 | 1 | 1 | **0.50** |" in page


def test_all_round_to_tf32_or_none() -> None:
    suite = suite_for("cuda", "tf32")
    for row in suite.workloads.values():
        assert row.given["precision"] == "tf32"
        assert worker.rounds({"settings": row.given})
        assert worker.of_the_net({"settings": row.given}) == {
            key: value for key, value in row.given.items() if key not in ("size", "precision")
        }
    assert not any(worker.rounds({"settings": row.given}) for row in SUITE.workloads.values())
    assert suite.tolerance > SUITE.tolerance
    weft.load(SPECS / "perceptron.weft", **suite.workloads["perceptron"].given)
    rounded = replace(record("lenet"), conditions=replace(CONDITIONS, precision="tf32"))
    assert rounded.conditions.suite == suite
    assert "where\n0.01 is allowed" in gpu_page(rounded)
    assert "Products may round their factors to TF32, in every framework" in gpu_page(rounded)
    assert "No product is in TF32." in gpu_page(record("lenet"))


def test_goals_on_a_gpu_are_of_steps() -> None:
    assert missed({"lenet": FOUND, "vit_small": FOUND}, SUITE) == [
        "LeNet-5, 28 x 28: step over the best peer's is 0.60, not 0.5"
    ]


def test_a_run_is_read_as_it_was_saved(tmp_path: Path) -> None:
    record("lenet").save(tmp_path / "run.json")
    assert Record.read(tmp_path / "run.json") == record("lenet")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "can't be read: No such file or directory"),
        ("{", "is no JSON: expected a run that --json wrote"),
        ("[]", "is no run that --json wrote, or one that another version"),
        (json.dumps({"results": {}}), "is no run that --json wrote, or one that another version"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "run.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit, match=rf"run\.json {says}"):
        Record.read(file)


def test_runs_are_joined_in_the_order_of_the_suite() -> None:
    later = replace(CONDITIONS, load=0.5)
    both = Record.joined([replace(record("vit_small"), conditions=later), record("lenet")])
    assert list(both.results) == list(both.profiles) == ["lenet", "vit_small"]
    other = replace(CONDITIONS, gpu="another")
    with pytest.raises(SystemExit, match="of one machine"):
        Record.joined([record("lenet"), replace(record("vit_small"), conditions=other)])


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs that together have all workloads."""
    names = list(SUITE.workloads)
    files = tmp_path / "first.json", tmp_path / "second.json"
    for file, part in zip(files, (names[:8], names[8:]), strict=True):
        record(*part).save(file)
    return files


def test_runs_are_judged(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "--from", *runs, "--check") == 1
    told = capsys.readouterr().out
    assert "perceptron 64-64-10: step over the best peer's is 0.60, not 0.5" in told
    assert "kernels elementwise reach 63% of the bandwidth" in told


def test_a_page_is_of_all_workloads(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    says = r"--write needs all workloads: resnet_1024, .*vit_small not measured"
    with pytest.raises(AssertionError, match=says):
        command(monkeypatch, "--from", runs[0], "--write")


def test_pages_are_written_from_runs(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'weft[plot]'")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "docs").mkdir()
    steps = tmp_path / "benchmarks/steps"
    steps.symlink_to(STEPS)
    assert command(monkeypatch, "--from", *runs, "--write", steps=steps) == 0
    page = (tmp_path / "docs/performance/gpu.md").read_text(encoding="utf-8")
    assert page == gpu_page(record(*SUITE.workloads))
    assert "<svg" in (tmp_path / "docs/performance/gpu.svg").read_text(encoding="utf-8")
