"""What a server with continuous batching answers under a workload, in closed form and for many configurations at once.

From TTFT and TPOT of b running sequences (`prediction`) follows how long a request stays; the b that a load settles at
is where arrivals equal departures (Little's law), at most what places, token budget and cache allow. What finds no
place waits: in a closed loop for one of the others to leave, in an open one as in a queue with as many servers as
places

    Wq = stay / c * rho^(sqrt(2 (c + 1)) - 1) / (1 - rho) * (1 + cv^2) / 2          (Sakasegawa 1977, c places)

Token budgets below the one that predictions are made for compute prompts in more and smaller pieces: their extra time
is that of the pieces, of which each running sequence meets its share.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from tuner.errors import ModelError
from tuner.metric import STANDARD_STATISTICS, Metric, MetricRef
from tuner.model_graph import ModelGraph
from tuner.performance.corrections import DEFAULT_BUDGET, Engine, Learned
from tuner.performance.grid import Array
from tuner.performance.memory import memory_need
from tuner.performance.operator_table import OperatorTable
from tuner.performance.predicted_metrics import PredictedMetrics
from tuner.performance.prediction import Predictor
from tuner.performance.serving_row import Placement, ServingRow
from tuner.performance.simulation.traffic import mean_rate
from tuner.performance.steady_state import prompt_s
from tuner.performance.step_time import StepLoads, StepTime
from tuner.serving import ContinuousBatching
from tuner.step import NumberFormat, Shard
from tuner.trial import TrialPlan
from tuner.units import format_bytes
from tuner.workload import ClosedLoop, Lengths, LengthShape, OpenLoop, RateBracket, TokenShapes, TraceReplay

_CLIENT_S: Final = 1e-3
_SIGMA: Final = {Metric.TTFT: 0.45, Metric.TPOT: 0.10, Metric.ITL: 0.25, Metric.LATENCY: 0.15}
"""Standard deviation of the logarithm of single requests around the mean, where lengths are all the same."""
_EIGHT_BITS: Final = (NumberFormat.FP8, NumberFormat.FP8_BLOCK, NumberFormat.INT8, NumberFormat.INT4)
_SATURATED: Final = 0.98
_RATES: Final = (Metric.THROUGHPUT, Metric.OUTPUT_THROUGHPUT, Metric.TOTAL_THROUGHPUT)
_FIRM: Final = 0.03
"""Spread of the throughput of a server that surely keeps up: what arrives is what it answers."""


@dataclass(frozen=True, slots=True)
class _Course:
    """How times grow with the number running, for configurations that share shard and formats."""

    running: Array
    ttft_s: Array
    tpot_s: Array
    ttft_spread: float
    tpot_spread: float
    origin: str

    def at(self, running: Array) -> tuple[Array, Array]:
        """TTFT and TPOT, interpolated between logarithms."""
        place, known = np.log(np.maximum(running, 1e-3)), np.log(self.running)
        return np.exp(np.interp(place, known, np.log(self.ttft_s))), np.exp(
            np.interp(place, known, np.log(self.tpot_s))
        )


@dataclass(frozen=True, slots=True)
class _Loads:
    """Configurations of one course: what they allow, arrays of one shape."""

    course: _Course
    places: Array
    extra_s: Array
    chunks: Array


class ContinuousServing:
    """Predicts configurations of one model on one device type.

    Args:
        read: the model with its weights in a format, `None` as its files say.
        table: of one GPU; of a number of threads on CPUs.
        learned: correction factors and spreads.
        plan: how a trial is measured.
        max_tokens: longest sequence that the server accepts.
    """

    def __init__(
        self,
        read: Callable[[NumberFormat | None], ModelGraph],
        table: Callable[[int], OperatorTable],
        learned: Learned,
        plan: TrialPlan,
        max_tokens: int,
    ) -> None:
        self._read, self._table = functools.cache(read), functools.cache(table)
        self._learned, self._plan, self._max_tokens = learned, plan, max_tokens
        shapes = plan.workload.requests
        assert isinstance(shapes, TokenShapes)
        self._shapes = shapes
        self._inputs, self._outputs = mean_lengths(plan)
        self._refs = sorted(
            {*plan.metrics, *(slo.metric for slo in plan.slos)}
            | {MetricRef(metric, name) for metric in _SIGMA for name in STANDARD_STATISTICS},
            key=str,
        )

    def predict(self, settings: Sequence[ContinuousBatching]) -> PredictedMetrics:
        """Every metric of the plan that can be told, without costs."""
        refusals = [self.refusal(each) or "" for each in settings]
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, each in enumerate(settings):
            if not refusals[place]:
                shared = each.prefix_caching and self._shapes.shared_prefix_tokens > 0
                key = (each.tensor, each.pipeline, each.weights, each.cache, each.threads, shared)
                groups.setdefault(key, []).append(place)
        values: dict[MetricRef, Array] = {}
        spreads: dict[MetricRef, Array] = {}
        origins: dict[str, None] = {}
        for places in groups.values():
            loads = self._loads([settings[place] for place in places])
            if isinstance(loads, str):
                for place in places:
                    refusals[place] = loads
                continue
            origins[loads.course.origin] = None
            told, firm = self._metrics(loads)
            for ref, found in told.items():
                values.setdefault(ref, np.full(len(settings), np.nan))[places] = found
                width = np.full(len(places), loads.course.ttft_spread)
                if ref.metric is not Metric.TTFT:
                    width[:] = loads.course.tpot_spread
                if ref.metric in _RATES:
                    width[firm] = _FIRM
                spreads.setdefault(ref, np.full(len(settings), np.nan))[places] = width
        return PredictedMetrics(
            values=values, spreads=spreads, refusals=tuple(refusals), origin="; ".join(origins) or "predicted"
        )

    def refusal(self, settings: ContinuousBatching) -> str | None:
        """Why a configuration certainly cannot start: its shard does not divide the model, or it does not fit."""
        key = (settings.tensor, settings.pipeline, settings.weights, settings.cache)
        return self._refusal(*key, settings.memory_share, settings.cache_bytes, settings.threads)

    @functools.cache  # noqa: B019 - lives as long as the object, which is a prediction's
    def _refusal(
        self,
        tensor: int,
        pipeline: int,
        weights: NumberFormat | None,
        cache: NumberFormat,
        share: float,
        cache_bytes: float | None,
        threads: int,
    ) -> str | None:
        try:
            graph = self._read(weights)
            shard = _shard(tensor, pipeline)
            graph.check(shard)
        except ModelError as error:
            return str(error)
        memory = self._table(threads).hardware.memory_bytes
        if cache_bytes is not None:
            needed = graph.weight_bytes(shard) * shard.gpus + cache_bytes
            return None if needed <= memory else "weights and cache exceed the memory of the device"
        need = memory_need(graph, shard, memory, float(self._max_tokens), cache=cache, utilization=share)
        if need.cache_bytes <= 0:
            held = (
                f"weights of {format_bytes(need.weights_bytes)} and {format_bytes(need.workspace_bytes)} of workspace"
            )
            return f"{held} exceed what the engine may take of each GPU's {format_bytes(memory)}"
        if need.sequences < 1.0:
            longest = format_bytes(need.cache_bytes_per_sequence)
            return f"the cache of one longest sequence ({longest}) does not fit beside the weights on each GPU"
        return None

    def _loads(self, settings: Sequence[ContinuousBatching]) -> _Loads | str:
        first = settings[0]
        graph, shard, table = (
            self._read(first.weights),
            _shard(first.tensor, first.pipeline),
            self._table(first.threads),
        )
        inputs = self._inputs
        if first.prefix_caching:
            inputs = max(inputs - self._shapes.shared_prefix_tokens, 1.0)
        places = np.array([self._places(each, graph, shard, table) for each in settings])
        arrival = self._plan.workload.arrival
        most = float(places.max())
        if isinstance(arrival, ClosedLoop):
            most = min(most, float(arrival.clients))
        course = self._course(first, graph, table, inputs, max(most, 1.0))
        if isinstance(course, str):
            return course
        budgets = np.array([float(each.max_num_batched_tokens) for each in settings])
        left = np.maximum(budgets - np.minimum(places, budgets / 2.0), 16.0)
        step = StepTime(graph, table, shard, first.cache)
        piece = np.minimum(left, inputs)
        pieces = np.ceil(inputs / piece)
        factor = float(self._learned.corrections.of("prefill", [Engine.VLLM])[0])
        whole = max(DEFAULT_BUDGET / inputs, 1.0)
        full = factor * float(prompt_s(step.parts(StepLoads.prefill(np.array([whole]), np.array([inputs]))))[0]) / whole
        cut = factor * pieces * prompt_s(step.parts(StepLoads.prefill(np.ones_like(piece), piece)))
        extra = np.where(left >= DEFAULT_BUDGET, 0.0, np.maximum(cut - full, 0.0))
        # beside one another, several prompts fill a step that one alone would not
        beside = np.minimum(left / inputs, np.maximum(places, 1.0))
        return _Loads(course, places, extra / np.maximum(beside, 1.0), pieces)

    def _places(self, settings: ContinuousBatching, graph: ModelGraph, shard: Shard, table: OperatorTable) -> float:
        """Sequences that can run at once."""
        tokens = self._inputs + self._outputs / 2.0
        if settings.cache_bytes is not None:
            each = graph.cache_bytes(tokens, shard, settings.cache) * shard.gpus
            room = settings.cache_bytes / max(each, 1.0)
        else:
            need = memory_need(
                graph, shard, table.hardware.memory_bytes, tokens, min(settings.max_num_batched_tokens, DEFAULT_BUDGET),
                settings.cache, settings.memory_share,
            )  # fmt: skip
            room = need.sequences
        return max(1.0, min(room, float(settings.max_num_seqs), float(settings.max_num_batched_tokens)))

    def _course(
        self, first: ContinuousBatching, graph: ModelGraph, table: OperatorTable, inputs: float, most: float
    ) -> _Course | str:
        running = np.unique(np.concatenate([2.0 ** np.arange(0, math.ceil(math.log2(most)) + 1), [most]]))
        name = table.hardware.name
        predictor = Predictor(lambda _, weights: self._read(weights), {name: table}, self._learned)
        fixed = self._shapes.output_tokens.shape is LengthShape.CONSTANT and isinstance(
            self._plan.workload.arrival, ClosedLoop
        )
        rows = [
            ServingRow(
                model=graph.name,
                device=name,
                engine=Engine.VLLM,
                serial_host=False,
                weights=first.weights,
                experts=first.weights,
                quantized=first.weights in _EIGHT_BITS,
                input_tokens=inputs,
                output_tokens=self._outputs,
                decode=Placement(shard=_shard(first.tensor, first.pipeline), replicas=1.0, batch=float(batch)),
                prefill=None,
                fixed_lengths=fixed,
                opening_burst=False,
            )
            for batch in running
        ]
        found = predictor.predict(rows)
        if (reason := next((each.reason for each in found if each.tpot_s is None), None)) is not None:
            return reason
        last = found[-1]
        return _Course(
            running=running,
            ttft_s=np.array([each.ttft_s for each in found], dtype=np.float64),
            tpot_s=np.array([each.tpot_s for each in found], dtype=np.float64),
            ttft_spread=_half_width(last.ttft_interval_s),
            tpot_spread=_half_width(last.tpot_interval_s),
            origin=last.origin,
        )

    def _stay(self, loads: _Loads, running: Array) -> tuple[Array, Array, Array]:
        """Seconds of a request in a place, and its TTFT and TPOT there."""
        ttft, tpot = loads.course.at(running)
        met = np.minimum(np.maximum(running - 1.0, 0.0), self._outputs)
        tpot = tpot + met * loads.extra_s / self._outputs
        ttft = ttft + loads.extra_s + np.maximum(loads.chunks - 1.0, 0.0) * tpot * (running > 1.0)
        return ttft + (self._outputs - 1.0) * tpot, ttft, tpot

    def _metrics(self, loads: _Loads) -> tuple[dict[MetricRef, Array], NDArray[np.bool_]]:
        """Metrics, and where the server surely keeps up with what arrives."""
        arrival = self._plan.workload.arrival
        never = np.zeros(loads.places.shape, dtype=bool)
        if isinstance(arrival, ClosedLoop):
            return self._of_clients(loads, arrival), never
        if isinstance(arrival, OpenLoop) and isinstance(arrival.rate_rps, RateBracket):
            return self._of_highest_rate(loads, arrival.rate_rps), never
        rate = mean_rate(arrival) if isinstance(arrival, TraceReplay) else float(arrival.rate_rps)  # type: ignore[arg-type]
        told, _, load = self._of_rates(loads, np.full(loads.places.shape, rate))
        return told, load * math.exp(loads.course.tpot_spread) < 1.0

    def _of_clients(self, loads: _Loads, arrival: ClosedLoop) -> dict[MetricRef, Array]:
        clients, think = float(arrival.clients), arrival.think_time_s + _CLIENT_S
        running = np.minimum(loads.places, clients)
        for _ in range(30):
            stay, _, _ = self._stay(loads, running)
            wanted = clients * stay / (stay + think)
            running = np.maximum(np.sqrt(running * np.minimum(loads.places, wanted)), 1e-3)
        stay, ttft, tpot = self._stay(loads, running)
        rate = running / stay
        wait = np.maximum(clients / rate - stay - think, 0.0)
        return self._told(rate, ttft + wait, tpot, wait, running, loads)

    def _of_rates(self, loads: _Loads, rates: Array) -> tuple[dict[MetricRef, Array], NDArray[np.bool_], Array]:
        """Metrics at each configuration's rate, whether the rate held (with every bound), and the load."""
        low, high = np.full(loads.places.shape, 1e-3), loads.places.copy()
        for _ in range(40):
            middle = np.sqrt(low * high)
            enough = rates * self._stay(loads, middle)[0] <= middle
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        _, ttft, tpot = self._stay(loads, high)
        full, _, _ = self._stay(loads, loads.places)
        load = rates * full / loads.places
        steady = np.minimum(load, _SATURATED)
        arrival = self._plan.workload.arrival
        cv = arrival.cv if isinstance(arrival, OpenLoop) and arrival.process.value != "constant" else 1.0
        power = np.sqrt(2.0 * (loads.places + 1.0)) - 1.0
        wait = full / loads.places * steady**power / (1.0 - steady) * (1.0 + cv**2) / 2.0
        wait = wait + np.maximum(load - 1.0, 0.0) * self._plan.load_s / 2.0
        served = np.minimum(rates, loads.places / full)
        told = self._told(served, ttft + wait, tpot, wait, high, loads)
        held = load < 1.0
        for slo in self._plan.slos:
            if slo.metric in told:
                held &= (told[slo.metric] <= slo.bound) if slo.at_most else (told[slo.metric] >= slo.bound)
        return told, held, load

    def _of_highest_rate(self, loads: _Loads, bracket: RateBracket) -> dict[MetricRef, Array]:
        """Bisects as a trial does."""
        low, high = (np.full(loads.places.shape, end) for end in (bracket.low, bracket.high))
        _, held_low, _ = self._of_rates(loads, low)
        _, held_high, _ = self._of_rates(loads, high)
        low = np.where(held_high, high, low)
        for _ in range(math.ceil(math.log2(math.log(bracket.high / bracket.low) / math.log1p(bracket.resolution))) + 1):
            middle = np.sqrt(low * high)
            held = self._of_rates(loads, middle)[1]
            low, high = np.where(held, middle, low), np.where(held, high, middle)
        told = self._of_rates(loads, low)[0]
        return {**told, MetricRef(Metric.MAX_ARRIVAL_RATE): np.where(held_low, low, np.nan)}

    def _told(
        self, rate: Array, ttft: Array, tpot: Array, wait: Array, running: Array, loads: _Loads
    ) -> dict[MetricRef, Array]:
        latency = ttft + (self._outputs - 1.0) * tpot
        means = {Metric.TTFT: ttft, Metric.TPOT: tpot, Metric.ITL: tpot, Metric.LATENCY: latency}
        own = _variation(self._shapes.output_tokens)
        sigmas = {
            Metric.TTFT: np.where(wait > 0.3 * ttft, 0.7, _SIGMA[Metric.TTFT]),
            Metric.TPOT: np.full(rate.shape, _SIGMA[Metric.TPOT]),
            Metric.ITL: np.full(rate.shape, _SIGMA[Metric.ITL]),
            Metric.LATENCY: np.sqrt(_SIGMA[Metric.LATENCY] ** 2 + own**2),
        }
        sigmas[Metric.LATENCY] = np.broadcast_to(sigmas[Metric.LATENCY], rate.shape)
        met = np.ones(rate.shape)
        for slo in self._plan.slos:
            if slo.metric.metric in (Metric.TTFT, Metric.TPOT, Metric.LATENCY) and slo.at_most:
                mean, sigma = means[slo.metric.metric], sigmas[slo.metric.metric]
                met = np.minimum(met, ndtr((np.log(slo.bound / mean) + sigma**2 / 2.0) / sigma))
        found = {
            MetricRef(Metric.THROUGHPUT): rate,
            MetricRef(Metric.OUTPUT_THROUGHPUT): rate * self._outputs,
            MetricRef(Metric.TOTAL_THROUGHPUT): rate * (self._inputs + self._outputs),
            MetricRef(Metric.GOODPUT): rate * met,
            MetricRef(Metric.ERROR_RATE): np.where(ttft > self._plan.request_timeout_s, 1.0, 0.0),
        }
        for ref in self._refs:
            if ref.metric in means:
                found[ref] = _statistic(means[ref.metric], sigmas[ref.metric], ref)
        return found


def mean_lengths(plan: TrialPlan) -> tuple[float, float]:
    """Mean input and output tokens of a plan's requests."""
    shapes, arrival = plan.workload.requests, plan.workload.arrival
    assert isinstance(shapes, TokenShapes)
    inputs, outputs = _mean(shapes.input_tokens), _mean(shapes.output_tokens)
    if isinstance(arrival, TraceReplay):
        rows = arrival.requests
        inputs = math.fsum(row.input_tokens or inputs for row in rows) / len(rows)
        outputs = math.fsum(row.output_tokens or outputs for row in rows) / len(rows)
    return max(inputs, float(shapes.shared_prefix_tokens), 1.0), max(outputs, 1.0)


def _mean(lengths: Lengths) -> float:
    if lengths.shape is LengthShape.UNIFORM:
        return (lengths.low + lengths.high) / 2.0
    return min(max(lengths.mean, lengths.low), lengths.high)


def _variation(lengths: Lengths) -> float:
    """Standard deviation of the logarithm, about."""
    if lengths.shape is LengthShape.CONSTANT:
        return 0.0
    mean = _mean(lengths)
    spread = (lengths.high - lengths.low) / math.sqrt(12.0) if lengths.shape is LengthShape.UNIFORM else lengths.std
    return math.sqrt(math.log1p((spread / mean) ** 2))


def _statistic(mean: Array, sigma: Array, ref: MetricRef) -> Array:
    if ref.percentile is None:
        return mean
    return np.asarray(mean * np.exp(float(ndtri(ref.percentile / 100.0)) * sigma - sigma**2 / 2.0))


def _shard(tensor: int, pipeline: int) -> Shard:
    return Shard(tensor=tensor, expert_tensor=tensor, pipeline=pipeline)


def _half_width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return math.log(interval[1] / interval[0]) / 2.0
