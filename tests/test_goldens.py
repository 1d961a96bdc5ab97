"""The golden files' own rules: missing and differing ones fail, updating writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from goldens import Golden


def test_a_missing_golden_fails_and_says_how_to_create_it(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="--update-golden"):
        Golden(tmp_path, update=False)("a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_updating_writes_and_the_same_text_then_passes(tmp_path: Path) -> None:
    Golden(tmp_path, update=True)("deep/er/a.txt", "één\r\ntwo")
    assert (tmp_path / "deep/er/a.txt").read_bytes() == "één\r\ntwo\n".encode()
    assert len(list((tmp_path / "deep/er").iterdir())) == 1
    Golden(tmp_path, update=False)("deep/er/a.txt", "één\r\ntwo")


@pytest.mark.parametrize("text", ["one\ntwo", "one\n three", "one\r\ntwo\n", "one\ntwo\n\n", ""])
def test_a_differing_text_fails_with_the_difference(tmp_path: Path, text: str) -> None:
    Golden(tmp_path, update=True)("a.txt", "one\nthree")
    with pytest.raises(pytest.fail.Exception, match=r"golden `a\.txt` differs"):
        Golden(tmp_path, update=False)("a.txt", text)


@pytest.mark.parametrize("name", ["/a.txt", "../a.txt", "a/../../b.txt", "a"])
def test_a_golden_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        Golden(tmp_path, update=True)(name, "text")
