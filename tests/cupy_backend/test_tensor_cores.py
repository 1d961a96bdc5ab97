"""Convolutions and products on tensor cores: of all types that these have, on all GPUs.

The emulator has the instructions as NVIDIA documents them, so that factors in the wrong registers
give wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from conformance.backends import run_twice
from cupy_backend.emulated import BACKEND, emulated
from cupy_backend.emulator import Emulator
from cupy_backend.nvrtc import SAMPLED, compiled, compiles
from weft.backends.cupy import tiling
from weft.backends.cupy.backend import CupyBackend
from weft.backends.cupy.code import headers
from weft.compiler import builder as b
from weft.compiler.evaluate import evaluate
from weft.compiler.gradient import vjp
from weft.compiler.graph import Graph, Node, make
from weft.compiler.kernel import Convolution
from weft.compiler.kernel_text import text
from weft.compiler.passes.fuse import fuse
from weft.compiler.passes.kernels import kernels
from weft.compiler.passes.memory import plan
from weft.compiler.passes.widen import widen
from weft.compiler.types import BF16, F16, F32, DType, TensorType

Arrays = dict[str, np.ndarray]
Made = Callable[[Node, Node, str | None], Node]


@dataclass(frozen=True)
class Case:
    """An op of two operands of these shapes."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    made: Made

    def graph(self, dtype: DType, tf32: bool) -> Graph:
        """The result, and the gradients of its weighted sum by both operands."""
        x, y = (b.input_(n, TensorType(dtype, s)) for n, s in (("x", self.x), ("y", self.y)))
        out = self.made(x, y, "tf32" if tf32 else None)
        ct = b.input_("ct", out.type)
        outputs = {"out": out, **dict(zip(("dx", "dy"), vjp([out], [ct], [x, y]), strict=True))}
        return Graph("g", (x, y, ct), tuple(outputs.values()), tuple(outputs))


def convolution(x: tuple[int, ...], kernel: tuple[int, ...], **given: object) -> Case:
    rank = len(x) - 2
    one = (1,) * rank
    attributes: dict[str, object] = {
        "strides": one, "padding": ((0, 0),) * rank, "lhs_dilation": one, "rhs_dilation": one,
        "groups": 1, **given,
    }  # fmt: skip

    def made(x: Node, y: Node, factors: str | None) -> Node:
        more = {} if factors is None else {"factors": factors}
        return make("conv", x, y, **attributes, **more)

    return Case(x, kernel, made)


def product(
    x: tuple[int, ...], y: tuple[int, ...], contract: tuple[int, int], begin: int = 0
) -> Case:
    """If `begin`, it is the first of the columns of both that are taken, 8 less than there are."""
    lead = tuple(range(len(x) - 2))

    def part(node: Node) -> Node:
        *others, last = node.type.shape
        start, limit = (0,) * len(others) + (begin,), (*others, last - 8 + begin)
        return make("slice", node, start=start, limit=limit, strides=(1,) * len(x))

    def made(x: Node, y: Node, factors: str | None) -> Node:
        pair = (contract[0],), (contract[1],)
        x, y = (part(node) if begin else node for node in (x, y))
        return b.dot_general(x, y, pair, (lead, lead), factors=factors)

    return Case(x, y, made)


CASES = {
    "one number": convolution((1, 1, 5, 4), (1, 1, 5, 4)),
    "one channel": convolution((2, 1, 7, 9), (3, 1, 3, 3), padding=((1, 1), (1, 1))),
    "tiles that are cut": convolution((2, 5, 9, 11), (70, 5, 3, 3), padding=((1, 1), (1, 1))),
    "strides": convolution(
        (3, 7, 13, 10), (9, 7, 5, 3), strides=(2, 3), padding=((2, 1), (0, 2))
    ),
    "a wide kernel": convolution(
        (2, 4, 12, 9), (6, 4, 3, 2), rhs_dilation=(2, 3), padding=((2, 2), (1, 1))
    ),
    "spread images": convolution(
        (2, 6, 5, 4), (5, 6, 3, 4), lhs_dilation=(2, 3), padding=((1, 1), (2, 3))
    ),
    "groups": convolution((2, 12, 8, 7), (18, 4, 3, 3), groups=3),
    "depthwise": convolution((2, 6, 7, 7), (6, 1, 3, 3), groups=6, padding=((1, 1), (1, 1))),
    "channels in runs": convolution(
        (2, 16, 9, 8), (24, 16, 3, 2), strides=(2, 1), padding=((1, 2), (1, 0))
    ),
    "channels in runs and parts": convolution((1, 48, 6, 6), (16, 48, 3, 3)),
    "places in runs": convolution((1, 3, 8, 8), (5, 3, 4, 4), padding=((1, 1), (2, 2))),
    "single places": convolution((3, 33, 6, 5), (20, 33, 1, 1)),
    "sums in parts": convolution((1, 41, 6, 6), (8, 41, 3, 3)),
    "lines": convolution((2, 3, 40), (5, 3, 7), strides=(2,), padding=((3, 3),)),
    "a product": product((37, 50), (50, 70), (1, 0)),
    "a product of long rows": product((35, 129), (33, 129), (1, 1)),
    "a product of rows in runs": product((35, 136), (33, 136), (1, 1)),
    "a product of rows off their boundary": product((35, 144), (33, 144), (1, 1), begin=2),
    "a product of columns": product((65, 66), (65, 34), (0, 0)),
    "a product in parts": product((40, 517), (517, 20), (1, 0)),
    "products": product((3, 20, 30), (3, 30, 25), (2, 1)),
    "products in runs": product((3, 20, 16), (3, 25, 16), (2, 2)),
}  # fmt: skip
LARGE = {
    "large tiles": convolution((2, 9, 10, 11), (90, 9, 3, 3), padding=((1, 1), (1, 1))),
    "large tiles of groups": convolution((1, 140, 9, 9), (140, 70, 1, 1), groups=2),
    "a product in large tiles": product((140, 75), (75, 130), (1, 0)),
}

COMPILED = (
    "groups",
    "channels in runs",
    "products in runs",
    "large tiles of groups",
    "a product in large tiles",
)

VARIANTS = {
    "bf16": (BF16, False, 800),
    "f16": (F16, False, 800),
    "tf32": (F32, True, 800),
    "f16, sm_75": (F16, False, 750),
    "bf16, sm_75": (BF16, False, 750),
    "tf32, sm_75": (F32, True, 750),
}
UNITS = {BF16: 2.0**-8, F16: 2.0**-11, F32: 2.0**-24}  # half a unit in the last place
EMULATORS = {arch: CupyBackend(Emulator(arch=arch)) for arch in (750, 800)}


def values_of(graph: Graph) -> Arrays:
    """Numbers that the type has, some of them large."""
    rng = np.random.default_rng(7)
    return {
        node.name: (rng.normal(size=node.type.shape) * 2.0 ** rng.integers(-3, 4)).astype(
            node.type.dtype.numpy
        )
        for node in graph.inputs
    }


def wrong(
    cases: Mapping[str, Case], variant: str, backend: CupyBackend | None = None
) -> dict[str, float]:
    """Of each output its error, as a multiple of what rounding may do to it."""
    dtype, tf32, arch = VARIANTS[variant]
    backend = backend or EMULATORS[arch]
    graphs = {name: case.graph(dtype, tf32) for name, case in cases.items()}
    made = {n: backend.compile(plan(g, fuse(g), backend.abilities)) for n, g in graphs.items()}
    functions = {n: text for one in made.values() for n, text in one.program.functions.items()}
    backend.device.load(headers(), functions)
    found = {}
    for name, graph in graphs.items():
        values, wide = values_of(graph), widen(graph)
        exact = evaluate(wide, {n: a.astype(np.float64) for n, a in values.items()})
        sizes = evaluate(wide, {n: np.abs(a.astype(np.float64)) for n, a in values.items()})
        got = run_twice(made[name], graph, values)
        for output, value in exact.items():
            # Products of factors are exact; of those that are rounded to TF32 both may be wrong by
            # 2^-11. What is summed in f32 has no more terms than the root of 2^12.
            bound = UNITS[dtype] * np.abs(value) + (2.0**-10 if tf32 else 2.0**-18) * sizes[output]
            error = np.abs(got[output].astype(np.float64) - value) / np.maximum(bound, 1e-30)
            found[f"{name}: {output}"] = float(np.nan_to_num(error, nan=np.inf).max())
    return found


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_results(variant: str) -> None:
    found = wrong(CASES, variant)
    assert len(found) == 3 * len(CASES)
    assert {name: error for name, error in found.items() if not error <= 1} == {}


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_results_in_large_tiles(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there are more of them."""
    monkeypatch.setattr(tiling, "ENOUGH_TILES", 1)
    found = wrong(LARGE, variant)
    assert {name: error for name, error in found.items() if not error <= 1} == {}


@emulated
@pytest.mark.slow
def test_only_tensor_cores_round_to_tf32() -> None:
    """A GPU without them for it multiplies f32."""
    one = {"strides": CASES["strides"]}
    assert max(wrong(one, "tf32").values()) > 2.0**-6
    assert max(wrong(one, "tf32, sm_75").values()) < 2.0**-8


# Each in the code that fills registers: what is written there instead, and what that spoils.
UPPER, LOWER = "upper[n], upper[n + 1]", "lower[n], lower[n + 1]"
FAULTS = {
    "rows and words in another order": (
        "lane % 16 * step + lane / 16 * 4", "lane / 2 * step + lane % 2 * 4", "bf16",
    ),
    "columns exchanged": (
        "{pair[half], pair[half + 2]}", "{pair[2 * half], pair[2 * half + 1]}", "f16",
    ),
    "rows of sums exchanged": (f"{{{UPPER}, {LOWER}}}", f"{{{LOWER}, {UPPER}}}", "bf16"),
    "a step that is no multiple of 16 bytes": ("step = words + 4", "step = words + 1", "tf32"),
    "f32 as it is": ("bits(ptx::to_tf32(x))", "bits(unsigned(__float_as_int(x)))", "tf32"),
}  # fmt: skip


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_registers_give_wrong_numbers(fault: str) -> None:
    before, after, variant = FAULTS[fault]
    assert headers().count(before) == 1

    class Faulty(Emulator):
        def load(self, headers: str, functions: Mapping[str, str]) -> Mapping[str, object]:
            return super().load(headers.replace(before, after), functions)

    one = {"strides": CASES["strides"]}
    try:
        error = max(wrong(one, variant, CupyBackend(Faulty())).values())
    except AssertionError:  # of the emulator, before there are any numbers
        error = np.inf
    assert error > 10


def test_it_shows_in_kernels_and_code() -> None:
    """Of f32, what may round is on tensor cores, and nothing else."""
    given = (("bf16", BF16, False), ("f16", F16, False), ("tf32", F32, True), ("float", F32, False))
    for word, dtype, tf32 in given:
        graph = CASES["strides"].graph(dtype, tf32)
        planned = plan(graph, fuse(graph), BACKEND.abilities)
        found = [k for k in kernels(planned, BACKEND.abilities) if isinstance(k, Convolution)]
        assert [k.tf32 for k in found] == [tf32] * 3
        assert all((" factors tf32" in text(k)) == tf32 for k in found)
        sources = [
            source
            for name, source in BACKEND.compile(planned).program.functions.items()
            if name.startswith("convolution")
        ]
        assert len(sources) == 3
        assert all(f"using Tile = tile::Tile<{word}," in source for source in sources)


READINGS = {
    "channels in runs": ("true, {0}, false", "false, {0}, false"),
    "tiles that are cut": ("true, 1, false", "false, 1, false"),
    "places in runs": ("true, {0}, true", "false, 1, false"),
    "a product": ("true, 1, false", "false, 1, false"),
    "a product of rows in runs": ("true, {0}, true", "true, {0}, true"),
    "a product of rows off their boundary": ("true, 1, false", "true, 1, false"),
    "products in runs": ("true, {0}, true", "true, {0}, true"),
}


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize(("dtype", "tf32", "run"), [(BF16, False, 8), (F32, True, 4)])
def test_what_is_read_at_once(name: str, dtype: DType, tf32: bool, run: int) -> None:
    """16 bytes where memory allows that, and what is worked out for one of a run holds for all."""
    graph = CASES[name].graph(dtype, tf32)
    forward = graph.with_outputs({"out": graph.named_outputs["out"]})
    planned = plan(forward, fuse(forward), BACKEND.abilities)
    (source,) = (
        source
        for source in BACKEND.compile(planned).program.functions.values()
        if "Tile::product" in source
    )
    left, right = (f"tile::Reading<{one.format(run)}>" for one in READINGS[name])
    assert f"Tile::product<{left}, {right}>(" in source


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("target", SAMPLED)
def test_for_gpus(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of every size, of every type."""
    functions: dict[str, str] = {}
    for least, cases in ((tiling.ENOUGH_TILES, CASES), (1, LARGE)):
        monkeypatch.setattr(tiling, "ENOUGH_TILES", least)
        for case in (case for name, case in cases.items() if name in COMPILED):
            for dtype, tf32 in ((BF16, False), (F16, False), (F32, True)):
                graph = case.graph(dtype, tf32)
                made = BACKEND.compile(plan(graph, fuse(graph), BACKEND.abilities))
                functions |= made.program.functions
    assert compiled(functions, target)
