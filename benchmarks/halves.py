"""What 16 bits cost examples in accuracy, and what they save in memory: tables of Markdown.

    python benchmarks/halves.py                 minutes: four examples trained twice
    python benchmarks/halves.py --memory        the memory alone, in seconds

Accuracy is that on the test examples after training by the example's own recipe with the `numpy`
backend; nothing but `precision` differs. Memory is what the plan of a training step for the `cupy`
backend holds beside state, bf16 over f32. It needs no GPU, but CuPy: `pip install "weft[cuda]"`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import weft
from weft.runtime.backends import backend_shown
from weft.runtime.session import session_for

EXAMPLES = Path(__file__).parents[1] / "examples"
TRAINED = ("digits_mlp", "digits_conv", "small/resnet18", "small/vit_b16")
PLANNED = ("digits_conv", "small/resnet18", "small/vit_b16")
PRECISIONS = ("f32", "bf16")


def accuracy(example: str, precision: str) -> float:
    """The share of the test examples that a trained example gets right."""
    run = weft.load(EXAMPLES / f"{example}.weft", precision=precision).train("numpy")
    return run.metrics["test"]["accuracy"]


def held(example: str, precision: str) -> int:
    """Bytes that a training step takes on a GPU beside its state."""
    loaded = weft.load(EXAMPLES / f"{example}.weft", precision=precision).loaded
    session = session_for(loaded, backend_shown("cupy"))
    return session.plan("train_step", loaded.experiment.settings.batch).arena_bytes


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", action="store_true", help="train nothing")
    options = parser.parse_args()
    rows = []
    for example in PLANNED:
        wide, narrow = (held(example, precision) for precision in PRECISIONS)
        rows.append([f"`{example}`", f"{narrow / wide:.0%}"])
    print(table(["example", "memory of a step in bf16"], rows), flush=True)
    if options.memory:
        return
    rows = [
        [f"`{example}`", *(f"{accuracy(example, precision):.1%}" for precision in PRECISIONS)]
        for example in TRAINED
    ]
    print(f"\n{table(['example', *PRECISIONS], rows)}")


if __name__ == "__main__":
    main()
