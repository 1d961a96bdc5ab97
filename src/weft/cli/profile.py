"""`weft profile`: where the time of a step goes, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli.options import (
    Command,
    backend_option,
    experiment_options,
    graph_option,
    json_option,
    threads_option,
)

if TYPE_CHECKING:
    from weft.api import Experiment
    from weft.cli.output import Table
    from weft.runtime.profile import Profile, Row

EXAMPLES = """
weft profile digits.weft                            the kernels of a training step
weft profile digits.weft --graph predict            those of a prediction
weft profile digits.weft --figure roofline.svg      and how far each is from the machine's limits
weft profile vgg16.weft --set batch=8 --steps 3     on random inputs: its data is not needed
"""

GRAPHS = ("train_step", "eval_step", "predict")
SHOWN_ROWS, SHOWN_LINES, SHOWN_OPS = 24, 4, 6


@click.command(cls=Command, examples=EXAMPLES)
@backend_option("auto")
@threads_option
@graph_option(GRAPHS, "train_step")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many steps are timed; about two seconds of them when left out.",
)
@click.option("--all", "every", is_flag=True, help=f"All kernels, not the slowest {SHOWN_ROWS}.")
@click.option("--figure", metavar="FILE", help="Draw the kernels under their roofline: an `.svg`.")
@experiment_options
@json_option
def command(
    load: Callable[[], Experiment],
    backend: str,
    graph: str,
    steps: int | None,
    every: bool,
    figure: str | None,
    json: bool,
) -> None:
    """Time the kernels of SPEC's training step, on the first full batches of its data.

    A kernel's time is its median over the steps. FLOPs and bytes are counted from its loops: every
    arithmetic operation, and each byte of memory that it reads and that it writes once. "Of peak"
    compares its time with the least that this machine needs for as many operations in a large
    product of matrices, or for as many bytes in a copy, both measured on the same threads.
    """
    from weft.cli.output import print_json, print_table, writable
    from weft.cli.roofline import drawn, require

    path = writable(Path(figure)) if figure is not None else None
    if path is not None:
        require(path)  # before the work
    found = load().profile(backend, graph, steps)
    if path is not None:
        drawn(found, path)
    if json:
        print_json(report(found, figure))
        return
    for line in headlines(found):
        click.echo(line)
    click.echo()
    print_table(table(found, None if every else SHOWN_ROWS))
    if figure is not None:
        click.echo(f"\ndrew {figure}")


def headlines(profile: Profile) -> list[str]:
    """What was timed, and what it is compared with."""
    from weft.cli.output import amount

    peaks, batches = profile.peaks, "random batches" if profile.made_up else "batches"
    threads = f"{profile.threads} thread{'s' * (profile.threads > 1)}"
    calls = sum(row.calls for row in profile.rows)
    (small, fast), (large, slow) = peaks.fastest_copy, peaks.copies[-1]
    what = (
        f"{profile.name}: {profile.graph} on {profile.backend}, {batches} of {profile.batch}, "
        f"{threads}, {profile.steps} steps timed"
    )
    times = (
        f"a step takes {duration(profile.seconds)}; with a clock in it, "
        f"{duration(profile.inside)} in {calls} calls of {len(profile.rows)} kernels"
    )
    best = (
        f"the machine's best: {amount(peaks.flops, 'FLOP/s')} in a product of matrices; copies of "
        f"{amount(small, 'B')} at {amount(fast, 'B/s')}, of {amount(large, 'B')} at "
        f"{amount(slow, 'B/s')}"
    )
    return [what, times, best]


def table(profile: Profile, most: int | None = None) -> Table:
    """A row for each kernel; those behind `most` are one row."""
    from weft.cli.output import Table

    rows = list(profile.rows)
    shown, rest = (
        (rows, []) if most is None or len(rows) <= most + 1 else (rows[:most], rows[most:])
    )
    files = {file for row in rows for file, _ in row.lines}
    lines = [_row(row, profile, len(files) > 1) for row in shown]
    if rest:
        lines.append(_others(rest, profile))
    numbers = ("calls", "time", "share", "FLOPs", "bytes", "rate", "of peak")
    titles = ("kernel", *numbers, "lines", "operations")
    return Table(titles, lines, frozenset(range(1, 8)), elastic=frozenset({8, 9}))


def _row(row: Row, profile: Profile, files: bool) -> list[str]:
    from weft.cli.output import amount

    rate = ""
    if row.cost.flops or row.cost.bytes:
        if row.bound == "arithmetic":
            rate = amount(row.flop_rate, "FLOP/s")
        else:
            rate = amount(row.byte_rate, "B/s")
    return [
        f"{row.name} {row.kind}",
        f"{row.calls}",
        duration(row.seconds),
        _percent(row.seconds / profile.inside),
        amount(row.cost.flops) if row.cost.flops else "",
        amount(row.cost.bytes, "B") if row.cost.bytes else "",
        rate,
        _percent(row.of_peak) if rate else "",
        _some([f"{file}:{line}" if files else f"{line}" for file, line in row.lines], SHOWN_LINES),
        _some(row.ops, SHOWN_OPS),
    ]


def _others(rows: Sequence[Row], profile: Profile) -> list[str]:
    from weft.cli.output import amount

    seconds, flops = sum(r.seconds for r in rows), sum(r.cost.flops for r in rows)
    return [
        f"{len(rows)} others",
        f"{sum(r.calls for r in rows)}",
        duration(seconds),
        _percent(seconds / profile.inside),
        amount(flops) if flops else "",
        amount(sum(r.cost.bytes for r in rows), "B"),
        "",
        _percent(sum(r.floor for r in rows) / seconds) if seconds else "",
        "",
        "",
    ]


def _some(words: Sequence[str], most: int) -> str:
    return " ".join(words[:most]) + (" ..." if len(words) > most else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Three digits in the unit that suits: `94.4 us`, `3.12 ms`, `1.05 s`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 0.9995:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def report(profile: Profile, figure: str | None) -> dict[str, Any]:
    """The profile for machines; times in seconds, rates a second."""
    return {
        "name": profile.name,
        "graph": profile.graph,
        "backend": profile.backend,
        "batch": profile.batch,
        "threads": profile.threads,
        "steps": profile.steps,
        "made_up": profile.made_up,
        "step_seconds": profile.seconds,
        "kernel_seconds": profile.inside,
        "peaks": {
            "flops": profile.peaks.flops,
            "copies": [{"bytes": size, "rate": rate} for size, rate in profile.peaks.copies],
        },
        "kernels": [
            {
                "name": row.name,
                "kind": row.kind,
                "calls": row.calls,
                "seconds": row.seconds,
                "share": row.seconds / profile.inside,
                "flops": row.cost.flops,
                "bytes_read": row.cost.read,
                "bytes_written": row.cost.written,
                "flop_rate": row.flop_rate,
                "byte_rate": row.byte_rate,
                "floor_seconds": row.floor,
                "of_peak": row.of_peak,
                "bound": row.bound,
                "lines": [{"file": file, "line": line} for file, line in row.lines],
                "operations": list(row.ops),
            }
            for row in profile.rows
        ],
        **({"figure": figure} if figure is not None else {}),
    }
