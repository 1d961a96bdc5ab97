"""Settings of `train` that need no tensors: data, precision, how long to train."""

from __future__ import annotations

import math
from dataclasses import dataclass

from weft.compiler.errors import CompileError, Note, Span, one_of
from weft.compiler.program import Settings
from weft.compiler.types import BF16, F16, F32, F64, DType
from weft.frontends.dsl.diagnostics import UnknownName
from weft.frontends.dsl.elsewhere import TYPES, elsewhere
from weft.frontends.dsl.training.block import Block
from weft.frontends.dsl.values import Batches, Quantity, describe, is_number

DEFAULT_EPOCHS = 10


@dataclass(frozen=True)
class Precision:
    """What a `precision` stands for: floats of states, and of models where those are narrower.

    `factors`: what products of models may round their factors to.
    """

    states: DType
    models: DType | None = None
    factors: str | None = None


PRECISIONS: dict[str, Precision] = {
    "f32": Precision(F32),
    "f64": Precision(F64),
    "bf16": Precision(F32, BF16),
    "f16": Precision(F32, F16),
    "tf32": Precision(F32, factors="tf32"),
}


def precision(block: Block) -> Precision:
    if "precision" not in block.keys and "precision" not in block.overrides:
        return PRECISIONS["f32"]
    try:
        value = block.static("precision")
    except UnknownName as error:
        raise _no_precision(error.diagnostic.span, f"`{error.name}`", error.name) from None
    text = value.name if isinstance(value, DType) else value
    if isinstance(text, str) and text in PRECISIONS:
        return PRECISIONS[text]
    text = value if isinstance(value, str) else ""
    raise _no_precision(block.place("precision"), describe(value), text)


def _no_precision(span: Span | None, found: str, name: str) -> CompileError:
    other = elsewhere(name, TYPES)
    return CompileError(
        "`precision` is a floating type",
        span,
        expected=one_of(PRECISIONS),
        found=found,
        hint=f"here it is called `{other}`" if other in PRECISIONS else None,
    )


def loss_scale(block: Block, precision: Precision) -> float:
    """What losses are multiplied by while gradients go back through a model of f16."""
    value = block.static("loss_scale", 1.0)
    if not is_number(value) or not 0 < value < math.inf:
        raise CompileError(
            "`loss_scale` is a number above 0",
            block.place("loss_scale"),
            expected="a power of two, such as `1024`",
            found=describe(value),
        )
    if "loss_scale" in block.keys and precision.models != F16:
        raise CompileError(
            "only gradients in f16 are so small that they need a `loss_scale`",
            block.keys["loss_scale"].key_span,
            expected="`precision = f16`",
            hint="leave it out: bf16 reaches as far down as f32",
        )
    return float(value)


def batches(block: Block) -> Batches:
    if "data" not in block.keys:
        raise CompileError(
            "`train` says nothing about its data",
            block.keyword,
            expected="a line such as `data = digits.batch(64, shuffle = true)`",
        )
    value = block.static("data")
    if not isinstance(value, Batches):
        raise CompileError(
            "`data` is batches of a data set",
            block.place("data"),
            expected="such as `digits.batch(64)`",
            found=describe(value),
        )
    return value


def settings(block: Block, batches: Batches) -> Settings:
    """How many examples, steps and epochs there are, and the seed."""
    size = batches.dataset.examples["train"]
    if batches.drop_last and batches.size > size:
        raise CompileError(
            "there is no whole batch",
            block.place("data"),
            expected=f"a batch of at most {size}, the number of training examples",
            found=f"a batch of {batches.size}",
        )
    per_epoch = size // batches.size if batches.drop_last else -(-size // batches.size)
    steps = _steps(block, per_epoch)
    seed = _whole(block, "seed", 0, 0)
    if seed >= 2**64:
        raise CompileError("`seed` has 64 bits", block.place("seed"), found=str(seed))
    return Settings(
        min(batches.size, size) if not batches.drop_last else batches.size,
        batches.shuffle,
        batches.drop_last,
        steps,
        per_epoch,
        seed,
    )


def _steps(block: Block, per_epoch: int) -> int:
    """How many updates there are in all; `steps` and `epochs` are two ways to say it."""
    if "epochs" in block.keys and "steps" in block.keys:
        raise CompileError(
            "`epochs` and `steps` both say how long to train",
            block.keys["steps"].key_span,
            hint="leave one of them out",
            notes=[Note("here are the epochs", block.keys["epochs"].key_span)],
        )
    if "epochs" in block.overrides and "steps" in block.overrides:
        raise CompileError(
            "`epochs` and `steps` both say how long to train",
            found=f"{block.overrides['epochs']} epochs and {block.overrides['steps']} steps",
            hint="set one of them",
        )
    by_steps = "steps" in block.overrides or (
        "steps" in block.keys and "epochs" not in block.overrides
    )
    if by_steps:
        return _whole(block, "steps", 0, 1)
    return _whole(block, "epochs", DEFAULT_EPOCHS, 1) * per_epoch


def _whole(block: Block, key: str, default: int, smallest: int) -> int:
    value = block.static(key, default)
    if isinstance(value, Quantity) and value.unit in (key, key.rstrip("s")):
        value = value.value
    if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
        other = value.unit if isinstance(value, Quantity) else ""
        raise CompileError(
            f"`{key}` is a whole number, at least {smallest}",
            block.place(key),
            found=describe(value),
            hint=f"write `{other} = {value.value}`" if other in ("epochs", "steps") else None,
        )
    return value
