"""Judging one probe of the rate search: does this arrival rate hold every SLO?

A rate holds if every bound holds, no more requests fail than the plan tolerates, and nothing queues up
without end. The last is read from the trend of latency: where a share d of the arriving work is not
done in time, each request waits d seconds longer per second of load than the one before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from runners.load.populations import request_values, window_of
from runners.load.records import Records
from tuner.metric import Metric
from tuner.trial import Measurement, TrialPlan

TOLERATED_TREND: Final = 0.1
"""Seconds of latency gained per second of load: a tenth of the arriving work is left undone."""

_KNOWN_LATER: Final = frozenset(
    {
        Metric.MAX_ARRIVAL_RATE,
        Metric.COST_PER_HOUR,
        Metric.COST_PER_MILLION_REQUESTS,
        Metric.COST_PER_MILLION_TOKENS,
    }
)
"""What the search itself or a price makes of the measurements."""

_BLOCKS: Final = 10
_SIGNIFICANT: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a rate holds, and how far beyond the worst bound it is (relative; <= 0 holds)."""

    held: bool
    excess: float


def judge(records: Records, measurement: Measurement, plan: TrialPlan) -> Verdict:
    """The verdict over a probe."""
    values = measurement.values()
    bounds = [slo for slo in plan.slos if slo.metric.metric not in _KNOWN_LATER]
    excesses = [slo.excess(values[slo.metric]) if slo.metric in values else 1.0 for slo in bounds]
    failed = (measurement.failed + measurement.timed_out) / max(measurement.sent, 1)
    if failed > plan.max_error_rate:
        excesses.append((failed - plan.max_error_rate) / max(plan.max_error_rate, 0.01))
    trend = latency_trend(records, plan)
    if trend > TOLERATED_TREND:
        excesses.append(trend / TOLERATED_TREND - 1.0)
    worst = max(excesses, default=-1.0)
    return Verdict(held=worst <= 0, excess=worst)


def latency_trend(records: Records, plan: TrialPlan) -> float:
    """Slope of latency over intended send time within the windows, s/s; 0 where it is not significant."""
    length = plan.windows * plan.window_s
    block = window_of(records.due_s, plan.warmup_s, length / _BLOCKS, _BLOCKS)
    latency = request_values(records, plan.request_timeout_s)[Metric.LATENCY]
    found = [(index, float(latency[block == index].mean())) for index in range(_BLOCKS) if np.any(block == index)]
    if len(found) < 4:
        return 0.0
    times = np.array([(index + 0.5) * length / _BLOCKS for index, _ in found])
    means = np.array([mean for _, mean in found])
    centred = times - times.mean()
    slope = float(centred @ means / (centred @ centred))
    residuals = means - means.mean() - slope * centred
    error = math.sqrt(float(residuals @ residuals) / (len(found) - 2) / float(centred @ centred))
    return slope if slope > _SIGNIFICANT * error else 0.0
