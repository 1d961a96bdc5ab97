"""docs/backends.md says what the backends make of every primitive."""

from __future__ import annotations

import re

import make_backends
import pytest

from weft.compiler.ops import OPS

PAGE = make_backends.PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_is_what_the_backends_do() -> None:
    assert make_backends.page() == PAGE, "write it anew: python docs/make_backends.py"


def test_no_primitive_and_no_cell_is_missing() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.MULTILINE)
    assert [op for op, _ in rows] == sorted(OPS)
    for op, cells in rows:
        found = [cell.strip() for cell in cells.split(" | ")]
        assert len(found) == len(make_backends.COLUMNS), op
        assert all(found), op
