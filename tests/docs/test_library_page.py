"""docs/library.md says what the sources of the library say, and shows what they compute."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import make_figures
import make_library
import numpy as np
import pytest

from weft.frontends.dsl.modules import library

PAGE = make_library.PAGE.read_text(encoding="utf-8")


def test_the_page_is_that_of_the_sources() -> None:
    assert make_library.page() == PAGE, "write it anew: python docs/make_library.py"


def test_every_name_has_one_entry_or_one_row() -> None:
    entries = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE)
    assert sorted(entries + rows) == sorted(library().names())
    assert set(rows) == set(make_library.PARTS)


def test_every_entry_is_linked_from_the_contents() -> None:
    entries = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    contents = PAGE[: PAGE.index("\n## ")]
    links = re.findall(r"\]\(#([\w-]+)\)", contents)
    assert [link for link in links if link in entries] == entries


def test_each_activation_and_each_schedule_has_its_figure_and_there_are_no_others() -> None:
    linked = re.findall(r"\]\(figures/(\w+)\.svg\)", PAGE)
    assert sorted(linked) == sorted(make_library.figures())
    assert sorted(f.stem for f in make_library.FIGURES.iterdir()) == sorted(linked)
    assert {"relu", "softmax", "maxout", "cosine", "plateau", "restarts"} <= set(linked)


def test_the_tables_of_figures_name_what_there_is() -> None:
    figures = set(make_library.figures())
    assert {*make_figures.CURVES, *make_figures.CAPTIONS, *make_figures.SCHEDULES} <= figures
    assert set(make_library.CALLS) <= set(library().names())


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "dense": "`[...B, I]` → `[...B, units]`",
        "flatten": "`[B, ...S]` → `[B, S1 S2]`",
        "max_pool": "`[B, C, ...S]` → `[B, C, ...S / 2]`",
        "locally_connected": "`[B, C, ...S]` → `[B, channels, ...S - 2]`",
        "pixel_unshuffle": "`[B, C, H, W]` → `[B, 4 C, H / 2, W / 2]`",
        "patch_embedding": "`[B, C, H, W]` → `[B, H W / patch^2, units]`",
        "class_token": "`[B, T, D]` → `[B, T + 1, D]`",
        "merge_heads": "`[B, H, T, E]` → `[B, T, H E]`",
        "cross_entropy": "`[...B, C]`, `[...B]` → `[]`",
        "moments": "`[B, C]` → `[C]`, `[C]`",
        "causal_mask": "numbers → `[queries, queries]`",
    }.items(),
)
def test_shapes_are_found_by_calling(name: str, expected: str) -> None:
    assert make_library.shapes(name) == expected


def test_comments_become_markdown_that_reads_the_same() -> None:
    text = "f(x)_i = |x| * 2, as `a_b`\n  and:\n    y < 1\n\nMore. Here\nis `*`."
    assert make_library.prose(text) == (
        "f(x)\\_i = \\|x\\| \\* 2, as `a_b`\n\n"
        "```text\n  and:\n    y < 1\n```\n\n"
        "More. Here is `*`."
    )


def test_curves_are_the_functions_and_their_derivatives() -> None:
    x = np.array([-3.0, -0.5, 0.25, 2.0])
    value, slope = make_figures.activation(make_figures.Curve("softsign(x)"), x)
    np.testing.assert_allclose(value[:, 0], x / (1 + abs(x)))
    np.testing.assert_allclose(slope[:, 0], 1 / (1 + abs(x)) ** 2)


def test_rates_are_those_of_each_step() -> None:
    step = np.arange(make_figures.STEPS)
    expected = np.minimum((step + 1) / 80, 1)
    np.testing.assert_allclose(make_figures.rates("warmup(1, 4 epochs)"), expected)
    # 0.6 is no better for two epochs, the fifth and the sixth, and is so again from 0.5 on.
    seen = make_figures.rates(make_figures.SCHEDULES["plateau"])
    assert seen[:: 200 // 10] == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
@pytest.mark.parametrize("name", ["relu", "cosine"])
def test_a_figure_is_the_same_bytes_each_time(name: str, tmp_path: Path) -> None:
    make_figures.draw(name, tmp_path / "one.svg")
    make_figures.draw(name, tmp_path / "two.svg")
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()
    assert b"<dc:date>" not in drawn


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
def test_drawing_removes_figures_that_the_page_has_no_more(tmp_path: Path) -> None:
    (tmp_path / "gone.svg").write_text("<svg/>")
    make_figures.write(tmp_path, ["relu"])
    assert [f.name for f in tmp_path.iterdir()] == ["relu.svg"]
