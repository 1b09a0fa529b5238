"""One server with continuous batching under the traffic of a trial, simulated step by step."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tuner.metric import STANDARD_STATISTICS, Metric, MetricRef
from tuner.model_graph import ModelGraph
from tuner.performance.corrections import Engine, Learned
from tuner.performance.grid import Array
from tuner.performance.memory import memory_need
from tuner.performance.operator_table import OperatorTable
from tuner.performance.simulated_load import SimulatedLoad
from tuner.performance.simulation.continuous import Requests, Scheduler, Served, simulate
from tuner.performance.simulation.step_tables import StepTables
from tuner.performance.simulation.traffic import arrivals_until, counted_from, token_lengths, whole_load
from tuner.performance.step_time import StepTime
from tuner.serving import ContinuousBatching
from tuner.slo import excesses
from tuner.step import Shard
from tuner.trial import TrialPlan
from tuner.workload import ClosedLoop, OpenLoop, RateBracket, TokenShapes, TraceReplay

_MOST: Final = 50_000
"""Requests simulated at most; of a longer load the first ones are."""
_KEEPS_UP: Final = 0.98


class ServingSimulation:
    """Simulates one configuration.

    Args:
        settings: of the server.
        graph: the model, its weights as the settings say.
        table: of the device.
        learned: correction factors.
        plan: the load.
        max_tokens: longest sequence that the server accepts.
    """

    def __init__(
        self,
        settings: ContinuousBatching,
        graph: ModelGraph,
        table: OperatorTable,
        learned: Learned,
        plan: TrialPlan,
        max_tokens: int,
    ) -> None:
        shapes = plan.workload.requests
        assert isinstance(shapes, TokenShapes)
        self._shapes, self._plan = shapes, plan
        shard = Shard(tensor=settings.tensor, expert_tensor=settings.tensor, pipeline=settings.pipeline)
        self._scheduler = _scheduler(settings, graph, table, shard, shapes, max_tokens)
        self._tables = StepTables.of(
            StepTime(graph, table, shard, settings.cache),
            learned.corrections,
            Engine.VLLM,
            True,
            settings.max_num_batched_tokens,
            max(max_tokens, 64),
        )

    def run(self) -> SimulatedLoad:
        """The whole load of a trial; where the highest rate is searched, that at the highest that holds."""
        arrival = self._plan.workload.arrival
        if isinstance(arrival, ClosedLoop):
            return self._of_clients(arrival)
        if isinstance(arrival, OpenLoop) and isinstance(arrival.rate_rps, RateBracket):
            return self._of_highest_rate(arrival, arrival.rate_rps)
        rate = arrival.rate_rps if isinstance(arrival, OpenLoop) else 0.0
        return self._of_rate(arrival, float(rate))[0]  # type: ignore[arg-type]

    def _of_clients(self, arrival: ClosedLoop) -> SimulatedLoad:
        lengths = token_lengths(self._shapes, _MOST, self._plan.seed)

        def run(count: int) -> tuple[Served, Array, Array]:
            requests = Requests(
                arrival_s=np.zeros(count), input_tokens=lengths[0][:count], output_tokens=lengths[1][:count],
                clients=arrival.clients, think_time_s=arrival.think_time_s,
            )  # fmt: skip
            served = simulate(requests, self._scheduler, self._tables)
            return served, served.arrival_s, served.finished_s

        served, end = whole_load(run, max(100, 4 * arrival.clients), self._plan.load_s, _MOST)
        inputs, outputs = (each[: served.arrival_s.size] for each in lengths)
        start = counted_from(self._plan.warmup_s, end)
        due = (served.arrival_s >= start) & (served.arrival_s < end) & np.isfinite(served.finished_s)
        return self._told(served, inputs, outputs, start, end, due)

    def _of_rate(self, arrival: OpenLoop | TraceReplay, rate_rps: float) -> tuple[SimulatedLoad, bool]:
        """What a rate shows, and whether it held: the server kept up and every bound did."""
        sent_until = self._plan.load_s
        arrived = arrivals_until(arrival, rate_rps, sent_until, self._plan.seed)
        if arrived.size > _MOST:
            arrived, sent_until = arrived[:_MOST], float(arrived[_MOST])
        trace = arrival if isinstance(arrival, TraceReplay) else None
        inputs, outputs = token_lengths(self._shapes, arrived.size, self._plan.seed, trace)
        served = simulate(
            Requests(arrival_s=arrived, input_tokens=inputs, output_tokens=outputs), self._scheduler, self._tables
        )
        # What was cut off would wait behind the rest: until the last of that is begun, nothing is different without.
        end = max(sent_until, min(self._plan.load_s, float(np.nanmax(served.scheduled_s, initial=0.0))))
        start = counted_from(self._plan.warmup_s, float(arrived[-1]))
        counted = np.isfinite(served.finished_s) & (arrived >= start)
        told = self._told(served, inputs, outputs, start, end, counted)
        offered = float(np.sum(arrived >= start)) / max(sent_until - start, 1e-9)
        kept_up = told.metrics[MetricRef(Metric.THROUGHPUT)] >= _KEEPS_UP * offered
        return told, kept_up and max(excesses(self._plan.slos, told.metrics).values(), default=0.0) <= 0.0

    def _of_highest_rate(self, arrival: OpenLoop, bracket: RateBracket) -> SimulatedLoad:
        low, high = bracket.low, bracket.high
        found, held = self._of_rate(arrival, low)
        if not held:
            return found
        there, held = self._of_rate(arrival, high)
        if held:
            low, found = high, there
        while high / low > 1 + bracket.resolution:
            middle = math.sqrt(low * high)
            there, held = self._of_rate(arrival, middle)
            if held:
                low, found = middle, there
            else:
                high = middle
        found.metrics[MetricRef(Metric.MAX_ARRIVAL_RATE)] = low
        return found

    def _told(
        self,
        served: Served,
        inputs: NDArray[np.int64],
        outputs: NDArray[np.int64],
        start: float,
        end: float,
        counted: NDArray[np.bool_],
    ) -> SimulatedLoad:
        ttft = served.first_token_s - served.arrival_s
        latency = served.finished_s - served.arrival_s
        in_time = latency <= self._plan.request_timeout_s
        several = counted & in_time & (outputs > 1)
        tpot = (served.finished_s - served.first_token_s)[several] / (outputs[several] - 1)
        done = (served.finished_s > start) & (served.finished_s <= end) & in_time
        span = max(end - start, 1e-9)
        good = done.copy()
        for slo in self._plan.slos:
            values = {Metric.TTFT: ttft, Metric.LATENCY: latency}.get(slo.metric.metric)
            if values is not None and slo.at_most:
                good &= values <= slo.bound
        metrics = {
            MetricRef(Metric.THROUGHPUT): float(done.sum()) / span,
            MetricRef(Metric.GOODPUT): float(good.sum()) / span,
            MetricRef(Metric.OUTPUT_THROUGHPUT): float(outputs[done].sum()) / span,
            MetricRef(Metric.TOTAL_THROUGHPUT): float((inputs + outputs)[done].sum()) / span,
            MetricRef(Metric.ERROR_RATE): 1.0 - float((counted & in_time).sum()) / max(int(counted.sum()), 1),
        }
        asked = {*self._plan.metrics, *(slo.metric for slo in self._plan.slos)}
        for metric, values in (
            (Metric.TTFT, ttft[counted & in_time]), (Metric.TPOT, tpot), (Metric.LATENCY, latency[counted & in_time])
        ):  # fmt: skip
            refs = {ref for ref in asked if ref.metric is metric}
            metrics |= _statistics(refs | {MetricRef(metric, name) for name in STANDARD_STATISTICS}, values)
        return SimulatedLoad(
            metrics=metrics,
            sent=int(((served.arrival_s >= start) & (served.arrival_s < end)).sum()),
            completed=int(done.sum()),
            preemptions=int(served.preemptions.sum()),
            refused=served.refused,
        )


def _statistics(refs: set[MetricRef], values: Array) -> dict[MetricRef, float]:
    if not values.size:
        return {}
    return {
        ref: float(values.mean() if ref.percentile is None else np.percentile(values, ref.percentile))
        for ref in sorted(refs, key=str)
    }


def _scheduler(
    settings: ContinuousBatching,
    graph: ModelGraph,
    table: OperatorTable,
    shard: Shard,
    shapes: TokenShapes,
    max_tokens: int,
) -> Scheduler:
    # a block's share of a long sequence: sliding windows keep less than their length in tokens
    longest = float(max(max_tokens, settings.block_size))
    per_block = graph.cache_bytes(longest, shard, settings.cache) / (longest / settings.block_size)
    if settings.cache_bytes is not None:
        room = settings.cache_bytes / shard.gpus
    else:
        need = memory_need(
            graph, shard, table.hardware.memory_bytes, longest, float(settings.max_num_batched_tokens), settings.cache,
            settings.memory_share,
        )  # fmt: skip
        room = need.cache_bytes
    return Scheduler(
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        blocks=max(int(room / max(per_block, 1.0)), 1),
        block_size=settings.block_size,
        prefix_caching=settings.prefix_caching,
        shared_prefix_tokens=shapes.shared_prefix_tokens if settings.prefix_caching else 0,
    )
