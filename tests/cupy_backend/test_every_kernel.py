"""What tests on a GPU are made of, on the emulator: kernels to watch memory by, shared modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cupy_backend.emulated import EMULATOR, emulated
from cupy_backend.test_conformance import primitive
from gpu.every_kernel import EXAMPLES, STEPS, run
from gpu.keeping import Keeping


def test_the_examples_are_there() -> None:
    assert all((EXAMPLES / f"{name}.weft").exists() for name in STEPS)


@emulated
@pytest.mark.slow
def test_kernels_run_for_a_memory_checker() -> None:
    named = primitive("add") + primitive("sort")
    assert run(EMULATOR, named, ["mlp_6431"]) == len(named) + 2


def test_a_function_is_compiled_once() -> None:
    asked: list[list[str]] = []

    class Device:
        name = "inside"

        def load(self, headers: str, functions: Mapping[str, str]) -> Mapping[str, Any]:
            asked.append(sorted(functions))
            return {name: name.upper() for name in functions}

    keeping = Keeping(Device())  # type: ignore[arg-type]
    assert keeping.load("", {"a": "", "b": ""}) == {"a": "A", "b": "B"}
    assert keeping.load("", {"b": "", "c": ""}) == {"b": "B", "c": "C"}
    assert keeping.load("", {"a": ""}) == {"a": "A"}
    assert asked == [["a", "b"], ["c"]]
    assert keeping.name == "inside"
