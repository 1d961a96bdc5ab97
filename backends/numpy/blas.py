"""How many threads NumPy's matrix products take: one, unless a product is worth waking more.

OpenBLAS's threads spin while they wait for work. Where other processes want the cores too, a step
of many small products then takes several times as long; and even alone, a second thread gains
next to nothing below a millisecond of work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from math import prod

from weft.backends.cores import cores
from weft.backends.numpy.template import shape_of
from weft.backends.threads import THREADS
from weft.compiler.composites import bodies
from weft.compiler.graph import Graph, Node

# OpenBLAS keeps to one thread below these by itself: multiply-adds of a product, elements of a
# product with a vector.
_OWN_PRODUCT, _OWN_VECTOR = 1 << 18, 9216
# Multiply-adds of a product that is worth several threads: about half a millisecond of one core.
WORTHWHILE = 40_000_000

_PREFIXES = ("scipy_openblas", "openblas")


@cache
def controls() -> tuple[Callable[[], int], Callable[[int], object]] | None:
    """OpenBLAS's functions to ask for and to set its number of threads, where they are found."""
    module = import_module("numpy._core._multiarray_umath")
    try:
        library = ctypes.CDLL(module.__file__)
    except OSError:
        return None
    for prefix in _PREFIXES:
        for suffix in ("64_", ""):
            ask = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
            tell = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
            if ask is not None and tell is not None:
                tell.argtypes, tell.restype = (ctypes.c_int,), None
                return ask, tell
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep to one thread inside; as it was before, where that is known, afterwards."""
    found = controls()
    if found is None:
        yield
        return
    ask, tell = found
    before = ask()
    tell(1)
    try:
        yield
    finally:
        tell(before)


def threads() -> int:
    """The threads of the linear algebra library, or else the cores that this process may use."""
    found = controls()
    return found[0]() if found is not None else cores()


def use_threads(count: int | None) -> None:
    """Give the library so many threads, where it can be told; None: one for each core."""
    found = controls()
    if found is not None:
        found[1](count or cores())


THREADS.follow(use_threads)


def wants_one_thread(graph: Graph) -> bool:
    """Whether products would be threaded, but none is worth it."""
    nodes = [node for part in (graph, *bodies(graph)) for node in part.nodes]
    sizes = [_multiply_adds(node) for node in nodes]
    return max(sizes, default=0) < WORTHWHILE and any(
        size > (_OWN_VECTOR if node.op.name == "reduce_sum" else _OWN_PRODUCT)
        for size, node in zip(sizes, nodes, strict=True)
    )


def _multiply_adds(node: Node) -> int:
    if node.op.name == "dot_general":
        lhs = shape_of(node.inputs[0])
        inner: tuple[int, ...] = node.attributes["contract"][0]
        return prod(shape_of(node)) * prod(lhs[i] for i in inner)
    if node.op.name == "conv":
        return prod(shape_of(node)) * prod(shape_of(node.inputs[1])[1:])
    if node.op.name == "reduce_sum":
        return prod(shape_of(node.inputs[0]))
    return 0
