"""The timed training steps of a GPU with settings so small that a CPU does them in a moment.

By workload: every setting that makes it large is here, and has a value of its own, so that one that
is taken for another shows.
"""

from __future__ import annotations

from collections.abc import Mapping

TINY: Mapping[str, Mapping[str, int]] = {
    "resnet_256": {"depth": 8},
    "resnet_1024": {"depth": 14},
    "lstm_256": {"tokens": 7, "units": 10},
    "transformer_768": {"tokens": 9, "units": 12, "depth": 2, "heads": 3},
    "vit_small": {"side": 12, "patch": 3, "width": 8, "depth": 2, "heads": 4},
}
