"""`weft train`: train a spec, or go on with a run that was stopped."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from weft.cli.options import (
    Command,
    backend_option,
    data_option,
    json_option,
    set_option,
    threads_option,
)

if TYPE_CHECKING:
    from weft.api import Run

EXAMPLES = """
weft train digits.weft                         into the next free folder runs/digits-001, ...
weft train digits.weft --set epochs=5 --set hidden=512
weft train digits.weft --out runs/wide         into a folder of your choice
weft train faces.weft --data faces=faces.npz   for a spec whose `data faces` has no source
weft train --resume runs/wide                  go on with a run that was stopped
weft train digits.weft --out runs/a --resume   go on, or begin if it never began
weft train digits.weft --json --quiet          the metrics, for a program
"""

_OUT = "<--out>"  # no folder's name: `<` is what a shell would take


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("spec", required=False)
@click.option("--out", metavar="RUN", help="The run's folder; it must be new or empty.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value=_OUT,
    metavar="[RUN]",
    help="Go on with the run in this folder, or in that of --out, where it was stopped.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Save after this many steps too, not only after each epoch.",
)
@backend_option(None, shown="auto; the run's own for --resume")
@threads_option
@set_option
@data_option
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@json_option
def command(
    spec: str | None,
    out: str | None,
    resume: str | None,
    checkpoint_every: int | None,
    backend: str | None,
    overrides: Mapping[str, str],
    data: Mapping[str, str],
    quiet: bool,
    json: bool,
) -> None:
    """Train the experiment of SPEC.

    Everything that a run is made of lies in its folder: the spec, its metrics, its checkpoints.
    Ctrl-C saves and leaves; --resume goes on, and ends with the same bytes as a run never stopped.
    """
    import weft
    from weft.cli.progress import Live, reporter

    spec, folder, goes_on = _places(spec, out, resume)
    if spec is None and overrides:
        raise click.UsageError("a run goes on with the settings that it began with: no --set")
    told = reporter(sys.stderr if json else sys.stdout, quiet)
    try:
        if spec is None:
            assert folder is not None
            run = weft.open_run(folder, data).resume(backend, told, checkpoint_every)
        else:
            experiment = weft.load(Path(spec), data, **overrides)
            run = experiment.train(backend, folder, goes_on, told, checkpoint_every)
    finally:
        if isinstance(told, Live):
            told.close()
    _report(run, json, quiet)


def _places(
    spec: str | None, out: str | None, resume: str | None
) -> tuple[str | None, str | None, bool]:
    """The spec, the run's folder, and whether to go on with what is there."""
    if resume is not None and resume.endswith(".weft") and spec is None:
        spec, resume = resume, _OUT  # `--resume SPEC --out RUN`
    if resume is None:
        if spec is None:
            raise click.UsageError("name a spec to train, or a run with --resume")
        return spec, out, False
    if resume == _OUT:
        if out is None:
            raise click.UsageError("name the run to go on with: --resume RUN")
        return spec, out, True
    if out is not None and Path(out) != Path(resume):
        raise click.UsageError("--resume and --out name different folders")
    return spec, resume, True


def _report(run: Run, json: bool, quiet: bool) -> None:
    from weft.cli.metrics import metrics_table
    from weft.cli.output import print_json, print_table

    if json:
        print_json(report(run))
        return
    if not quiet:
        click.echo()
    print_table(metrics_table(run.metrics))
    if quiet:
        return
    folder, model = quote(str(run.folder)), quote(f"{_model_name(run.folder)}.onnx")
    given = "--input arrays.npz" if run.fields else "--rows 100"
    click.echo(
        f"\nThe run is in {run.folder}. What to do next:\n"
        f"  weft eval {folder}\n"
        f"  weft predict {folder} {given} --output predictions.npz\n"
        f"  weft export {folder} -o {model}"
    )


def report(run: Run) -> dict[str, Any]:
    """A run for machines."""
    result = run.result
    return {
        "run": str(run.folder),
        "backend": run.backend,
        "steps": result.steps,
        "epochs": result.epochs,
        "best_step": result.best_step,
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        **{part: dict(values) for part, values in run.metrics.items()},
    }


def _model_name(folder: Path) -> str:
    return folder.name.rsplit("-", 1)[0] or "model"
