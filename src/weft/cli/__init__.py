"""The command line: one module a command."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """What the script `weft` runs."""
    gc.set_threshold(200_000)  # hardly an object is in a cycle: Python looks for them less often
    try:
        _run()
    except KeyboardInterrupt:  # Ctrl-C before a command has begun
        sys.exit(130)
    finally:
        gc.freeze()  # and ends without another look


def _run() -> None:
    from weft.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal without Unicode shows `?`, not a traceback
    app(prog_name="weft")
