"""The contracts on imports: they hold, and one breaks when an import goes the wrong way."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CONFIG = Path(__file__).parent.parent / "pyproject.toml"
CONTRACTS = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
MODULES = [
    module
    for contract in CONTRACTS
    for line in contract.get("layers") or contract["modules"]
    for module in line.split(" | ")
]
CHECK = (
    "import sys; from importlinter.cli import lint_imports;"
    "sys.exit(lint_imports(sys.argv[1], no_cache=True, no_logo=True))"
)


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the contract on the `weft` that is found in `folder`, else on the installed one."""
    return subprocess.run(
        [sys.executable, "-c", CHECK, str(CONFIG)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_import_goes_down_the_layers(tmp_path: Path) -> None:
    result = check(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("compiler", "weft.frontends"),
        ("compiler", "weft.backends"),
        ("backends", "weft.frontends"),
        ("frontends", "weft.backends"),
        ("backends", "weft.runtime"),
        ("runtime", "weft.cli"),
        # Through the public API, which may import every layer.
        ("compiler", "weft"),
        ("backends.cupy", "weft.backends.tvm"),
        ("compiler.passes", "weft.compiler.pipeline"),
        ("compiler.ops", "weft.compiler.graph"),
        ("frontends.dsl.interpreter", "weft.frontends.dsl.training"),
    ],
)
def test_an_import_up_the_layers_breaks_the_contract(
    tmp_path: Path, importer: str, imported: str
) -> None:
    for module in MODULES:
        folder = tmp_path / module.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for package in (folder, *folder.relative_to(tmp_path).parents):
            (tmp_path / package / "__init__.py").touch()
    (tmp_path / "__init__.py").unlink()
    (tmp_path / "weft" / "__init__.py").write_text("import weft.runtime\n")
    assert check(tmp_path).returncode == 0
    folder = tmp_path / "weft" / importer.replace(".", "/")
    (folder / "wrong.py").write_text(f"import {imported}\n")
    result = check(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"weft.{importer}.wrong -> {imported}" in result.stdout
