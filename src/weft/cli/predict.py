"""`weft predict`: a trained run applied to arrays from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft.cli.options import Command, backend_option, json_option, threads_option

if TYPE_CHECKING:
    from weft.cli.arrays import Arrays

EXAMPLES = """
weft predict runs/digits-001 --input images.npz --output logits.npz
weft predict runs/digits-001 --input x.npy --output logits.csv
weft predict runs/prices-001 --input table.csv --raw --output prices.csv
weft predict runs/ring_gan-001 --rows 500 --output points.npy      from its own noise
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("run")
@click.option(
    "-i",
    "--input",
    "source",
    metavar="FILE",
    help="A `.npz`, `.npy` or `.csv` file.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="A `.npz`, `.npy` or `.csv` file to write.",
)
@click.option(
    "--raw",
    is_flag=True,
    help="The input holds columns as the data source has them: prepare them as in training.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many rows to make, instead of --input, for a model that reads no field.",
)
@backend_option(None, shown="that of its training")
@threads_option
@json_option
def command(
    run: str,
    source: str | None,
    output: str,
    raw: bool,
    rows: int | None,
    backend: str | None,
    json: bool,
) -> None:
    """Apply the model of RUN to the arrays of a file.

    The input holds the fields that the model reads, by the names and with the values that they have
    in the `data` block: an `.npz` by name, an `.npy` for the only one, a `.csv` with a column for
    each number of the only one. With --raw it holds the source's columns instead, and the `data`
    block prepares them. The output holds what the model gives, by name.
    """
    import weft
    from weft.cli import arrays
    from weft.cli.output import print_json, writable

    if (source is None) == (rows is None):
        raise click.UsageError(
            "name the arrays with --input FILE, or, for a model that reads none, say --rows N"
        )
    path = writable(Path(output))
    arrays.kind(path)
    opened = weft.open_run(run, backend=backend)
    if source is None:
        outputs = opened.predict(rows=rows)
    else:
        given = arrays.read(Path(source))
        ready = arrays.prepared(opened.loaded, given) if raw else given
        outputs = opened.predict(arrays.fields(opened.loaded.program, ready))
    arrays.write(path, outputs)
    made = _rows(outputs)
    if json:
        shapes = {name: list(array.shape) for name, array in outputs.items()}
        told = {"run": run, "backend": opened.backend, "path": output, "rows": made}
        print_json({**told, "outputs": shapes})
    else:
        click.echo(f"wrote {path}: {', '.join(outputs)} for {made} rows")


def _rows(outputs: Arrays) -> int:
    return max((len(array) for array in outputs.values() if array.ndim), default=1)
