"""No primitive without its rows: type rule, meaning, gradient or stated exemption, and cases."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from conformance.cases import cases
from weft.backends.numpy.ops import TABLE as TEMPLATES
from weft.backends.onnx.export import RULES as ONNX_RULES
from weft.compiler.gradient import NO_GRADIENT, RULES
from weft.compiler.ops import OPS

NO_MEANING = {
    "input": "is given",
    "call": "means what its body means",
    "scan": "means what its body means, turn by turn",
}

# Every backend opens a composite that it doesn't take whole, and is given its inputs.
GIVEN = ("input", "call")

# What must have a row for every primitive; a backend adds the table of what it can say.
TABLES: dict[str, Collection[str]] = {
    "a type rule": [name for name, op in OPS.items() if callable(op.infer)],
    "a meaning": [*(name for name, op in OPS.items() if op.evaluate is not None), *NO_MEANING],
    "a gradient or a reason for none": [*RULES, *NO_GRADIENT],
    "a case": {case.op for case in cases()},
    "a NumPy template": {*TEMPLATES, *GIVEN},
    "an ONNX rule": {*ONNX_RULES, *GIVEN},
}


@pytest.mark.parametrize("table", TABLES)
def test_every_primitive_has(table: str) -> None:
    missing = [name for name in OPS if name not in TABLES[table]]
    assert not missing, f"no {table.removeprefix('a ')}: {missing}"
    unknown = sorted(set(TABLES[table]) - set(OPS))
    assert not unknown, f"{table} for no primitive: {unknown}"


def test_no_primitive_has_both_a_gradient_and_a_reason_for_none() -> None:
    assert not RULES.keys() & NO_GRADIENT.keys()
    assert all(NO_GRADIENT.values())


def test_no_primitive_has_a_meaning_and_a_reason_for_none() -> None:
    assert all(OPS[name].evaluate is None for name in NO_MEANING)


def test_differentiable_primitives_have_several_cases() -> None:
    count = {op: len([c for c in cases() if c.op == op and c.has_float]) for op in RULES}
    assert min(count.values()) >= 3, count


def test_cases_have_their_own_names() -> None:
    names = [case.id for case in cases()]
    assert len(names) == len(set(names))
