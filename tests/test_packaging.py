"""What an installation and a fresh clone rely on: packages, their data, the README's commands."""

from __future__ import annotations

import runpy
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "weft": ROOT / "src/weft",
    "weft.backends": ROOT / "backends",
    "weft.compiler": ROOT / "compiler",
    "weft.frontends": ROOT / "frontends",
    "weft.runtime": ROOT / "runtime",
}
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def packaged_files() -> Iterator[tuple[str, Path]]:
    """Every source and data file below the package folders, with its package's name."""
    for name, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            linked = name == "weft" and f"weft.{inner.parts[0]}" in FOLDERS
            if path.is_file() and not linked and "__pycache__" not in inner.parts:
                yield ".".join([name, *inner.parent.parts]), path


def blocks(text: str) -> list[list[str]]:
    """The lines of each fenced block of a Markdown text."""
    return [part.splitlines()[1:] for part in text.split("```")[1::2]]


def test_the_package_folders_are_those_of_the_configuration() -> None:
    assert {name: ROOT / path for name, path in SETUPTOOLS["package-dir"].items()} == FOLDERS


@pytest.mark.parametrize("name", sorted(set(FOLDERS) - {"weft"}))
def test_type_checkers_find_each_folder_under_its_installed_name(name: str) -> None:
    link = ROOT / "src" / name.replace(".", "/")
    assert link.is_symlink()
    assert link.resolve() == FOLDERS[name]
    assert not link.readlink().is_absolute()


@pytest.mark.parametrize("package", sorted({package for package, _ in packaged_files()}))
def test_a_folder_with_files_is_a_package(package: str) -> None:
    assert import_module(package).__doc__


@pytest.mark.parametrize(
    ("package", "name"),
    [(package, path.name) for package, path in packaged_files() if path.suffix != ".py"],
)
def test_data_files_are_installed_and_readable(package: str, name: str) -> None:
    patterns = SETUPTOOLS["package-data"]["*"]
    assert any(fnmatch(name, pattern) for pattern in patterns), f"not in the wheel: {name}"
    assert files(package).joinpath(name).is_file()


def test_every_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    setuptools = pytest.importorskip("setuptools")
    given: dict[str, list[str]] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **settings: given.update(settings))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    assert set(given["packages"]) == {package for package, _ in packaged_files()}


def test_the_readme_begins_with_a_spec_and_two_commands_of_one_line() -> None:
    spec, train, test = blocks((ROOT / "README.md").read_text())[:3]
    assert len(spec) == 20
    assert len(train) == len(test) == 1
    for command in (*train, *test):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert ".venv/bin/weft train examples/digits_mlp.weft" in train[0]
    assert ".venv/bin/pytest" in test[0]
