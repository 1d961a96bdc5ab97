"""What tells this machine's processor from others, without asking LLVM."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path

_INFO = Path("/proc/cpuinfo")
# In the words of Linux: what a processor is, on x86 and on Arm, and what it can do.
_NAME = (
    "model name", "vendor_id", "cpu family", "model", "stepping",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part",
)  # fmt: skip
_ABILITIES = ("flags", "Features")


@cache
def processor() -> str:
    """Its name, and a hash of what it can do."""
    found = _first()
    abilities = " ".join(found[key] for key in _ABILITIES if key in found)
    digest = blake2b(abilities.encode(), digest_size=4).hexdigest()
    return " ".join([platform.machine(), *(found[k] for k in _NAME if k in found), digest])


def _first() -> dict[str, str]:
    """The system's description of the first processor, where it has one."""
    found: dict[str, str] = {}
    with suppress(OSError), _INFO.open(encoding="utf-8", errors="replace") as file:
        for line in takewhile(str.strip, file):
            key, _, value = line.partition(":")
            found[key.strip()] = value.strip()
    return found
