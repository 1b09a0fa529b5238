"""What a server with dynamic batching answers under a workload: every number from a simulation of its queue.

The simulation of one configuration takes some 50 microseconds, so that a whole search space is predicted with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np

from tuner.metric import STANDARD_STATISTICS, Metric, MetricRef
from tuner.performance.batch_passes import BatchPasses
from tuner.performance.grid import Array
from tuner.performance.simulated_load import SimulatedLoad
from tuner.performance.simulation.dynamic import Batched, simulate_clients, simulate_dynamic
from tuner.performance.simulation.traffic import arrivals_until, counted_from, whole_load
from tuner.serving import DynamicBatching
from tuner.slo import excesses
from tuner.trial import TrialPlan
from tuner.workload import ClosedLoop, OpenLoop, RateBracket

CLIENT_S: Final = 0.2e-3
"""Time of an answer outside the server: the network, and the client's own work."""
ANSWER_S: Final = 0.1e-3
"""Time between two answers of one batch: they leave one after another."""
_KEEPS_UP: Final = 0.98
"""Share of the offered requests that must be answered for a rate to hold."""
_MOST: Final = 20_000
MOST_SIMULATED: Final = 500_000
"""Requests simulated at most, of a part of the load and of the whole; a longer load is cut short."""


class BatchServing:
    """Predicts or simulates configurations of one model on one device type.

    Args:
        passes: of the model on the device.
        plan: how a trial is measured.
        thorough: simulate the whole load of a trial, rather than as much as means and percentiles need.
    """

    def __init__(self, passes: BatchPasses, plan: TrialPlan, thorough: bool = False) -> None:
        self._passes, self._plan, self._thorough = passes, plan, thorough
        self._refs = _wanted(plan)
        bounds = [slo.bound for slo in plan.slos if slo.metric.metric is Metric.LATENCY and slo.at_most]
        self._bound_s = min(bounds, default=math.inf)

    def metrics(self, settings: DynamicBatching) -> dict[MetricRef, float]:
        """Every metric of the plan that can be told, without costs."""
        return self.load(settings).metrics

    def load(self, settings: DynamicBatching) -> SimulatedLoad:
        """The same, with what was sent and answered."""
        arrival = self._plan.workload.arrival
        if isinstance(arrival, ClosedLoop):
            return self._of_clients(settings, arrival)
        if isinstance(arrival, OpenLoop) and isinstance(arrival.rate_rps, RateBracket):
            return self._of_highest_rate(settings, arrival, arrival.rate_rps)
        rate = arrival.rate_rps if isinstance(arrival, OpenLoop) else 0.0
        return self._of_rate(settings, float(rate))[0]  # type: ignore[arg-type]

    def _of_clients(self, settings: DynamicBatching, arrival: ClosedLoop) -> SimulatedLoad:
        service = self._passes.service_s(settings.max_batch_size)
        speeds = self._passes.speeds(settings)
        copies, think = _copies(settings, speeds), arrival.think_time_s + CLIENT_S

        def run(count: int) -> tuple[Batched, Array, Array]:
            served = simulate_clients(arrival.clients, think, count, copies, service, speeds, ANSWER_S)
            return served, served.arrived_s, served.finished_s

        requests = min(max(400, 12 * arrival.clients), max(_MOST, 4 * arrival.clients))
        if self._thorough:
            served, end = whole_load(run, requests, self._plan.load_s, max(MOST_SIMULATED, requests))
            return self._told(served, counted_from(self._plan.warmup_s, end), end, by_arrival=True)
        served = run(requests)[0]
        ended = np.sort(served.finished_s)
        # the clients start together, and towards the end fewer and fewer of them are left
        start = float(ended[max(2 * arrival.clients, requests // 4) - 1])
        return self._told(served, start, float(served.arrived_s[-1]), by_arrival=False)

    def _of_rate(self, settings: DynamicBatching, rate_rps: float) -> tuple[SimulatedLoad, bool]:
        """Its metrics, and whether the rate held: the server kept up and every bound did."""
        arrival = self._plan.workload.arrival
        assert not isinstance(arrival, ClosedLoop)
        end = self._plan.load_s
        if not self._thorough and rate_rps > 0:
            end = min(end, max(2.0 * self._plan.warmup_s, 1500.0 / rate_rps))
        arrived = arrivals_until(arrival, rate_rps, end, self._plan.seed)
        most = MOST_SIMULATED if self._thorough else _MOST
        if arrived.size > most:
            arrived, end = arrived[:most], float(arrived[most])
        speeds = self._passes.speeds(settings)
        service = self._passes.service_s(settings.max_batch_size)
        served = simulate_dynamic(arrived, _copies(settings, speeds), service, speeds)
        start = counted_from(self._plan.warmup_s, end)
        found = self._told(served, start, end, by_arrival=True)
        offered = float(np.sum(arrived >= start)) / max(end - start, 1e-9)
        kept_up = found.metrics[MetricRef(Metric.THROUGHPUT)] >= _KEEPS_UP * offered
        return found, kept_up and max(excesses(self._plan.slos, found.metrics).values(), default=0.0) <= 0.0

    def _of_highest_rate(self, settings: DynamicBatching, arrival: OpenLoop, bracket: RateBracket) -> SimulatedLoad:
        """Bisects as a trial does."""
        low, high = bracket.low, bracket.high
        found, held = self._of_rate(settings, low)
        if not held:
            return found
        at_high, held = self._of_rate(settings, high)
        if held:
            low, found = high, at_high
        while high / low > 1 + bracket.resolution:
            middle = math.sqrt(low * high)
            there, held = self._of_rate(settings, middle)
            if held:
                low, found = middle, there
            else:
                high = middle
        found.metrics[MetricRef(Metric.MAX_ARRIVAL_RATE)] = low
        return found

    def _told(self, served: Batched, start: float, end: float, by_arrival: bool) -> SimulatedLoad:
        """Numbers of what was answered, or for latencies what arrived, between `start` and `end`."""
        timeout = self._plan.request_timeout_s
        latency = served.finished_s - served.arrived_s + CLIENT_S
        if by_arrival:
            counted = (served.arrived_s >= start) & (served.arrived_s < end)
        else:
            counted = (served.finished_s > start) & (served.finished_s <= end)
        answered = latency[counted & (latency <= timeout)]
        span = max(end - start, 1e-9)
        done = (served.finished_s > start) & (served.finished_s <= end) & (latency <= timeout)
        rate = float(done.sum()) / span
        good = float((done & (latency <= self._bound_s)).sum()) / span
        late = 1.0 - answered.size / max(int(counted.sum()), 1)
        found = {
            MetricRef(Metric.THROUGHPUT): rate,
            MetricRef(Metric.GOODPUT): good,
            MetricRef(Metric.ERROR_RATE): late,
        }
        return SimulatedLoad(
            metrics=found | _statistics(Metric.LATENCY, answered, self._refs),
            sent=int(((served.arrived_s >= start) & (served.arrived_s < end)).sum()),
            completed=int(done.sum()),
        )


def _copies(settings: DynamicBatching, speeds: Array) -> DynamicBatching:
    """With the instances of all GPUs."""
    if speeds.size == settings.instances:
        return settings
    return DynamicBatching(
        max_batch_size=settings.max_batch_size,
        max_queue_delay_s=settings.max_queue_delay_s,
        preferred_batch_sizes=settings.preferred_batch_sizes,
        instances=speeds.size,
        threads=settings.threads,
    )


def _wanted(plan: TrialPlan) -> frozenset[MetricRef]:
    asked = {*plan.metrics, *(slo.metric for slo in plan.slos)}
    return frozenset(asked | {MetricRef(Metric.LATENCY, name) for name in STANDARD_STATISTICS})


def _statistics(metric: Metric, values: Array, refs: Iterable[MetricRef]) -> dict[MetricRef, float]:
    wanted = [ref for ref in refs if ref.metric is metric]
    if not values.size:
        return {}
    percentiles = [ref for ref in wanted if ref.percentile is not None]
    found = np.percentile(values, [ref.percentile or 50.0 for ref in percentiles])
    told = {ref: float(value) for ref, value in zip(percentiles, found, strict=True)}
    return told | {ref: float(values.mean()) for ref in wanted if ref.percentile is None}
