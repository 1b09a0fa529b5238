"""The rules that tie the parameters of a vLLM server.

They are those of vLLM 0.32.0; the file that states each is named beside it, relative to `vllm/`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from search_spaces.cores import cpu_count
from search_spaces.huggingface import LanguageModel
from search_spaces.vllm_limits import ServingLimits
from tuner.device import DeviceKind, DeviceType
from tuner.parameter import DEVICE, Value
from tuner.space import Rule

GIB: Final = 2**30
ENGINE_BYTES: Final = 12 * GIB // 10
"""What vLLM's processes take on a CPU beside weights and cache, at the least: version 0.32 measures 1.24 GiB itself."""
NOT_QUANTIZED: Final = "none"

_CPU_HEAD_SIZES: Final = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # v1/attention/backends/cpu_attn.py


def rules_of(
    model: LanguageModel, limits: ServingLimits, devices: tuple[DeviceType, ...], names: Collection[str]
) -> tuple[Rule, ...]:
    by_name = {device.name: device for device in devices}
    length = limits.max_model_len

    def divides(tensor_parallel_size: int) -> bool:
        kv_fits = model.kv_heads % tensor_parallel_size == 0 or tensor_parallel_size % model.kv_heads == 0
        return model.heads % tensor_parallel_size == 0 and kv_fits

    def places(device: str, tensor_parallel_size: int, pipeline_parallel_size: int) -> bool:
        target = by_name[device]
        workers = tensor_parallel_size * pipeline_parallel_size
        return workers <= (target.gpus if target.kind is DeviceKind.GPU else cpu_count(target) or workers)

    def threads_fit(device: str, tensor_parallel_size: int, cpu_threads: int | None) -> bool:
        cores = cpu_count(by_name[device])
        return cpu_threads is None or cores is None or tensor_parallel_size * cpu_threads <= cores

    def on_gpu(device: str) -> bool:
        return by_name[device].kind is DeviceKind.GPU

    rules = [
        Rule(
            over=("max_num_batched_tokens", "max_num_seqs"),
            holds=lambda max_num_batched_tokens, max_num_seqs: max_num_batched_tokens >= max_num_seqs,
            says="max_num_batched_tokens must be at least max_num_seqs: every sequence takes one token of the budget",
        ),
        Rule(
            over=("max_num_batched_tokens", "enable_chunked_prefill"),
            holds=lambda max_num_batched_tokens, enable_chunked_prefill: (
                enable_chunked_prefill or max_num_batched_tokens >= length
            ),
            says=f"without chunked prefill max_num_batched_tokens must be at least the {length} tokens of the longest "
            "sequence",
        ),
        Rule(
            over=("tensor_parallel_size",),
            holds=divides,
            says=f"tensor_parallel_size must divide {model.heads} attention heads, and share out {model.kv_heads} "
            "key-value heads evenly",
        ),
        Rule(
            over=(DEVICE, "tensor_parallel_size", "pipeline_parallel_size"),
            holds=places,
            says="tensor_parallel_size x pipeline_parallel_size needs as many GPUs (or CPU cores)",
        ),
        Rule(
            over=("pipeline_parallel_size",),
            holds=lambda pipeline_parallel_size: pipeline_parallel_size <= model.layers,
            says=f"pipeline_parallel_size must not exceed the {model.layers} layers",
        ),
        Rule(
            over=(DEVICE, "pipeline_parallel_size"),
            holds=lambda device, pipeline_parallel_size: on_gpu(device) or pipeline_parallel_size == 1,
            says="on CPUs the layers are not dealt out: one machine holds them all",
        ),
        Rule(
            over=(DEVICE, "dtype"),
            holds=lambda device, dtype: not on_gpu(device) or dtype != "float32",
            says="float32 is for CPUs; GPUs serve in half precision",
        ),
        Rule(
            over=(DEVICE, "quantization"),
            holds=lambda device, quantization: on_gpu(device) or quantization in (NOT_QUANTIZED, model.quantization),
            says="weights are quantised while loading on GPUs only",
        ),
        Rule(
            over=(DEVICE,),
            holds=lambda device: on_gpu(device) or model.head_size in _CPU_HEAD_SIZES or not model.uniform_attention,
            says=f"vLLM's CPU attention has no kernel for heads of {model.head_size} values",
        ),
    ]
    if model.inner_width is not None:
        width = model.inner_width
        rules.append(
            Rule(
                over=("tensor_parallel_size",),
                holds=lambda tensor_parallel_size: width % tensor_parallel_size == 0,
                says=f"tensor_parallel_size must divide the feed-forward width of {width}",
            )
        )
    if "block_size" in names:
        rules.append(
            Rule(
                over=(DEVICE, "block_size"),
                holds=lambda device, block_size: block_size % (16 if on_gpu(device) else 32) == 0,
                says="block_size must be a multiple of 16 on GPUs and of 32 on CPUs",
            )
        )
    if "cpu_threads" in names:
        rules.append(
            Rule(
                over=(DEVICE, "tensor_parallel_size", "cpu_threads"),
                holds=threads_fit,
                says="tensor_parallel_size x cpu_threads must not exceed the device's cores",
            )
        )
    if "kv_cache_gib" in names:
        rules.append(_memory_rule(model, limits, by_name))
    return tuple(rules)


def _memory_rule(model: LanguageModel, limits: ServingLimits, devices: dict[str, DeviceType]) -> Rule:
    def fits(device: str, dtype: str, kv_cache_gib: Value | None) -> bool:
        if kv_cache_gib is None:
            return True
        memory = devices[device].memory_bytes
        cache_bytes = int(kv_cache_gib) * GIB
        value_bytes = 4 if dtype == "float32" else 2
        longest = limits.max_model_len * (model.kv_values_per_token or 0) * value_bytes
        # An FP8 cache would hold twice as much: only what cannot fit in any type is refused.
        needed = model.weights_bytes_as(dtype) + cache_bytes + ENGINE_BYTES
        return longest <= 2 * cache_bytes and (memory is None or needed <= memory)

    return Rule(
        over=(DEVICE, "dtype", "kv_cache_gib"),
        holds=fits,
        says="the key-value cache must hold one longest sequence, and fit into the memory beside weights and engine",
    )
