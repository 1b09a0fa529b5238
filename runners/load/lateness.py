"""Lateness: whether the generator, rather than the server, set the numbers.

Latency is counted from the intended send time, so it contains the generator's own lateness. On a busy
machine there is always some; it disqualifies a load only if it sets the numbers, and keeps doing so:

* Open loop: in more than half of the windows, lateness exceeds 5 ms in the tail *and* leaving lateness
  out would lower the window's median latency by more than a quarter, or its tail by more than half. One
  stall of the machine spoils one or two windows and is none of the generator's doing. The tail is p99,
  or the percentile that ten requests exceed where a window has fewer than a thousand: at low rates one
  request that a short stall has hit is no tail.
* Closed loop: lateness cannot build up, as nothing is sent before the last answer is read; but a generator
  that is never idle answers for the throughput. In more than half of the windows it has used more than
  95 % of a core.

The generator's own CPU time is used, not the time it waited for a core: a server that fills every core
makes the generator wait, and is still what sets the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from runners.load.populations import due_windows
from runners.load.records import Floats, Records
from runners.load.statistics import nearest_rank
from tuner.trial import TrialPlan
from tuner.units import format_seconds

TOLERATED_S: Final = 0.005
MEDIAN_SHARE: Final = 0.25
TAIL_SHARE: Final = 0.5
BUSY_SHARE: Final = 0.95
_TAIL_REQUESTS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLateness:
    """The generator's part in one window.

    Attributes:
        lateness_tail_s: actual minus intended send time, in the tail, s.
        median_share, tail_share: part of the median and the tail of latency that is lateness.
        busy: share of a core that the generator used.
    """

    lateness_tail_s: float
    median_share: float
    tail_share: float
    busy: float

    @property
    def late(self) -> bool:
        """Whether lateness set this window's latencies."""
        return self.lateness_tail_s > TOLERATED_S and (self.median_share > MEDIAN_SHARE or self.tail_share > TAIL_SHARE)

    @property
    def saturated(self) -> bool:
        """Whether the generator had no time left."""
        return self.busy > BUSY_SHARE


def by_window(records: Records, plan: TrialPlan, busy: Sequence[float]) -> list[WindowLateness]:
    """The generator's part in each steady window that has completed requests; `busy` is per window."""
    due = due_windows(records, plan)
    found = []
    for window, share in enumerate(busy):
        inside = (due == window) & records.completed
        if not inside.any():
            continue
        lateness = (records.dispatched_s - records.due_s)[inside]
        latency = (records.finished_s - records.due_s)[inside]
        own = latency - lateness
        tail = tail_percentile(len(latency))
        found.append(
            WindowLateness(
                lateness_tail_s=nearest_rank(lateness, tail),
                median_share=_share(latency, own, 50.0),
                tail_share=_share(latency, own, tail),
                busy=share,
            )
        )
    return found


def tail_percentile(count: int) -> float:
    """The percentile called the tail of `count` requests: 99, or what ten of them exceed, at least the median."""
    return min(99.0, max(50.0, 100.0 * (1.0 - _TAIL_REQUESTS / count)))


def _share(latency: Floats, own: Floats, percentile: float) -> float:
    whole = nearest_rank(latency, percentile)
    return 1.0 - nearest_rank(own, percentile) / whole if whole > 0 else 0.0


def generator_bound(windows: Sequence[WindowLateness], *, closed_loop: bool) -> str | None:
    """Why the numbers are the generator's, with figures and a remedy; `None` if they are the server's."""
    guilty = [window for window in windows if (window.saturated if closed_loop else window.late)]
    if 2 * len(guilty) <= len(windows):
        return None
    busy = float(np.median([window.busy for window in guilty]))
    lateness = float(np.median([window.lateness_tail_s for window in guilty]))
    tail = float(np.median([window.tail_share for window in guilty]))
    where = f"in {len(guilty)} of {len(windows)} windows"
    if closed_loop:
        return (
            f"The load generator used {busy:.0%} of a core {where}: it, not the server, limited the throughput. "
            "Use fewer clients or larger requests, or give the generator a faster core of its own."
        )
    return (
        f"The load generator sent its requests {format_seconds(lateness)} late (in the tail) {where}, which is "
        f"{tail:.0%} of the tail's latency, using {busy:.0%} of a core: the numbers are its own, not the server's. "
        "Lower the arrival rate, or give the generator a core of its own."
    )
