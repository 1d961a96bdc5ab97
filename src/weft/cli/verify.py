"""`weft verify`: whether a spec computes what it says, and a backend what the spec does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from weft.cli.failures import MISTAKE, Ended, facts, show
from weft.cli.options import (
    Command,
    backend_option,
    experiment_options,
    json_option,
    threads_option,
)

if TYPE_CHECKING:
    from weft.api import Experiment
    from weft.cli.output import Table
    from weft.runtime.verification.report import Check, Verification

EXAMPLES = """
weft verify digits.weft
weft verify digits.weft --set hidden=8         the same with a smaller model
weft verify digits.weft --json
"""


@click.command(cls=Command, examples=EXAMPLES)
@backend_option("numpy")
@threads_option
@experiment_options
@json_option
def command(load: Callable[[], Experiment], backend: str, json: bool) -> None:
    """Verify SPEC: every gradient against finite differences in double precision, every update
    against its equations, passes and memory plans against what they must keep, and what the
    backend computes against the reference, within bounds worked out from its rounding.

    A row for each check: how many comparisons, the worst error for its bound, and that bound. The
    exit code is 1 when one is beyond it.
    """
    from weft.cli.output import print_json, print_table
    from weft.compiler.collector import no_cycles
    from weft.runtime.verification import report

    with no_cycles():
        found = load().verify(backend)
    if json:
        print_json(report.facts(found, facts))
    else:
        click.echo(headline(found))
        click.echo()
        print_table(checks_table(found))
        click.echo()
        for line in remarks(found):
            click.echo(line)
        click.echo(verdict(found))
        for check in found.checks:
            _tell(check)
    if not found.passed:
        raise Ended(MISTAKE)


def headline(found: Verification) -> str:
    """What was verified, on what."""
    *most, last = map(str, found.sizes)
    sizes = f"{', '.join(most)} and {last}" if most else last
    return f"{found.name} on {found.backend} in {found.precision}: batches of {sizes}"


def checks_table(found: Verification) -> Table:
    """A row for each check."""
    from weft.cli.output import Table

    rows = []
    for check in found.checks:
        worst = check.worst
        cells = ["", "", ""]
        if worst is not None:
            exact = worst.error == 0
            cells = [
                "none" if exact else f"{worst.error:.1e}",
                f"{worst.bound:.1e}" if worst.bound else "bit for bit",
                f"{min(worst.share, 9.99):.0%}",
            ]
        result = ("ok" if check.count else "-") if check.passed else "WRONG"
        rows.append([check.name, check.of, f"{check.count:,}", *cells, result])
    titles = ("check", "compares", "numbers", "error", "bound", "share", "")
    return Table(titles, rows, frozenset({2, 3, 4, 5}), elastic=frozenset({1}))


def remarks(found: Verification) -> list[str]:
    """What was left out, and why."""
    lines = list(found.notes)
    lines += [f"{check.name}: {note}" for check in found.checks for note in check.notes]
    return [*lines, ""] if lines else []


def verdict(found: Verification) -> str:
    """The outcome in a line."""
    if found.passed:
        return f"all {len(found.checks)} checks passed"
    return f"{len(found.failed)} of {len(found.checks)} checks failed: {', '.join(found.failed)}"


def _tell(check: Check) -> None:
    for fault in check.faults:
        show(fault)
    if check.more:
        click.echo(f"... and {check.more} more faults of the check `{check.name}`", err=True)
