"""Spectators: they watch a load as it runs, and end one whose outcome is certain.

How many requests are due inside the windows is known before an open loop begins. That makes it
possible to say, with certainty and not by extrapolation, that a limit will be missed: of n requests p99
allows n - ceil(0.99 n) to exceed a bound; with one more that do, nothing that may still come helps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from runners.load.exchange import Exchange, Fate
from runners.load.statistics import rank
from tuner.metric import Metric
from tuner.slo import Slo
from tuner.trial import TrialPlan


class Spectator(Protocol):
    """Watches a load, and may end it early."""

    def started(self, first_s: float) -> None:
        """The load begins; its first window at `first_s` on the monotonic clock."""
        ...

    def settled(self, exchange: Exchange) -> None:
        """An exchange has ended; it may have been due outside the windows."""
        ...

    def hopeless(self, open_exchanges: Iterable[Exchange], now_s: float) -> bool:
        """Whether nothing that may still come can change the verdict; asked many times per second.

        Args:
            open_exchanges: those under way, in the order in which they were due.
            now_s: on the monotonic clock.
        """
        ...


class FailureLimit:
    """Ends a load once more requests have failed than may: a server that has died is not asked to the end."""

    def __init__(self, expected: int, max_error_rate: float) -> None:
        """`expected` requests are due inside the windows."""
        self._allowed = math.floor(max_error_rate * expected)
        self._failures = 0

    def started(self, first_s: float) -> None:
        """When does not matter."""

    def settled(self, exchange: Exchange) -> None:
        self._failures += exchange.counted and exchange.fate is not Fate.COMPLETED

    def hopeless(self, open_exchanges: Iterable[Exchange], now_s: float) -> bool:
        return self._failures > self._allowed


class HopelessProbe:
    """Ends a probe of the rate search once some bound of the plan is missed for certain.

    A request misses a bound on latency or TTFT when it is answered late, has failed, or has been
    unanswered for longer than the bound already.
    """

    def __init__(self, plan: TrialPlan, expected: int) -> None:
        """`expected` requests are due inside the windows."""
        shares = [slo.bound for slo in plan.slos if slo.metric.metric is Metric.ERROR_RATE]
        self._failures = FailureLimit(expected, min([*shares, plan.max_error_rate]))
        self._bounds = [
            (slo, expected - rank(slo.metric.percentile, expected))
            for slo in plan.slos
            if expected and slo.metric.percentile is not None and slo.metric.metric in (Metric.LATENCY, Metric.TTFT)
        ]
        self._misses = [0] * len(self._bounds)

    def started(self, first_s: float) -> None:
        """When does not matter."""

    def settled(self, exchange: Exchange) -> None:
        if not exchange.counted:
            return
        self._failures.settled(exchange)
        for index, (slo, _) in enumerate(self._bounds):
            self._misses[index] += exchange.fate is not Fate.COMPLETED or _misses(slo, exchange, exchange.finished_s)

    def hopeless(self, open_exchanges: Iterable[Exchange], now_s: float) -> bool:
        return self._failures.hopeless(open_exchanges, now_s) or any(
            missed + _overdue(slo, open_exchanges, now_s) > allowed
            for missed, (slo, allowed) in zip(self._misses, self._bounds, strict=True)
        )


def _overdue(slo: Slo, open_exchanges: Iterable[Exchange], now_s: float) -> int:
    """How many exchanges under way have missed the bound already."""
    count = 0
    for exchange in open_exchanges:
        if now_s - exchange.due_s <= slo.bound:
            break  # those behind it were due later
        count += exchange.counted and _misses(slo, exchange, now_s)
    return count


def _misses(slo: Slo, exchange: Exchange, now_s: float) -> bool:
    end_s = now_s
    if slo.metric.metric is Metric.TTFT and exchange.answer.first_s is not None:
        end_s = exchange.answer.first_s
    return end_s - exchange.due_s > slo.bound
