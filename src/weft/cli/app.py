"""The command `weft`: finds a command's module when it is asked for, and ends with its exit code.

0    done
1    a mistake in the spec, the data or the files, shown as a diagnostic on stderr
2    a mistake in the command line
70   a bug in Weft
130  stopped by Ctrl-C            143  stopped by SIGTERM
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from weft.cli.failures import ended

# Help lists them from here, so that it imports none of them.
COMMANDS = {
    "new": "Write a first spec, ready to train.",
    "check": "Check a spec: types, shapes, parameters, FLOPs, memory.",
    "verify": "Hold a spec and a backend to the mathematics.",
    "train": "Train a spec, or go on with a run.",
    "eval": "Measure a trained run on a split of its data.",
    "predict": "Apply a trained run to arrays of yours.",
    "export": "Write a trained run as an ONNX model.",
    "explain": "Show the equation and the source of anything that has a name.",
    "graph": "Draw a graph of a spec as SVG.",
    "profile": "Time a training step kernel by kernel.",
    "compile": "Show a spec at any stage on its way to running code.",
    "fmt": "Write specs in the one canonical layout.",
    "cache": "Show or clear the compiled code that is kept for later starts.",
}

HELP = """Weft: one file states an experiment; one graph runs it.

\b
Examples:
  weft new first.weft             write a first spec
  weft check first.weft           what is in it, before anything runs
  weft train first.weft           train it
  weft train first.weft --set epochs=5 --set hidden=512
  weft explain adamw              the equation that will run

`weft COMMAND --help` shows more examples. With --json the last line of the output is one JSON
object.

Exit codes: 0 done; 1 a mistake in the spec, its data or files; 2 a mistake in
the command line; 70 a bug in Weft; 130 and 143 stopped by Ctrl-C and SIGTERM.
"""


class Weft(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"weft.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from weft.compiler.errors import did_you_mean

            hint = did_you_mean(args[0], COMMANDS) or f"the commands are {', '.join(COMMANDS)}"
            if args[0].endswith(".weft"):
                hint = f"did you mean `weft train {args[0]}`?"
            raise click.UsageError(f"there is no command `{args[0]}`; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> NoReturn:
        """Run a command line; ends the process with one of the exit codes."""
        given = list(sys.argv[1:] if args is None else args)
        settings["standalone_mode"] = False
        sys.exit(ended(given, lambda: super(Weft, self).main(given, *rest, **settings)))


def _version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"weft {version('weft')}")
        ctx.exit()


@click.group(cls=Weft, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, help="Show where in Weft an internal error arose.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and leave.",
)
def app(traceback: bool) -> None:
    """See `HELP`; `--traceback` is read where errors are shown."""
