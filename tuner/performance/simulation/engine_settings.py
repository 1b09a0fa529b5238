"""An engine's settings by their own names, read into a shard, a scheduler and a cache format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tuner.errors import UnknownNameError, UsageError
from tuner.hardware import Hardware
from tuner.model_graph import ModelGraph
from tuner.performance.memory import UTILIZATION, memory_need
from tuner.performance.simulation.continuous import Scheduler
from tuner.step import NumberFormat, Shard

SETTINGS: Final = (
    "block_size",
    "enable_prefix_caching",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "num_gpu_blocks_override",
    "shared_prefix_tokens",
    "tensor_parallel_size",
)
"""Settings that the simulator knows, under vLLM's names (and `shared_prefix_tokens`, which is the traffic's)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What is simulated.

    Attributes:
        shard: how the model is cut.
        cache: how keys and values are kept.
        scheduler: places, budget and blocks.
    """

    shard: Shard
    cache: NumberFormat
    scheduler: Scheduler


def read_settings(values: Mapping[str, str], graph: ModelGraph, hardware: Hardware) -> EngineSettings:
    """Settings as text.

    Raises:
        UnknownNameError: a setting that the simulator does not know.
        UsageError: a value that is no number, or a model that does not fit.
        ModelError: a shard that does not divide the model.
    """
    for name in values:
        if name not in SETTINGS:
            raise UnknownNameError("setting", name, SETTINGS)
    shard = Shard.tensor_parallel(_whole(values, "tensor_parallel_size", 1))
    graph.check(shard)
    cache = NumberFormat.FP8 if values.get("kv_cache_dtype", "auto").startswith("fp8") else NumberFormat.BF16
    block = _whole(values, "block_size", 16)
    tokens = _whole(values, "max_num_batched_tokens", 8192)
    need = memory_need(
        graph, shard, hardware.memory_bytes, float(block), float(tokens), cache,
        _real(values, "gpu_memory_utilization", UTILIZATION),
    )  # fmt: skip
    if need.refusal is not None:
        raise UsageError(f"{graph.name} does not fit {hardware.label}: {need.refusal}. Raise tensor_parallel_size.")
    # a block's share of a long sequence: sliding windows keep less than their length in tokens
    length = _whole(values, "max_model_len", graph.max_context or 32768)
    per_block = graph.cache_bytes(float(length), shard, cache) / max(length / block, 1.0)
    blocks = _whole(values, "num_gpu_blocks_override", max(int(need.cache_bytes / max(per_block, 1.0)), 1))
    caching = _switch(values, "enable_prefix_caching", True)
    return EngineSettings(
        shard=shard,
        cache=cache,
        scheduler=Scheduler(
            max_num_seqs=_whole(values, "max_num_seqs", 256),
            max_num_batched_tokens=tokens,
            blocks=blocks,
            block_size=block,
            prefix_caching=caching,
            shared_prefix_tokens=_whole(values, "shared_prefix_tokens", 0) if caching else 0,
        ),
    )


def _whole(values: Mapping[str, str], name: str, default: int) -> int:
    number = _real(values, name, float(default))
    if number != int(number) or number < 0:
        raise UsageError(f"{name} is {values[name]!r}. Write a whole number of 0 or more.")
    return int(number)


def _switch(values: Mapping[str, str], name: str, default: bool) -> bool:
    text = values.get(name, str(default)).lower()
    if text not in ("true", "false"):
        raise UsageError(f"{name} is {values[name]!r}. Write true or false.")
    return text == "true"


def _real(values: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(values.get(name, default))
    except ValueError:
        raise UsageError(f"{name} is {values[name]!r}. Write a number.") from None
