"""Small specs that the tests of training share: two classes in a plane, a line, a toy GAN."""

from __future__ import annotations

from pathlib import Path

import numpy as np

POINTS = """
data points {
  source = npz("points.npz")
  x: f32[4]   = x
  y: class[3] = y
  split = { train: 80%, valid: 10%, test: 10% }
}
let width = 8
layer mlp(x: f32[B, D], hidden = 8) { x |> dense(hidden) |> tanh |> dropout(0.1) |> dense(3) }
model net = mlp(hidden = width)
train {
  data     = points.batch(16, shuffle = true)
  minimize cross_entropy(net(x), y) with adam(1e-2)
  metrics  = { accuracy: accuracy(net(x), y) }
  epochs   = 4
}
"""


def points(folder: Path, size: int = 200) -> Path:
    """`points.weft` and its data in a folder; 160 examples train, in batches of 16 (10 a epoch)."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size)
    x = rng.normal(size=(size, 4)).astype(np.float32) + np.eye(3, 4, dtype=np.float32)[y] * 3
    np.savez(folder / "points.npz", x=x, y=y)
    path = folder / "points.weft"
    path.write_text(POINTS)
    return path
