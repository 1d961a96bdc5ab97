"""Convolutions of the TVM backend: each strategy on its shapes, and at their edges."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from weft.backends.threads import THREADS
from weft.compiler import builder as b
from weft.compiler.evaluate import evaluate
from weft.compiler.graph import Graph, Node
from weft.compiler.kernel import Convolution
from weft.compiler.ops import OPS
from weft.compiler.passes.kernels import kernels
from weft.compiler.passes.widen import widen
from weft.compiler.pipeline import Target, compile_plan
from weft.compiler.types import F32, F64, DType, TensorType

pytest.importorskip("tvm", reason="the tvm backend needs apache-tvm (extra `tvm`)")

from weft.backends.tvm import target
from weft.backends.tvm.backend import BACKEND
from weft.backends.tvm.convolutions import strategy

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


@dataclass(frozen=True)
class Case:
    """Sizes of the images and the kernel, the settings, and the strategy that takes them."""

    strategy: str
    x: tuple[int, int, int, int]
    kernel: tuple[int, int, int, int]
    strides: Pair = (1, 1)
    padding: Pads = ((1, 1), (1, 1))
    spread: Pair = (1, 1)
    gaps: Pair = (1, 1)
    groups: int = 1
    dtype: DType = F32

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "strides": self.strides,
            "padding": self.padding,
            "lhs_dilation": self.spread,
            "rhs_dilation": self.gaps,
            "groups": self.groups,
        }

    @property
    def depth(self) -> int:
        """Products in a sum, at most."""
        _, channels, height, width = self.kernel
        return channels * height * width


NONE: Pads = ((0, 0), (0, 0))

CASES = {
    "square": Case("Direct", (2, 16, 16, 16), (16, 16, 3, 3)),
    "few channels": Case("Direct", (3, 3, 9, 20), (32, 3, 3, 3)),
    "three vectors": Case("Direct", (2, 5, 7, 7), (48, 5, 3, 3)),
    "part of a vector": Case("Direct", (2, 5, 6, 5), (28, 5, 3, 3)),
    "blocks of channels": Case("Direct", (2, 67, 8, 8), (16, 67, 3, 3)),
    "bands of rows": Case("Direct", (1, 4, 37, 40), (16, 4, 3, 3)),
    "even bands": Case("Direct", (1, 4, 64, 24), (32, 4, 3, 3)),
    "tall and narrow": Case("Direct", (1, 4, 300, 5), (16, 4, 3, 3)),
    "tiny images": Case("Direct", (9, 40, 3, 4), (32, 40, 3, 3)),
    "odd batch": Case("Direct", (13, 8, 8, 8), (16, 8, 3, 3)),
    "strided": Case("Direct", (2, 8, 15, 18), (32, 8, 3, 3), (2, 2)),
    "strides of their own": Case("Direct", (2, 8, 12, 14), (16, 8, 4, 3), (3, 1), ((2, 1), (0, 2))),
    "pointwise": Case("Direct", (2, 24, 9, 9), (32, 24, 1, 1), padding=NONE),
    "valid": Case("Direct", (2, 8, 11, 12), (16, 8, 5, 5), padding=NONE),
    "cropped": Case("Direct", (2, 8, 11, 12), (16, 8, 3, 3), padding=((-2, 1), (1, -3))),
    "far padding": Case("Direct", (1, 4, 5, 5), (16, 4, 2, 2), padding=((3, 4), (5, 3))),
    "large window": Case("Direct", (1, 3, 48, 52), (16, 3, 11, 11), (4, 4), ((2, 2), (2, 2))),
    "much padding": Case("Direct", (2, 8, 7, 7), (48, 8, 5, 5), padding=((2, 2), (2, 2))),
    "much padding, bands": Case("Direct", (2, 4, 6, 100), (16, 4, 5, 5), padding=((2, 2), (2, 2))),
    "gaps": Case("Direct", (2, 6, 14, 13), (16, 6, 3, 3), padding=((2, 2), (2, 2)), gaps=(2, 2)),
    "spread": Case("Direct", (2, 8, 7, 6), (16, 8, 3, 3), padding=((1, 2), (1, 2)), spread=(2, 2)),
    "spread, no overlap": Case(
        "Direct", (2, 32, 5, 6), (16, 32, 2, 2), padding=NONE, spread=(2, 2)
    ),
    "phases without taps": Case(
        "Direct", (2, 16, 8, 8), (16, 16, 1, 1), padding=((0, 1), (0, 1)), spread=(2, 2)
    ),
    "spread by three, gaps of two": Case(
        "Direct", (2, 8, 7, 6), (16, 8, 3, 3), padding=((4, 3), (2, 5)), spread=(3, 2), gaps=(2, 3)
    ),
    "long line": Case("Direct", (2, 8, 1, 700), (16, 8, 1, 9), padding=((0, 0), (4, 4))),
    "float64": Case("Direct", (2, 9, 9, 10), (24, 9, 3, 3), dtype=F64),
    "short": Case("Winograd", (8, 16, 16, 16), (16, 16, 3, 3)),
    "short, narrow vectors": Case("Winograd", (8, 16, 16, 16), (8, 16, 3, 3)),
    "short, odd batch": Case("Winograd", (17, 18, 12, 12), (32, 18, 3, 3)),
    "short, other padding": Case(
        "Winograd", (8, 16, 17, 23), (48, 16, 3, 3), padding=((0, 1), (2, -3))
    ),
    "short, bands": Case("Winograd", (1, 33, 48, 64), (28, 33, 3, 3)),
    "short, small images": Case("Winograd", (131, 40, 4, 4), (64, 40, 3, 3)),
    "short, few outputs": Case("Winograd", (16, 33, 20, 12), (6, 33, 3, 3)),
    "few outputs": Case("Direct", (2, 16, 12, 12), (6, 16, 5, 5), padding=((4, 4), (4, 4))),
    "three outputs": Case("Direct", (2, 16, 12, 11), (3, 16, 3, 3)),
    "two outputs": Case("Unfolded", (2, 16, 12, 11), (2, 16, 3, 3)),
    "two outputs, spread": Case(
        "Unfolded", (2, 16, 7, 6), (2, 16, 3, 3), padding=((1, 2), (1, 2)), spread=(2, 2)
    ),
    "grouped": Case("Unfolded", (2, 32, 9, 8), (32, 16, 3, 3), groups=2),
    "depthwise": Case("Depthwise", (2, 18, 12, 28), (18, 1, 3, 3), groups=18),
    "depthwise, narrow": Case("Depthwise", (3, 8, 7, 7), (8, 1, 3, 3), groups=8),
    "depthwise, stride": Case("Depthwise", (2, 8, 15, 37), (8, 1, 3, 3), (2, 2), groups=8),
    "depthwise, spread": Case(
        "Depthwise", (2, 8, 7, 12), (8, 1, 3, 3), padding=((1, 2), (1, 2)), spread=(2, 2), groups=8
    ),
    "depthwise, gaps": Case(
        "Depthwise", (2, 6, 14, 23), (6, 1, 4, 3), (3, 2), ((2, 2), (5, -1)), gaps=(2, 3), groups=6
    ),
    "depthwise, several outputs": Case(
        "Depthwise", (2, 6, 9, 20), (18, 1, 5, 5), padding=((2, 2), (2, 2)), groups=6
    ),
    "small groups": Case("Depthwise", (2, 12, 9, 20), (18, 4, 3, 3), groups=3),
    "depthwise, float64": Case("Depthwise", (2, 6, 9, 20), (6, 1, 3, 3), groups=6, dtype=F64),
    "grouped gradient": Case("GroupedSums", (1, 15, 12, 28), (5, 3, 12, 28), groups=5),
    "grouped gradient, stride": Case(
        "GroupedSums", (1, 15, 15, 37), (5, 3, 8, 19), groups=5, gaps=(2, 2)
    ),
    "grouped gradient, transposed": Case(
        "GroupedSums", (1, 15, 6, 5), (5, 3, 12, 10), groups=5, spread=(2, 2)
    ),
    "grouped gradient, several channels": Case(
        "GroupedSums", (4, 12, 7, 9), (16, 3, 7, 9), padding=((3, 3), (3, 3)), groups=4
    ),
    "grouped gradient, few groups": Case(
        "GroupedSums", (12, 12, 7, 9), (8, 6, 7, 9), padding=((3, 3), (3, 3)), groups=2
    ),
    "grouped gradient, everything": Case(
        "GroupedSums", (2, 8, 9, 12), (4, 4, 7, 9), (1, 2), ((2, 1), (4, 5)), (2, 1), (1, 2), 2
    ),
    "grouped gradient, float64": Case(
        "GroupedSums", (1, 15, 12, 28), (5, 3, 12, 28), groups=5, dtype=F64
    ),
    "window of the image": Case("Sums", (6, 9, 8, 8), (16, 9, 8, 8)),
    "kernel's gradient": Case("Sums", (12, 8, 16, 17), (16, 8, 16, 17)),
    "kernel's gradient, groups": Case("Sums", (70, 5, 13, 12), (96, 5, 13, 12)),
    "kernel's gradient, many examples": Case("Sums", (3, 37, 9, 9), (32, 37, 9, 9)),
    "kernel's gradient, part of a vector": Case("Sums", (7, 6, 8, 8), (28, 6, 8, 8)),
    "kernel's gradient, stride": Case(
        "Sums", (5, 6, 15, 15), (16, 6, 8, 8), padding=((1, 1), (1, 1)), gaps=(2, 2)
    ),
    "kernel's gradient, transposed": Case(
        "Sums", (9, 6, 6, 5), (32, 6, 12, 10), padding=((1, 1), (1, 1)), spread=(2, 2)
    ),
    "kernel's gradient, everything": Case(
        "Sums", (3, 4, 9, 12), (16, 4, 7, 9), (1, 2), ((2, 1), (4, 5)), (2, 1), (1, 2)
    ),
    "kernel's gradient, far padding": Case(
        "Sums", (5, 4, 5, 5), (16, 4, 12, 12), padding=((12, -3), (12, -3))
    ),
    "kernel's gradient, much padding": Case(
        "Sums", (5, 4, 7, 7), (48, 4, 7, 7), padding=((2, 2), (2, 2))
    ),
    "short gradient": Case("WinogradSums", (16, 9, 12, 12), (16, 9, 12, 12)),
    "short gradient, parts of vectors": Case("WinogradSums", (18, 7, 16, 12), (28, 7, 16, 12)),
    "short gradient, other padding": Case(
        "WinogradSums", (40, 33, 9, 7), (48, 33, 8, 4), padding=((0, 1), (2, -3))
    ),
    "short gradient, few at a time": Case("WinogradSums", (64, 5, 32, 32), (96, 5, 32, 32)),
    "kernel's gradient, two outputs": Case("UnfoldedSums", (6, 8, 16, 17), (2, 8, 16, 17)),
    "kernel's gradient, few outputs": Case("Sums", (6, 8, 16, 17), (6, 8, 16, 17)),
}

BY_NAME = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def numbers(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    made = {"x": rng.normal(size=case.x), "w": rng.normal(size=case.kernel)}
    made["bias"] = rng.normal(size=case.kernel[0])
    return {name: array.astype(case.dtype.numpy) for name, array in made.items()}


def graph(case: Case, *, epilogue: bool) -> Graph:
    """The convolution, alone or with a bias, relu and a residual that is read elsewhere too."""
    x = b.input_("x", TensorType(case.dtype, case.x))
    w = b.input_("w", TensorType(case.dtype, case.kernel))
    y = b.conv(x, w, **case.attributes)
    if not epilogue:
        return Graph("g", (x, w), (y,), ("y",))
    bias = b.input_("bias", TensorType(case.dtype, (case.kernel[0],)))
    rest = b.input_("rest", y.type)
    shifted = y + b.broadcast(bias, y.type.shape, [1])
    outputs: tuple[Node, ...] = (b.maximum(shifted, 0.0) + rest, shifted)
    return Graph("g", (x, w, bias, rest), outputs, ("y", "before"))


def run(graph: Graph, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    executable = BACKEND.compile(compile_plan(graph, Target(abilities=BACKEND.abilities)))
    return executable.bind({})({name: values[name] for name in graph.named_inputs})


def bound(case: Case, values: dict[str, np.ndarray]) -> np.ndarray:
    """Of rounding: each product and sum may lose half a unit of what has been summed up.

    A sum of n products in any order is off by at most n units of the sum of their sizes (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1), and two more for the epilogue.
    """
    meaning = OPS["conv"].evaluate
    assert meaning is not None
    sizes = meaning(
        abs(values["x"]).astype(np.float64), abs(values["w"]).astype(np.float64), **case.attributes
    )
    unit = np.finfo(case.dtype.numpy).eps / 2
    result: np.ndarray = (case.depth + 2) * unit * (sizes + 8) * 1.01
    return result


def exact(graph_: Graph, case: Case, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wide = graph(replace(case, dtype=F64), epilogue="bias" in graph_.named_inputs)
    return evaluate(wide, {name: values[name].astype(np.float64) for name in wide.named_inputs})


@BY_NAME
def test_strategy(case: Case) -> None:
    plan = compile_plan(graph(case, epilogue=False), Target(abilities=BACKEND.abilities))
    (kernel,) = kernels(plan, BACKEND.abilities)
    assert isinstance(kernel, Convolution)
    assert strategy(kernel).__name__ == case.strategy


@BY_NAME
@pytest.mark.parametrize("epilogue", [False, True], ids=["alone", "epilogue"])
def test_values(case: Case, epilogue: bool) -> None:
    made = graph(case, epilogue=epilogue)
    values = numbers(case)
    if epilogue:
        shape = made.named_inputs["rest"].type.shape
        values["rest"] = np.random.default_rng(2).normal(size=shape).astype(case.dtype.numpy)
    found, expected, limit = run(made, values), exact(made, case, values), bound(case, values)
    for name, value in expected.items():
        assert found[name].dtype == case.dtype.numpy
        assert (abs(found[name] - value) <= limit).all(), name


@BY_NAME
def test_a_residual_gives_its_memory_to_the_sum(case: Case) -> None:
    """Nothing else reads it, so that the result takes its place, and sums need one of their own."""
    x = b.input_("x", TensorType(case.dtype, case.x))
    w = b.input_("w", TensorType(case.dtype, case.kernel))
    y = b.conv(x, w, **case.attributes)
    examples, channels, height, width = y.type.shape
    twice = b.input_("twice", TensorType(case.dtype, (examples, channels, 2 * height, 2 * width)))
    rest = b.reduce_window(twice, "sum", (2, 2), strides=(2, 2))
    largest = b.reduce_window(y + rest, "max", (height, width))
    made = Graph("g", (x, w, twice), (largest,), ("y",))
    plan = compile_plan(made, Target(abilities=BACKEND.abilities))
    places = [place for node, place in plan.places.items() if node.type == y.type]
    assert len({place.buffer.offset for place in places}) == 1
    values = numbers(case)
    shape = made.named_inputs["twice"].type.shape
    values["twice"] = np.random.default_rng(2).normal(size=shape).astype(case.dtype.numpy)
    found = run(made, {name: values[name] for name in made.named_inputs})["y"]
    wide = {name: values[name].astype(np.float64) for name in made.named_inputs}
    expected = evaluate(widen(made), wide)["y"]
    limit = bound(case, values).max((2, 3), keepdims=True)
    assert (abs(found - expected) <= limit).all()


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize(
    "name",
    ["square", "part of a vector", "spread", "float64", "short, bands", "kernel's gradient",
     "kernel's gradient, transposed", "short gradient, parts of vectors"],
)  # fmt: skip
def test_narrow_registers(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on machines whose vectors have fewer bytes."""
    monkeypatch.setattr(target, "vector_bytes", lambda: width)
    test_values(CASES[name], epilogue=True)


@BY_NAME
def test_threads_change_nothing(case: Case) -> None:
    values = numbers(case)
    plan = compile_plan(graph(case, epilogue=False), Target(abilities=BACKEND.abilities))
    step = BACKEND.compile(plan).bind({})
    inputs = {name: values[name] for name in ("x", "w")}
    found, before = [], BACKEND.threads
    try:
        for count in (1, 2, 3):
            THREADS.use(count)
            found.append(step(inputs)["y"])
    finally:
        THREADS.use(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_scratch_memory_is_given_back() -> None:
    resource = pytest.importorskip("resource", reason="memory is measured as Unix does")
    case = Case("Winograd", (8, 128, 16, 16), (128, 128, 3, 3))  # 2 MiB of transformed weights
    plan = compile_plan(graph(case, epilogue=False), Target(abilities=BACKEND.abilities))
    step = BACKEND.compile(plan).bind({})
    inputs = {name: numbers(case)[name] for name in ("x", "w")}
    step(inputs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(40):
        step(inputs)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 40 * 1024  # KiB on Linux
