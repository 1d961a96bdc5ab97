"""`verify` sees each planted fault, in the check that it belongs to, and none without them."""

from __future__ import annotations

import pytest

import weft
from verify.mutations import MUTATIONS, Mutation
from verify.specs import SPECS

# One of each kind, for every run of the tests; the others are as quick, but many.
ALWAYS = frozenset(
    {
        "the slope of tanh lacks a power",
        "a cube is a square",
        "two values that live together share a place",
        "gradients are not clipped",
        "a constant of the generator is another",
        "the backend's exponential is of base 2",
    }
)


def test_there_are_thirty() -> None:
    names = [m.name for m in MUTATIONS]
    assert len(set(names)) == len(names) >= 30
    assert set(names) >= ALWAYS


def _marked(mutation: Mutation) -> object:
    marks = [] if mutation.name in ALWAYS else [pytest.mark.slow]
    return pytest.param(mutation, id=mutation.name, marks=marks)


@pytest.mark.parametrize("mutation", [_marked(m) for m in MUTATIONS])
def test_a_planted_fault_is_seen(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SPECS[mutation.spec]
    if mutation.change is not None:
        assert mutation.change[0] in text
        text = text.replace(*mutation.change)
    mutation.plant(monkeypatch)
    found = weft.load(text).verify()
    assert mutation.check in found.failed
    messages = [fault.render() for fault in found[mutation.check].faults]
    assert any(mutation.says in message for message in messages), messages


CHANGED = [m for m in MUTATIONS if m.change is not None and m.check != "stated gradients"]


@pytest.mark.slow
@pytest.mark.parametrize("mutation", CHANGED, ids=lambda m: m.name)
def test_the_specs_that_show_them_are_right(mutation: Mutation) -> None:
    """What a spec has more, to show a fault, is no fault itself."""
    assert mutation.change is not None
    assert weft.load(SPECS[mutation.spec].replace(*mutation.change)).verify().passed


@pytest.mark.parametrize("name", SPECS)
def test_without_a_fault_all_checks_pass(name: str) -> None:
    found = weft.load(SPECS[name]).verify()
    assert found.passed, [fault.render() for check in found.checks for fault in check.faults]
    assert all(check.count for check in found.checks if check.name != "examples")
