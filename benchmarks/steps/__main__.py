"""Whole training steps of Weft against PyTorch, torch.compile and JAX with optax, in one run.

    python benchmarks/steps                     every workload; needs `pip install weft[bench]`
    python benchmarks/steps lenet vae --quick   some of them, in less time
    python benchmarks/steps --busy              beside a process that keeps all cores busy too
    python benchmarks/steps --scaling           Weft alone, by batch size and by depth

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
from typing import Any

import reports
from measuring import Bench
from processes import PEERS, TITLES, Machine, missing
from workloads import WORKLOADS

PAGES = Path(__file__).parents[2] / "docs/performance"
LOUD = 0.3  # a load of the machine at which figures are doubtful

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
    options = _options()
    conditions = reports.Conditions(_backend(options.backend), options.threads, os.getloadavg()[0])
    if conditions.load > LOUD:
        print(
            f"the machine has other work (load {conditions.load:.1f}): figures will be doubtful\n"
        )
    cores = tuple(sorted(os.sched_getaffinity(0))[: options.threads])
    seconds = 3 if options.quick else options.seconds
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(cores, Path(folder))
        frameworks = ["weft"] if options.scaling else ["weft", *_installed(options.peers)]
        bench = Bench(machine, conditions.backend, frameworks, seconds, options.busy)
        run = _scaling if options.scaling else _steps
        return run(bench, conditions, options)


def _steps(bench: Bench, conditions: reports.Conditions, options: argparse.Namespace) -> int:
    """All frameworks on the workloads, quiet or busy."""
    results = {}
    for name in options.workloads or WORKLOADS:
        results[name] = bench.measure(name)
        print(reports.line(name, results[name]), flush=True)
    if options.json:
        raw = {n: {f: asdict(m) for f, m in found.items()} for n, found in results.items()}
        _save(options.json, conditions, raw)
    if options.write and options.busy:
        _write("busy.md", reports.busy_page(results, conditions))
    elif options.write:
        _write("steps.md", reports.steps_page(results, conditions))
        reports.steps_figure(results, PAGES / "steps.svg")
    missed = reports.missed(results)
    print("\n".join(["", *missed]) if missed else "\nevery goal is reached")
    return 1 if options.check and missed else 0


def _scaling(bench: Bench, conditions: reports.Conditions, options: argparse.Namespace) -> int:
    """Weft by batch size and depth."""
    scales = []
    for title, name, setting, values in SCALES:
        if name in (options.workloads or WORKLOADS):
            scale = reports.Scale(title, setting, values, bench.scale(name, setting, values))
            scales.append(scale)
            print(reports.scale_line(scale), flush=True)
    if options.json:
        _save(options.json, conditions, [asdict(scale) for scale in scales])
    if options.write:
        _write("scaling.md", reports.scaling_page(scales, conditions))
        reports.scaling_figure(scales, PAGES / "scaling.svg")
    return 0


def _options() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python benchmarks/steps",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}")
    add("--backend", default="tvm", help="of Weft (default: %(default)s)")
    add("--peers", nargs="*", default=PEERS, choices=PEERS, help="(default: all of them)")
    add("--threads", type=int, default=2, help="and cores (default: %(default)s)")
    add("--seconds", type=float, default=15, help="of turns by workload (default: %(default)s)")
    add("--quick", action="store_true", help="as --seconds 3")
    add("--busy", action="store_true", help="also beside a process that keeps all cores busy")
    add("--scaling", action="store_true", help="Weft alone, by batch size and by depth")
    add("--write", action="store_true", help="write the page in docs/performance")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    for name in options.workloads:
        if name not in WORKLOADS:
            parser.error(f"no workload `{name}`: there are {', '.join(WORKLOADS)}")
    if options.write and options.workloads:
        parser.error("--write needs all workloads: a page is one run")
    allowed = len(os.sched_getaffinity(0))
    if not 1 <= options.threads <= allowed:
        parser.error(f"--threads {options.threads}: this process may use {allowed} cores")
    return options


def _backend(name: str) -> str:
    """The backend, or numpy and a word on why, where this one can't run."""
    from weft.compiler.errors import RunError
    from weft.runtime.backends import backend_named

    try:
        return backend_named(name).name
    except (ImportError, RunError) as error:
        print(f"Weft runs on numpy, since the backend `{name}` can't be had here: {error}\n")
        return "numpy"


def _installed(peers: Sequence[str]) -> list[str]:
    """Those peers that can run here, with a word on the others."""
    found = []
    for peer in peers:
        if lacking := missing(peer):
            packages = ", ".join(lacking)
            print(f"without {TITLES[peer]}: {packages} not installed (`pip install weft[bench]`)")
        else:
            found.append(peer)
    return found


def _save(file: Path, conditions: reports.Conditions, raw: Any) -> None:
    file.write_text(json.dumps({**asdict(conditions), "results": raw}), encoding="utf-8")


def _write(name: str, page: str) -> None:
    PAGES.mkdir(exist_ok=True)
    (PAGES / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
