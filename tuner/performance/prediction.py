"""Predicted TTFT and TPOT of many serving runs at once, with intervals, or the reason why not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.errors import ModelError, did_you_mean
from tuner.hardware import Hardware, plain_name
from tuner.model_graph import ModelGraph
from tuner.operators import Experts, MatMul
from tuner.performance.behaviour import Behaviour, Ways, forecast
from tuner.performance.corrections import BORROWED, Engine, Learned, Spread
from tuner.performance.grid import Array
from tuner.performance.memory import running_sequences
from tuner.performance.operator_table import OperatorTable
from tuner.performance.serving_row import Declined, ServingRow, effective_shard, resolved_formats
from tuner.performance.steady_state import OPENING_SHARE, POLLED_STEPS, ClosedLoads, latencies
from tuner.performance.step_time import StepLoads, StepParts, StepTime
from tuner.step import NumberFormat, Shard
from tuner.units import format_bytes

ModelSource = Callable[[str, NumberFormat | None], ModelGraph]
"""Reads a model by name, its weights as stored or in another format; raises ModelError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Of one run; times in s.

    Attributes:
        ttft_s, tpot_s: means.
        ttft_interval_s, tpot_interval_s: 90 % intervals.
        origin: `predicted`, or `predicted (nearest device ...)`, or with calibration.
        reason: why there is none; then the times are `None`.
        behaviours: with a place for every client and with one less, where the run may have had either; else empty.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    ttft_interval_s: tuple[float, float] | None = None
    tpot_interval_s: tuple[float, float] | None = None
    origin: str = ""
    reason: str = ""
    behaviours: tuple[Behaviour, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Deployment:
    """What rows share that differ only in load: read and derived once."""

    table: OperatorTable
    graph: ModelGraph
    engine: Engine
    shard: Shard
    prompt_shard: Shard
    cache: NumberFormat
    wide: bool
    origin: str
    bounds: tuple[float, float, float, float]
    timing: int
    dependent_launch: bool
    rooms: dict[float, float] = dataclasses.field(default_factory=dict)

    def room(self, tokens: float) -> float:
        """Sequences of `tokens` that its cache holds."""
        if tokens not in self.rooms:
            memory = self.table.hardware.memory_bytes
            self.rooms[tokens] = running_sequences(self.graph, self.shard, memory, tokens, self.cache, self.engine)
        return self.rooms[tokens]


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What a row needs timed; rows of one `timing` are timed together."""

    index: int
    row: ServingRow
    deployment: _Deployment
    running: float
    waiting: float
    filling: float


class Predictor:
    """Predicts runs from models, devices, operator tables and correction factors.

    Args:
        models: reads a model by name.
        tables: by device name.
        learned: factors and spreads.
    """

    def __init__(self, models: ModelSource, tables: Mapping[str, OperatorTable], learned: Learned) -> None:
        self._models, self._tables, self._learned = models, tables, learned
        self._plain_tables = {plain_name(name): table for name, table in tables.items()}
        self._graphs: dict[tuple[str, NumberFormat | None, NumberFormat | None], ModelGraph] = {}
        self._steps: dict[tuple[object, ...], StepTime] = {}
        self._deployments: dict[tuple[object, ...], _Deployment | Declined | ModelError] = {}
        self._timings: dict[tuple[object, ...], int] = {}

    def predict(self, rows: Sequence[ServingRow | Declined]) -> list[Prediction]:
        """One prediction per row, in order."""
        loads, places, refused = self.loads(rows)
        found = [Prediction(reason=reason) for reason in refused]
        if loads is None:
            return found
        factors = self._learned.corrections
        times = latencies(loads, factors)
        for index, ttft, tpot in zip(places, times.ttft_s.tolist(), times.tpot_s.tolist(), strict=True):
            deployment = self._deployment(_served(rows[index]))
            ttft_low, ttft_high, tpot_low, tpot_high = deployment.bounds
            found[index] = Prediction(
                ttft_s=ttft,
                tpot_s=tpot,
                ttft_interval_s=(ttft * ttft_low, ttft * ttft_high),
                tpot_interval_s=(tpot * tpot_low, tpot * tpot_high),
                origin=deployment.origin,
            )
        doubtful = np.flatnonzero(loads.may_be_short)
        if not doubtful.size:
            return found
        short = latencies(loads, factors, loads.may_be_short)
        share = loads.short_share[doubtful]
        indices = [places[place] for place in doubtful.tolist()]
        ways = Ways(
            odds=np.array([1.0 - share, share]),
            ttft_s=np.array([times.ttft_s[doubtful], short.ttft_s[doubtful]]),
            tpot_s=np.array([times.tpot_s[doubtful], short.tpot_s[doubtful]]),
        )
        ends = np.array([self._deployment(_served(rows[index])).bounds for index in indices]).T
        for index, prediction in zip(indices, under_doubt([found[i] for i in indices], ways, ends), strict=True):
            found[index] = prediction
        return found

    def loads(self, rows: Sequence[ServingRow | Declined]) -> tuple[ClosedLoads | None, list[int], list[str]]:
        """What `latencies` needs of the rows that can be predicted, their places, and the others' reasons."""
        plans: list[_Plan] = []
        refused = [""] * len(rows)
        for index, row in enumerate(rows):
            try:
                if isinstance(row, Declined):
                    raise row
                plans.append(self._plan(index, row))
            except (Declined, ModelError) as reason:
                refused[index] = str(reason)
        if not plans:
            return None, [], refused
        return self._timed(plans), [plan.index for plan in plans], refused

    def _plan(self, index: int, row: ServingRow) -> _Plan:
        deployment = self._deployment(row)
        batch = row.decode.batch
        if deployment.wide:
            batch = batch / deployment.shard.attention_replicas
        tokens = row.input_tokens + row.output_tokens
        longest = deployment.graph.max_context
        if longest is not None and tokens > longest:
            raise Declined(f"{tokens:g} tokens exceed the model's {longest}")
        # a run that the rule calls impossible is still predicted with one sequence at a time: rows are of runs that ran
        room = deployment.room(tokens)
        room = min(room, row.launched.places)
        running = min(batch, room)
        return _Plan(index, row, deployment, running, max(batch - room, 0.0), _filling(row, running))

    def _deployment(self, row: ServingRow) -> _Deployment:
        prefill = None if row.prefill is None else row.prefill.shard
        key = (
            row.model, row.device, row.engine.value, row.weights, row.experts, row.quantized, row.decode.shard, prefill,
        )  # fmt: skip
        if key not in self._deployments:
            try:
                self._deployments[key] = self._read_deployment(row)
            except (Declined, ModelError) as reason:
                self._deployments[key] = reason
        known = self._deployments[key]
        if isinstance(known, _Deployment):
            return known
        raise known.with_traceback(None)  # the one of the last row would be kept, and grow

    def _read_deployment(self, row: ServingRow) -> _Deployment:
        table = self._tables.get(row.device) or self._plain_tables.get(plain_name(row.device))
        if table is None:
            near = did_you_mean(row.device.lower(), self._tables)
            raise Declined(f"device {row.device!r} is not in the catalogue. {near} Or add it to your own file")
        graph = self._graph(row)
        if not graph.generates:
            raise Declined(f"{row.model} ({graph.family}) generates no tokens, so that there is no TTFT or TPOT")
        hardware = table.hardware
        shard, wide = effective_shard(graph, row.decode.shard, hardware.node_devices)
        prompt_shard = shard
        if wide:  # prompts have groups of one node each to themselves
            prompt_shard = Shard(attention_replicas=hardware.node_devices, expert_parallel=hardware.node_devices)
        if row.prefill is not None:
            prompt_shard, _ = effective_shard(graph, row.prefill.shard, hardware.node_devices)
        apart = wide or row.prefill is not None
        if not apart:
            self._check_memory(row, graph, shard, hardware)
        cache = self._cache(row, hardware)
        origin = "predicted"
        heaviest = max(
            (operator for operator in graph.operators if isinstance(operator, MatMul | Experts)),
            key=lambda operator: operator.weight_bytes(shard),
        )
        borrowed = table.borrows(heaviest.format, isinstance(heaviest, Experts))
        if borrowed:
            origin += f" (no table of {hardware.name}: scaled from {table.measured.name} by roofline)"
        factor = (2.0 if apart else 1.0) * (1.5 if graph.assumptions else 1.0)
        bounds: list[float] = []
        for metric in ("ttft", "tpot"):
            # factors that are being learned have no spreads yet
            spread = self._learned.spread(metric, graph.has_experts) if self._learned.spreads else Spread(low=0, high=0)
            wider = (spread.joined(BORROWED) if borrowed else spread).widened(factor)
            bounds += [math.exp(wider.low), math.exp(wider.high)]
        timing = self._timings.setdefault(
            (row.device, row.engine is Engine.VLLM, id(graph), shard, prompt_shard, cache), len(self._timings)
        )
        ends = (bounds[0], bounds[1], bounds[2], bounds[3])
        # TensorRT-LLM launches kernels as programmatic dependents (`TRTLLM_ENABLE_PDL`); it shows on Blackwell alone
        dependent = row.engine is Engine.TRTLLM and hardware.computes(NumberFormat.NVFP4)
        return _Deployment(table, graph, row.engine, shard, prompt_shard, cache, wide, origin, ends, timing, dependent)

    def _check_memory(self, row: ServingRow, graph: ModelGraph, shard: Shard, hardware: Hardware) -> None:
        """Declines what surely never ran: weights, in the row's format or their own, beyond all of the memory."""
        own = self._read(row.model, None, None)
        needed = min(graph.weight_bytes(shard), own.weight_bytes(shard))
        if needed > hardware.memory_bytes:
            raise Declined(
                f"weights of {format_bytes(needed)} on each GPU exceed the {format_bytes(hardware.memory_bytes)} "
                f"that {hardware.name} has"
            )

    def _graph(self, row: ServingRow) -> ModelGraph:
        own = self._read(row.model, None, None)
        weights, experts = resolved_formats(row, own)
        return self._read(row.model, weights, experts)

    def _read(self, model: str, weights: NumberFormat | None, experts: NumberFormat | None) -> ModelGraph:
        key = (model, weights, experts)
        if key not in self._graphs:
            graph = self._models(model, weights)
            if experts is not None and experts is not weights:
                routed = [op for op in self._models(model, experts).operators if isinstance(op, Experts)]
                replaced = tuple(routed.pop(0) if isinstance(op, Experts) else op for op in graph.operators)
                graph = dataclasses.replace(graph, operators=replaced)
            self._graphs[key] = graph
        return self._graphs[key]

    def _cache(self, row: ServingRow, hardware: Hardware) -> NumberFormat:
        """Quantised models are served with an 8-bit cache by TensorRT-LLM, and by all on devices with FP4."""
        eight = row.quantized and (row.engine.value == "trtllm" or hardware.computes(NumberFormat.NVFP4))
        return NumberFormat.FP8 if eight else NumberFormat.BF16

    def _timed(self, plans: list[_Plan]) -> ClosedLoads:
        groups: dict[int, list[int]] = {}
        for place, plan in enumerate(plans):
            groups.setdefault(plan.deployment.timing, []).append(place)
        names = [field.name for field in dataclasses.fields(StepParts)]
        sums = {part: {name: np.zeros(len(plans)) for name in names} for part in ("decode", "prompt", "chunk")}
        beside_prompts = np.zeros(len(plans))
        for places in groups.values():
            first = plans[places[0]].deployment
            inputs = np.array([plans[place].row.input_tokens for place in places])
            outputs = np.array([plans[place].row.output_tokens for place in places])
            running = np.array([plans[place].running for place in places])
            decode, prompt = self._step(first, first.shard, decoding=True), self._step(first, first.prompt_shard)
            full = np.array([plans[place].filling for place in places])
            drafted = np.array([float(plans[place].row.launched.drafted) for place in places])
            decoding = StepLoads.decode(running, inputs + outputs / 2.0, 1.0 + drafted)
            beside_prompts[places] = decode.beside_prompts(decoding)
            timed = {
                "decode": (decode.parts(decoding), np.ones_like(full)),
                "prompt": (prompt.parts(StepLoads.prefill(np.ones_like(inputs), inputs)), np.ones_like(full)),
                "chunk": (prompt.parts(StepLoads.prefill(full, inputs)), full),
            }
            for part, (parts, share) in timed.items():
                for name in names:
                    sums[part][name][places] = getattr(parts, name) / share
        rows = [plan.row for plan in plans]
        return ClosedLoads(
            decode=StepParts(**sums["decode"]),
            beside_prompts=beside_prompts,
            prompt=StepParts(**sums["prompt"]),
            chunked_prompt=StepParts(**sums["chunk"]),
            layers=np.array([float(plan.deployment.graph.layers) for plan in plans]),
            running=np.array([plan.running for plan in plans]),
            waiting=np.array([plan.waiting for plan in plans]),
            queueing=np.array([_queueing(plan) for plan in plans]),
            filling=np.array([plan.filling for plan in plans]),
            drafted=np.array([float(row.launched.drafted) for row in rows]),
            output_tokens=np.array([row.output_tokens for row in rows]),
            engines=[row.engine for row in rows],
            serial_host=np.array([row.serial_host for row in rows]),
            # a step of one sequence is captured wherever graphs are
            captured=np.array([plan.row.launched.captured or plan.running <= 1.0 for plan in plans]),
            dependent_launch=np.array([plan.deployment.dependent_launch for plan in plans]),
            prompts_first=np.array([row.engine is Engine.SGLANG and not row.launched.mixed_chunks for row in rows]),
            fixed_lengths=np.array([row.fixed_lengths for row in rows]),
            separate_prefill=np.array([plan.deployment.wide or plan.row.prefill is not None for plan in plans]),
            polling=np.array([row.launched.polled_steps / POLLED_STEPS for row in rows]),
            opening_share=np.array([OPENING_SHARE * row.opening_burst for row in rows]),
            attention_replicas=np.array([float(plan.deployment.shard.attention_replicas) for plan in plans]),
            balanced_steps=np.array([float(row.launched.balanced_steps) for row in rows]),
            replicated=np.array(
                [plan.deployment.shard.attention_replicas > 1 and not plan.deployment.wide for plan in plans]
            ),
        )

    def _step(self, deployment: _Deployment, shard: Shard, decoding: bool = False) -> StepTime:
        gathers = deployment.engine.gathers and shard.attention_replicas > 1
        dispatches = decoding and not deployment.engine.gathers and shard.attention_replicas > 1
        key = (deployment.table.hardware.name, id(deployment.graph), shard, deployment.cache, dispatches, gathers)
        if key not in self._steps:
            graph, table = deployment.graph, deployment.table
            self._steps[key] = StepTime(graph, table, shard, deployment.cache, dispatches, gathers)
        return self._steps[key]


def under_doubt(predictions: Sequence[Prediction], ways: Ways, ends: Array) -> list[Prediction]:
    """Predictions of runs that may have gone either way: point forecasts, and intervals over all likely ways.

    Args:
        predictions: n of them, to take the rest from.
        ways: theirs.
        ends: of the intervals over the times of a way: TTFT's low and high, TPOT's, shape (4, n).
    """
    points = np.array([forecast(times, ways.odds) for times in (ways.ttft_s, ways.tpot_s)])
    intervals = np.concatenate([ways.range(times) for times in (ways.ttft_s, ways.tpot_s)]) * ends
    told = zip(predictions, points.T.tolist(), intervals.T.tolist(), ways.told(), strict=True)
    return [
        dataclasses.replace(
            prediction,
            ttft_s=ttft,
            tpot_s=tpot,
            ttft_interval_s=(bounds[0], bounds[1]),
            tpot_interval_s=(bounds[2], bounds[3]),
            behaviours=behaviours,
        )
        for prediction, (ttft, tpot), bounds, behaviours in told
    ]


def _filling(row: ServingRow, running: float) -> float:
    """Prompts that a step's budget of tokens holds beside `running` sequences, at least one."""
    launched, tokens = row.launched, row.input_tokens
    if launched.whole_prompts:
        return max(math.floor((launched.token_budget - running) / tokens), 1.0)
    return max(launched.token_budget / tokens, 1.0)


def _queueing(plan: _Plan) -> float:
    """Clients whose prompts one copy of attention computes: those it decodes for, unless prompts are apart."""
    if plan.row.launched.apart is None or plan.row.prefill is None:
        return plan.running
    return plan.row.prefill.batch


def _served(row: ServingRow | Declined) -> ServingRow:
    assert isinstance(row, ServingRow)
    return row
