"""Python's search for cycles, put off while graphs are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_cycles() -> Iterator[None]:
    """For work that makes many objects which live on, and hardly a cycle among them.

    The collector looks through all of them again and again as their number grows, and finds
    nothing: a third of the time of compiling a deep model. What nobody refers to is freed all the
    same. At the end all objects count as old, which they would else become by two more looks.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # so that nobody's frozen objects are thawed
                gc.freeze()  # the lists of objects change hands, whatever their length:
                gc.unfreeze()  # to those that are never looked at, and on to the oldest ones
            gc.enable()
