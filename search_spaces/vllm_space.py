"""The parameters of a vLLM server.

Defaults and domains are those of vLLM 0.32.0; the file that states each is named beside it, relative to `vllm/`.
"""

from __future__ import annotations

import math
from typing import Final

from search_spaces.cores import cpu_count
from search_spaces.huggingface import LanguageModel
from search_spaces.vllm_limits import ServingLimits
from search_spaces.vllm_rules import GIB, NOT_QUANTIZED, rules_of
from tuner.device import DeviceKind, DeviceType
from tuner.parameter import DEVICE, Condition, Parameter, Scale, powers_of_two
from tuner.space import Space

_CPU_BLOCK_SIZES: Final = (32, 64, 128, 256)  # multiples of 32, the same file
_GPU_BLOCK_SIZES: Final = (16, 32, 64, 128)  # multiples of 16, v1/attention/backends/flash_attn.py
_CPU_BLOCK_SIZE: Final = 128  # platforms/cpu.py
_GPU_BLOCK_SIZE: Final = 16  # config/cache.py
_MEMORY_UTILIZATION: Final = 0.92  # config/cache.py
_UNSTABLE_IN_FLOAT16: Final = ("gemma2", "gemma3", "gemma3_text", "glm4")  # config/model.py
_LONGEST_STEP: Final = 131_072  # no step of more tokens is worth trying
_PROCESS_BYTES: Final = 3 * GIB  # three processes with torch in them; 2.7 GiB measured with a model of 40 MB


def build_space(model: LanguageModel, limits: ServingLimits, devices: tuple[DeviceType, ...], *, lossy: bool) -> Space:
    """Parameters with vLLM's defaults on the first device type, and the rules."""
    cpus = tuple(device for device in devices if device.kind is DeviceKind.CPU)
    gpus = tuple(device for device in devices if device.kind is DeviceKind.GPU)
    parameters = [
        Parameter(
            name=DEVICE,
            values=tuple(device.name for device in devices),
            default=devices[0].name,
            says="device type that serves",
        ),
        *_batching(limits, devices),
        *_cache(model, devices),
        *_numbers(model, devices, lossy=lossy),
        *_parallelism(devices),
    ]
    if gpus:
        parameters.append(
            Parameter(
                name="gpu_memory_utilization",
                values=(0.80, 0.85, 0.90, 0.92, 0.95),
                default=_MEMORY_UTILIZATION,
                scale=Scale.LINEAR,
                active_when=(_on(gpus),),
                says="share of GPU memory that vLLM may take",
            )
        )
    counted = tuple(device for device in cpus if cpu_count(device) is not None)
    if counted:
        parameters.append(_cpu_threads(counted))
    if cpus:
        size = _kv_cache_gib(model, limits, cpus)
        parameters.append(
            Parameter(
                name="kv_cache_gib",
                values=(size,),
                default=size,
                scale=Scale.LOG,
                active_when=(_on(cpus),),
                says="memory of the key-value cache; enough for every request that can be in flight",
            )
        )
    return Space(parameters=tuple(parameters), rules=rules_of(model, limits, devices, {p.name for p in parameters}))


def _on(devices: tuple[DeviceType, ...]) -> Condition:
    return Condition(parameter=DEVICE, values=tuple(device.name for device in devices))


def _batch_defaults(device: DeviceType) -> tuple[int, int]:
    """Default max_num_seqs and max_num_batched_tokens: engine/arg_utils.py, get_batch_defaults."""
    if device.kind is DeviceKind.CPU:
        return 128, 2048
    memory = device.gpu_memory_bytes or 0
    if memory >= 160 * GIB:
        return 1024, 16384
    if memory >= 70 * GIB and "a100" not in (device.gpu_model or "").lower():
        return 1024, 8192
    return 256, 2048


def _batching(limits: ServingLimits, devices: tuple[DeviceType, ...]) -> list[Parameter]:
    seqs, tokens = _batch_defaults(devices[0])
    # engine/arg_utils.py, _set_default_max_num_seqs_and_batched_tokens_args: neither exceeds what the other fills.
    tokens = min(tokens, seqs * limits.max_model_len)
    seqs = min(seqs, tokens)
    most_seqs = max(_batch_defaults(device)[0] for device in devices)
    most_tokens = max(2 * max(_batch_defaults(device)[1] for device in devices), limits.max_model_len)
    in_flight = None if limits.clients is None else limits.clients * limits.longest_prompt
    return [
        Parameter(
            name="max_num_seqs",
            values=_up_to(powers_of_two(1, most_seqs), seqs, limits.clients),
            default=seqs,
            scale=Scale.LOG,
            says="how many sequences are computed together",
        ),
        Parameter(
            name="max_num_batched_tokens",
            values=_up_to(powers_of_two(32, _next_power_of_two(min(most_tokens, _LONGEST_STEP))), tokens, in_flight),
            default=tokens,
            scale=Scale.LOG,
            says="token budget of one step: more for throughput, fewer so that prompts delay answers less",
        ),
        Parameter(
            name="enable_chunked_prefill",
            values=(True, False),
            default=True,
            says="split long prompts over several steps",
        ),
        Parameter(
            name="enable_prefix_caching",
            values=(True, False),
            default=True,
            says="keep the cache of prompts that begin alike",
        ),
        Parameter(
            name="scheduling_policy",
            values=("fcfs", "priority"),
            default="fcfs",
            says="order of waiting requests; the same where they carry no priorities",
        ),
    ]


def _up_to(values: tuple[int, ...], default: int, enough: int | None) -> tuple[int, ...]:
    """`values` with `default`, less those that differ from another one only beyond what is ever `enough`."""
    kept = {default, *values}
    if enough is not None:
        sufficient = default if default >= enough else min((v for v in kept if v >= enough), default=max(kept))
        kept = {default, *(value for value in kept if value < enough), sufficient}
    return tuple(sorted(kept))


def _next_power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()


def _cache(model: LanguageModel, devices: tuple[DeviceType, ...]) -> list[Parameter]:
    if not model.uniform_attention:
        return []  # the attention backend dictates the block size
    sizes = {size for device in devices for size in _block_sizes(device)}
    return [
        Parameter(
            name="block_size",
            values=tuple(sorted(sizes)),
            default=_CPU_BLOCK_SIZE if devices[0].kind is DeviceKind.CPU else _GPU_BLOCK_SIZE,
            scale=Scale.LOG,
            says="tokens in one block of the key-value cache",
        )
    ]


def _block_sizes(device: DeviceType) -> tuple[int, ...]:
    return _CPU_BLOCK_SIZES if device.kind is DeviceKind.CPU else _GPU_BLOCK_SIZES


def _numbers(model: LanguageModel, devices: tuple[DeviceType, ...], *, lossy: bool) -> list[Parameter]:
    dtypes = ["bfloat16", "float16"]
    if any(device.kind is DeviceKind.CPU for device in devices):
        dtypes.append("float32")
    if model.model_type in _UNSTABLE_IN_FLOAT16:
        dtypes.remove("float16")
    # config/model.py, _resolve_auto_dtype: as stored, but float32 is halved.
    default = model.dtype if model.dtype in dtypes and model.dtype != "float32" else "bfloat16"
    if model.quantization is not None:
        dtypes = [default]
    quantization = model.quantization or NOT_QUANTIZED
    quantizations = [quantization]
    kv_dtypes = ["auto"]
    if lossy:
        quantizations += ["fp8"] if model.quantization is None else []
        kv_dtypes.append("fp8")
    return [
        Parameter(name="dtype", values=tuple(dtypes), default=default, says="type of weights and activations"),
        Parameter(
            name="quantization",
            values=tuple(quantizations),
            default=quantization,
            says="how weights are quantised; the checkpoint's own way, or fp8 made while loading",
        ),
        Parameter(name="kv_cache_dtype", values=tuple(kv_dtypes), default="auto", says="type of the key-value cache"),
    ]


def _parallelism(devices: tuple[DeviceType, ...]) -> list[Parameter]:
    gpus = max((device.gpus for device in devices), default=0)
    workers = max([gpus, *(cpu_count(device) or 1 for device in devices if device.kind is DeviceKind.CPU)])
    return [
        Parameter(
            name="tensor_parallel_size",
            values=powers_of_two(1, min(workers, max(gpus, 8))),
            default=1,
            scale=Scale.LOG,
            says="workers among which every layer is split",
        ),
        Parameter(
            name="pipeline_parallel_size",
            values=powers_of_two(1, max(gpus, 1)),
            default=1,
            scale=Scale.LOG,
            says="workers among which the layers are dealt out",
        ),
    ]


def _cpu_threads(devices: tuple[DeviceType, ...]) -> Parameter:
    most = max(cpu_count(device) or 1 for device in devices)
    first = cpu_count(devices[0]) or 1
    # utils/ompmultiprocessing.py reserves one core per worker for the processes beside it, where there are more.
    default = max(1, first - 1)
    values = range(1, most + 1) if most <= 8 else sorted({*powers_of_two(1, most), default, most - 1, most})
    return Parameter(
        name="cpu_threads",
        values=tuple(values),
        default=default,
        scale=Scale.LINEAR,
        active_when=(_on(devices),),
        says="threads of each worker; vLLM itself leaves one core to the processes beside it",
    )


def _kv_cache_gib(model: LanguageModel, limits: ServingLimits, devices: tuple[DeviceType, ...]) -> int:
    """Enough for all that can be in flight, as far as memory goes.

    vLLM's own default is 92 % of the memory, which does not start where anything else runs on the machine.
    """
    if model.kv_values_per_token is None:
        enough = 4
    else:
        in_flight = limits.clients or max(_batch_defaults(device)[0] for device in devices)
        # In float32, and twice, so that cached prefixes need not give way; or else one longest sequence.
        values = max(in_flight * limits.longest_request * 4, limits.max_model_len) * model.kv_values_per_token
        enough = math.ceil(2 * values / GIB)
    room = [
        (device.memory_bytes - model.weights_bytes - _PROCESS_BYTES) // GIB
        for device in devices
        if device.memory_bytes is not None
    ]
    return max(1, min([_next_power_of_two(max(1, enough)), *room]))
