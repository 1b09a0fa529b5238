"""Predicted TTFT and TPOT of many serving runs at once, with intervals, or the reason why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.errors import ModelError
from tuner.hardware import Hardware
from tuner.model_graph import ModelGraph
from tuner.operators import Experts
from tuner.performance.corrections import Corrections, Learned
from tuner.performance.memory import running_sequences
from tuner.performance.operator_table import OperatorTable
from tuner.performance.serving_row import Declined, ServingRow, effective_shard, resolved_formats
from tuner.performance.steady_state import CHUNK_TOKENS, OPENING_SHARE, ClosedLoads, Latencies, latencies
from tuner.performance.step_time import StepLoads, StepParts, StepTime
from tuner.step import NumberFormat, Shard

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
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    ttft_interval_s: tuple[float, float] | None = None
    tpot_interval_s: tuple[float, float] | None = None
    origin: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a row needs timed: rows with one key are timed together."""

    index: int
    row: ServingRow
    graph: ModelGraph
    shard: Shard
    prompt_shard: Shard
    cache: NumberFormat
    running: float
    waiting: float
    wide: bool

    @property
    def key(self) -> tuple[object, ...]:
        return (self.row.device, id(self.graph), self.shard, self.prompt_shard, self.cache)


class Predictor:
    """Predicts runs from models, devices, operator tables and correction factors.

    Args:
        models: reads a model by name.
        tables: by device name.
        learned: factors and spreads.
    """

    def __init__(self, models: ModelSource, tables: Mapping[str, OperatorTable], learned: Learned) -> None:
        self._models, self._tables, self._learned = models, tables, learned
        self._graphs: dict[tuple[str, NumberFormat | None, NumberFormat | None], ModelGraph] = {}
        self._steps: dict[tuple[object, ...], StepTime] = {}

    def predict(self, rows: Sequence[ServingRow | Declined]) -> list[Prediction]:
        """One prediction per row, in order."""
        loads, places, refused = self.loads(rows)
        found = [Prediction(reason=reason) for reason in refused]
        if loads is None:
            return found
        times = latencies(loads, self._learned.corrections)
        for place, plan_index in enumerate(places):
            row = rows[plan_index]
            assert isinstance(row, ServingRow)
            found[plan_index] = self._prediction(row, times, place, bool(loads.separate_prefill[place]))
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
        table = self._tables.get(row.device)
        if table is None:
            raise Declined(f"device {row.device!r} is not in the catalogue; add it to your own file")
        graph = self._graph(row)
        hardware = table.hardware
        shard, wide = effective_shard(graph, row.decode.shard, hardware.node_devices)
        prompt_shard = shard
        if wide:  # prompts have groups of one node each to themselves
            prompt_shard = Shard(attention_replicas=hardware.node_devices, expert_parallel=hardware.node_devices)
        if row.prefill is not None:
            prompt_shard, _ = effective_shard(graph, row.prefill.shard, hardware.node_devices)
        cache = self._cache(row, hardware)
        batch = row.decode.batch
        if wide:
            batch = batch / shard.attention_replicas
        tokens = row.input_tokens + row.output_tokens
        if graph.max_context is not None and tokens > graph.max_context:
            raise Declined(f"{tokens:g} tokens exceed the model's {graph.max_context}")
        # a run that the rule calls impossible is still predicted with one sequence at a time: rows are of runs that ran
        room = running_sequences(graph, shard, hardware.memory_bytes, tokens, cache, row.engine)
        return _Plan(index, row, graph, shard, prompt_shard, cache, min(batch, room), max(batch - room, 0.0), wide)

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
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, plan in enumerate(plans):
            groups.setdefault(plan.key, []).append(place)
        names = [field.name for field in dataclasses.fields(StepParts)]
        sums = {part: {name: np.zeros(len(plans)) for name in names} for part in ("decode", "prompt", "chunk")}
        for places in groups.values():
            first = plans[places[0]]
            inputs = np.array([plans[place].row.input_tokens for place in places])
            outputs = np.array([plans[place].row.output_tokens for place in places])
            running = np.array([plans[place].running for place in places])
            decode, prompt = self._step(first, first.shard), self._step(first, first.prompt_shard)
            full = np.maximum(CHUNK_TOKENS / inputs, 1.0)
            timed = {
                "decode": (decode.parts(StepLoads.decode(running, inputs + outputs / 2.0)), np.ones_like(full)),
                "prompt": (prompt.parts(StepLoads.prefill(np.ones_like(inputs), inputs)), np.ones_like(full)),
                "chunk": (prompt.parts(StepLoads.prefill(full, inputs)), full),
            }
            for part, (parts, share) in timed.items():
                for name in names:
                    sums[part][name][places] = getattr(parts, name) / share
        rows = [plan.row for plan in plans]
        return ClosedLoads(
            decode=StepParts(**sums["decode"]),
            prompt=StepParts(**sums["prompt"]),
            chunked_prompt=StepParts(**sums["chunk"]),
            layers=np.array([float(plan.graph.layers) for plan in plans]),
            running=np.array([plan.running for plan in plans]),
            waiting=np.array([plan.waiting for plan in plans]),
            input_tokens=np.array([row.input_tokens for row in rows]),
            output_tokens=np.array([row.output_tokens for row in rows]),
            engines=[row.engine for row in rows],
            serial_host=np.array([row.serial_host for row in rows]),
            fixed_lengths=np.array([row.fixed_lengths for row in rows]),
            separate_prefill=np.array([plan.wide or plan.row.prefill is not None for plan in plans]),
            opening_share=np.array([OPENING_SHARE * row.opening_burst for row in rows]),
            replicated=np.array([plan.shard.attention_replicas > 1 and not plan.wide for plan in plans]),
        )

    def _step(self, plan: _Plan, shard: Shard) -> StepTime:
        key = (plan.row.device, id(plan.graph), shard, plan.cache)
        if key not in self._steps:
            self._steps[key] = StepTime(plan.graph, self._tables[plan.row.device], shard, plan.cache)
        return self._steps[key]

    def _prediction(self, row: ServingRow, times: Latencies, place: int, separate: bool) -> Prediction:
        table = self._tables[row.device]
        graph = self._graph(row)
        factor = (1.6 if table.is_borrowed else 1.0) * (2.0 if separate else 1.0) * (1.5 if graph.assumptions else 1.0)
        origin = "predicted"
        if table.is_borrowed:
            origin += f" (no table of {row.device}: scaled from {table.measured.name} by roofline)"
        ttft, tpot = float(times.ttft_s[place]), float(times.tpot_s[place])
        wide = {metric: self._learned.spread(metric, graph.has_experts).widened(factor) for metric in ("ttft", "tpot")}
        return Prediction(
            ttft_s=ttft,
            tpot_s=tpot,
            ttft_interval_s=(ttft * float(np.exp(wide["ttft"].low)), ttft * float(np.exp(wide["ttft"].high))),
            tpot_interval_s=(tpot * float(np.exp(wide["tpot"].low)), tpot * float(np.exp(wide["tpot"].high))),
            origin=origin,
        )

    def with_factors(self, corrections: Corrections) -> Predictor:
        """The same models and tables with other factors."""
        other = Predictor(self._models, self._tables, dataclasses.replace(self._learned, corrections=corrections))
        other._graphs, other._steps = self._graphs, self._steps
        return other
