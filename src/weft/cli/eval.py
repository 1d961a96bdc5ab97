"""`weft eval`: measure a trained run on parts of its data."""

from __future__ import annotations

from collections.abc import Mapping

import click

from weft.cli.options import (
    SPLITS,
    Command,
    backend_option,
    data_option,
    json_option,
    threads_option,
)

EXAMPLES = """
weft eval runs/digits-001                      every part that the data is split into
weft eval runs/digits-001 --split test
weft eval runs/digits-001 --json
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("run")
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(SPLITS),
    help="A part of the data; repeatable. All parts when left out.",
)
@backend_option(None, shown="that of its training")
@threads_option
@data_option
@json_option
def command(
    run: str,
    splits: tuple[str, ...],
    backend: str | None,
    data: Mapping[str, str],
    json: bool,
) -> None:
    """Measure the model of RUN as evaluation sees it: without dropout, with the kept parameters.

    RUN is the folder that `weft train` made; the data are read again from where the spec says, or
    for data without a source from where they were given, unless --data says otherwise.
    """
    import weft
    from weft.cli.metrics import metrics_table
    from weft.cli.output import print_json, print_table

    opened = weft.open_run(run, data, backend)
    parts = [part for part in SPLITS if part in (splits or opened.loaded.parts)]
    metrics = {part: opened.evaluate(part) for part in parts}
    if json:
        print_json({"run": run, "backend": opened.backend, "steps": opened.steps, **metrics})
    else:
        print_table(metrics_table(metrics))
