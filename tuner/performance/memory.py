"""The memory rule: whether a configuration can start, and how many sequences it can hold.

    weights + graphs and workspace + cache of at least one sequence <= utilization x memory

The rule refuses only what certainly cannot fit; what it lets through may still be slow for want of cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tuner.model_graph import ModelGraph
from tuner.step import NumberFormat, Shard
from tuner.units import format_bytes

WORKSPACE_BYTES: Final = 1.5e9
"""What an engine takes beside weights and cache at the least: context, workspace, graphs."""

UTILIZATION: Final = 0.9
"""Share of the memory that engines let themselves use by default."""


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
