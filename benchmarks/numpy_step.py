"""The small perceptron's training step against hand-written NumPy and PyTorch eager.

    python benchmarks/numpy_step.py            # needs `pip install weft[bench]` for PyTorch

64-64-10, batch 32, cross-entropy of labels, Adam. The three take turns, so that whatever else the
machine does falls on all of them; medians are compared. With --check the exit code says whether
the backend keeps its promise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import weft
from weft.runtime.backends import backend_named
from weft.runtime.session import session_for

INPUTS, HIDDEN, CLASSES, BATCH = 64, 64, 10, 32
LEARNING_RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
TO_HAND, TO_TORCH = 1.3, 0.5

SPEC = """
data digits {
  source = embedded("digits")
  x: f32[64]   = features / 16
  y: class[10] = target
  split = { train: 80%, valid: 10%, test: 10% }
}

layer mlp(x: f32[B, D], hidden = 64, classes = 10) {
  x |> dense(hidden) |> relu |> dense(classes)
}

model net = mlp()

train {
  data = digits.batch(32, shuffle = true)
  minimize cross_entropy(net(x), y) with adam(lr = 1e-3)
  epochs = 1
}
"""

Step = Callable[[np.ndarray, np.ndarray], float]


def weft_step(w1: np.ndarray, w2: np.ndarray) -> Step:
    """The step as the trainer runs it, metrics included."""
    session = session_for(weft.load(SPEC).loaded, backend_named("numpy"))
    session.initialise(0)
    weights = {a.shape: a for n, a in session.tensors().items() if n.startswith("net.")}
    weights[w1.shape][...], weights[w2.shape][...] = w1, w2
    step = session.step("train_step", BATCH)
    return lambda x, y: float(step({"x": x, "y": y})["loss"])


def hand_step(w1: np.ndarray, w2: np.ndarray) -> Step:
    """NumPy as one writes it for speed: everything preallocated, parameters in one vector."""
    shapes = ((INPUTS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
    size = sum(int(np.prod(s)) for s in shapes)
    theta, grad, m, v, a, b = (np.zeros(size, np.float32) for _ in range(6))

    def split(flat: np.ndarray) -> list[np.ndarray]:
        parts, start = [], 0
        for shape in shapes:
            parts.append(flat[start : start + int(np.prod(shape))].reshape(shape))
            start += int(np.prod(shape))
        return parts

    p1, c1, p2, c2 = split(theta)
    g1, d1, g2, d2 = split(grad)
    p1[...], p2[...] = w1, w2
    hidden, back = np.empty((2, BATCH, HIDDEN), np.float32)
    mask = np.empty((BATCH, HIDDEN), bool)
    logits, e = np.empty((2, BATCH, CLASSES), np.float32)
    top, total = np.empty((2, BATCH, 1), np.float32)
    rows = np.arange(BATCH)
    count = 0

    def step(x: np.ndarray, y: np.ndarray) -> float:
        nonlocal count
        np.dot(x, p1, out=hidden)
        np.add(hidden, c1, out=hidden)
        np.maximum(hidden, 0, out=hidden)
        np.dot(hidden, p2, out=logits)
        np.add(logits, c2, out=logits)
        np.max(logits, axis=1, keepdims=True, out=top)
        np.subtract(logits, top, out=logits)
        np.exp(logits, out=e)
        np.sum(e, axis=1, keepdims=True, out=total)
        loss = float((np.log(total[:, 0]) - logits[rows, y]).mean())
        np.divide(e, total, out=e)
        e[rows, y] -= 1
        np.multiply(e, np.float32(1 / BATCH), out=e)
        np.dot(hidden.T, e, out=g2)
        np.sum(e, axis=0, out=d2)
        np.dot(e, p2.T, out=back)
        np.greater(hidden, 0, out=mask)
        np.multiply(back, mask, out=back)
        np.dot(x.T, back, out=g1)
        np.sum(back, axis=0, out=d1)
        count += 1
        np.multiply(m, BETA1, out=m)
        np.multiply(grad, 1 - BETA1, out=a)
        np.add(m, a, out=m)
        np.multiply(v, BETA2, out=v)
        np.multiply(grad, grad, out=a)
        np.multiply(a, 1 - BETA2, out=a)
        np.add(v, a, out=v)
        np.multiply(v, 1 / (1 - BETA2**count), out=b)
        np.sqrt(b, out=b)
        np.add(b, EPSILON, out=b)
        np.multiply(m, LEARNING_RATE / (1 - BETA1**count), out=a)
        np.divide(a, b, out=a)
        np.subtract(theta, a, out=theta)
        return loss

    return step


def torch_step(w1: np.ndarray, w2: np.ndarray, threads: int) -> Step:
    """PyTorch as its tutorials write it."""
    import torch

    torch.set_num_threads(threads)
    net = torch.nn.Sequential(
        torch.nn.Linear(INPUTS, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.from_numpy(w1.T.copy()))
        net[2].weight.copy_(torch.from_numpy(w2.T.copy()))
        net[0].bias.zero_()
        net[2].bias.zero_()
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, (BETA1, BETA2), EPSILON)
    objective = torch.nn.CrossEntropyLoss()

    def step(x: np.ndarray, y: np.ndarray) -> float:
        optimizer.zero_grad()
        loss = objective(net(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def medians(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Microseconds a step, measured in turns."""
    rng = np.random.default_rng(0)
    xs = rng.random((20, BATCH, INPUTS), np.float32)
    ys = rng.integers(0, CLASSES, (20, BATCH))
    for i in range(200):
        losses = {name: step(xs[i % 20], ys[i % 20]) for name, step in steps.items()}
    expected = losses["weft"]
    for name, loss in losses.items():
        if abs(loss - expected) > 1e-3 * expected:
            sys.exit(f"{name} computes something else: loss {loss}, not {expected}")
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for x, y in zip(xs, ys, strict=True):
                step(x, y)
            times[name].append((time.perf_counter() - start) / len(xs) * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--check", action="store_true", help="exit with 1 above the bounds")
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    w1 = (0.1 * rng.standard_normal((INPUTS, HIDDEN))).astype(np.float32)
    w2 = (0.1 * rng.standard_normal((HIDDEN, CLASSES))).astype(np.float32)
    steps = {"weft": weft_step(w1, w2), "hand": hand_step(w1, w2)}
    try:
        steps["torch"] = torch_step(w1, w2, arguments.threads)
    except ImportError:
        print("PyTorch is not installed; `pip install weft[bench]` adds it")
    with np.errstate(all="ignore"):
        found = medians(steps, arguments.rounds)
    for name, microseconds in found.items():
        print(f"{name:>6} {microseconds:8.1f} us a step")
    kept = True
    for name, bound, title in (
        ("hand", TO_HAND, "hand-written NumPy"),
        ("torch", TO_TORCH, "PyTorch eager"),
    ):
        if name in found:
            ratio = found["weft"] / found[name]
            kept &= ratio <= bound
            print(f"weft / {title}: {ratio:.3f} (at most {bound})")
    return 1 if arguments.check and not kept else 0


if __name__ == "__main__":
    sys.exit(main())
