"""The backends as a parameter of tests: those that can run here, and the GPU's, even if it can't.

A test that takes `EVERYWHERE` is one for every backend that is installed. Where there is no GPU,
the one for it is skipped with the reason; `pytest -m gpu` runs those for it alone.
"""

from __future__ import annotations

import pytest

from weft.runtime.backends import BACKENDS, installed

GPU = "cupy"
_LACKS = BACKENDS[GPU].lacks

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(_LACKS is not None, reason=f"needs an NVIDIA GPU: {_LACKS}"),
]
ON_GPU = pytest.param(GPU, marks=needs_gpu)
EVERYWHERE = [*(name for name in installed() if name != GPU), ON_GPU]
