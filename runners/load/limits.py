"""Watching a load for the limits of its plan, beyond which its trial cannot matter (`tuner.early_end`).

Looked at the end of each window from the second to the last but one, since at the last end all but some answers are
there, and again while these are waited for, each time another window's length has passed:

* Latency and TTFT, percentiles and means, and the error rate by counting: the number over the whole load is at least
  what it would be if all that is still to come took no time. How many requests an open loop has is known before; of a
  closed loop it is supposed that no window to come has more than `FASTER` times as many as the busiest so far.
* What counting does not settle, and all other metrics, by predicting the whole load from its windows.

A request that is under way counts with the time it has waited.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from runners.load.exchange import Exchange, Fate
from runners.load.records import Floats
from runners.load.statistics import least_possible, statistic
from tuner.early_end import LEAST_WINDOWS, Limit, OneSided, Side, predicted_bound
from tuner.metric import Metric, MetricRef
from tuner.trial import TrialPlan

FASTER: Final = 4.0

_COUNTED: Final = frozenset({Metric.LATENCY, Metric.TTFT})
_RATES: Final = frozenset({Metric.THROUGHPUT, Metric.GOODPUT, Metric.OUTPUT_THROUGHPUT, Metric.TOTAL_THROUGHPUT})
_TOKEN_RATES: Final = frozenset({Metric.OUTPUT_THROUGHPUT, Metric.TOTAL_THROUGHPUT})


class LimitWatch:
    """A spectator that ends a load once it is surely beyond a limit of its plan.

    Attributes:
        passed: the limits that it is beyond, each with what is known of its metric; empty while it goes on.
        windows: complete windows when it was last looked at.
    """

    def __init__(self, plan: TrialPlan, expected: int | None) -> None:
        """`expected` requests are due inside the windows; `None` where that depends on the server."""
        self.passed: dict[Limit, OneSided] = {}
        self.windows = 0
        self._looked = 0
        self._plan = plan
        self._expected = expected
        self._first_s = 0.0
        wanted = {limit.slo.metric.metric for limit in plan.limits}
        # Arrays, not lists: numpy reads them at once, where a look must not hold the load up.
        self._values: dict[Metric, list[array[float]]] = {
            metric: [array("d") for _ in range(plan.windows)] for metric in wanted if metric.is_population
        }
        self._tokens_wanted = bool(wanted & _TOKEN_RATES)
        self._due = np.zeros(plan.windows)
        self._completed = np.zeros(plan.windows)
        self._output = np.zeros(plan.windows)
        self._prompt = np.zeros(plan.windows)
        self._failed = 0

    def started(self, first_s: float) -> None:
        """See `Spectator`."""
        self._first_s = first_s

    def settled(self, exchange: Exchange) -> None:
        """See `Spectator`."""
        completed = exchange.fate is Fate.COMPLETED
        finished = self._window(exchange.finished_s)
        if completed and finished is not None:
            self._completed[finished] += 1
        if completed and self._tokens_wanted:
            pieces = exchange.answer.pieces_s or []
            weight = (exchange.answer.output_tokens or 0) / max(len(pieces), 1)
            self._output += weight * self._counts(pieces)
            first_s = exchange.answer.first_s
            if first_s is not None and (begun := self._window(first_s)) is not None:
                self._prompt[begun] += exchange.input_tokens
        if exchange.counted:
            window = self._due_window(exchange)
            self._due[window] += 1
            self._failed += not completed
            for metric, windows in self._values.items():
                windows[window].extend(_values(metric, exchange, self._plan.request_timeout_s))

    def hopeless(self, open_exchanges: Iterable[Exchange], now_s: float) -> bool:
        """See `Spectator`."""
        passed_by = int((now_s - self._first_s) / self._plan.window_s)
        if passed_by <= self._looked or passed_by < LEAST_WINDOWS or passed_by == self._plan.windows:
            return bool(self.passed)
        self._looked = passed_by
        done = self.windows = min(passed_by, self._plan.windows)
        under_way = [exchange for exchange in open_exchanges if exchange.counted]
        for limit in self._plan.limits:
            bound = self._counted_bound(limit, under_way, now_s)
            if bound is None:
                values = self._by_window(limit.slo.metric, under_way, now_s)[:done]
                bound = predicted_bound(limit, values, self._plan.windows)
            if bound is not None:
                self.passed[limit] = OneSided(value=bound, side=limit.side)
        return bool(self.passed)

    def _counted_bound(self, limit: Limit, under_way: Sequence[Exchange], now_s: float) -> float | None:
        """What the whole load shows at least, where that is beyond an upper bound."""
        ref, count = limit.slo.metric, self._most_requests(under_way)
        if limit.side is not Side.AT_LEAST or count == 0:
            return None
        found: float | None = None
        if ref.metric is Metric.ERROR_RATE:
            found = self._failed / count
        elif ref.metric in _COUNTED:
            known = np.concatenate(self._with_waiting(ref.metric, under_way, now_s))
            found = least_possible(known, count, ref.percentile)
        return found if found is not None and limit.passed(found) else None

    def _most_requests(self, under_way: Sequence[Exchange]) -> int:
        """How many requests are due inside the windows, at most."""
        if self._expected is not None:
            return self._expected
        due = self._due.copy()
        for exchange in under_way:
            due[self._due_window(exchange)] += 1
        return int(due.sum() + FASTER * due[: self.windows].max() * (self._plan.windows - self.windows))

    def _by_window(self, ref: MetricRef, under_way: Sequence[Exchange], now_s: float) -> list[float]:
        """The metric in each window; 0 where a window has no value."""
        if ref.metric.is_population:
            compute = statistic(ref.statistic or "mean", ref.percentile)
            sections = self._with_waiting(ref.metric, under_way, now_s)
            return [compute(values) if len(values) else 0.0 for values in sections]
        if ref.metric in _RATES:
            return [float(value) for value in self._rates(ref.metric, under_way) / self._plan.window_s]
        return [0.0] * self._plan.windows

    def _with_waiting(self, metric: Metric, under_way: Sequence[Exchange], now_s: float) -> list[Floats]:
        waiting: list[list[float]] = [[] for _ in range(self._plan.windows)]
        for exchange in under_way if metric in _COUNTED else ():
            end_s = now_s
            if metric is Metric.TTFT and exchange.answer.first_s is not None:
                end_s = exchange.answer.first_s
            waiting[self._due_window(exchange)].append(end_s - exchange.due_s)
        settled = self._values[metric]
        return [np.concatenate([np.array(one), np.array(two)]) for one, two in zip(settled, waiting, strict=True)]

    def _rates(self, metric: Metric, under_way: Sequence[Exchange]) -> Floats:
        """Per window; for goodput what it is at most."""
        if metric not in _TOKEN_RATES:
            return self._completed
        found = self._output.copy()
        for exchange in under_way:
            found += self._counts(exchange.answer.pieces_s or [])
        return found + self._prompt if metric is Metric.TOTAL_THROUGHPUT else found

    def _counts(self, times_s: Sequence[float]) -> Floats:
        """How many of some moments fall in each window."""
        windows = [window for time_s in times_s if (window := self._window(time_s)) is not None]
        return np.bincount(windows, minlength=self._plan.windows).astype(np.float64) if windows else self._due * 0.0

    def _window(self, time_s: float) -> int | None:
        place = (time_s - self._first_s) / self._plan.window_s
        return int(place) if 0 <= place < self._plan.windows else None

    def _due_window(self, exchange: Exchange) -> int:
        """Of a counted exchange; rounding may put one at an edge beyond it."""
        place = int((exchange.due_s - self._first_s) / self._plan.window_s)
        return min(max(place, 0), self._plan.windows - 1)


def _values(metric: Metric, exchange: Exchange, timeout_s: float) -> list[float]:
    """What a settled request adds to a population, as in `runners.load.populations`."""
    completed = exchange.fate is Fate.COMPLETED
    first_s = exchange.answer.first_s
    if metric is Metric.LATENCY:
        return [exchange.finished_s - exchange.due_s if completed else timeout_s]
    if metric is Metric.TTFT:
        return [first_s - exchange.due_s if completed and first_s is not None else timeout_s]
    pieces = exchange.answer.pieces_s or []
    if metric is Metric.TPOT:
        tokens = (exchange.answer.output_tokens or 0) if completed else exchange.asked_tokens
        if tokens < 2:
            return []
        return [(exchange.finished_s - first_s) / (tokens - 1) if completed and first_s is not None else timeout_s]
    gaps = [after - before for before, after in itertools.pairwise(pieces)]
    return gaps if completed else gaps + [timeout_s] * max(exchange.asked_tokens - max(len(pieces), 1), 1)
