"""Weft: a declarative deep-learning compiler that makes a whole experiment one typed graph.

experiment = weft.load("digits.weft", hidden=256)    # a path, or the spec's text
print(experiment.check().parameters)                 # known before anything runs
run = experiment.train(out="runs/first")
print(run.metrics["test"]["accuracy"])
run.predict({"x": images})
run.export_onnx("digits.onnx")

f = weft.function("fn f(x) = sum(x ^ 2)")
value, (gradient,) = f.value_and_grad(np.arange(3.0))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.api import Experiment, Run
    from weft.runtime.function import Function

__version__ = "0.1.0"
__all__ = ["function", "load", "open_run", "use_threads"]


def load(
    path_or_text: str | Path, data: Mapping[str, Any] | None = None, **overrides: Any
) -> Experiment:
    """The experiment of a spec: a path, or the text itself.

    `data` gives the arrays of `data` blocks without a source, by the block's name: arrays by name
    (`data={"faces": {"x": x, "y": y}}`), a `.npz` file, or a folder of `.npy` files.
    `overrides` set top-level `let`s, arguments of models, and the numbers of `train`. Raises
    `weft.compiler.errors.CompileError` for every mistake in the spec.
    """
    from weft.api import Experiment

    return Experiment.load(path_or_text, overrides, data)


def open_run(
    folder: str | Path, data: Mapping[str, Any] | None = None, backend: str | None = None
) -> Run:
    """The run in a folder, finished or not. Raises `RunError` when there is none.

    `data` is as for `load`: where data without a source are, if no longer where they were.
    `backend` is what it predicts and evaluates on, if not what it trained on.
    """
    from weft.api import Run

    return Run.open(Path(folder), data, backend)


def function(source: str | Path, name: str = "f", backend: str = "numpy") -> Function:
    """The function `name` of a spec (a path, or its text), as a callable on NumPy arrays.

    `f.value_and_grad(*arrays, wrt=(0,))` also gives the gradients of a scalar value.
    """
    from weft.runtime.function import Function
    from weft.runtime.loading import read

    return Function(*read(source), name, backend)


def use_threads(count: int | None) -> None:
    """Let every step of this process use so many threads from now on; None: one for each core.

    A process has one pool of threads and one BLAS, so this holds for all that runs in it.
    """
    from weft.backends.threads import THREADS

    THREADS.use(count)
