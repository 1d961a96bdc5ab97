"""The workloads' products of matrices, one at a time, against PyTorch's, which are MKL's.

    python benchmarks/products.py                        # needs `pip install weft[bench]`
    python benchmarks/products.py --only lstm vit --rounds 20 --threads 2

Turns, clocks and medians are those of `convolution.py`. A layer of m rows from k to n units has
three: forwards [m, k] [k, n], to its inputs [m, n] [n, k] and to its weights [k, m] [m, n]; one of
the factors of each gradient is transposed in memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from convolution import Call, ceiling, timed, weft_step


@dataclass(frozen=True)
class Layer:
    """`batch` products of one shape in a workload's step."""

    workload: str
    m: int
    k: int
    n: int
    batch: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        batch = f"{prod(self.batch)} of " if self.batch else ""
        return f"{self.workload:15} {batch}{self.m} x {self.k} -> {self.n}"


LAYERS = (
    Layer("perceptron", 32, 64, 64),
    Layer("perceptron", 32, 64, 10),
    Layer("deep_perceptron", 128, 784, 512),
    Layer("deep_perceptron", 128, 512, 512),
    Layer("deep_perceptron", 128, 512, 10),
    Layer("vae", 128, 784, 400),
    Layer("vae", 128, 400, 20),
    Layer("lstm", 32, 128, 512),
    Layer("transformer", 2048, 128, 128),
    Layer("transformer", 2048, 128, 512),
    Layer("transformer", 2048, 512, 128),
    Layer("transformer", 128, 32, 128, (16, 4)),
    Layer("transformer", 128, 128, 32, (16, 4)),
    Layer("vit", 2080, 192, 192),
    Layer("vit", 2080, 192, 768),
    Layer("vit", 2080, 768, 192),
    Layer("vit", 65, 64, 65, (32, 3)),
    Layer("vit", 65, 65, 64, (32, 3)),
    Layer("large", 1024, 1024, 1024),
    Layer("large", 2048, 2048, 2048),
)


@dataclass(frozen=True)
class Row:
    """One product in both; `check` is the largest difference, of Weft's largest number."""

    layer: Layer
    direction: str
    check: float
    weft: Call
    torch: Call


def rows(layer: Layer) -> Iterator[Row]:
    """The layer forwards, and its gradients to the inputs and to the weights."""
    import torch

    rng = np.random.default_rng(0)
    m, k, n, batch = layer.m, layer.k, layer.n, layer.batch
    x, w, ct = (
        rng.normal(size=(*batch, *shape)).astype(np.float32) for shape in ((m, k), (k, n), (m, n))
    )
    tx, tw, tct = (torch.from_numpy(a) for a in (x, w, ct))
    products = {
        "forward": ((x, w), (1, 0), lambda out: torch.matmul(tx, tw, out=out)),
        "to x": ((ct, w), (1, 1), lambda out: torch.matmul(tct, tw.mT, out=out)),
        "to w": ((x, ct), (0, 0), lambda out: torch.matmul(tx.mT, tct, out=out)),
    }
    for direction, (arrays, axes, multiply) in products.items():
        step = weft_step(graph(arrays, axes, len(batch)))
        found = step({"a": arrays[0], "b": arrays[1]})["out"]
        out = torch.empty(found.shape)
        expected = multiply(out).numpy()
        error = float(np.abs(found - expected).max() / np.abs(found).max())
        native = step.__self__  # the call of the function itself, without arrays around it
        yield Row(
            layer,
            direction,
            error,
            lambda s=native: s.run(s.pointer),
            lambda f=multiply, o=out: f(o),
        )


def graph(arrays: tuple[np.ndarray, np.ndarray], axes: tuple[int, int], batch: int) -> Any:
    """The product over one axis of each, counted behind those of the batch."""
    from weft.compiler import builder as b
    from weft.compiler.graph import Graph
    from weft.compiler.types import F32, TensorType

    inputs = [
        b.input_(name, TensorType(F32, array.shape))
        for name, array in zip("ab", arrays, strict=True)
    ]
    left, right = ((batch + axis,) for axis in axes)
    shared = tuple(range(batch))
    product = b.dot_general(*inputs, (left, right), (shared, shared))
    return Graph("g", tuple(inputs), (product,), ("out",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="workloads, or parts of titles")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args()
    import torch

    from weft.backends.threads import THREADS

    THREADS.use(settings.threads)
    torch.set_num_threads(settings.threads)
    print(f"PyTorch, 2048 cubed: {ceiling(settings.threads):.0f} GFLOP/s")
    print(f"{'':38} {'':8} {'ms':>8} {'GFLOP/s':>8} {'PyTorch':>8} {'ratio':>6} {'error':>8}")
    for layer in LAYERS:
        if settings.only and not any(word in layer.title for word in settings.only):
            continue
        flops = 2 * prod((*layer.batch, layer.m, layer.k, layer.n))
        for row in rows(layer):
            ours, theirs = timed([row.weft, row.torch], settings.rounds, settings.threads)
            print(
                f"{layer.title:38} {row.direction:8} {ours * 1e3:8.3f} {flops / ours / 1e9:8.0f}"
                f" {theirs * 1e3:8.3f} {ours / theirs:6.2f} {row.check:8.0e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
