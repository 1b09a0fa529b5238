"""Cores of CPU device types."""

from __future__ import annotations

import math

from tuner.device import DeviceType
from tuner.errors import UsageError


def cpu_count(device: DeviceType) -> int | None:
    """Whole cores that a device type has; `None` where it is not limited."""
    counts = [] if device.cpus is None else [max(1, math.floor(device.cpus))]
    if device.cpuset is not None:
        counts.append(len(cpu_ids(device.cpuset)))
    return min(counts, default=None)


def cpu_ids(cpuset: str) -> tuple[int, ...]:
    """The cores that `0-1,4` names."""
    ids: list[int] = []
    for part in cpuset.split(","):
        low, _, high = part.strip().partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            raise UsageError(f"The cpuset {cpuset!r} names no cores. Write for example 0-1,4.")
        ids.extend(range(int(low), int(high or low) + 1))
    return tuple(dict.fromkeys(ids))
