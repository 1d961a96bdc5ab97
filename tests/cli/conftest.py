"""What the tests of the command line share: a way to call it, and one trained run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from weft.cli.app import app

SPEC = """\
# A small classifier.
let hidden = 16

data digits {
  source = embedded("digits")
  x: f32[64]   = features / 16
  y: class[10] = target
  split = { train: 80%, valid: 10%, test: 10% }
}

layer mlp(x: f32[B, D], classes = 10, activation = relu) {
  x |> dense(hidden) |> activation |> dense(classes)
}

model net = mlp()

train {
  data    = digits.batch(64, shuffle = true)
  minimize cross_entropy(net(x), y) with adam(1e-2)
  metrics = { accuracy: accuracy(net(x), y) }
  epochs  = 2
}
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said where."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object that the last line of stdout is."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


Weft = Callable[..., Outcome]


def call(*arguments: object, stdin: str | bytes | None = None) -> Outcome:
    """Run `weft ARGUMENTS` in this process, 80 columns wide and not on a terminal."""
    result = CliRunner().invoke(
        app, [str(a) for a in arguments], input=stdin, prog_name="weft", terminal_width=80
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def weft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weft:
    """`weft("check", "spec.weft")` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return call


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec that trains in a moment."""
    path = tmp_path / "small.weft"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of that spec. To be read, not changed."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "small.weft"
    path.write_text(SPEC)
    outcome = call("train", path, "--backend", "numpy", "--out", folder / "run", "--quiet")
    assert outcome.code == 0, outcome.err
    return folder / "run"
