"""Finds the subpackages; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("compiler", "frontends", "backends", "runtime")

setup(
    packages=[
        "weft",
        "weft.cli",
        *(f"weft.cli.{package}" for package in find_packages("src/weft/cli")),
        *(f"weft.{folder}" for folder in FOLDERS),
        *(f"weft.{folder}.{package}" for folder in FOLDERS for package in find_packages(folder)),
    ],
)
