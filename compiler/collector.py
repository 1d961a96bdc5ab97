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
    same.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
