"""The workloads' convolutions and their two gradients, one layer at a time, against PyTorch's.

    python benchmarks/convolution.py                     # needs `pip install weft[bench]`
    python benchmarks/convolution.py --only resnet vgg --rounds 20 --threads 2

Weft and PyTorch take turns, a few calls at a time, so that whatever else the machine does falls on
both; medians are compared. With one thread the clock counts its processor's time, so that figures
from a busy machine mean something too. The last lines weigh the rows by how often a step has them.
Beside the times: billions of multiplications and additions a second, counted as the definition has
them, and what PyTorch's product of two large matrices reaches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

TURN = 4  # calls in a row; the first is left out, for it wakes the threads


@dataclass(frozen=True)
class Layer:
    """`count` layers of one shape in a workload's step; kernels and images are square."""

    workload: str
    batch: int
    inputs: int
    size: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    groups: int = 1
    count: int = 1
    upwards: bool = False  # a transposed convolution
    first: bool = False  # reads the data, which have no gradient

    @property
    def title(self) -> str:
        arrow = "=>" if self.upwards else "->"
        window = f"{self.kernel}x{self.kernel}"
        stride = f"/{self.stride}" if self.stride > 1 else ""
        shape = f"{self.inputs:>3}@{self.size:<2} {arrow} {self.outputs:<3}"
        groups = f" in {self.groups}" if self.groups > 1 else ""
        return f"{self.workload:7} {shape} {window}{stride}{groups}"


LAYERS = (
    Layer("lenet", 64, 1, 28, 6, kernel=5, padding=0, first=True),
    Layer("lenet", 64, 6, 12, 16, kernel=5, padding=0),
    Layer("resnet", 64, 3, 32, 16, first=True),
    Layer("resnet", 64, 16, 32, 16, count=6),
    Layer("resnet", 64, 16, 32, 32, stride=2),
    Layer("resnet", 64, 32, 16, 32, count=5),
    Layer("resnet", 64, 32, 16, 64, stride=2),
    Layer("resnet", 64, 64, 8, 64, count=5),
    Layer("resnet", 64, 16, 32, 32, kernel=1, stride=2, padding=0, count=0),
    Layer("vgg", 64, 3, 32, 64, first=True),
    Layer("vgg", 64, 64, 32, 64),
    Layer("vgg", 64, 64, 16, 128),
    Layer("vgg", 64, 128, 16, 128),
    Layer("vgg", 64, 128, 8, 256),
    Layer("vgg", 64, 256, 8, 256, count=2),
    Layer("unet", 8, 1, 64, 32, first=True),
    Layer("unet", 8, 32, 64, 32, count=2),
    Layer("unet", 8, 32, 32, 64),
    Layer("unet", 8, 64, 32, 64, count=2),
    Layer("unet", 8, 64, 16, 128),
    Layer("unet", 8, 128, 16, 128, count=2),
    Layer("unet", 8, 128, 8, 256),
    Layer("unet", 8, 256, 8, 256, count=2),
    Layer("unet", 8, 256, 4, 512),
    Layer("unet", 8, 512, 4, 512),
    Layer("unet", 8, 512, 8, 256),
    Layer("unet", 8, 256, 16, 128),
    Layer("unet", 8, 128, 32, 64),
    Layer("unet", 8, 64, 64, 32),
    Layer("unet", 8, 512, 4, 256, kernel=2, stride=2, padding=0, upwards=True),
    Layer("unet", 8, 256, 8, 128, kernel=2, stride=2, padding=0, upwards=True),
    Layer("unet", 8, 128, 16, 64, kernel=2, stride=2, padding=0, upwards=True),
    Layer("unet", 8, 64, 32, 32, kernel=2, stride=2, padding=0, upwards=True),
    Layer("unet", 8, 32, 64, 2, kernel=1, padding=0),
    Layer("alexnet", 16, 3, 64, 64, kernel=11, stride=4, padding=2, first=True),
    Layer("alexnet", 16, 64, 7, 192, kernel=5, padding=2),
    Layer("alexnet", 16, 192, 3, 384),
    Layer("mobile", 16, 32, 56, 32, groups=32),
    Layer("mobile", 16, 64, 56, 64, stride=2, groups=64),
    Layer("mobile", 16, 128, 28, 128, groups=128),
    Layer("mobile", 16, 256, 14, 256, groups=256),
    Layer("resnext", 16, 128, 28, 128, groups=32),
    Layer("resnext", 16, 256, 14, 256, groups=32),
    Layer("resnext", 16, 512, 14, 512, groups=32),
    Layer("resnext", 16, 512, 7, 512, groups=64),
)

Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One direction of a layer in both; `check` is the largest difference, of Weft's largest."""

    layer: Layer
    direction: str
    flops: float
    check: float
    weft: Call
    torch: Call


def rows(layer: Layer) -> Iterator[Row]:
    """The layer forwards, and its gradients to the images and to the kernel."""
    import torch

    rng = np.random.default_rng(0)
    k, n = layer.kernel, layer.batch
    window = (layer.outputs, layer.inputs // layer.groups, k, k)
    x = rng.normal(size=(n, layer.inputs, layer.size, layer.size)).astype(np.float32)
    w = (rng.normal(size=window) / k).astype(np.float32)
    graphs, shape = weft_graphs(layer, x.shape, w.shape)
    ct = rng.normal(size=shape).astype(np.float32)
    values = {"x": x, "w": w, "ct": ct}
    kernel = w.transpose(1, 0, 2, 3).copy() if layer.upwards else w
    tensors = [torch.from_numpy(a) for a in (x, kernel, ct)]
    places = ct.shape if not layer.upwards else x.shape
    flops = 2.0 * n * places[2] * places[3] * layer.outputs * window[1] * k * k
    for direction, graph in graphs.items():
        if layer.first and direction == "to x":
            continue
        call = torch_call(layer, direction, *tensors)
        bound = weft_step(graph)
        found = bound({name: values[name] for name in graph.named_inputs})["out"]
        expected = call().numpy()
        if layer.upwards and direction == "to w":
            expected = expected.transpose(1, 0, 2, 3)
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        native = bound.__self__  # the call of the function itself, without arrays around it
        yield Row(layer, direction, flops, error, lambda s=native: s.run(s.pointer), call)


def weft_graphs(layer: Layer, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> Any:
    """A graph for each direction, and the shape of the result."""
    from weft.compiler import builder as b
    from weft.compiler.gradient import differentiate
    from weft.compiler.graph import Graph
    from weft.compiler.types import F32, TensorType

    x, w = b.input_("x", TensorType(F32, x_shape)), b.input_("w", TensorType(F32, w_shape))
    stride, reach = layer.stride, layer.kernel - 1 - layer.padding
    if layer.upwards:
        strides, padding, spread = (1, 1), ((reach, reach),) * 2, (stride, stride)
    else:
        strides, padding, spread = (stride, stride), ((layer.padding, layer.padding),) * 2, (1, 1)
    groups = layer.groups
    y = b.conv(x, w, strides=strides, padding=padding, lhs_dilation=spread, groups=groups)
    ct = b.input_("ct", y.type)
    to_x, to_w = differentiate(b.reduce_sum(y * ct, range(4)), [x, w])
    graphs = {"forward": (y, (x, w)), "to x": (to_x, (w, ct)), "to w": (to_w, (x, ct))}
    made = {name: Graph("g", inputs, (node,), ("out",)) for name, (node, inputs) in graphs.items()}
    return made, y.type.shape


def weft_step(graph: Any) -> Any:
    from weft.backends.tvm.backend import BACKEND
    from weft.compiler.pipeline import Target, compile_plan

    target = Target(abilities=BACKEND.abilities, composites=BACKEND.composites)
    return BACKEND.compile(compile_plan(graph, target)).bind({})


def torch_call(layer: Layer, direction: str, x: Any, w: Any, ct: Any) -> Call:
    import torch

    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    if layer.upwards:
        w = w.flip((2, 3)).contiguous()
    common = (stride, padding, [1, 1], layer.upwards, [0, 0], layer.groups)
    if direction == "forward":
        return lambda: torch.ops.aten.convolution(x, w, None, *common)
    mask = [direction == "to x", direction == "to w", False]

    def backward() -> Any:
        made = torch.ops.aten.convolution_backward(ct, x, w, None, *common, mask)
        found = made[0 if mask[0] else 1]
        return found.flip((2, 3)) if layer.upwards and mask[1] else found

    return backward


def timed(calls: list[Call], rounds: int, threads: int) -> list[float]:
    """The median time of each call in seconds, in turns."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, found, strict=True):
            for turn in range(TURN):
                start = clock()
                call()
                if turn:
                    times.append(clock() - start)
    return [statistics.median(times) for times in found]


def ceiling(threads: int) -> float:
    """Billions of operations a second in a large product of matrices."""
    import torch

    a = torch.rand(2048, 2048)
    (seconds,) = timed([lambda: a @ a], 3, threads)
    return 2 * 2048**3 / seconds / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="workloads, or parts of titles")
    parser.add_argument("--directions", nargs="*", default=["forward", "to x", "to w"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args()
    import torch

    from weft.backends.threads import THREADS

    THREADS.use(settings.threads)
    torch.set_num_threads(settings.threads)
    print(f"a product of matrices: {ceiling(settings.threads):.0f} GFLOP/s")
    print(f"{'':36} {'':8} {'ms':>8} {'GFLOP/s':>8} {'PyTorch':>8} {'ratio':>6} {'error':>8}")
    totals: dict[str, list[float]] = {}
    for layer in LAYERS:
        if settings.only and not any(word in layer.title for word in settings.only):
            continue
        for row in rows(layer):
            if row.direction not in settings.directions:
                continue
            ours, theirs = timed([row.weft, row.torch], settings.rounds, settings.threads)
            print(
                f"{layer.title:36} {row.direction:8} {ours * 1e3:8.3f}"
                f" {row.flops / ours / 1e9:8.0f} {theirs * 1e3:8.3f} {ours / theirs:6.2f}"
                f" {row.check:8.0e}",
                flush=True,
            )
            total = totals.setdefault(layer.workload, [0.0, 0.0])
            total[0] += ours * layer.count
            total[1] += theirs * layer.count
    for workload, (ours, theirs) in totals.items():
        if theirs:
            print(f"{workload:7} {ours * 1e3:9.2f} ms, PyTorch {theirs * 1e3:9.2f} ms,"
                  f" ratio {ours / theirs:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
