"""`weft verify` on one page: the checks, in their order, and what they are made on.

spec --precision = f64--> rules, clauses, gradients, updates, examples, passes    (reference)
spec --backend----------> random bits, memory, kernels, graphs, repeats           (machine)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from weft.backends.base import Backend
from weft.backends.numpy.blas import one_thread
from weft.runtime.loading import Loaded
from weft.runtime.verification import gradients, laws, lowering, rules, running, updates
from weft.runtime.verification.report import Check, Verification
from weft.runtime.verification.subject import Subject

CHECKS: Mapping[str, Callable[[Subject], Check]] = {
    "random bits": running.random_bits,
    "gradient rules": rules.rules,
    "stated gradients": rules.stated,
    "gradients": gradients.gradients,
    "updates": updates.updates,
    "examples": laws.examples,
    "passes": lowering.passes,
    "memory": lowering.memory,
    "kernels": running.kernels,
    "graphs": running.graphs,
    "repeats": running.repeats,
}


def verify(loaded: Loaded, backend: Backend) -> Verification:
    """Make all checks.

    One thread does all of it: many small products would only wait for each other.
    Raises RunError for a spec that is too large for the reference, or that the backend can't run.
    """
    subject = Subject(loaded, backend)
    with np.errstate(all="ignore"), one_thread():
        sizes, notes = subject.sizes, subject.notes
        checks = [check(subject) for check in CHECKS.values()]
    precision = str(next(iter(loaded.experiment.forward.objectives)).loss.type.dtype)
    return Verification(
        loaded.experiment.name, backend.name, precision, sizes, tuple(checks), notes
    )
