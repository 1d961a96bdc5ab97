"""The command line: one module a command."""

from __future__ import annotations

import gc
import os
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

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for the whole process
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal without Unicode shows `?`, not a traceback
    app(prog_name="weft")
