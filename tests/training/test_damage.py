"""A run with any of its files damaged predicts as before or says what is wrong with it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import weft
from weft.compiler.errors import WeftError

SPEC = """
data digits {
  source = embedded("digits")
  x: f32[64]   = standardise(features)
  y: class[10] = target
  split = { train: 90%, valid: 10% }
}
model net = dense(10)
train {
  data = digits.batch(256, shuffle = true)
  minimize cross_entropy(net(x), y) with adam(0.01)
  epochs = 2
}
"""
DAMAGES = 60
X = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    weft.load(SPEC).train("numpy", out=folder)
    return folder


def damaged(draw: random.Random, content: bytes) -> bytes:
    """The content with a bit turned, a piece lost or added, or cut off."""
    place = draw.randrange(len(content))
    match draw.randrange(4):
        case 0:
            turned = content[place] ^ (1 << draw.randrange(8))
            return content[:place] + bytes([turned]) + content[place + 1 :]
        case 1:
            return content[:place]
        case 2:
            return content[:place] + content[place + draw.randrange(1, 30) :]
    return content[:place] + draw.randbytes(4) + content[place:]


def test_damage_is_found_or_does_no_harm(run: Path, tmp_path: Path) -> None:
    expected = weft.open_run(run).predict(X)["net"]
    refused = 0
    for seed in range(DAMAGES):
        draw = random.Random(seed)
        copy = tmp_path / str(seed)
        shutil.copytree(run, copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file() and p.stat().st_size)
        file = draw.choice(files)
        file.write_bytes(damaged(draw, file.read_bytes()))
        try:
            found = weft.open_run(copy).predict(X)["net"]
        except WeftError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, expected, err_msg=f"seed {seed}: {file.name}")
    assert refused > DAMAGES // 10
