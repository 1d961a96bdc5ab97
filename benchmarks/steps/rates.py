"""What the kernels of a step reach on their device, by what `weft profile --json` prints.

ceilings     operations a second of a large product, bytes a second of copies, measured beside
reached      operations and bytes of a step, counted from its loops, by the time of a step
of a copy    the time of copies that touch as many bytes, over the time of kernels that only move
             and calculate: elementwise ones, and those that also sum, as normalisations do
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from weft.compiler.ops import OPS, Kind

Profile = Mapping[str, Any]  # of a workload
Profiles = Mapping[str, Profile]  # by workload

COPY_GOAL = 0.8  # of the bandwidth of copies

_MOVING = frozenset({Kind.ELEMENTWISE, Kind.MOVEMENT, Kind.SOURCE})
# Kernels that memory alone can hold up, by what they do.
GROUPS: Mapping[str, frozenset[Kind]] = {
    "elementwise": _MOVING,
    "with sums": _MOVING | {Kind.REDUCTION},
}


@dataclass(frozen=True)
class Ceilings:
    """What the device does at its best: the medians of what all profiles measured."""

    flops: float  # a second, in a product
    size: int  # of the largest copy, in bytes
    bandwidth: float  # bytes a second of that copy

    @staticmethod
    def of(profiles: Profiles) -> Ceilings:
        peaks = [profile["peaks"] for profile in profiles.values()]
        copies = [peak["copies"][-1] for peak in peaks]
        return Ceilings(
            flops=median(peak["flops"] for peak in peaks),
            size=copies[0]["bytes"],
            bandwidth=median(copy["rate"] for copy in copies),
        )


@dataclass(frozen=True)
class Totals:
    """All kernels of a step: operations, bytes, and the seconds that the device needs for them."""

    flops: int
    bytes: int
    floor: float

    @staticmethod
    def of(profile: Profile) -> Totals:
        kernels = profile["kernels"]
        return Totals(
            flops=sum(kernel["flops"] for kernel in kernels),
            bytes=sum(_bytes(kernel) for kernel in kernels),
            floor=sum(kernel["floor_seconds"] for kernel in kernels),
        )


@dataclass(frozen=True)
class Moving:
    """The kernels of a group that touch as many bytes a call as the smallest copy, or more."""

    kernels: int
    seconds: float  # of a step
    bytes: int
    copying: float  # seconds that copies of as many bytes take
    slowest: str  # the name of the kernel that is the furthest from a copy

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds

    @property
    def of_copy(self) -> float:
        """Their bandwidth over that of copies."""
        return self.copying / self.seconds


def moving(profile: Profile, group: str) -> Moving | None:
    """The kernels of a group; None where there are none."""
    smallest = profile["peaks"]["copies"][0]["bytes"]
    found = [
        kernel
        for kernel in profile["kernels"]
        if group_of(kernel) == group and _bytes(kernel) >= smallest * kernel["calls"]
    ]
    if not found:
        return None
    return Moving(
        kernels=len(found),
        seconds=sum(kernel["seconds"] for kernel in found),
        bytes=sum(_bytes(kernel) for kernel in found),
        copying=sum(kernel["floor_seconds"] for kernel in found),
        slowest=min(found, key=lambda kernel: kernel["of_peak"])["name"],
    )


def missed(titles: Mapping[str, str], profiles: Profiles) -> list[str]:
    """Where kernels that move memory are slower than they are to be, in words."""
    found = []
    for name, profile in profiles.items():
        for group in GROUPS:
            kernels = moving(profile, group)
            if kernels is not None and kernels.of_copy < COPY_GOAL:
                found.append(
                    f"{titles[name]}: kernels {group} reach {kernels.of_copy:.0%} of the bandwidth "
                    f"of copies, not {COPY_GOAL:.0%}; the slowest is {kernels.slowest}"
                )
    return found


def _bytes(kernel: Mapping[str, Any]) -> int:
    total: int = kernel["bytes_read"] + kernel["bytes_written"]
    return total


def group_of(kernel: Mapping[str, Any]) -> str | None:
    """The first group that allows all that a kernel does; None for products and the like."""
    kinds = {OPS[op].kind for op in kernel["operations"]}
    fitting = (group for group, allowed in GROUPS.items() if kinds <= allowed)
    return next(fitting, None) if kernel["bound"] == "memory" else None


def rows_of_steps(
    titles: Mapping[str, str], profiles: Profiles, steps: Mapping[str, float]
) -> Sequence[Sequence[str]]:
    """For each workload: what a step computes and moves, how fast, and how near to the floor."""
    ceilings, rows = Ceilings.of(profiles), []
    for name, profile in profiles.items():
        total, seconds = Totals.of(profile), steps[name]
        flops, moved = total.flops / seconds, total.bytes / seconds
        rows.append(
            [
                titles[name],
                f"{total.flops / 1e9:.3g}",
                f"{flops / 1e12:.3g}",
                f"{flops / ceilings.flops:.0%}",
                f"{total.bytes / 1e9:.3g}",
                f"{moved / 1e9:.3g}",
                f"{moved / ceilings.bandwidth:.0%}",
                f"{total.floor / seconds:.0%}",
            ]
        )
    return rows


def rows_of_moving(titles: Mapping[str, str], profiles: Profiles) -> Sequence[Sequence[str]]:
    """For each workload and group: how many kernels, their share of the time, their bandwidth."""
    rows = []
    for name, profile in profiles.items():
        for group in GROUPS:
            found = moving(profile, group)
            if found is not None:
                rows.append(
                    [
                        titles[name],
                        group,
                        f"{found.kernels}",
                        f"{found.seconds / profile['kernel_seconds']:.0%}",
                        f"{found.rate / 1e9:.3g}",
                        f"**{found.of_copy:.0%}**",
                    ]
                )
    return rows
