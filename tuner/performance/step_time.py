"""Time of one forward pass: the sum of its operators, kept apart by what bounds them.

Loads are arrays: one call costs all configurations that share model, device and shard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from tuner.model_graph import ModelGraph
from tuner.operators import (
    AllReduce,
    Attention,
    Experts,
    LatentAttention,
    LinearAttention,
    MatMul,
    Operator,
    Pointwise,
)
from tuner.performance.grid import Array
from tuner.performance.operator_table import OperatorTable
from tuner.step import NumberFormat, Rows, Shard
from tuner.traced_operators import Convolution, TracedWork

_KERNELS: Final[dict[type, float]] = {LatentAttention: 8.0, LinearAttention: 8.0, Experts: 2.0}
"""Kernels launched for one operator over prompts, about, where it is not one: around a latent softmax the norms,
rotation, concatenations and the cache's write; convolution, gates and six of a chunked scan; choosing experts."""

_REPLAYED: Final[dict[type, float]] = {**_KERNELS, Attention: 4.0, Experts: 8.0}
"""The same in a decode step, by vLLM's code: rotation, the cache's write, attention and the joining of its splits
(`v1/attention/backends/flash_attn.py`); choosing experts, sorting tokens, two products, the activation, a
quantisation before each product, and the sum (`fused_moe/fused_moe.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoads:
    """As `tuner.step.StepLoad`, one entry per configuration; a prompt's chunk is `chunk` tokens at a time.

    Attributes:
        prefill_sequences: prompts computed together.
        prefill_tokens: tokens of each of them.
        prefill_context: tokens of each that were cached before.
        decode_sequences: sequences that produce tokens.
        decode_context: tokens that each of those attends to.
        decode_tokens: tokens that each of them computes: one, and those drafted that a step verifies.
    """

    prefill_sequences: Array
    prefill_tokens: Array
    prefill_context: Array
    decode_sequences: Array
    decode_context: Array
    decode_tokens: Array | float = 1.0

    @classmethod
    def prefill(cls, sequences: Array, tokens: Array) -> StepLoads:
        """Prompts alone, from nothing."""
        nothing = np.zeros_like(np.asarray(sequences, dtype=np.float64))
        return cls(
            prefill_sequences=np.asarray(sequences, dtype=np.float64),
            prefill_tokens=np.asarray(tokens, dtype=np.float64),
            prefill_context=nothing,
            decode_sequences=nothing,
            decode_context=nothing,
        )

    @classmethod
    def decode(cls, sequences: Array, context: Array, tokens: Array | float = 1.0) -> StepLoads:
        """Decoding alone."""
        nothing = np.zeros_like(np.asarray(sequences, dtype=np.float64))
        return cls(
            prefill_sequences=nothing,
            prefill_tokens=nothing,
            prefill_context=nothing,
            decode_sequences=np.asarray(sequences, dtype=np.float64),
            decode_context=np.asarray(context, dtype=np.float64),
            decode_tokens=tokens,
        )

    @property
    def tokens(self) -> Array:
        """Rows that run through the dense layers."""
        return self.prefill_sequences * self.prefill_tokens + self.decode_sequences * self.decode_tokens

    @property
    def sequences(self) -> Array:
        """Rows that run through the output layer."""
        return self.prefill_sequences + self.decode_sequences * self.decode_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StepParts:
    """Seconds of one step by what they are spent on, arrays of one shape.

    Attributes:
        matmul: dense products.
        attention: softmax attention, latent attention and linear attention.
        experts: routed experts.
        pointwise: normalisations, activations, embeddings, additions.
        collective: sums over GPUs.
        kernels: number of kernels launched, not seconds.
        replayed: number of kernels of a decode step, which a graph replays one after another, not seconds.
    """

    matmul: Array
    attention: Array
    experts: Array
    pointwise: Array
    collective: Array
    kernels: Array
    replayed: Array

    @property
    def total(self) -> Array:
        """Sum of the parts, s."""
        return self.matmul + self.attention + self.experts + self.pointwise + self.collective


class StepTime:
    """Times steps of one model on one device in one shard.

    Args:
        graph: the model.
        table: the device.
        shard: how it is cut.
        cache: how keys and values are kept.
        dispatches: experts on several GPUs compute only the tokens that are sent to them.
        gathers: copies of attention gather each other's tokens and scatter the experts' sums; else the cheaper of an
            all-reduce and an all-to-all counts.
    """

    def __init__(
        self,
        graph: ModelGraph,
        table: OperatorTable,
        shard: Shard,
        cache: NumberFormat = NumberFormat.BF16,
        dispatches: bool = False,
        gathers: bool = False,
    ) -> None:
        self.graph, self.table, self.shard, self.cache = graph, table, shard, cache
        self.dispatches, self.gathers = dispatches, gathers
        routed = [operator for operator in graph.operators if isinstance(operator, Experts)]
        chosen = [operator.chosen for operator in routed]
        self._router_width = max((operator.experts for operator in routed), default=0)
        # a token goes once to each expert's GPU in 8 bits and comes back in 16
        self._copies = 3.0 * min(max(chosen, default=1), shard.expert_parallel)

    @property
    def joint(self) -> tuple[Operator, ...]:
        """What all copies of attention do together: the experts on the tokens of all, and the exchange with them.

        Nothing where there is one copy.
        """
        if self.shard.attention_replicas == 1:
            return ()
        return tuple(
            operator
            for operator in self.graph.operators
            if isinstance(operator, Experts) or (isinstance(operator, AllReduce) and operator.after_experts)
        )

    @property
    def own(self) -> tuple[Operator, ...]:
        """What each copy of attention does by itself."""
        joint = self.joint
        return tuple(operator for operator in self.graph.operators if operator not in joint)

    def parts(self, loads: StepLoads, operators: Iterable[Operator] | None = None) -> StepParts:
        """Of each load (of one copy of attention), all pipeline stages one after another; some `operators` or all."""
        sums = {field.name: np.zeros(loads.tokens.shape) for field in fields(StepParts)}
        for operator in self.graph.operators if operators is None else operators:
            if getattr(operator, "rows", Rows.TOKEN) is Rows.PATCH:
                continue
            kind, seconds = self.operator_s(operator, loads)
            sums[kind] += seconds
            # of small operations every other one is fused with its neighbour
            usual = 0.5 if kind == "pointwise" else 1.0
            sums["kernels"] += operator.count * _KERNELS.get(type(operator), usual)
            if not isinstance(operator, AllReduce) or operator.group(self.shard) > 1:
                sums["replayed"] += operator.count * _REPLAYED.get(type(operator), usual)
        return StepParts(**sums)

    def beside_prompts(self, loads: StepLoads) -> Array:
        """How much longer attention takes, s, in steps that also compute prompts; of each load of decoding."""
        added = np.zeros(loads.tokens.shape)
        for operator in self.graph.operators if self.table.times_mixed_steps else ():
            if shape := self._cached_shape(operator):
                ratio = self.table.mixed_ratio(*shape, loads.decode_sequences, loads.decode_context)
                added += self.operator_s(operator, loads)[1] * (ratio - 1.0)
        return added

    def unequal_share(self, beside_prompts: bool) -> float:
        """See `OperatorTable.unequal_share`; of the model's first kind of attention."""
        shapes = (self._cached_shape(operator) for operator in self.graph.operators)
        first = next((shape for shape in shapes if shape), None)
        return self.table.unequal_share(*first, beside_prompts) if first else 0.0

    def _cached_shape(self, operator: Operator) -> tuple[int, int, int, int] | None:
        """Heads, heads of the cache, their width and the window of attention that tables time."""
        return self._shape(operator) if isinstance(operator, Attention) and operator.keeps_cache else None

    def _shape(self, operator: Attention) -> tuple[int, int, int, int]:
        return (*operator.shape(self.shard), (operator.head_dim + operator.value_dim) // 2, operator.window or 0)

    def operator_s(self, operator: Operator, loads: StepLoads) -> tuple[str, Array]:
        """Part of `StepParts` that an operator belongs to, and its seconds."""
        nothing = np.zeros(loads.tokens.shape)
        if isinstance(operator, MatMul):
            rows = (loads.tokens if operator.rows is Rows.TOKEN else loads.sequences) * operator.rows_each
            n, k = operator.shape(self.shard)
            seconds = self.table.matmul_s(operator.format, n, k, np.maximum(rows, 1.0))
            return "matmul", np.where(rows > 0, operator.count * seconds, nothing)
        if isinstance(operator, Attention):
            return "attention", operator.count * self._attention(operator, loads)
        if isinstance(operator, LatentAttention):
            return "attention", operator.count * self._latent(operator, loads)
        if isinstance(operator, LinearAttention):
            return "attention", self._linear(operator, loads)
        if isinstance(operator, Experts):
            return "experts", operator.count * self._experts(operator, loads)
        if isinstance(operator, AllReduce):
            if operator.after_experts and self.shard.attention_replicas > 1:
                return "collective", operator.count * self._exchange(operator, loads)
            message = loads.tokens * operator.width * 2.0
            return "collective", operator.count * self.table.all_reduce_s(operator.group(self.shard), message)
        return "pointwise", self._pointwise(operator, loads)

    def _exchange(self, operator: AllReduce, loads: StepLoads) -> Array:
        """One layer's exchange of tokens between the copies of attention and the experts."""
        shard, table, group = self.shard, self.table, operator.group(self.shard)
        message = loads.tokens * operator.width * 2.0
        everyone = message * shard.attention_replicas
        if self.gathers:
            # hidden states with their router logits (vLLM 0.19, `dispatch_router_logits`), sums back, and those of
            # the GPUs that share one copy of attention
            with_logits = everyone * (1.0 + self._router_width / operator.width)
            gathered = table.all_gather_s(shard.attention_replicas, with_logits, group)
            scattered = table.reduce_scatter_s(shard.attention_replicas, everyone, group)
            return gathered + scattered + table.all_reduce_s(shard.tensor, message)
        sent = loads.tokens * operator.width * self._copies
        return np.minimum(table.all_reduce_s(group, everyone), table.all_to_all_s(group, sent))

    def _attention(self, operator: Attention, loads: StepLoads) -> Array:
        heads, kv_heads, head_dim, window = self._shape(operator)
        total = np.zeros(loads.tokens.shape)
        if operator.length is not None:
            loads = StepLoads.prefill(loads.sequences, np.full(loads.sequences.shape, float(operator.length)))
        if np.any(loads.prefill_sequences > 0):
            total += self._prefill(heads, kv_heads, head_dim, window, loads, operator.causal)
        if np.any(loads.decode_sequences > 0) and operator.keeps_cache:
            decode = self.table.decode_attention_s(
                heads, kv_heads, head_dim, window, self.cache,
                np.maximum(loads.decode_sequences, 1.0), np.maximum(loads.decode_context, 1.0),
            )  # fmt: skip
            total += np.where(loads.decode_sequences > 0, decode, 0.0)
        return total

    def _prefill(
        self, heads: int, kv_heads: int, head_dim: int, window: int, loads: StepLoads, causal: bool = True
    ) -> Array:
        """A chunk after a cached prefix costs what the whole costs less what the prefix alone would."""
        batch = np.maximum(loads.prefill_sequences, 1e-3)
        whole = np.maximum(loads.prefill_context + loads.prefill_tokens, 1.0)
        seconds = self.table.prefill_attention_s(heads, kv_heads, head_dim, window, self.cache, batch, whole, causal)
        if np.any(loads.prefill_context > 0):
            before = np.maximum(loads.prefill_context, 1.0)
            prefix = self.table.prefill_attention_s(heads, kv_heads, head_dim, window, self.cache, batch, before)
            share = loads.prefill_tokens / whole
            seconds = np.where(loads.prefill_context > 0, np.maximum(seconds - prefix, share * seconds), seconds)
        return np.where(loads.prefill_sequences > 0, seconds, 0.0)

    def _latent(self, operator: LatentAttention, loads: StepLoads) -> Array:
        heads = operator.shape(self.shard)
        total = np.zeros(loads.tokens.shape)
        if np.any(loads.prefill_sequences > 0):
            head_dim = (operator.nope_dim + operator.rope_dim + operator.value_dim) // 2
            total += self._prefill(heads, heads, head_dim, 0, loads)
        if np.any(loads.decode_sequences > 0):
            width = operator.latent_dim + operator.rope_dim // 2
            limit = operator.selected or np.inf
            decode = self.table.latent_decode_s(
                heads, width, operator.latent_dim + operator.rope_dim, self.cache,
                np.maximum(loads.decode_sequences, 1.0), np.clip(loads.decode_context, 1.0, limit),
                loads.decode_tokens,
            )  # fmt: skip
            total += np.where(loads.decode_sequences > 0, decode, 0.0)
        return total

    def _linear(self, operator: LinearAttention, loads: StepLoads) -> Array:
        hardware = self.table.hardware
        state = 2.0 * operator.state_bytes(self.shard)
        width = (2 * operator.convolved + operator.value_heads * operator.value_dim) / self.shard.tensor * 2.0
        moved = loads.decode_sequences * loads.decode_tokens * state + loads.tokens * operator.count * width
        heads = operator.value_heads / self.shard.tensor
        chunked = 2.0 * (
            3 * operator.key_dim * operator.value_dim + operator.chunk * (3 * operator.key_dim + 2 * operator.value_dim)
        )
        prompt = loads.prefill_sequences * loads.prefill_tokens
        flops = operator.count * heads * prompt * chunked
        # chunked scans reach about a quarter of the tensor peak, and stream their state once per chunk
        compute = flops / (0.25 * hardware.peak_flops_per_s(NumberFormat.BF16))
        scan = state * prompt / operator.chunk / hardware.bandwidth_bytes_per_s
        return compute + scan + moved / (0.7 * hardware.bandwidth_bytes_per_s) + operator.count * 6e-6

    def _experts(self, operator: Experts, loads: StepLoads) -> Array:
        tokens = loads.tokens * self.shard.attention_replicas
        seconds = self.table.experts_s(
            operator.format, operator.hidden, operator.inner, operator.chosen, operator.experts,
            self.shard.expert_tensor, self.shard.expert_parallel, np.maximum(tokens, 1.0),
            dispatched=self.dispatches and self.shard.expert_parallel > 1,
        )  # fmt: skip
        return np.where(tokens > 0, seconds, 0.0)

    def _pointwise(self, operator: Operator, loads: StepLoads) -> Array:
        bandwidth = self.table.hardware.bandwidth_bytes_per_s
        rows = loads.sequences if getattr(operator, "rows", Rows.TOKEN) is Rows.SEQUENCE else loads.tokens
        if isinstance(operator, Pointwise):
            width = operator.width / self.shard.tensor if operator.splits else operator.width
            return (
                operator.count
                * rows
                * operator.rows_each
                * width
                * (operator.reads + operator.writes)
                * 2.0
                / bandwidth
            )
        if isinstance(operator, Convolution | TracedWork):
            return operator.count * self._traced(operator, loads)
        return rows * self.graph.hidden * 4.0 / bandwidth

    def _traced(self, operator: Convolution | TracedWork, loads: StepLoads) -> Array:
        """One run of what a traced graph says the FLOPs and bytes of: half of the peak, or the whole bandwidth."""
        hardware = self.table.hardware
        if isinstance(operator, Convolution):
            return np.where(loads.sequences > 0, self.table.convolution_s(operator, loads.sequences), 0.0)
        length = np.where(loads.prefill_sequences > 0, loads.prefill_tokens, 1.0)
        flops, moved = operator.work.at(loads.sequences, length), operator.moved.at(loads.sequences, length)
        moved = moved + operator.weight_bytes(self.shard) / operator.count
        seconds = flops / (0.5 * hardware.peak_flops_per_s(NumberFormat.BF16))
        return np.where(loads.sequences > 0, np.maximum(seconds, moved / hardware.bandwidth_bytes_per_s), 0.0)
