"""`weft export`: a trained run as an ONNX model."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli.options import Command, json_option

EXAMPLES = """
weft export runs/digits-001 -o digits.onnx
weft export runs/digits-001 -o digits.onnx --opset 17     for older runtimes
weft export runs/prices-001 -o prices.onnx --raw          takes columns as the source has them
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("run")
@click.option("-o", "--output", required=True, metavar="FILE", help="The ONNX file to write.")
@click.option(
    "--opset",
    type=click.IntRange(min=1),
    default=21,
    show_default=True,
    help="The version of the ONNX operators.",
)
@click.option(
    "--raw",
    is_flag=True,
    help="The model takes columns as the data source has them, and prepares them itself.",
)
@json_option
def command(run: str, output: str, opset: int, raw: bool, json: bool) -> None:
    """Write the model of RUN as ONNX.

    The model computes what evaluation computes, for a batch of any size; its inputs are the fields
    that the spec's model reads, already prepared as the `data` block says, or with --raw the
    columns that the block prepares.
    """
    import weft
    from weft.cli.output import amount, print_json, writable

    path = writable(Path(output))
    written = weft.open_run(run).export_onnx(path, opset, raw)
    size = written.stat().st_size
    if json:
        print_json({"run": run, "path": str(written), "opset": opset, "bytes": size})
    else:
        click.echo(f"wrote {written} ({amount(size, 'B')}, opset {opset})")
