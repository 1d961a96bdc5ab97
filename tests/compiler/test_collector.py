"""Python's search for cycles, put off."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from weft.compiler.collector import no_cycles


class Thing:
    """What can refer to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    """The collector is on, and nothing is frozen; afterwards too."""
    gc.unfreeze()
    gc.enable()
    yield
    gc.unfreeze()
    gc.enable()


def is_young(thing: object) -> bool:
    return any(found is thing for found in gc.get_objects(generation=0))


def test_objects_are_old_at_the_end_and_their_cycles_are_still_found() -> None:
    with no_cycles():
        assert not gc.isenabled()
        thing = Thing()
        assert is_young(thing)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert not is_young(thing)
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None


def _fail() -> None:
    with no_cycles():
        with no_cycles():
            pass
        assert not gc.isenabled()
        raise ValueError("wrong")


def test_inner_work_ends_nothing_and_errors_end_it() -> None:
    with pytest.raises(ValueError, match="wrong"):
        _fail()
    assert gc.isenabled()
    gc.disable()
    with no_cycles():
        pass
    assert not gc.isenabled()


def test_what_somebody_froze_stays_frozen() -> None:
    gc.freeze()
    count = gc.get_freeze_count()
    with no_cycles():
        pass
    assert gc.get_freeze_count() == count
