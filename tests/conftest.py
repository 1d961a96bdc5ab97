"""What every test shares: golden files, and property tests that draw the same cases every time."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from goldens import Golden

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores. NumPy, which no import has loaded yet, asks for its threads here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Graphs are many small objects, most of which die without the collector: a twelfth of the time.
gc.set_threshold(100_000, 50, 100)

settings.register_profile("weft", derandomize=True, deadline=None, database=None)
settings.load_profile("weft")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden files instead of comparing with them",
    )
    parser.addoption(
        "--thorough", action="store_true", help="run tests that take many minutes, too"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--thorough"):
        left_out = pytest.mark.skip(reason="takes many minutes: run with --thorough")
        for item in items:
            if "thorough" in item.keywords:
                item.add_marker(left_out)


def pytest_configure(config: pytest.Config) -> None:
    """An empty cache of compiled code for this run, and for all processes that it starts."""
    if not hasattr(config, "workerinput"):  # workers have that of who started them
        folder = tempfile.mkdtemp(prefix="weft-cache-")
        os.environ["XDG_CACHE_HOME"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config) -> Golden:
    """`golden("errors/unknown_name.txt", text)` fails unless tests/golden has just that text."""
    folder = Path(__file__).parent / "golden"
    return Golden(folder, update=pytestconfig.getoption("--update-golden"))
