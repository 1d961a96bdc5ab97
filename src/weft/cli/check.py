"""`weft check`: what a spec is made of and what it costs, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli.failures import facts, show
from weft.cli.options import Command, backend_option, experiment_options, json_option

if TYPE_CHECKING:
    from weft.api import Experiment
    from weft.cli.output import Table
    from weft.compiler.analysis import Line, Report
    from weft.compiler.receptive import ReceptiveField

EXAMPLES = """
weft check digits.weft
weft check digits.weft --set hidden=1024       what would a wider one cost?
weft check digits.weft --json
"""

SOURCE_WIDTH = 40
SHOWN_CLASSES = 10


@click.command(cls=Command, examples=EXAMPLES)
@backend_option("numpy")
@experiment_options
@json_option
def command(load: Callable[[], Experiment], backend: str, json: bool) -> None:
    """Check SPEC: names, types, shapes and data; then show what it costs, by layer and by line.

    FLOPs are those of the forward pass for one example, a multiply-add being two; "in a step" those
    of a training step on a full batch, and memory a bound for it, everything that it touches
    included. What a convolution sees is its receptive field: how many pixels of an example one of
    its places depends on, and every how many there is a place.
    """
    from weft.compiler.collector import no_cycles

    with no_cycles():
        _check(load(), backend, json)


def _check(experiment: Experiment, backend: str, json: bool) -> None:
    from weft.cli.output import print_json, print_table

    report = experiment.check(backend)
    for warning in report.warnings:
        show(warning)
    if json:
        print_json({**summary(report), **run_length(experiment)})
        return
    click.echo(headline(experiment))
    for line in classes_lines(experiment):
        click.echo(line)
    click.echo()
    if report.layers:
        print_table(layers_table(report))
        click.echo()
    print_table(lines_table(report))
    click.echo()
    print_table(totals_table(report))


def run_length(experiment: Experiment) -> dict[str, Any]:
    """How much there is to train on, and for how long."""
    settings = experiment.loaded.experiment.settings
    return {
        "examples": {name: part.size for name, part in experiment.loaded.parts.items()},
        "classes": {name: list(names) for name, names in experiment.classes.items()},
        "steps": settings.steps,
        "steps_per_epoch": settings.steps_per_epoch,
    }


def headline(experiment: Experiment) -> str:
    """The same in words."""
    settings = experiment.loaded.experiment.settings
    parts = experiment.loaded.parts.items()
    examples = ", ".join(f"{part.size:,} {name}" for name, part in parts)
    epochs = -(-settings.steps // settings.steps_per_epoch)
    return (
        f"{experiment.name}: {examples} examples; {settings.steps:,} steps on batches of "
        f"{settings.batch} in {epochs:,} epoch{'s' * (epochs > 1)}"
    )


def classes_lines(experiment: Experiment) -> list[str]:
    """What class numbers stand for, where it isn't themselves: `kind: 2 classes, "cat", "dog"`."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for column, names in experiment.classes.items():
        if names != tuple(map(str, range(len(names)))):
            columns.setdefault(names, []).append(column)
    lines = []
    for names, same in columns.items():
        shown = [dumps(name, ensure_ascii=False) for name in names]
        if len(shown) > SHOWN_CLASSES:
            shown = [*shown[: SHOWN_CLASSES - 1], f"... {shown[-1]}"]
        lines.append(f"{', '.join(same)}: {len(names)} classes, {', '.join(shown)}")
    return lines


def layers_table(report: Report) -> Table:
    """A row for each layer with parameters; what they see, where there are convolutions."""
    from weft.cli.output import Table

    seeing = any(layer.sees for layer in report.layers)
    rows = [
        [
            layer.name,
            ", ".join(f"{t.name.rpartition('.')[2]}: {t.type}" for t in layer.tensors),
            f"{layer.parameters:,}",
            *([str(layer.sees or "")] if seeing else []),
        ]
        for layer in report.layers
    ]
    titles = ("layer", "tensors", "parameters", *(["sees"] if seeing else []))
    return Table(titles, rows, frozenset({2}), elastic=frozenset({1}))


def lines_table(report: Report) -> Table:
    """A row for each line of source that costs something."""
    from weft.cli.output import Table, amount

    files = {line.span.source.name for line in report.lines}
    rows = [
        [
            _place(line, len(files) > 1),
            _cut(" ".join(line.text.split(" #")[0].split())),
            str(line.result) if line.result is not None else "",
            f"{line.parameters:,}" if line.parameters else "",
            *(amount(n) if n else "" for n in (line.flops, line.step_flops)),
            amount(line.bytes, "B") if line.bytes else "",
        ]
        for line in report.lines
    ]
    titles = ("line", "source", "result", "parameters", "FLOPs", "in a step", "memory")
    right = frozenset({3, 4, 5, 6} | ({0} if len(files) < 2 else set()))
    return Table(titles, rows, right, elastic=frozenset({1, 2}))


def totals_table(report: Report) -> Table:
    """The whole."""
    from weft.cli.output import Table, amount

    rows = [
        ["parameters", f"{report.parameters:,}", ""],
        ["multiply-adds", f"{report.multiply_adds:,}", "forward, one example"],
        ["FLOPs", f"{report.flops:,}", "forward, one example"],
        ["FLOPs of a step", f"{report.step_flops:,}", f"training, a batch of {report.batch}"],
        ["peak memory", amount(report.peak_bytes, "B"), f"training, a batch of {report.batch}"],
    ]
    if report.sees is not None:
        size, every = str(report.sees).split(" every ")
        rows.append(["receptive field", size, f"the largest known, a place every {every}"])
    return Table(("total", "amount", "of"), rows, frozenset({1}))


def summary(report: Report) -> dict[str, Any]:
    """The report for machines."""
    return {
        "name": report.name,
        "parameters": report.parameters,
        "multiply_adds": report.multiply_adds,
        "flops": report.flops,
        "step_flops": report.step_flops,
        "peak_bytes": report.peak_bytes,
        "batch": report.batch,
        "receptive_field": _extent(report.sees),
        "layers": [
            {
                "name": layer.name,
                "parameters": layer.parameters,
                "receptive_field": _extent(layer.sees),
                "tensors": {t.name: str(t.type) for t in layer.tensors},
            }
            for layer in report.layers
        ],
        "lines": [
            {
                "file": line.span.source.name,
                "line": line.span.line,
                "result": str(line.result) if line.result is not None else None,
                "parameters": line.parameters,
                "multiply_adds": line.multiply_adds,
                "flops": line.flops,
                "step_flops": line.step_flops,
                "bytes": line.bytes,
            }
            for line in report.lines
        ],
        "warnings": [facts(warning) for warning in report.warnings],
    }


def _extent(field: ReceptiveField | None) -> dict[str, Any] | None:
    """Places of an example by axis; a stride is no whole number where places lie between them."""
    if field is None:
        return None
    strides = [int(s) if s.denominator == 1 else float(s) for s in field.stride]
    return {"size": list(field.size), "stride": strides}


def _place(line: Line, many: bool) -> str:
    return f"{Path(line.span.source.name).name}:{line.span.line}" if many else str(line.span.line)


def _cut(text: str) -> str:
    return text if len(text) <= SOURCE_WIDTH else f"{text[: SOURCE_WIDTH - 3].rstrip()}..."
