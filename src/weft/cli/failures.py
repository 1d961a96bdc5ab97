"""How a command ends: its exit code, and what is said when something went wrong.

    WeftError            the diagnostic on stderr                            1
    click's usage errors the message and the usage on stderr                 2
    anything else        "internal error", how to report it                 70
    KeyboardInterrupt    one line                                           130
    Interrupted          what was saved, as a diagnostic                    130, 143

With `--json` the last line of stdout is then `{"error": {...}}`.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from weft.compiler.errors import Diagnostic, WeftError

if TYPE_CHECKING:
    from rich.text import Text

DONE, MISTAKE, USAGE, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 70, 130, 143


class Ended(Exception):
    """A command ends with a code of its own, having said all that there is to say."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__()


def ended(arguments: list[str], run: Callable[[], Any]) -> int:
    """Run a command; the exit code that it ends with."""
    try:
        return _ended(arguments, run)
    except BrokenPipeError:
        # Whoever read our output has enough: no message, and no further write at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
    except OSError:
        pass  # what is wrong was said on stderr, and stdout takes no JSON
    return MISTAKE


def _ended(arguments: list[str], run: Callable[[], Any]) -> int:
    json = "--json" in arguments
    try:
        result = run()
        # Without its standalone mode, click returns the code of `ctx.exit()`.
        return result if isinstance(result, int) else DONE
    except Ended as end:
        return end.code
    except WeftError as error:
        from weft.runtime.signals import Interrupted

        _diagnosed(error.diagnostic, json)
        return error.exit_code if isinstance(error, Interrupted) else MISTAKE
    except click.ClickException as error:
        error.show()
        if json:
            _error({"message": error.format_message(), "severity": "usage"})
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        if json:
            _error({"message": "stopped by Ctrl-C", "severity": "signal"})
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"`{error.filename}`: " if error.filename else ""
        return _mistake(f"{where}{error.strerror or error}", None, json)
    except RecursionError:
        hint = "give parts of it names of their own"
        return _mistake("the spec is nested too deeply", hint, json)
    except MemoryError as error:
        message = f"there is not enough memory: {error}".rstrip(": ")
        return _mistake(message, "`weft check` shows what a spec needs", json)
    except Exception as error:  # noqa: BLE001  # the last stop before a traceback
        return _bug(error, arguments, json)


def _mistake(message: str, hint: str | None, json: bool) -> int:
    return _diagnosed(Diagnostic(message, hint=hint), json)


def _diagnosed(diagnostic: Diagnostic, json: bool) -> int:
    show(diagnostic)
    if json:
        _error(facts(diagnostic))
    return MISTAKE


def show(diagnostic: Diagnostic) -> None:
    """A diagnostic on stderr; in colour on a terminal."""
    text = diagnostic.render()
    if not sys.stderr.isatty():
        click.echo(text, err=True)
        return
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(_coloured(text, diagnostic))


def facts(diagnostic: Diagnostic) -> dict[str, Any]:
    """A diagnostic as JSON; what it doesn't state is null."""
    span = diagnostic.span
    return {
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "file": span.source.name if span else None,
        "line": span.line if span else None,
        "column": span.column if span else None,
        "expected": diagnostic.expected,
        "found": diagnostic.found,
        "hint": diagnostic.hint,
    }


def _coloured(text: str, diagnostic: Diagnostic) -> Text:
    from rich.text import Text

    styled = Text(text)
    colour = "yellow" if diagnostic.severity == "warning" else "red"
    styled.highlight_regex(rf"\b{diagnostic.severity}: .*", f"bold {colour}")
    styled.highlight_regex(r"(?m)^ *\| +\^+$", f"bold {colour}")
    styled.highlight_regex(r"(?m)^ *= (expected|found|note):", "bold")
    styled.highlight_regex(r"(?m)^ *= help: .*$", "green")
    return styled


def _bug(error: Exception, arguments: list[str], json: bool) -> int:
    if "--traceback" in arguments:
        import traceback

        traceback.print_exception(error)
    again = shlex.join(["weft", "--traceback", *(a for a in arguments if a != "--traceback")])
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    click.echo(
        f"internal error: {what}\n"
        "  This is a bug in Weft, not in your spec. Please report it, with the spec and what this\n"
        f"  prints: {again}",
        err=True,
    )
    if json:
        _error({"message": f"internal error: {what}", "severity": "internal"})
    return BUG


def _error(error: dict[str, Any]) -> None:
    from weft.cli.output import print_json

    print_json({"error": error})
