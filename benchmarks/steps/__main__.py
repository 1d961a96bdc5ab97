"""Whole training steps of Weft against PyTorch, torch.compile and JAX with optax, in one run.

    python benchmarks/steps                     every workload; needs `pip install weft[bench]`
    python benchmarks/steps lenet vae --quick   some of them, in less time
    python benchmarks/steps --busy              beside a process that keeps all cores busy too
    python benchmarks/steps --scaling           Weft alone, by batch size and by depth
    python benchmarks/steps --backend cupy      all on a GPU, with larger workloads, and each kernel
                                                beside what the GPU does at its best
    python benchmarks/steps --from run.json     what was measured before, with --json

Every framework is a process of its own, on the same cores, with as many threads as there are cores.
All begin with the same parameters and see the same batches, and their losses must agree before
anything is timed: so equal work is proven. Then they take turns, so that whatever else the machine
does falls on all of them, and medians are compared. A turn ends when its last loss is known, so
what a framework does asynchronously it may. With --write, page and figure go to docs/performance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import rates
import reports
from conditions import Conditions
from device import DriverError, Gpu
from gpu_page import gpu_page
from measuring import Bench, Found
from processes import PEERS, TITLES, Machine, lacking
from rates import Profile
from records import Record
from workloads import SUITES, TOLERANCES, Suite, suite_for

PAGES = Path(__file__).parents[2] / "docs/performance"
LOUD = 0.3  # a load of the machine at which figures are doubtful
THREADS = 2  # where a CPU computes

# What makes a workload larger: title, workload, the setting of its spec, values.
SCALES: Sequence[tuple[str, str, str, tuple[int, ...]]] = (
    ("perceptron 784-512-512-10", "deep_perceptron", "size", (64, 128, 256, 512, 1024)),
    ("ResNet-20", "resnet", "size", (16, 32, 64, 96, 128)),
    ("transformer, 4 x 128", "transformer", "size", (4, 8, 16, 24, 32)),
    ("perceptron, layers of 512", "deep_perceptron", "depth", (2, 4, 8, 12, 16)),
    ("ResNet", "resnet", "depth", (8, 14, 20, 32, 44)),
    ("transformer, layers of 128", "transformer", "depth", (1, 2, 4, 6, 8)),
)


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if options.records:
        return _report(Record.joined([Record.read(file) for file in options.records]), options)
    backend = _backend(options.backend)
    suite = suite_for("cuda" if backend == "cupy" else "cpu", options.precision)
    _check(options, suite, parser)
    gpu = _gpu() if suite.device == "cuda" else None
    conditions = Conditions.here(backend, options.threads, gpu, options.precision)
    if conditions.load > LOUD:
        print(
            f"the machine has other work (load {conditions.load:.1f}): figures will be doubtful\n"
        )
    cores = tuple(sorted(os.sched_getaffinity(0))[: options.threads])
    seconds = 3 if options.quick else options.seconds
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(cores, Path(folder), gpu)
        frameworks = ["weft"] if options.scaling else ["weft", *_able(options.peers, machine)]
        bench = Bench(machine, backend, frameworks, seconds, options.busy, options.precision)
        if options.scaling:
            return _scaling(bench, conditions, options)
        record = _steps(bench, conditions, options)
    return _report(record, options)


def _steps(bench: Bench, conditions: Conditions, options: argparse.Namespace) -> Record:
    """All frameworks on the workloads, quiet or busy."""
    results: dict[str, Found] = {}
    profiles: dict[str, Profile] = {}
    record = Record(conditions, results, profiles)
    for name in options.workloads or bench.suite.workloads:
        results[name] = bench.measure(name)
        print(reports.line(bench.suite.workloads[name], results[name]), flush=True)
        if conditions.gpu:
            profiles[name] = bench.profile(name)
        if options.json:
            record.save(options.json)  # what there is so far
    return record


def _report(record: Record, options: argparse.Namespace) -> int:
    """The page, if it is wanted, and the goals that are missed."""
    conditions, results, suite = record.conditions, record.results, record.conditions.suite
    if options.write and len(results) < len(suite.workloads):
        absent = ", ".join(name for name in suite.workloads if name not in results)
        sys.exit(f"--write needs all workloads: {absent} not measured")
    if options.write and options.busy:
        _write("busy.md", reports.busy_page(results, conditions))
    elif options.write:
        name = "gpu" if conditions.gpu else "steps"
        page = gpu_page(record) if conditions.gpu else reports.steps_page(results, conditions)
        _write(f"{name}.md", page)
        reports.steps_figure(results, suite, PAGES / f"{name}.svg")
    titles = {name: row.title for name, row in suite.workloads.items()}
    missed = [*reports.missed(results, suite), *rates.missed(titles, record.profiles)]
    print("\n".join(["", *missed]) if missed else "\nevery goal is reached")
    return 1 if options.check and missed else 0


def _scaling(bench: Bench, conditions: Conditions, options: argparse.Namespace) -> int:
    """Weft by batch size and depth."""
    scales = []
    for title, name, setting, values in SCALES:
        if name in (options.workloads or bench.suite.workloads):
            scale = reports.Scale(title, setting, values, bench.scale(name, setting, values))
            scales.append(scale)
            print(reports.scale_line(scale), flush=True)
    if options.json:
        raw = {"conditions": asdict(conditions), "scales": [asdict(scale) for scale in scales]}
        options.json.write_text(json.dumps(raw), encoding="utf-8")
    if options.write:
        _write("scaling.md", reports.scaling_page(scales, conditions))
        reports.scaling_figure(scales, PAGES / "scaling.svg")
    return 0


def _parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python benchmarks/steps",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    rows = "; ".join(f"on {s.device}: {', '.join(s.workloads)}" for s in SUITES.values())
    add("workloads", nargs="*", metavar="WORKLOAD", help=rows)
    add("--backend", default="tvm", help="of Weft; with `cupy` peers run on the GPU too "
        "(default: %(default)s)")  # fmt: skip
    add("--peers", nargs="*", default=PEERS, choices=PEERS, help="(default: all of them)")
    add("--precision", default="f32", choices=TOLERANCES,
        help="of the specs; `tf32` is a GPU's (default: %(default)s)")  # fmt: skip
    add("--threads", type=int, help=f"and cores (default: {THREADS}, with a GPU all)")
    add("--seconds", type=float, default=15, help="of turns by workload (default: %(default)s)")
    add("--quick", action="store_true", help="as --seconds 3")
    add("--busy", action="store_true", help="also beside a process that keeps all cores busy")
    add("--scaling", action="store_true", help="Weft alone, by batch size and by depth")
    add("--write", action="store_true", help="write the page in docs/performance")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--from", type=Path, metavar="FILE", nargs="+", dest="records",
        help="measure nothing: take runs that --json wrote")  # fmt: skip
    add("--check", action="store_true", help="exit with 1 where a goal is missed")
    return parser


def _check(options: argparse.Namespace, suite: Suite, parser: argparse.ArgumentParser) -> None:
    """Leave where options don't fit the suite or each other, and fill in the threads."""
    for name in options.workloads:
        if name not in suite.workloads:
            known = ", ".join(suite.workloads)
            parser.error(f"no workload `{name}` on {suite.device}: there are {known}")
    if options.write and options.workloads:
        parser.error("--write needs all workloads: a page is of all of them")
    if suite.device != "cpu" and (options.busy or options.scaling):
        parser.error("--busy and --scaling are of a CPU")
    if suite.device == "cpu" and suite.precision != "f32":
        parser.error(f"--precision {suite.precision} is of a GPU: add --backend cupy")
    allowed = len(os.sched_getaffinity(0))
    if options.threads is None:
        options.threads = min(THREADS, allowed) if suite.device == "cpu" else allowed
    if not 1 <= options.threads <= allowed:
        parser.error(f"--threads {options.threads}: this process may use {allowed} cores")


def _backend(name: str) -> str:
    """The backend; numpy and a word on why, where one for CPUs can't run here."""
    from weft.compiler.errors import RunError
    from weft.runtime.backends import backend_named

    try:
        return backend_named(name).name
    except (ImportError, RunError) as error:
        if name == "cupy":
            sys.exit(f"nothing can be measured on a GPU here: {error}")
        print(f"Weft runs on numpy, since the backend `{name}` can't be had here: {error}\n")
        return "numpy"


def _gpu() -> Gpu:
    try:
        return Gpu()
    except (OSError, DriverError) as error:
        sys.exit(f"the GPU's memory can't be watched: {error}")


def _able(peers: Sequence[str], machine: Machine) -> list[str]:
    """Those peers that can run here, with a word on the others."""
    found = []
    for peer in peers:
        lacks = lacking(peer, machine)
        if lacks is None:
            found.append(peer)
        else:
            print(f"without {TITLES[peer]}: {lacks}")
    return found


def _write(name: str, page: str) -> None:
    PAGES.mkdir(exist_ok=True)
    (PAGES / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
