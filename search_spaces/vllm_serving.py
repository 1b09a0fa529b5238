"""What a configuration of vLLM means to the performance model."""

from __future__ import annotations

from typing import Final

from search_spaces.vllm_limits import ServingLimits
from search_spaces.vllm_rules import GIB
from tuner.parameter import Config
from tuner.serving import ContinuousBatching
from tuner.step import NumberFormat

_QUANTIZED: Final = {"fp8": NumberFormat.FP8, "awq": NumberFormat.INT4, "gptq": NumberFormat.INT4}


def serving(config: Config, limits: ServingLimits, own_quantization: str | None) -> ContinuousBatching:
    """The server of one configuration."""
    tokens = int(config["max_num_batched_tokens"])
    if config["enable_chunked_prefill"] is not True:
        tokens = max(tokens, limits.max_model_len)
    wide = config["dtype"] == "float32"
    quantization = str(config["quantization"])
    weights = NumberFormat.FP32 if wide else None
    if quantization != own_quantization:
        weights = _QUANTIZED.get(quantization, weights)
    cache = NumberFormat.FP8 if config["kv_cache_dtype"] == "fp8" else NumberFormat.BF16
    gib = config.get("kv_cache_gib")
    return ContinuousBatching(
        max_num_seqs=int(config["max_num_seqs"]),
        max_num_batched_tokens=tokens,
        tensor=int(config["tensor_parallel_size"]),
        pipeline=int(config["pipeline_parallel_size"]),
        weights=weights,
        cache=NumberFormat.FP32 if wide and cache is NumberFormat.BF16 else cache,
        block_size=int(config.get("block_size", 16) or 16),
        prefix_caching=config["enable_prefix_caching"] is True,
        memory_share=float(config.get("gpu_memory_utilization", 0.9) or 0.9),
        cache_bytes=None if gib is None else float(gib) * GIB,
        threads=int(config.get("cpu_threads", 0) or 0),
    )
