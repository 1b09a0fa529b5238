"""An engine's settings by their own names, read into a shard, a scheduler and a cache format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tuner.errors import UnknownNameError, UsageError, did_you_mean
from tuner.hardware import Hardware
from tuner.model_graph import ModelGraph
from tuner.performance.memory import UTILIZATION, memory_need
from tuner.performance.simulation.continuous import Scheduler
from tuner.step import NumberFormat, Shard

_WHOLE: Final = {
    "block_size": (1, 2**16),
    "max_model_len": (1, 2**31),
    "max_num_batched_tokens": (1, 2**31),
    "max_num_seqs": (1, 2**20),
    "num_gpu_blocks_override": (1, 2**40),
    "shared_prefix_tokens": (0, 2**31),
    "tensor_parallel_size": (1, 2**10),
}
"""Least and largest of the settings that are whole numbers."""
SETTINGS: Final = (*_WHOLE, "enable_prefix_caching", "gpu_memory_utilization", "kv_cache_dtype")
"""Settings that the simulator knows, under vLLM's names (and `shared_prefix_tokens`, which is the traffic's)."""
_CACHES: Final = {
    "auto": NumberFormat.BF16,
    "bfloat16": NumberFormat.BF16,
    "float16": NumberFormat.BF16,
    "fp8": NumberFormat.FP8,
    "fp8_e4m3": NumberFormat.FP8,
    "fp8_e5m2": NumberFormat.FP8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What is simulated.

    Attributes:
        shard: how the model is cut.
        cache: how keys and values are kept.
        scheduler: places, budget, blocks and the longest request.
    """

    shard: Shard
    cache: NumberFormat
    scheduler: Scheduler


def read_settings(values: Mapping[str, str], graph: ModelGraph, hardware: Hardware) -> EngineSettings:
    """Settings as text.

    Raises:
        UnknownNameError: a setting that the simulator does not know.
        UsageError: a value that the setting cannot have, or a model that does not fit.
        ModelError: a shard that does not divide the model.
    """
    for name in values:
        if name not in SETTINGS:
            raise UnknownNameError("setting", name, SETTINGS)
    shard = Shard.tensor_parallel(_whole(values, "tensor_parallel_size", 1))
    graph.check(shard)
    kept = values.get("kv_cache_dtype", "auto")
    if kept not in _CACHES:
        raise UsageError(f"kv_cache_dtype is {kept!r}. {did_you_mean(kept, _CACHES)}")
    cache = _CACHES[kept]
    block = _whole(values, "block_size", 16)
    tokens = _whole(values, "max_num_batched_tokens", 8192)
    need = memory_need(
        graph, shard, hardware.memory_bytes, float(block), float(tokens), cache,
        _share(values, "gpu_memory_utilization", UTILIZATION),
    )  # fmt: skip
    if need.refusal is not None:
        raise UsageError(f"{graph.name} does not fit {hardware.label}: {need.refusal}. Raise tensor_parallel_size.")
    # a block's share of a long sequence: sliding windows keep less than their length in tokens
    length = _whole(values, "max_model_len", graph.max_context or 32768)
    per_block = graph.cache_bytes(float(length), shard, cache) / max(length / block, 1.0)
    limited = "max_model_len" in values or graph.max_context is not None
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
            max_model_len=length if limited else None,
            prefix_caching=caching,
            shared_prefix_tokens=_whole(values, "shared_prefix_tokens", 0) if caching else 0,
        ),
    )


def _whole(values: Mapping[str, str], name: str, default: int) -> int:
    low, high = _WHOLE[name]
    number = _real(values, name, float(default))
    if not low <= number <= high or number % 1:
        raise UsageError(f"{name} is {values[name]!r}. Write a whole number from {low} to {high}.")
    return int(number)


def _share(values: Mapping[str, str], name: str, default: float) -> float:
    number = _real(values, name, default)
    if not 0 < number <= 1:
        raise UsageError(f"{name} is {values[name]!r}. Write a share above 0, at most 1.")
    return number


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
