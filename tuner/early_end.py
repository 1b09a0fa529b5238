"""Early ends: trials that cannot matter any more are not loaded to their end, and what they tell is a bound.

A trial is given limits, each a bound of the SLO or what the best configuration so far has shown. Its load ends, at the
end of a window, once the number that the whole load would show is surely beyond a limit, by a margin:

* by counting (the load generator does it): of n requests, p99 allows n - ceil(0.99 n) to be slower than the bound.
  Once more of them are, nothing that may still come helps.
* by prediction, `predicted_bound`: with the logarithms z_1..z_k of the metric in the k windows so far, independent
  draws of one normal distribution, the mean of all W lies with probability 1 - a beyond

      mean(z) -+ (W - k) / W  t(1 - a, k - 1)  sd(z)  sqrt(1 / k + 1 / (W - k))

  The probability of being wrong, `ERROR`, is shared out among the looks that a load allows (Bonferroni).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tuner.errors import UsageError
from tuner.slo import Slo
from tuner.student_t import student_t

ERROR: Final = 0.005
"""Probability, per limit and trial, that windows which are alike mislead `predicted_bound`."""

LEAST_WINDOWS: Final = 2
"""Complete windows before which no load ends: of what they show, a spread can be told."""

_LEAST_DEVIATION: Final = 0.02
"""Of the logarithms of windows: counts as small as a handful may agree by being rounded."""


class Side(enum.Enum):
    """On which side of a bound a number lies."""

    AT_LEAST = "at least"
    AT_MOST = "at most"

    @property
    def other(self) -> Side:
        """The opposite."""
        return Side.AT_MOST if self is Side.AT_LEAST else Side.AT_LEAST


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSided:
    """A bound on a number that was not measured to its end."""

    value: float
    side: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a trial must reach to matter.

    Attributes:
        slo: the bound, on a metric that a load measures.
        whose: what sets it, in words: `SLO`, `best so far`.
        margin: factor, 1 or more, by which the trial must surely be beyond it.
        told: the bound as the study has it, where `slo` follows from that (a cost from a rate).
    """

    slo: Slo
    whose: str
    margin: float = 1.1
    told: Slo | None = None

    def __post_init__(self) -> None:
        if not self.margin >= 1:
            raise UsageError(f"The margin of {self.slo} is {self.margin}. Write 1 or more.")

    @property
    def side(self) -> Side:
        """On which side of the bound a trial that misses it is."""
        return Side.AT_LEAST if self.slo.at_most else Side.AT_MOST

    def passed(self, value: float) -> bool:
        """Whether `value` is beyond the bound by more than the margin."""
        if self.slo.at_most:
            return value > self.slo.bound * self.margin
        return value * self.margin < self.slo.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyEnd:
    """That a load was ended before its end, as its trial could not matter any more.

    Attributes:
        after_s: of the load, warm-up included, s.
        bounds: by name of a metric, what is known of the number that the whole load would have shown.
        limits: that it was surely beyond.
    """

    after_s: float
    bounds: Mapping[str, OneSided]
    limits: tuple[Limit, ...]

    def __str__(self) -> str:
        """`p99(latency) at least 812 ms, SLO 500 ms`."""
        parts = []
        for limit in self.limits:
            told = limit.slo if limit.told is None else limit.told
            bound = self.bounds.get(str(told.metric))
            if bound is not None:
                number = f"{told.metric} {bound.side.value} {told.metric.format(bound.value)}"
                parts.append(f"{number}, {limit.whose} {told.metric.format(told.bound)}")
        return "; ".join(parts)


def predicted_bound(limit: Limit, values: Sequence[float], windows: int) -> float | None:
    """A bound on the metric over a whole load that is beyond `limit`, from its first windows; `None` without one.

    Args:
        limit: what is asked.
        values: the metric in each window so far.
        windows: of the whole load.
    """
    count, rest = len(values), windows - len(values)
    if not LEAST_WINDOWS <= count < windows or not all(value > 0 for value in values):
        return None
    logs = [math.log(value) for value in values]
    mean = math.fsum(logs) / count
    deviation = max(math.sqrt(math.fsum((log - mean) ** 2 for log in logs) / (count - 1)), _LEAST_DEVIATION)
    probability = 1 - ERROR / (windows - LEAST_WINDOWS)
    reach = rest / windows * student_t(count - 1, probability) * deviation * math.sqrt(1 / count + 1 / rest)
    found = math.exp(mean - reach) if limit.side is Side.AT_LEAST else math.exp(min(mean + reach, 700.0))
    return found if limit.passed(found) else None


def predicted_end(
    limits: Sequence[Limit], windows: Sequence[Mapping[str, float]], planned: int
) -> dict[Limit, OneSided]:
    """The limits that a whole load of `planned` windows is surely beyond, judged by its first ones' metrics."""
    found = {}
    for limit in limits:
        values = [window.get(str(limit.slo.metric), 0.0) for window in windows]
        bound = predicted_bound(limit, values, planned)
        if bound is not None:
            found[limit] = OneSided(value=bound, side=limit.side)
    return found
