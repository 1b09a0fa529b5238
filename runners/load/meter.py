"""Measuring a server: one load, or a search for the highest rate."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from runners.load.arrivals import Arrivals, DrawnArrivals, TraceArrivals, count_between
from runners.load.client import Client
from runners.load.exchange import Exchange, Fate
from runners.load.http_head import Endpoint
from runners.load.lateness import by_window, generator_bound
from runners.load.limits import LimitWatch
from runners.load.load import PROGRESS_S, Load, LoadResult
from runners.load.measurement import summarise
from runners.load.pacing import ClosedLoopPacer, OpenLoopPacer
from runners.load.rate_probe import Verdict, judge
from runners.load.rate_search import RateSearch
from runners.load.source import Magazine, make_source
from runners.load.spectator import FailureLimit, HopelessProbe, Spectator
from tuner.early_end import EarlyEnd, Limit, OneSided, Side
from tuner.errors import GeneratorBoundError, UnavailableError
from tuner.launch import RequestSpec
from tuner.metric import Metric, MetricRef
from tuner.trial import Estimate, Measurement, Phase, Progress, RateProbe, TrialPlan
from tuner.workload import ClosedLoop, OpenLoop, RateBracket, TraceReplay

_POLL_S: Final = 0.02
_CONNECT_TRIES: Final = 5
_CONNECT_PAUSE_S: Final = 0.2
_CONNECT_TIMEOUT_S: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probed:
    """A load, summed up and judged."""

    measurement: Measurement
    verdict: Verdict
    served_rps: float | None
    bound_by_generator: str | None


class Meter:
    """Measures one server under one plan; use once."""

    def __init__(
        self, endpoint: Endpoint, request: RequestSpec, plan: TrialPlan, report: Callable[[Progress], None]
    ) -> None:
        self._endpoint = endpoint
        self._plan = plan
        self._report = report
        arrival = plan.workload.arrival
        trace = TraceArrivals(arrival) if isinstance(arrival, TraceReplay) else None
        row = trace.trace_row if trace is not None else _no_row
        self._trace = trace
        self._magazine = Magazine(make_source(endpoint, request, plan.seed, row))

    async def measure(self) -> Measurement:
        """The server under the plan's workload.

        Raises:
            UnavailableError: nothing answers.
            GeneratorBoundError: the generator set the numbers.
        """
        await reach(self._endpoint)
        arrival = self._plan.workload.arrival
        if isinstance(arrival, OpenLoop) and isinstance(arrival.rate_rps, RateBracket):
            return await self._search(arrival, arrival.rate_rps)
        if isinstance(arrival, ClosedLoop):
            watch = LimitWatch(self._plan, None)
            load = self._load(spectators=[watch] if self._plan.limits else [])
            result = await load.run(lambda send, idle: ClosedLoopPacer(arrival, send, idle))
        else:
            arrivals = self._arrivals(arrival, None)
            expected = self._expected(arrivals)
            watch = LimitWatch(self._plan, expected)
            failures = FailureLimit(expected, self._plan.max_error_rate)
            load = self._load(spectators=[failures, watch] if self._plan.limits else [failures])
            result = await self._run_open(arrivals, load)
        if watch.passed:
            return self._ended_early(result, watch)
        measurement = summarise(result.records, self._plan)
        if result.cut_short:
            note = f"the load was ended after {result.records.ended_s:.1f} s, as too many requests had failed"
            return replace(measurement, errors=(*measurement.errors, note))
        self._refuse_generator_bound(result, self._plan)
        return measurement

    def _ended_early(self, result: LoadResult, watch: LimitWatch) -> Measurement:
        """What the complete windows of a load show that was ended as it was beyond a limit."""
        plan = replace(self._plan, windows=watch.windows)
        within = result.records.due_s < plan.load_s
        result = replace(result, records=replace(result.records, counted=result.records.counted & within))
        self._refuse_generator_bound(result, plan)
        ended = EarlyEnd(
            after_s=result.records.ended_s,
            bounds={str(limit.slo.metric): bound for limit, bound in watch.passed.items()},
            limits=tuple(watch.passed),
        )
        return replace(summarise(result.records, plan), ended_early=ended)

    def _refuse_generator_bound(self, result: LoadResult, plan: TrialPlan) -> None:
        closed = isinstance(plan.workload.arrival, ClosedLoop)
        blame = generator_bound(by_window(result.records, plan, result.busy), closed_loop=closed)
        if blame is not None:
            raise GeneratorBoundError(blame)

    async def _search(self, arrival: OpenLoop, bracket: RateBracket) -> Measurement:
        search = RateSearch(bracket)
        probes: list[RateProbe] = []
        best: Measurement | None = None
        last: _Probed | None = None
        blame: str | None = None
        began_s = time.perf_counter()
        while (rate := search.next_rate()) is not None and len(probes) < search.max_probes:
            last = await self._probe(arrival, rate, bracket, number=len(probes) + 1)
            probe = RateProbe(rate_rps=rate, held=last.verdict.held, excess=last.verdict.excess)
            probes.append(probe)
            if probe.held:
                best = last.measurement
            else:
                # What matters in the end is why the lowest failing rate failed.
                blame = last.bound_by_generator
            search.tell(probe, served_rps=last.served_rps)
            limits = self._below_limits(search) if blame is None else ()
            if best is not None and limits and search.next_rate() is not None:
                return _below_all(best, probes, search, limits, time.perf_counter() - began_s)
        if blame is not None:
            raise GeneratorBoundError(
                f"The search for the highest rate ended at {probes[-1].rate_rps:.4g} rps. {blame}"
            )
        assert last is not None
        if best is None or search.held_rps is None:
            return replace(last.measurement, probes=tuple(probes))
        rate_estimate = between(search.held_rps, search.failed_rps or search.held_rps)
        metrics = {**best.metrics, Metric.MAX_ARRIVAL_RATE.value: rate_estimate}
        return replace(best, metrics=metrics, probes=tuple(probes))

    def _below_limits(self, search: RateSearch) -> tuple[Limit, ...]:
        """The limits on the highest rate that a search is sure to end below: a rate that failed is not tried again."""
        failed = search.failed_rps
        if failed is None or search.held_rps is None:
            return ()
        wanted = MetricRef(Metric.MAX_ARRIVAL_RATE)
        return tuple(limit for limit in self._plan.limits if limit.slo.metric == wanted and limit.passed(failed))

    async def _probe(self, arrival: OpenLoop, rate: float, bracket: RateBracket, *, number: int) -> _Probed:
        plan = self._plan
        arrivals = self._arrivals(arrival, rate)
        # The lowest rate is measured to its end: if it fails, its numbers are the result.
        spectators = [HopelessProbe(plan, self._expected(arrivals))] if rate > bracket.low else []
        load = self._load(f"probe {number} at {rate:.4g} rps", spectators)
        try:
            result = await self._run_open(arrivals, load)
        except GeneratorBoundError as error:
            await self._drain()
            nothing = Measurement(metrics={})
            verdict = Verdict(held=False, excess=1.0)
            return _Probed(measurement=nothing, verdict=verdict, served_rps=None, bound_by_generator=str(error))
        measurement = summarise(result.records, plan)
        verdict = judge(result.records, measurement, plan)
        if result.cut_short:
            verdict = Verdict(held=False, excess=max(verdict.excess, bracket.resolution))
        blame = generator_bound(by_window(result.records, plan, result.busy), closed_loop=False)
        if blame is not None:
            verdict = Verdict(held=False, excess=max(verdict.excess, bracket.resolution))
        served_rps = None
        if not verdict.held:
            served_rps = _capacity(result, rate)
            await self._drain()
        return _Probed(measurement=measurement, verdict=verdict, served_rps=served_rps, bound_by_generator=blame)

    async def _drain(self) -> None:
        """Waits until an overloaded server answers a single request again, or the request times out.

        Servers work on for clients that have gone; the next probe must not find their queue.
        """
        client = Client(self._endpoint, timeout_s=self._plan.request_timeout_s, on_settled=lambda _: None)
        prepared, answer = self._magazine.take()
        began_s = reported_s = time.perf_counter()
        exchange = Exchange(prepared, answer, began_s, began_s)
        client.submit(exchange)
        try:
            while exchange.fate is Fate.OPEN:
                await asyncio.sleep(_POLL_S)
                now_s = time.perf_counter()
                client.expire(now_s)
                if now_s - reported_s >= PROGRESS_S:
                    reported_s = now_s
                    note = "waiting for the server's queue to empty"
                    self._report(Progress(phase=Phase.WARMING_UP, elapsed_s=now_s - began_s, note=note))
        finally:
            await client.close()

    def _load(self, note: str = "", spectators: Sequence[Spectator] = ()) -> Load:
        return Load(self._endpoint, self._magazine, self._plan, report=self._report, note=note, spectators=spectators)

    def _expected(self, arrivals: Arrivals) -> int:
        """How many requests are due inside the windows."""
        return count_between(arrivals, self._plan.warmup_s, self._plan.load_s)

    async def _run_open(self, arrivals: Arrivals, load: Load) -> LoadResult:
        return await load.run(lambda send, idle: OpenLoopPacer(arrivals.times(), send, idle))

    def _arrivals(self, arrival: OpenLoop | TraceReplay, rate: float | None) -> Arrivals:
        if isinstance(arrival, TraceReplay):
            return self._trace or TraceArrivals(arrival)
        if rate is None:
            assert not isinstance(arrival.rate_rps, RateBracket)
            rate = arrival.rate_rps
        return DrawnArrivals(arrival, rate, self._plan.seed)


async def reach(endpoint: Endpoint) -> None:
    """That something accepts connections at `endpoint`; raises UnavailableError if not."""
    problem: object = None
    for attempt in range(_CONNECT_TRIES):
        if attempt:
            await asyncio.sleep(_CONNECT_PAUSE_S)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
        except TimeoutError:
            problem = f"no connection within {_CONNECT_TIMEOUT_S:g} s"
            break
        except OSError as error:
            problem = error.strerror or error
        else:
            writer.close()
            return
    raise UnavailableError(
        f"Nothing answers at {endpoint.authority} ({problem}). Start the server first, or correct the address."
    )


def between(held_rps: float, failed_rps: float) -> Estimate:
    """The highest rate that holds: the one that held, knowing that it may be anything below the one that failed.

    The standard error is that of a uniform distribution between the two.
    """
    return Estimate(value=held_rps, low=held_rps, high=failed_rps, std_error=(failed_rps - held_rps) / math.sqrt(12))


def _below_all(
    best: Measurement, probes: Sequence[RateProbe], search: RateSearch, limits: tuple[Limit, ...], after_s: float
) -> Measurement:
    """What a search shows that was ended with its highest rate surely below some limits."""
    assert search.held_rps is not None
    assert search.failed_rps is not None
    name = Metric.MAX_ARRIVAL_RATE.value
    bound = OneSided(value=search.failed_rps, side=Side.AT_MOST)
    return replace(
        best,
        metrics={**best.metrics, name: between(search.held_rps, search.failed_rps)},
        probes=tuple(probes),
        ended_early=EarlyEnd(after_s=after_s, bounds={name: bound}, limits=limits),
    )


def _capacity(result: LoadResult, rate_rps: float) -> float | None:
    """Completed requests/s of a server that does not keep up with the offered rate; `None` if it does."""
    finished = result.records.finished_s[result.records.completed]
    # The first half of a load cut short may have been spent on filling the queue.
    start_s = result.records.ended_s / 2
    served = float((finished >= start_s).sum()) / (result.records.ended_s - start_s)
    return served if 0 < served < 0.95 * rate_rps else None


def _no_row(index: int) -> None:
    return None
