"""Estimates and their 95 % confidence intervals from steady windows.

Requests of one trial are not independent: while a queue is long, all wait long. Two intervals are
therefore computed for a mean or percentile, and their hull is reported:

* sectioning: theta +- t(0.975, W-1) * S / sqrt(W), with S^2 = sum_w (theta_w - theta)^2 / (W - 1) over the
  estimates theta_w of the W windows alone, theta being that of all requests together. It holds under
  dependence as long as windows are longer than the queue's memory; the small-sample bias of a tail
  percentile within one window enters S and only widens it (Asmussen and Glynn, Stochastic Simulation,
  2007, III.5; Nakayama, ACM TOMACS 24(4), 2014).
* independent requests: the order statistics around the percentile whose ranks come from the binomial
  distribution (David and Nagaraja, Order Statistics, 2003, 7.1), or the normal interval of a mean. It
  is the floor: with few windows S may come out small by luck.

Percentiles are nearest-rank: p99 is the smallest observed value that at least 99 % of requests do not
exceed, so `p99(latency) <= 50 ms` holds exactly if 99 % of requests took 50 ms or less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from tuner.student_t import student_t
from tuner.trial import Estimate

Floats = npt.NDArray[np.float64]

_Z: Final = 1.959964


def rank(percentile: float, count: int) -> int:
    """1-based nearest rank of a percentile among `count` values."""
    # The small term keeps 99 % of 100 at rank 99, whatever the floating product says.
    return min(max(math.ceil(percentile / 100 * count - 1e-9), 1), count)


def nearest_rank(values: Floats, percentile: float) -> float:
    """The percentile of `values`, which need not be sorted and must not be empty."""
    position = rank(percentile, len(values)) - 1
    return float(np.partition(values, position)[position])


def least_possible(known: Floats, count: int, percentile: float | None) -> float | None:
    """What the mean (`percentile` None) or a percentile of `count` values is at least, of which `known` are known.

    All are at least 0; `None` where nothing more can be said.
    """
    if percentile is None:
        return float(known.sum()) / count
    larger = count - rank(percentile, count)
    if len(known) <= larger:
        return None
    position = len(known) - larger - 1
    return float(np.partition(known, position)[position])


def statistic(name: str, percentile: float | None) -> Callable[[Floats], float]:
    """The function that `name` (`mean`, or a percentile's name) stands for."""
    if percentile is None:
        if name != "mean":
            raise ValueError(f"no statistic is called {name!r}")
        return lambda values: float(values.mean())
    return lambda values: nearest_rank(values, percentile)


def population_estimate(sections: Sequence[Floats], percentile: float | None) -> Estimate | None:
    """Mean (`percentile` None) or percentile of all values, from their windows; `None` without any value."""
    filled = [section for section in sections if len(section)]
    if not filled:
        return None
    values = np.concatenate(filled)
    compute = statistic("mean", percentile)
    value = compute(values)
    low, high = _independent(values, percentile)
    error = 0.0
    if len(filled) > 1:
        parts = np.array([compute(section) for section in filled])
        error = math.sqrt(float(np.sum((parts - value) ** 2)) / (len(parts) - 1) / len(parts))
        half = student_t(len(parts) - 1) * error
        low, high = min(low, value - half), max(high, value + half)
    return Estimate(value=value, low=max(low, 0.0), high=high, std_error=error)


def scalar_estimate(value: float, parts: Sequence[float]) -> Estimate:
    """A rate or share over all windows, with the spread between the windows' own."""
    if len(parts) < 2:
        return Estimate.exact(value)
    error = float(np.std(parts, ddof=1)) / math.sqrt(len(parts))
    half = student_t(len(parts) - 1) * error
    return Estimate(value=value, low=max(value - half, 0.0), high=value + half, std_error=error)


def _independent(values: Floats, percentile: float | None) -> tuple[float, float]:
    """Interval under independence; beyond the largest value nothing can be said, and that value stands."""
    count = len(values)
    if percentile is None:
        half = _Z * float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
        return float(values.mean()) - half, float(values.mean()) + half
    share = percentile / 100
    spread = _Z * math.sqrt(count * share * (1 - share))
    low = min(max(math.floor(count * share - spread), 1), count) - 1
    high = min(max(math.ceil(count * share + spread) + 1, 1), count) - 1
    ordered = np.partition(values, (low, high))
    return float(ordered[low]), float(ordered[high])
