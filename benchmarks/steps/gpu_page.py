"""The page of a run on a GPU: steps beside the peers', and kernels beside the GPU's ceilings."""

from __future__ import annotations

from measuring import LOSSES
from rates import COPY_GOAL, Ceilings, rows_of_moving, rows_of_steps
from records import Record
from reports import (
    how_measured,
    how_started,
    mean_of_ratios,
    memory_table,
    starts_table,
    steps_table,
    table,
)

STEP_HEADS = (
    "workload",
    "GFLOP",
    "TFLOP/s",
    "of the product's",
    "GB",
    "GB/s",
    "of the copy's",
    "of the step's floor",
)
MOVING_HEADS = ("workload", "kernels", "how many", "of the time", "GB/s", "of a copy's")


_ROUNDING = {
    "f32": "No product is in TF32.",
    "tf32": "Products may round their factors to TF32, in every framework.",
}


def gpu_page(record: Record) -> str:
    """Step times, rates, memory and starts."""
    conditions, results = record.conditions, record.results
    suite = conditions.suite
    titles = {name: row.title for name, row in suite.workloads.items()}
    steps = {name: found["weft"].step for name, found in results.items()}
    ceilings = Ceilings.of(record.profiles)
    return f"""# Training steps on a GPU, against PyTorch and JAX

Written by `python benchmarks/steps --backend cupy --write`. {conditions.words()}

![Step times over that of the fastest peer](gpu.svg)

{how_measured(results, suite)}
Batches come from the host's memory: every framework copies the next one while it computes. A turn
ends when its last loss has reached the host, and so all work before it is done.
{_ROUNDING[suite.precision]}

{steps_table(results, suite)}

{mean_of_ratios(results, suite)}

## What the kernels reach

The GPU's ceilings, measured beside: {ceilings.flops / 1e12:.3g} TFLOP/s in a product of large
`f32` matrices without TF32, {ceilings.bandwidth / 1e9:.4g} GB/s in a copy that touches
{ceilings.size / 1e9:.2g} GB. Operations and bytes are counted from the kernels' loops. The floor of
a step is what its operations or its memory would take at these rates, whichever is longer, kernel
by kernel.

{table(STEP_HEADS, rows_of_steps(titles, record.profiles, steps))}

Kernels that only move and calculate, elementwise or with sums as in normalisations, against a copy
that touches as many bytes (goal {COPY_GOAL:.0%}). Kernels that touch less than the smallest copy
that was measured, 262 kB, are left out: they wait for their launch.

{table(MOVING_HEADS, rows_of_moving(titles, record.profiles))}

## Memory and starts

The most of the GPU's memory in MB that each process took in its first {LOSSES} steps, with its CUDA
context and its code: by how much less the driver had free (`cuMemGetInfo`, looked at all the time).

{memory_table(results, suite)}

{how_started()}

{starts_table(results, suite)}
"""
