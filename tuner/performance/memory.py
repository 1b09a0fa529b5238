"""The memory rule: whether a configuration can start, and how many sequences it can hold.

    weights + graphs and workspace + cache of at least one sequence <= utilization x memory

The rule refuses only what certainly cannot fit; what it lets through may still be slow for want of cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tuner.model_graph import ModelGraph
from tuner.performance.corrections import Engine
from tuner.step import NumberFormat, Shard
from tuner.units import format_bytes

WORKSPACE_BYTES: Final = 1.5e9
"""What an engine takes beside weights and cache at the least: context, workspace, graphs."""

UTILIZATION: Final = 0.9
"""Share of the memory that engines let themselves use by default."""

_RESERVED: Final = {Engine.VLLM: 3e9, Engine.SGLANG: 14.6e9, Engine.TRTLLM: 5e9}
"""Bytes beside weights and cache that engines likely take.

SGLang keeps 1.5 MB per token of a chunk of 8192 and 2 GB for graphs (its `mem_fraction_static`); vLLM and TensorRT-LLM
profile their largest step.
"""

_MOST_RESERVED: Final = 0.17
"""Share of a small GPU that is reserved at most; engines cut their chunks on such."""

_DOUBT: Final = 1.05
"""A queue for the cache multiplies TTFT, so none is predicted where the load exceeds the likely room by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What one GPU must hold.

    Attributes:
        weights_bytes: of its shard.
        workspace_bytes: activations of the largest step, graphs, communication buffers.
        cache_bytes_per_sequence: of one sequence at its full length.
        available_bytes: what the engine may use.
    """

    weights_bytes: float
    workspace_bytes: float
    cache_bytes_per_sequence: float
    available_bytes: float

    @property
    def cache_bytes(self) -> float:
        """What is left for the cache; negative where weights alone do not fit."""
        return self.available_bytes - self.weights_bytes - self.workspace_bytes

    @property
    def sequences(self) -> float:
        """Full-length sequences that fit at once."""
        if self.cache_bytes_per_sequence <= 0:
            return float("inf") if self.cache_bytes > 0 else 0.0
        return max(self.cache_bytes, 0.0) / self.cache_bytes_per_sequence

    @property
    def refusal(self) -> str | None:
        """Why it cannot start, or `None` where it can."""
        if self.cache_bytes <= 0:
            return (
                f"weights of {format_bytes(self.weights_bytes)} and {format_bytes(self.workspace_bytes)} of workspace "
                f"exceed the {format_bytes(self.available_bytes)} that one GPU offers"
            )
        if self.sequences < 1.0:
            return (
                f"one sequence needs {format_bytes(self.cache_bytes_per_sequence)} of cache, "
                f"{format_bytes(self.cache_bytes)} are left beside the weights"
            )
        return None


def memory_need(
    graph: ModelGraph,
    shard: Shard,
    memory_bytes: float,
    sequence_tokens: float,
    step_tokens: float = 2048.0,
    cache: NumberFormat = NumberFormat.BF16,
    utilization: float = UTILIZATION,
) -> MemoryNeed:
    """What a configuration needs of each GPU.

    Args:
        graph, shard: the model and how it is cut.
        memory_bytes: of one GPU.
        sequence_tokens: longest sequence that is served.
        step_tokens: most tokens in one step (activations).
        cache: how keys and values are kept.
        utilization: share of the memory that the engine may use.
    """
    # two live copies of the widest activation (hidden and gated feed-forward), 16 bits
    activations = step_tokens * graph.hidden * 2.0 * 8.0 / shard.tensor
    return MemoryNeed(
        weights_bytes=graph.weight_bytes(shard),
        workspace_bytes=WORKSPACE_BYTES + activations,
        cache_bytes_per_sequence=graph.cache_bytes(sequence_tokens, shard, cache),
        available_bytes=memory_bytes * utilization,
    )


def running_sequences(
    graph: ModelGraph, shard: Shard, memory_bytes: float, sequence_tokens: float, cache: NumberFormat, engine: Engine
) -> float:
    """Sequences that an engine's cache holds at once by its defaults, at least one; the others wait.

    `memory_need` bounds what can start at all; this is the likely number, with what engines reserve in practice. A
    sequence is counted at its full length: TensorRT-LLM reserves it, and vLLM preempts the last to come when all grow.
    """
    each = graph.cache_bytes(sequence_tokens, shard, cache)
    weights, reserved = graph.weight_bytes(shard), min(_RESERVED[engine], _MOST_RESERVED * memory_bytes)
    if engine is Engine.VLLM:
        left = memory_bytes * UTILIZATION - weights - reserved
    elif engine is Engine.TRTLLM:
        left = (memory_bytes - weights - reserved) * UTILIZATION
    else:
        left = memory_bytes - weights - reserved
    return max(_DOUBT * left / each, 1.0) if each > 0 else float("inf")
