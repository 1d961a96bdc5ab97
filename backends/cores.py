"""How many cores this process may use."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

# Where the system says how many microseconds of every how many a container may run.
_QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def cores() -> int:
    """The cores that the process may run on, but no more than its share of time makes up."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return min([count, *map(limit, _QUOTAS)])


def limit(paths: tuple[str, ...]) -> int:
    """The cores that a quota makes up, rounded up; many where there is none."""
    try:
        words = " ".join(Path(path).read_text(encoding="ascii") for path in paths).split()
        quota, period = map(int, words)
    except (OSError, ValueError):  # no such file; "max" or -1 for no limit
        return 1 << 30
    return max(1, ceil(quota / period)) if quota > 0 and period > 0 else 1 << 30
